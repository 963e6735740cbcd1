"""The worker: slots, intake, and the builder."""
