"""The names of weights in other libraries."""
