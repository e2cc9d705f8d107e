"""TFDS data set folder."""
