"""Processes that share an SQLite file, and are killed at random instants: at the end the books must be right."""
