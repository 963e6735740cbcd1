"""Backends whose tasks outlive the process: one body, and a narrow port onto each engine."""
