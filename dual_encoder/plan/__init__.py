"""`python -m dual_encoder.plan`: memory and best speed of a training step, without running it."""
