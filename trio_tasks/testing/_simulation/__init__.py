"""Simulation: runs that a seed decides; the same seed makes the same run."""
