"""The size of large trials: whole at night (`nox -s nightly`), a twentieth of it in every other run.

Their seeds are the same ones in every run but those at night, which go on from the date: ``TRIO_TASKS_NIGHTLY`` is the
date, as in ``2026-11-27``, and with the same date a night can be had again.
"""

from __future__ import annotations

import os
from datetime import date

NIGHT = os.environ.get("TRIO_TASKS_NIGHTLY", "")
IS_NIGHTLY = bool(NIGHT)
FIRST_SEED = date.fromisoformat(NIGHT).toordinal() * 100_000 if IS_NIGHTLY else 0


def scaled(trials: int) -> int:
    """The number of trials to make in this run, of so many at night."""
    return trials if IS_NIGHTLY else max(1, trials // 20)


def seeds(trials: int) -> range:
    """The seeds of this run, of which there are so many at night."""
    return range(FIRST_SEED, FIRST_SEED + scaled(trials))
