"""Reads and writes files: on disks, in buckets, completely or not at all, and with locks."""
