"""A benchmark of the CPU time that an idle worker uses."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked
from trio_tasks import MemoryStorage, Worker

from .measuring import MICRO, CpuTime

SECONDS = 3.0
SLOTS = [0, 1, 100, 1000]  # none: the program itself, without a worker


class Turns(trio.abc.Instrument):
    """Counts the turns of trio's run loop, and the steps of trio tasks."""

    def __init__(self) -> None:
        self.turns = self.steps = 0

    def before_io_wait(self, timeout: float) -> None:
        self.turns += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


def show() -> None:
    print(f"{SECONDS:g} s of idling, which end by one timer")
    print(f"  {'slots':>6}{'µs of CPU a second':>20}{'run-loop turns':>16}{'steps of trio tasks':>21}")
    for slots in SLOTS:
        cpu, turns, steps = trio.run(_idle, slots)
        print(f"  {slots or 'none':>6}{cpu / SECONDS * MICRO:20.0f}{turns:16}{steps:21}", flush=True)


async def _idle(slots: int) -> tuple[float, int, int]:
    async def handle(n: int) -> None:
        raise AssertionError("nothing was pushed")

    async with trio.open_nursery() as nursery:
        if slots:
            await nursery.start(Worker("idler", MemoryStorage[int](), handle, concurrency=slots).run)
        await wait_all_tasks_blocked()
        counter = Turns()
        trio.lowlevel.add_instrument(counter)
        with CpuTime() as cpu:
            await trio.sleep(SECONDS)
        trio.lowlevel.remove_instrument(counter)
        nursery.cancel_scope.cancel()
    return cpu.seconds, counter.turns, counter.steps
