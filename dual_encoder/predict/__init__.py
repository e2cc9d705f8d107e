"""From a scene to a map: `python -m dual_encoder.predict`."""
