"""The report of a run: one static HTML page."""
