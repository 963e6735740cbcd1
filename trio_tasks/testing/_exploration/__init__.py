"""Exploration of cancellations: a program is run many times, and cancelled at another moment each time."""
