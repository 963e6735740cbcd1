"""The contracts between backends, workers, layers, handlers and listeners."""
