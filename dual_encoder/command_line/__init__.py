"""Flags and configuration files of the commands, and their help."""
