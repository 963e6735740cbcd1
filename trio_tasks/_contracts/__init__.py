"""The interfaces between backends, workers, layers, handlers and listeners."""
