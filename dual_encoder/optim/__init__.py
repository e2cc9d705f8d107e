"""The optimizer, and the decays of the learning rate."""
