"""Evaluations: scores of a model's outputs, as tables and pictures. NumPy only."""
