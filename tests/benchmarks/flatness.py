"""A benchmark that compares the cost of a task with few and with many tasks waiting."""

from __future__ import annotations

from functools import partial

import trio

from .load import Load
from .measuring import MICRO, in_turns
from .ours import ours

BACKLOGS = {1_000: 50, 10_000: 8, 100_000: 2, 1_000_000: 1}  # and how often each is measured


def show() -> None:
    print("CPU for each task in µs, by how many wait at the beginning; 100 slots, no-op handler")
    first = None
    for backlog, rounds in BACKLOGS.items():
        (cpu,) = in_turns({"ours": partial(trio.run, ours, Load(backlog, 100))}, rounds=rounds).values()
        first = first or cpu
        print(f"  {backlog:10,} {cpu * MICRO:8.2f} {cpu / first:6.2f}x", flush=True)
