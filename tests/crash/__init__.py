"""Crash trials: processes that share an SQLite file are killed at random; at the end the file must agree with their
logs.
"""
