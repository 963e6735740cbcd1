"""Benchmarks: run ``python -m tests.benchmarks``, with the names of single benchmarks if wanted.

Everything is a ratio against a baseline that was measured in the same run, in turns with what it is compared to. What
is measured is CPU time wherever that can be, since wall time says as much about the neighbours on the machine. Nothing
here fails: a target that is missed is a word on the screen.
"""
