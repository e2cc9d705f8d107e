"""Vectors of many images as GeoParquet: `python -m dual_encoder.embed`."""
