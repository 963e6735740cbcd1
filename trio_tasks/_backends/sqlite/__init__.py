"""The storage in an SQLite file, and its engine."""
