"""Processes that share an SQLite file and are killed at random instants; at the end file and logs must agree."""
