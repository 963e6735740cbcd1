"""huey's consumer while it is idle: the CPU time that it uses."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..fresh import answer
from ..measuring import CpuTime
from ..stored import new_directory
from ..stored_idle import SETTLING_DOWN, open_files
from .huey_on_sqlite import EAGER, make


def measure(eager: bool, slots: int, seconds: float) -> dict[str, Any]:
    """With the options under which it is as quick as it can be, or with its own."""
    with new_directory() as directory:
        options = EAGER if eager else {"periodic": False}
        consumer = make(directory, "FULL").create_consumer(workers=slots, **options)
        consumer.start()
        time.sleep(SETTLING_DOWN)
        with CpuTime() as cpu:
            time.sleep(seconds)
        found = {"cpu": cpu.seconds / seconds * 60, "threads": threading.active_count(), "files": open_files()}
        consumer.stop(graceful=True)
    return found


if __name__ == "__main__":
    answer(measure)
