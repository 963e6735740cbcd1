"""The common part of all stored backends: queues, exchanges and settlements over an engine."""
