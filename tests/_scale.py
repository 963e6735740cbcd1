"""The size of large trials: full size in `nox -s nightly`, a twentieth of it in every other run.

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
    """Return the number of trials for this run, given the number for a nightly run."""
    return trials if IS_NIGHTLY else max(1, trials // 20)


def seeds(trials: int) -> range:
    """Return the seeds for this run, given the number for a nightly run."""
    return range(FIRST_SEED, FIRST_SEED + scaled(trials))
