"""The worker: its slots, its intake and its builder."""
