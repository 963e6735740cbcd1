"""Additions to trio: background work, threads, exception groups, stacks."""
