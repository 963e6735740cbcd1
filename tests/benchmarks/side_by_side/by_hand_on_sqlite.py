"""The floor under every drain: SQLite alone, in a thread of its own, and trio tasks that wait until they are settled.

What a library cannot do without is here, and nothing else: slots that ask for a row, call the handler, and come back
when the row is settled; an exchange that settles the last rows and claims as many as there are free slots, in one
transaction; and a thread for it, so that no disk holds up the event loop. There is no lease, no result, no count, no
codec, no error, no cancellation. The target cannot be met where this does not meet it.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import trio
from outcome import Value, capture

from ..fresh import answer
from ..load import no_op
from ..stored_daily import Both, Seconds
from .bare_sqlite import Row, Rows, filled

Call = tuple[Any, trio.lowlevel.Task, trio.lowlevel.TrioToken]


class Drain:
    """Slots that line up, and a loop that makes one exchange for all of them."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._settled: list[int] = []
        self._slots: list[trio.lowlevel.Task] = []
        self._needed = trio.Event()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.done = 0

    def work_in_thread(self) -> None:
        while (call := self._calls.get()) is not None:
            exchange, trio_task, token = call
            token.run_sync_soon(trio.lowlevel.reschedule, trio_task, capture(exchange))

    async def run(self, slots: int) -> None:
        thread = threading.Thread(target=self.work_in_thread)
        thread.start()
        async with trio.open_nursery() as nursery:
            for _ in range(slots):
                nursery.start_soon(self._sit)
            while rows := await self._exchange():
                self._hand_out(rows)
            nursery.cancel_scope.cancel()
        self._calls.put(None)
        thread.join()

    async def _sit(self) -> None:
        me = trio.lowlevel.current_task()
        while True:
            self._slots.append(me)
            self._needed.set()
            seq, n = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
            await no_op(n)
            self.done += 1
            self._settled.append(seq)

    async def _exchange(self) -> list[Row]:
        await self._needed.wait()
        self._needed = trio.Event()
        settled, self._settled = self._settled, []
        limit = len(self._slots)
        me, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        self._calls.put((lambda: self._rows.exchange(settled, limit), me, token))
        rows: list[Row] = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        return rows

    def _hand_out(self, rows: list[Row]) -> None:
        slots, self._slots = self._slots[: len(rows)], self._slots[len(rows) :]
        for slot, row in zip(slots, rows, strict=True):
            trio.lowlevel.reschedule(slot, Value(row))


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    assert kind == "drain"
    with filled(synchronous, tasks) as connection:
        drain = Drain(Rows(connection))
        with Both() as both:
            trio.run(drain.run, concurrency)
        assert drain.done == tasks
    return both.each(tasks)


if __name__ == "__main__":
    answer(measure)
