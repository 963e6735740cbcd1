"""Schedules: times by the calendar or at intervals, and what is done at each of them."""
