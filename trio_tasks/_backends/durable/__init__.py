"""The body of every stored backend: queues, exchanges and settlements over an engine."""
