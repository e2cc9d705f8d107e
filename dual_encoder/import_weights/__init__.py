"""Published weights as the workdir of a run."""
