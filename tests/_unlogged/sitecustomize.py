"""A sitecustomize module that keeps log records of failed attempts off standard error, in examples and their child
processes.
"""

import logging

logging.getLogger("trio_tasks").addHandler(logging.NullHandler())
