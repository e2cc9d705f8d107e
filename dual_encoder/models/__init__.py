"""Encoders, projection heads and decoders, in Flax."""
