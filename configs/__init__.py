"""Configurations: each file's get_config(variant) returns every value of a run."""
