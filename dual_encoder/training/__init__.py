"""The training step, the loop, its hooks, and the evaluation of a checkpoint."""
