"""persist-queue's SQLiteAckQueue: put, get and ack, each a transaction, in one thread; it has no worker."""

from __future__ import annotations

from typing import Any

from persistqueue import SQLiteAckQueue

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    with new_directory() as directory:
        queue: Any = SQLiteAckQueue(directory, auto_commit=True)
        for connection in {queue._putter, queue._getter}:  # it has no option for it
            connection.execute(f"PRAGMA synchronous = {synchronous}")
        with Both() as pushing:
            for n in range(tasks):
                queue.put(n)
        with Both() as draining:
            for _ in range(tasks if kind == "drain" else 0):
                queue.ack(queue.get(block=False, raw=True))
        queue.close()
    return (draining if kind == "drain" else pushing).each(tasks)


if __name__ == "__main__":
    answer(measure)
