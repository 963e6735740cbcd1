"""Random programs under faults, by seeds, over each storage: ``python -m tests.simulation memory 1234``."""
