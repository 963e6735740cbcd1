"""Runs that a seed decides: the same seed, the same run."""
