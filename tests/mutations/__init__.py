"""The promises, broken on purpose, one at a time; and how soon the proofs see it. ``python -m tests.mutations``."""
