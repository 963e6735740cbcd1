"""Keeps the records of failed attempts from standard error, in examples and in the processes that they start."""

import logging

logging.getLogger("trio_tasks").addHandler(logging.NullHandler())
