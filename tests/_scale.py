"""The size of large trials: whole at night (`nox -s nightly`), a twentieth of it in every other run."""

from __future__ import annotations

import os

IS_NIGHTLY = os.environ.get("TRIO_TASKS_NIGHTLY") == "1"


def scaled(trials: int) -> int:
    """The number of trials to make in this run, of so many at night."""
    return trials if IS_NIGHTLY else max(1, trials // 20)
