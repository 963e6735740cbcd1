"""litequeue: put, pop and done, each a transaction, in one thread; it has no worker, and is NORMAL only."""

from __future__ import annotations

from pathlib import Path

from litequeue import LiteQueue

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    with new_directory() as directory:
        queue = LiteQueue(str(Path(directory, "lite.db")))
        queue.conn.execute(f"PRAGMA synchronous = {synchronous}")
        with Both() as pushing:
            for n in range(tasks):
                queue.put(str(n))
        with Both() as draining:
            while kind == "drain" and (message := queue.pop()) is not None:
                int(message.data)
                queue.done(message.message_id)
        queue.close()
    return (draining if kind == "drain" else pushing).each(tasks)


if __name__ == "__main__":
    answer(measure)
