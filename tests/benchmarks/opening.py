"""A benchmark of opening a journal with many waiting tasks: CPU time, memory, and how long the event loop is held."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import cbor2
import trio
from trio_tasks import FileStorage
from trio_tasks._backends.file.records import FRAME_SIZE, HEADER_SIZE, Frame, read_salt, scan

from .fresh import Found, answer, measure_afresh, size
from .stored import new_directory

STORED, SMALL = 1_000_000, 20_000
IN_ONE_GO = 50_000
GOALS = "goals for a million: 2 s, 300 MB, 50 ms"


def show() -> None:
    stored = size(STORED, SMALL)
    print(f"a journal with {stored:,} waiting tasks is opened; {GOALS}")
    with new_directory() as directory:
        path = str(Path(directory, "tasks.journal"))
        trio.run(fill, path, stored)
        for way in ("open", "decode", "sleep"):
            found = measure_afresh("opening", path=path, way=way)
            print(f"  {NAMES[way]:34}{found['cpu']:8.2f} s of CPU", end="")
            print(f"{found['memory'] / 1e6:8.0f} MB{found['held'] * 1e3:8.0f} ms of the event loop")


NAMES = {
    "open": "FileStorage",
    "decode": "its records read by cbor2 alone",
    "sleep": "nothing, in a thread",
}


async def fill(path: str, stored: int) -> None:
    """Push this many tasks into a new journal."""
    async with FileStorage(path, int, synchronous="NORMAL") as storage:
        for first in range(0, stored, IN_ONE_GO):
            await storage.push_bulk(range(first, min(first + IN_ONE_GO, stored)))


def decode(path: str) -> None:
    """Decode all records, and keep nothing."""
    with Path(path).open("rb") as file:
        salt = read_salt(file.read(HEADER_SIZE + FRAME_SIZE), path, repair=False)
        for found in scan(file, salt):
            if isinstance(found, Frame):
                cbor2.loads(found.payload)


async def open_beside(path: str, way: str) -> Found:
    """Open the journal while a trio task sleeps for a millisecond, again and again."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await trio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began - 0.001)

    before = peak()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        cpu = time.process_time()
        if way == "open":
            async with FileStorage(path, int, synchronous="NORMAL"):
                cpu = time.process_time() - cpu
        else:
            await trio.to_thread.run_sync(*((decode, path) if way == "decode" else (time.sleep, 1.0)))
            cpu = time.process_time() - cpu
        nursery.cancel_scope.cancel()
    return {"cpu": cpu, "memory": peak() - before, "held": longest}


def peak() -> int:
    """Return the largest size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # the other figure may be that of the process which has started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def measure(path: str, way: str) -> Found:
    return trio.run(open_beside, path, way)


if __name__ == "__main__":
    answer(measure)
