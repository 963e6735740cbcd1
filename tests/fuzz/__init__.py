"""Bytes by another hand: whatever reads bytes is given what was written by us and then spoiled. See ``__main__``."""
