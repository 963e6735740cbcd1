"""Mutation tests: each promise is broken on purpose, to see which tests notice. ``python -m tests.mutations``."""
