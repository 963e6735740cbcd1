"""The settings of a child process, and the log files that it writes.

A line is written by one call on a file opened for appending, so a killed process leaves at most its last line torn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trio_tasks import SqliteStorage

QUEUE = "crash"


@dataclass(frozen=True)
class ChildSettings:
    """The settings of one child process; durations are in seconds."""

    directory: str
    name: str
    lease: float = 1.0
    concurrency: int = 4
    with_monitor: bool = False
    nap: float = 0.05  # of a handler, on average
    rate: float = 100.0  # pushed a second
    seed: int = 0
    driver: Literal["sqlite3", "apsw"] | None = None

    def command(self, module: str) -> list[str]:
        """Return the command that starts the child."""
        return [sys.executable, "-m", module, json.dumps(asdict(self))]

    @classmethod
    def given(cls) -> ChildSettings:
        """Return the settings that this process was started with."""
        return cls(**json.loads(sys.argv[1]))

    @property
    def ledger(self) -> Path:
        """The path of the pushers' log."""
        return Path(self.directory, "ledger")

    @property
    def log(self) -> Path:
        """The path of this worker's log."""
        return Path(self.directory, f"{self.name}.log")

    def say_up(self) -> None:
        """Report that this child works and handles signals."""
        Path(self.directory, f"{self.name}.up").touch()

    def storage(self) -> SqliteStorage[Any]:
        """Open the file that all children share; every finished task stays in it."""
        return SqliteStorage(
            Path(self.directory, "tasks.db"),
            int,
            queue=QUEUE,
            driver=self.driver,
            lease=self.lease,
            keep_results=float("inf"),
        )


class LogFile:
    """A file to which whole lines are appended."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *lines: str) -> None:
        """Append lines."""
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())

    def note(self, kind: str, task_id: str, attempt: int, at: float | None = None) -> None:
        """Append an event of a task, with its time on the monotonic clock, which all processes share."""
        self.write(f"{kind} {task_id} {attempt} {time.monotonic() if at is None else at:.6f}")
