"""simplebroker: write and read, each a transaction, in one thread; a message that was read is not acknowledged."""

from __future__ import annotations

from pathlib import Path

from simplebroker import Queue, resolve_config

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    with new_directory() as directory:
        config = resolve_config(override={"BROKER_SYNC_MODE": synchronous})
        queue = Queue("numbers", db_path=str(Path(directory, "broker.db")), persistent=True, config=config)
        with Both() as pushing:
            for n in range(tasks):
                queue.write(str(n))
        with Both() as draining:
            while kind == "drain" and (message := queue.read()) is not None:
                int(str(message))
        queue.close()
    return (draining if kind == "drain" else pushing).each(tasks)


if __name__ == "__main__":
    answer(measure)
