"""Nothing is logged for a while: of what goes wrong on purpose, thousands of times."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def silence() -> Generator[None, None, None]:
    """Inside the block no logger says anything."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
