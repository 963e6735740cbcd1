"""A backend of one's own: a spool directory, in which each task is a file, and where it lies says how it stands."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from trio_tasks import (
    Attempt,
    Backend,
    Failed,
    Killed,
    LeaseLostError,
    Metrics,
    Outcome,
    Parts,
    QueueMetrics,
    Released,
    ResumeAbandoned,
    Retried,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskId,
    TaskSink,
    Worker,
)
from trio_tasks.abc import EMPTY_METRICS

PLACES = ("waiting", "running", "succeeded", "failed", "killed")
A_YEAR = 365 * 24 * 3600.0


class Spool(TaskSink[str], Backend[str], ResumeAbandoned, Metrics):
    """Letters as files. A file's time of modification is the time at which its task is due."""

    def __init__(self, root: Path, *, look_every: float = 1.0) -> None:
        self._root = root
        self._look_every = look_every
        self._closed = False
        self._turn = trio.Lock()
        for place in PLACES:
            (root / place).mkdir(parents=True, exist_ok=True)

    # What a backend must do

    async def receive(self) -> Task[str]:
        async with self._turn:  # every slot calls this; one of them looks
            while True:
                task = await trio.to_thread.run_sync(self._claim)
                if task is not None:
                    return task
                if self._closed and not self._count("waiting") and not self._count("running"):
                    raise trio.EndOfChannel
                await trio.sleep(self._look_every)  # if it is cancelled here, it holds nothing

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        place, attempt, due = "waiting", int(task.parts.attempt), time.time()
        match outcome:
            case Succeeded():
                place = "succeeded"
            case Failed():
                place = "failed"
            case Killed():
                place = "killed"
            case Retried(after=seconds):
                due += seconds
            case Released():
                attempt -= 1  # an interruption is not counted
            case Suspended(until=moment):  # on trio's clock; `math.inf` if it is not known yet
                attempt -= 1
                due += min(moment - trio.current_time(), A_YEAR)
        await trio.to_thread.run_sync(self._move, task.parts.id, place, task.args, attempt, due)

    # What makes it a storage

    async def push_task(self, task: Task[str]) -> TaskId:
        if self._closed:
            raise trio.ClosedResourceError("this spool is closed")
        due = task.parts.run_at.timestamp() if task.parts.run_at else time.time()
        await trio.to_thread.run_sync(self._push, task, due)
        return task.parts.id

    def close(self) -> None:
        self._closed = True

    # What else it can do

    async def resume_abandoned(self) -> int:
        """To be called before workers start: what is running then was left so by a crash."""
        orphans = list((self._root / "running").iterdir())
        for path in orphans:
            path.rename(self._root / "waiting" / path.name)
        await trio.lowlevel.checkpoint()
        return len(orphans)

    async def metrics(self) -> QueueMetrics:
        await trio.lowlevel.checkpoint()
        return {
            **EMPTY_METRICS,
            "waiting": self._count("waiting"),
            "running": self._count("running"),
            "succeeded": self._count("succeeded"),
            "failed": self._count("failed"),
            "killed": self._count("killed"),
        }

    # Files

    def _push(self, task: Task[str], due: float) -> None:
        self._write(self._root / "running" / task.parts.id, task.args, 0, due)
        (self._root / "running" / task.parts.id).rename(self._root / "waiting" / task.parts.id)

    def _claim(self) -> Task[str] | None:
        for path in sorted((self._root / "waiting").iterdir()):
            if path.stat().st_mtime > time.time():
                continue
            letter = json.loads(path.read_text())
            attempt = letter["attempt"] + 1
            self._write(path, letter["text"], attempt, 0)  # counted now, so that a crash counts
            path.rename(self._root / "running" / path.name)
            task = Task(letter["text"], Parts(TaskId(path.name), attempt=Attempt(attempt)))
            task.parts.status = Status.Running
            return task
        return None

    def _move(self, name: str, place: str, text: str, attempt: int, due: float) -> None:
        path = self._root / "running" / name
        if not path.exists():
            raise LeaseLostError(f"task {name} is not running any more")
        self._write(path, text, attempt, due)
        path.rename(self._root / place / name)

    def _write(self, path: Path, text: str, attempt: int, due: float) -> None:
        path.write_text(json.dumps({"text": text, "attempt": attempt}))
        os.utime(path, (due, due))

    def _count(self, place: str) -> int:
        return len(list((self._root / place).iterdir()))


async def post(letter: str, attempt: Attempt) -> None:
    print(f"attempt {attempt}: {letter}")
    if letter == "to the moon" and attempt == 1:
        raise OSError("no wind today")


async def main() -> None:
    with TemporaryDirectory() as directory:
        spool = Spool(Path(directory), look_every=0.05)
        await spool.push_bulk(["to Ada", "to the moon"])
        spool.close()
        report = await Worker("postman", spool, post, concurrency=1).run()
        counts = {name: number for name, number in (await spool.metrics()).items() if number}
        print(f"{report.succeeded} succeeded, {report.retried} retried;", counts)


if __name__ == "__main__":
    trio.run(main)
