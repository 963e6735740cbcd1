"""A benchmark of tasks with names: a call, its stored form, and its way to the function, beside a plain handler."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio_tasks import Attempt, Call, Injected, MemoryStorage, Router, Task, Worker
from trio_tasks._handlers.adapter import adapt

from .measuring import MICRO, in_turns, verdict

CALLS = 20_000
ROUNDS = 7
WARM = 1_000
BIND = 15.0  # µs at most
ROUTE = 2.0

tasks = Router()


@tasks.task
async def plain(n: int) -> None:
    """Do nothing."""


@tasks.task(attempts=8, timeout=30)
async def send_email(to: str, subject: str = "hello", *, attempt: Attempt = Injected) -> None:
    """Do nothing."""


@tasks.task(unique="{path}")
def resize(path: Path, owner: str, width: int | None, sizes: list[int]) -> None:
    """Do nothing."""


@tasks.task
def in_thread(n: int) -> int:
    return n


@tasks.task(process=True)
def in_process(n: int) -> int:
    return n


async def bare(n: int) -> None:
    """Do nothing."""


def show() -> None:
    print(f"µs for each of {CALLS:,} calls, the best of {ROUNDS} rounds in turns")
    path, call, task = Path("/a"), plain.bind(1), Task(plain.bind(1))
    stored = resize.bind(path, "ada", 320, [1, 2, 3])
    payload, number = tasks.encode(stored), Task(1)
    routed: Any = tasks.for_worker((), Any).handler
    direct: Any = adapt(bare)
    contenders: dict[str, Callable[[], object]] = {
        "bind, one number": lambda: plain.bind(1),
        "bind, two texts": lambda: send_email.bind("a@example.com", subject="hi"),
        "bind, a path, a list and a unique key": lambda: resize.bind(path, "ada", 320, [1, 2, 3]),
        "make a task of a number": lambda: Task(1),
        "make a task of a call": lambda: Task(call),
        "encode a call of four arguments": lambda: tasks.encode(stored),
        "decode it": lambda: tasks.decode(payload),
        "call a plain handler": lambda: direct(number).close(),
        "call a function by its name": lambda: routed(task).close(),
    }
    least = in_turns({name: partial(_seconds, each) for name, each in contenders.items()}, rounds=ROUNDS)
    costs = {name: seconds / CALLS * MICRO for name, seconds in least.items()}
    for name, cost in costs.items():
        print(f"  {name:40}{cost:8.2f}  {verdict(cost, BIND) if name.startswith('bind') else ''}")
    more = costs["call a function by its name"] - costs["call a plain handler"]
    print(f"  {'so routing costs':40}{more:8.2f}  {verdict(more, ROUTE)}")
    runs: dict[str, Callable[[], float]] = {
        "a worker with a plain handler": lambda: trio.run(_run, [1] * CALLS, bare),
        "a worker with a router": lambda: trio.run(_run, [call] * CALLS, tasks),
    }
    for name, seconds in in_turns(runs, rounds=3).items():
        print(f"  {name:40}{seconds / CALLS * MICRO:8.2f}  a task, from the push to its end")
    calls: dict[str, Callable[[], float]] = {
        "a function in a thread": lambda: trio.run(_run_warm, in_thread),
        "a function in a process": lambda: trio.run(_run_warm, in_process),
        "the first call in a process": lambda: trio.run(_run_first),
    }
    for name, seconds in in_turns(calls, rounds=3).items():
        print(f"  {name:40}{seconds * MICRO:8.0f}  a task, one after the other, from the push to its end")


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        function()
    return time.perf_counter() - began


async def _run(values: list[Any], handler: Any) -> float:
    storage = MemoryStorage[Call[object]]()
    began = time.perf_counter()
    await storage.push_bulk(values)
    storage.close()
    await Worker("w", storage, handler).run()
    return time.perf_counter() - began


async def _run_warm(function: Any) -> float:
    """Return the seconds of a task, when its thread or process is there."""
    storage = MemoryStorage[Call[object]]()
    worker = Worker("w", storage, tasks)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await storage.wait_for(await storage.push(function.bind(0)))
        began = time.perf_counter()
        for n in range(WARM):
            await storage.wait_for(await storage.push(function.bind(n)))
        seconds = (time.perf_counter() - began) / WARM
        storage.close()
    return seconds


async def _run_first() -> float:
    """Return the seconds of a task whose process is started for it."""
    storage = MemoryStorage[Call[object]]()
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, tasks).run)
        began = time.perf_counter()
        await storage.wait_for(await storage.push(in_process.bind(0)))
        seconds = time.perf_counter() - began
        storage.close()
    return seconds
