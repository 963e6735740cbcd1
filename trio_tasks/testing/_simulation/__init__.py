"""Simulation: runs of a program whose schedule, clock and random numbers are decided by a seed."""
