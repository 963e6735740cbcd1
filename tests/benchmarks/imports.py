"""A benchmark of ``import trio_tasks`` in a program that imports trio anyway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from .measuring import verdict

RUNS = 21
TARGET = 20.0  # ms

SCRIPT = """
import json, sys, time
def now():
    return time.process_time(), time.perf_counter()
moments = [now()]
import trio
before = set(sys.modules)
moments.append(now())
import trio_tasks
moments.append(now())
print(json.dumps([moments, sorted(set(sys.modules) - before)]))
"""


def show() -> None:
    print(f"ms in {RUNS} fresh interpreters, compiled before")
    with TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        _import(environment)  # and so compile
        runs = [_import(environment) for _ in range(RUNS)]
    print(f"  {'':20}{'CPU, best':>12}{'CPU, median':>13}{'wall, median':>14}")
    for row, title in enumerate(["import trio", "and trio_tasks"]):
        cpu, wall = ([1000 * (run[0][row + 1][clock] - run[0][row][clock]) for run in runs] for clock in (0, 1))
        print(f"  {title:20}{min(cpu):12.1f}{median(cpu):13.1f}{median(wall):14.1f}", end="")
        print(f"  {verdict(median(cpu), TARGET)}" if row else "")
    modules: list[str] = runs[0][1]
    others = [name for name in modules if name.partition(".")[0] != "trio_tasks"]
    print(f"  modules added: {len(modules) - len(others)} of its own, and {', '.join(others) or 'no other'}")


def _import(environment: Mapping[str, str]) -> list[Any]:
    """Return the times around both imports, by two clocks, and the modules that trio_tasks has added."""
    found: list[Any] = json.loads(subprocess.check_output([sys.executable, "-c", SCRIPT], text=True, env=environment))
    return found
