"""huey's SqliteHuey, with its own consumer, whose threads look for a task every millisecond.

It acknowledges nothing: a task is deleted when it is taken, and lost if the process dies. It has ``fsync=True``, which
is FULL, and ``fsync=False``, which is OFF; NORMAL is what its connections are told here behind its back.
"""

from __future__ import annotations

import sqlite3
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

from huey import SqliteHuey

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


class SyncsNormally(sqlite3.Connection):
    """A connection at NORMAL."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA synchronous = NORMAL")


LEVELS: dict[str, dict[str, Any]] = {
    "OFF": {"fsync": False},
    "NORMAL": {"factory": SyncsNormally},
    "FULL": {"fsync": True},
}
EAGER = {"initial_delay": 0.001, "backoff": 1.0, "max_delay": 0.001, "periodic": False}
"""The consumer's options: it looks as often as it can."""


def make(directory: str, synchronous: str) -> Any:
    return SqliteHuey(filename=str(Path(directory, "huey.db")), **LEVELS[synchronous])


def no_op(n: int) -> None:
    """A task that does nothing."""


def push(huey: Any, tasks: int, concurrency: int) -> Seconds:
    """Push from several threads, each of which pushes one task after the other."""
    task = huey.task()(no_op)
    task(0)

    def produce() -> None:
        for n in range(tasks // concurrency):
            task(n)

    threads = [Thread(target=produce) for _ in range(concurrency)]
    with Both() as both:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return both.each(tasks // concurrency * concurrency)


def drain(huey: Any, tasks: int, concurrency: int) -> Seconds:
    """Measure from the start of the consumer until the last task has begun."""
    done, all_done = count(1), Event()

    def note(n: int) -> None:
        if next(done) == tasks:
            all_done.set()

    task = huey.task()(note)
    for n in range(tasks):
        task(n)
    consumer = huey.create_consumer(workers=concurrency, **EAGER)
    with Both() as both:
        consumer.start()
        all_done.wait()
    consumer.stop(graceful=True)
    return both.each(tasks)


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    with new_directory() as directory:
        huey = make(directory, synchronous)
        if kind == "drain":
            return drain(huey, tasks, concurrency)
        return push(huey, tasks, 1 if kind == "bulk" else concurrency)  # it has no bulk


if __name__ == "__main__":
    answer(measure)
