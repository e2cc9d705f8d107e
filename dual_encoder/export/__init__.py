"""Encoders for other programs: weights and a card that says how to feed them."""
