"""Trained models for notebooks and commands: arrays or files in, vectors out."""
