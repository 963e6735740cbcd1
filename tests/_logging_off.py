"""A context manager that suppresses all logging, for tests that cause thousands of errors on purpose."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def logging_off() -> Generator[None, None, None]:
    """Log nothing inside the block."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
