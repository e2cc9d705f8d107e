"""Looks at a data set: counts, ranges, pictures, statistics."""
