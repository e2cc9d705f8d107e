"""Builds data sets: the plan, the workers that write its shards, the manifest, the check of a finished one."""
