"""A backend that fails, by rates."""
