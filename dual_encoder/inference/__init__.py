"""Finished runs as objects that other programs use: arrays or files in, vectors or probabilities out."""
