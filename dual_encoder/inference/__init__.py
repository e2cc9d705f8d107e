"""Finished runs as objects that other programs use: arrays or files in, numbers out."""
