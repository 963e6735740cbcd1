"""Additions to trio: background work, calls from threads, exception groups, and lines of code where trio tasks wait."""
