"""Handlers: the analysis of a function's parameters, and the adapter that fills them in."""
