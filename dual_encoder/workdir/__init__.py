"""The folder of one run: its facts, metrics, checkpoints and scores."""
