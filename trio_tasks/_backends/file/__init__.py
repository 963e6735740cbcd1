"""The engine that stores tasks in memory and in a journal."""
