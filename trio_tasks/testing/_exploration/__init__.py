"""Exploration of cancellations: a program is cut at every moment of its run, one run for each."""
