"""A benchmark of CPU time for each task, compared with code that a trio user writes by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import trio

from .by_hand import by_hand
from .load import Load, one_checkpoint
from .measuring import MICRO, in_turns, verdict
from .ours import ours

CONCURRENCIES = [1, 10, 100, 1000]
TASKS = 10_000
ROUNDS = 5
TARGET = 0.5

LOADS = {
    "a backlog, no-op handler": Load(TASKS, 1),
    "pushed one by one meanwhile": Load(TASKS, 1, trickles=True),
    "handler of one checkpoint": Load(TASKS, 1, handler=one_checkpoint),
    "with one listener": Load(TASKS, 1, listener=True),
    "with a timeout for each": Load(TASKS, 1, timeout=30.0),
}


def show() -> None:
    print("CPU for each task in µs, and its ratio to a channel, a limiter, start_soon and a scope by hand")
    print(f"  {'':30}{'concurrency':>12}{'ours':>8}{'by hand':>9}{'ratio':>7}")
    for title, load in LOADS.items():
        for concurrency in CONCURRENCIES:
            _compare(title, replace(load, concurrency=concurrency))


def _compare(title: str, load: Load) -> None:
    sides = {"ours": partial(trio.run, ours, load), "by hand": partial(trio.run, by_hand, load)}
    cpu = in_turns(sides, rounds=ROUNDS)
    ratio = cpu["ours"] / cpu["by hand"]
    micros = f"{cpu['ours'] * MICRO:8.2f}{cpu['by hand'] * MICRO:9.2f}"
    print(f"  {title:30}{load.concurrency:12}{micros}{ratio:6.2f}x  {verdict(ratio, TARGET)}", flush=True)
