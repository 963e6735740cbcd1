"""Cutting a program at every moment of its run, one run for each."""
