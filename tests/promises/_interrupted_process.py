"""Programs over a memory storage that Ctrl-C interrupts at any line.

``python -m tests.promises._interrupted_process TRIALS`` runs so many, and says as JSON what was wrong after each, and
how many were interrupted.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import Any

import trio
from trio_tasks import MemoryStorage, Worker

TASKS = 60


class Trial:
    """A program with a worker and a pusher."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.storage = MemoryStorage[int]()
        self.was_interrupted = False

    async def handler(self, n: int) -> None:  # noqa: ASYNC910  one that does not always wait is the point of it
        if n % 5 == 0:
            await trio.lowlevel.checkpoint()
        if n % 7 == 0:
            raise ValueError("sometimes")

    async def push(self) -> None:
        for n in range(TASKS):
            await self.storage.push(n)
            if n % 10 == 9:
                await trio.sleep(0.0005)

    async def main(self) -> None:
        worker = Worker("w", self.storage, self.handler, concurrency=self.rng.choice([1, 4]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.push)
            await nursery.start(worker.run)
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.0001, 0.01))

    def run(self) -> None:
        """Run the program, and interrupt it after some milliseconds."""
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            trio.run(self.main)
        except BaseException as error:  # noqa: ASYNC103  a test has to see all that comes out
            self.was_interrupted = _is_interruption(error)
            if not self.was_interrupted:
                raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def faults(self) -> list[str]:
        """Describe what is wrong in the storage's counts afterwards."""
        statistics = self.storage.statistics()
        found = []
        if statistics.running:
            found.append(f"{statistics.running} are running, and no worker runs them")
        finished = statistics.succeeded + statistics.failed + statistics.killed
        if statistics.pushed != statistics.waiting + statistics.running + finished:
            found.append(f"{statistics.pushed} were pushed, {statistics.waiting} wait, and {finished} are finished")
        if statistics.receivers_waiting:
            found.append(f"{statistics.receivers_waiting} wait still")
        return found


def _is_interruption(error: Any) -> bool:
    inner = getattr(error, "exceptions", None)
    return isinstance(error, KeyboardInterrupt) if inner is None else all(map(_is_interruption, inner))


def main(trials: int) -> None:
    interrupted, found = 0, {}
    for seed in range(trials):
        trial = Trial(seed)
        trial.run()
        interrupted += trial.was_interrupted
        if faults := trial.faults():
            found[seed] = faults
    print(json.dumps({"interrupted": interrupted, "faults": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
