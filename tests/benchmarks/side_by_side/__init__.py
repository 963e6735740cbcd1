"""Other task libraries on the same work: no-op tasks, all pushed, then run, at most 100 at the same time.

Each runs in a process of its own, so that one's threads and event loop are no trouble to the next, and says itself how
many µs of CPU a task took it, or why it did not run. They do not all promise the same; the notes say what each does.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass

from ..load import Load

LOAD = Load(tasks=20_000, concurrency=100)
TIME_LIMIT = 60.0


@dataclass(frozen=True)
class Contender:
    """A library, the module beside this one that runs it, and what it does for its time."""

    library: str
    module: str
    note: str


CONTENDERS = [
    Contender("trio_tasks", "ours_in_memory", "results kept, settled after the attempt, trio"),
    Contender("trio", "trio_by_hand", "no results, nothing settled, trio"),
    Contender("taskiq", "taskiq_in_memory", "JSON there and back, results kept, no ack; asyncio; kicked 100 at a time"),
    Contender("huey", "huey_in_threads", "pickles, no ack, a result of None is not kept; 100 threads"),
    Contender("dramatiq", "dramatiq_stub", "JSON there and back, acks, no results; 100 threads; for tests"),
    Contender("streaq", "streaq_on_redis", "acks, results, over Redis (whose own CPU is not counted); anyio on trio"),
]


def show() -> None:
    print(f"CPU for each task in µs: {LOAD.tasks:,} no-op tasks, {LOAD.concurrency} at once, pushing counted")
    baseline = None
    for contender in CONTENDERS:
        found = _run(contender)
        try:
            micros = float(found)
        except ValueError:
            print(f"  {contender.library:12}not run: {found}", flush=True)
        else:
            baseline = baseline or micros
            print(f"  {contender.library:12}{micros:8.1f}{micros / baseline:8.1f}x  {contender.note}", flush=True)


def _run(contender: Contender) -> str:
    """Run a contender's module, and return its figures."""
    if importlib.util.find_spec(contender.library) is None:
        return "not installed"
    command = [sys.executable, "-m", f"{__name__}.{contender.module}"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return f"it took more than {TIME_LIMIT:g} s"
    last_words = (run.stderr if run.returncode else run.stdout).strip().splitlines()
    return last_words[-1] if last_words else "it said nothing"
