"""Contrastive pre-training of Sentinel-1 / Sentinel-2 dual encoders; see docs/architecture.md for the rooms."""

__version__ = "0.1.0"
