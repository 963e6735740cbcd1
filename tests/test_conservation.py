"""The law of conservation, over random programs: nothing is lost, nothing is settled twice, nothing is in two places.

``TRIO_TASKS_SEEDS=5000-9000`` runs other seeds, or more; ``TRIO_TASKS_SEEDS=1234`` one, and
``python -m tests._programs 1234`` says what happens in it.
"""

from __future__ import annotations

import logging
import os

import pytest

from tests._programs import Program

_FIRST, _, _LAST = os.environ.get("TRIO_TASKS_SEEDS", "0-1200").partition("-")
_SEEDS = range(int(_FIRST), int(_LAST or int(_FIRST) + 1))
_SHARE = 50  # seeds in one test


@pytest.mark.parametrize("first", _SEEDS[::_SHARE])
def test_conservation(first: int) -> None:
    """At the end of a program: pushed = settled + still there, and the events agree with the storage's books."""
    logging.disable(logging.CRITICAL)  # of the failures that programs are made of
    try:
        for seed in range(first, min(first + _SHARE, _SEEDS.stop)):
            program = Program(seed)
            program.run()
            assert not program.books.faults, f"seed {seed}"
    finally:
        logging.disable(logging.NOTSET)
