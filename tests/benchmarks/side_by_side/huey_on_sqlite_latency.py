"""huey's consumer, which looks every millisecond: the time from a push to the start of the task."""

from __future__ import annotations

import time
from threading import Event
from typing import Any

from ..fresh import answer
from ..stored import new_directory
from ..stored_latency import REST, SLOTS, hear_ready, last_words, percentiles, start_child
from .huey_on_sqlite import EAGER, make


class Notes:
    """A task that notes how long ago each was pushed, and a consumer of it."""

    def __init__(self, directory: str, synchronous: str, samples: int) -> None:
        self.found: list[int] = []
        self._enough = Event()
        self._samples = samples
        self._huey = make(directory, synchronous)
        self.task: Any = self._huey.task(name="note")(self._note)

    def _note(self, pushed: int) -> None:
        self.found.append(time.monotonic_ns() - pushed)
        if len(self.found) == self._samples:
            self._enough.set()

    def start(self) -> Any:
        consumer = self._huey.create_consumer(workers=SLOTS, **EAGER)
        consumer.start()
        return consumer

    def wait_and_stop(self, consumer: Any) -> dict[str, float]:
        self._enough.wait()
        consumer.stop(graceful=True)
        return percentiles(self.found)

    def push_now_and_then(self) -> None:
        for _ in range(self._samples):
            time.sleep(REST)
            self.task(time.monotonic_ns())


def within(notes: Notes) -> dict[str, float]:
    """In one process."""
    consumer = notes.start()
    notes.push_now_and_then()
    return notes.wait_and_stop(consumer)


def receive(notes: Notes) -> dict[str, float]:
    """The side of the consumer."""
    consumer = notes.start()
    print("ready", flush=True)
    return notes.wait_and_stop(consumer)


def across(notes: Notes, terms: dict[str, Any]) -> dict[str, float]:
    """The side that pushes."""
    child = start_child("side_by_side.huey_on_sqlite_latency", {**terms, "kind": "receive"})
    hear_ready(child)
    notes.push_now_and_then()
    return last_words(child)


def measure(kind: str, synchronous: str, samples: int, directory: str | None = None) -> dict[str, float]:
    with new_directory() as new:
        terms = {"synchronous": synchronous, "samples": samples, "directory": directory or new}
        notes = Notes(directory or new, synchronous, samples)
        if kind == "across":
            return across(notes, terms)
        return receive(notes) if kind == "receive" else within(notes)


if __name__ == "__main__":
    answer(measure)
