"""A map from a few labelled polygons: `python -m dual_encoder.sketch_map`."""
