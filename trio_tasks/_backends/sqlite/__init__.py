"""The engine that stores tasks in an SQLite file."""
