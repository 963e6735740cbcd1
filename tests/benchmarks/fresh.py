"""Measurements in new processes, so that threads, caches and garbage of one do not affect the next.

A module that measures ends with ``answer(measure)``: it is given the terms of one measurement as JSON on its command
line, and prints what it found as JSON in its last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

SMALL = "TRIO_TASKS_BENCH_SMALL"
"""The environment variable that makes everything small: to see that it runs, not how fast."""
TIME_LIMIT = 900.0

Found = dict[str, Any]


def size(usual: int, small: int) -> int:
    """Return the amount of work."""
    return small if os.environ.get(SMALL) else usual


def command(module: str, terms: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a module of this package with these settings."""
    return [sys.executable, "-m", f"{__package__}.{module}", json.dumps(terms)]


def measure_afresh(module: str, **terms: Any) -> Found:
    """Measure in a new process and return its figures; ``{"sorry": why}`` if it could not measure."""
    try:
        run = subprocess.run(command(module, terms), capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return {"sorry": f"it took more than {TIME_LIMIT:g} s"}
    last_words = (run.stderr if run.returncode else run.stdout).strip().splitlines() or ["it said nothing"]
    if run.returncode:
        return {"sorry": last_words[-1]}
    found: Found = json.loads(last_words[-1])
    return found


def answer(measure: Callable[..., Mapping[str, Any]]) -> None:
    """Measure with the settings on the command line, and print the figures."""
    terms: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(measure(**terms)))
