"""Fuzzing: everything that reads bytes is given bytes of ours that were damaged at random. See ``__main__``."""
