"""The conformance kit: rules that every backend must keep, and functions that check a backend against them."""
