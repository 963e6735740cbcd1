"""``python -m tests.crash.soak``: mixed load in several processes, with restarts, whose memory and files must not grow.

Some processes are started anew now and then, gracefully or after a kill, and some run all the time: it is these whose
memory, file descriptors and threads are looked at, and the sizes of the file and its log.
"""

from __future__ import annotations

import argparse
import math
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash._child import Child
from tests.crash._child_settings import ChildSettings

_PUSHERS, _WORKERS = 2, 3
_RESTARTS_APART = 10.0
_SETTLED_AFTER = 0.2
"""The part of the time until what is kept for a while is being forgotten at the rate at which it comes."""


@dataclass
class Series:
    """A series of measurements; ``slack`` is the growth that still counts as flat."""

    name: str
    slack: float
    values: list[float] = field(default_factory=list[float])

    def thirds(self) -> tuple[float, float, float]:
        """The medians of the first, the second and the last third."""
        third = max(1, len(self.values) // 3)
        parts = [self.values[:third], self.values[third : 2 * third], self.values[2 * third :]]
        first, middle, last = (statistics.median(part or [math.nan]) for part in parts)
        return first, middle, last

    @property
    def is_flat(self) -> bool:
        """True if the last third is not above the first."""
        first, _, last = self.thirds()
        return last <= first * 1.1 + self.slack

    def row(self) -> str:
        """Return a line of the table."""
        first, middle, last = self.thirds()
        most = max(self.values, default=math.nan)
        verdict = "flat" if self.is_flat else "GROWS"
        return f"{self.name:34} {first:10.1f} {middle:10.1f} {last:10.1f} {most:10.1f}  {verdict}"


def held_by(directory: Path, name: str) -> list[Series]:
    """Return the measurements of a process, without those of its start."""
    lines = [line.split() for line in (directory / f"{name}.samples").read_text().splitlines()]
    lines = [line for line in lines if len(line) == 4][int(len(lines) * _SETTLED_AFTER) :]
    kinds = [("memory, MiB", 4.0), ("file descriptors", 0.5), ("threads", 0.5)]
    return [
        Series(f"{name}: {kind}", slack, [float(line[n]) for line in lines]) for n, (kind, slack) in enumerate(kinds, 1)
    ]


class Soak:
    """The processes of the soak test, and the measurements of their file from outside."""

    def __init__(self, directory: Path, seconds: float, seed: int) -> None:
        self.directory = directory
        self.seconds = seconds
        self._rng = random.Random(seed)
        settings = [self._settings(f"w{n}", math.inf, seed) for n in range(_WORKERS)]
        settings += [self._settings(f"p{n}", 15.0, seed) for n in range(_PUSHERS)]
        self._children = [Child("tests.crash._soak_process", each) for each in settings]
        self._steady = [self._children[0], self._children[-1]]
        self.restarts = {"graceful": 0, "killed": 0}
        self.outside = [Series("log (WAL), MiB", 1.0), Series("file, MiB", 2.0), Series("rows, all states", 500.0)]

    def _settings(self, name: str, rate: float, seed: int) -> ChildSettings:
        return ChildSettings(str(self.directory), name, lease=2.0, rate=rate, seed=seed)

    def run(self) -> None:
        began = time.monotonic()
        next_restart = began + _RESTARTS_APART
        with ExitStack() as stack:
            for child in self._children:
                stack.callback(child.end_by_force)
                child.start()
            while (now := time.monotonic()) < began + self.seconds:
                time.sleep(1.0)
                for child in self._children:
                    child.check()
                if now > began + self.seconds * _SETTLED_AFTER:
                    self._look()
                if now > next_restart:
                    next_restart = now + _RESTARTS_APART
                    self._restart()
            for child in self._children:
                child.end()

    def _restart(self) -> None:
        child = self._rng.choice([child for child in self._children if child not in self._steady])
        if self._rng.random() < 0.5:
            child.kill()
            self.restarts["killed"] += 1
        else:
            child.end()
            self.restarts["graceful"] += 1
        child.start()

    def _look(self) -> None:
        path = self.directory / "tasks.db"
        log = Path(f"{path}-wal")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            [(rows,)] = connection.execute("SELECT count(*) FROM trio_tasks_task")
        sizes = [log.stat().st_size / 2**20 if log.exists() else 0.0, path.stat().st_size / 2**20, rows]
        for series, value in zip(self.outside, sizes, strict=True):
            series.values.append(value)

    def series(self) -> Sequence[Series]:
        """Return all measurements."""
        return [*self.outside, *(each for child in self._steady for each in held_by(self.directory, child.name))]


def check_file(path: Path) -> tuple[str, str]:
    """Check the file, and return how many tasks went through it."""
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute("SELECT * FROM trio_tasks_queue")
        names = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
        [(verdict,)] = connection.execute("PRAGMA integrity_check(1)")
    return "\n".join(", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True)) for row in rows), str(
        verdict
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), given.minutes * 60, given.seed)
        soak.run()
        print(f"{given.minutes:g} minutes, {soak.restarts['graceful']} restarts, {soak.restarts['killed']} kills")
        print(f"{'medians of each third':34} {'first':>10} {'second':>10} {'third':>10} {'most':>10}")
        series = soak.series()
        for each in series:
            print(each.row())
        went_through, verdict = check_file(Path(name, "tasks.db"))
        print(went_through)
        print(f"integrity check: {verdict}")
    return not (all(each.is_flat for each in series) and verdict == "ok")


if __name__ == "__main__":
    sys.exit(main())
