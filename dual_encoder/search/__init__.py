"""Finds similar images among the vectors that `dual_encoder.embed` has written: `python -m dual_encoder.search`."""
