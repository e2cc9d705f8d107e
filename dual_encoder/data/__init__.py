"""Reads data sets: manifest, labels, records, their order, batches."""
