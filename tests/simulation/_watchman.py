"""Looks at a program whenever nothing moves in it: what has to be true then, though no event tells of it.

He is an instrument, no trio task, so the program is the same with him and without.
"""

from __future__ import annotations

from typing import Any

import trio
from trio_tasks import Task, Worker, WorkerContext
from trio_tasks.testing import Faults

from tests.simulation._books import Books
from tests.simulation._life import Life
from tests.simulation._stores import Stores

_CLOSE = 1e-3
_MOST_ROUNDS = 20_000
"""Rounds of the scheduler without a moment of rest, after which there will be none: no program needs a tenth of it."""
_STALLS = 10.0
"""Seconds that a worker on a line that stalls may need to end when nothing is in hand any more; on others none."""


class Watchman(trio.abc.Instrument):
    """Writes down what is wrong at moments when everybody waits.

    Args:
      books: where he writes it down.
      stores: which he counts in.
      faults: what goes wrong anyway, and is nobody's fault.

    Attributes:
      everything: the scope of the program, to be cancelled when it would never end.
      life: whom to look at; None while storages are opened and closed.
    """

    def __init__(self, books: Books, stores: Stores, faults: Faults) -> None:
        self._books = books
        self._stores = stores
        self._jumps = faults.jump > 0
        self._beats_fail = faults.disconnect > 0
        self._latest_beat = faults.stall_seconds[1] if faults.stall else 0.0
        self._patience = _STALLS if faults.stall else _CLOSE
        self._rounds = 0  # since the last quiet moment
        self._told: set[object] = set()
        self._idle_since: dict[WorkerContext, float] = {}
        self.everything = trio.CancelScope()
        self.life: Life | None = None

    def before_io_wait(self, timeout: float) -> None:
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable or now.seconds_to_next_deadline <= 0:
            self._rounds += 1
            if self._rounds == _MOST_ROUNDS:
                self._books.fault("the program spins: time stands still, and somebody always has something to do")
                self.everything.cancel()
            return
        self._rounds = 0
        self._books.quiet += 1
        if self.life is None:
            return
        try:
            self._look(self.life)
        except Exception as error:  # trio would send him away, and nobody would know
            self._books.fault(f"the watchman has failed: {error!r}")

    def _look(self, life: Life) -> None:
        self._look_at_slots(life)
        if self._stores.is_memory:
            self._look_at_memory(life.storages[0])
        for boss in life.bosses:
            boss.look()
        for context in life.workers:
            self._look_at_worker(context)
            self._look_at_lent_slots(context)
            if self._books.has_leases and not self._beats_fail:
                for task in context.in_hand:
                    self._look_at_lease(context, task)

    def _look_at_slots(self, life: Life) -> None:
        """No more is claimed than somebody has a slot for. (What arrives after its lease, when the clock has jumped, is
        given to nobody, and back to nobody.)"""
        if self._jumps:
            return
        running, most = self._stores.count_running(life.storages), self._books.most_running
        if running > most:
            self._tell("slots", f"{running} tasks are claimed, and there are slots for {most}")

    def _look_at_memory(self, storage: Any) -> None:
        """Whoever can be served has been."""
        there = storage.statistics()
        if there.pushers_waiting and there.waiting < there.max_buffer_size:
            self._tell("room", f"there is room, and somebody waits for room: {there}")
        due = storage._queue.ledger.next_due
        if there.receivers_waiting and due is not None and due < trio.current_time():
            self._tell("due", f"a task was due at {due:g}, and somebody waits for one: {there}")

    def _look_at_worker(self, context: WorkerContext) -> None:
        """A worker that was told to stop ends when there is nothing that it waits for."""
        if context not in self._books.stopped or not context.is_running:
            return
        if context.task_count:
            self._idle_since.pop(context, None)
        elif trio.current_time() > self._idle_since.setdefault(context, trio.current_time()) + self._patience:
            self._tell(context, f"{context!r} was told to stop, has nothing in hand, and does not end")

    def _look_at_lent_slots(self, context: WorkerContext) -> None:
        """A slot is lent for as long as its attempt waits, and no longer; and there are twice as many at most."""
        holders: set[Any] = {task.parts.holder for task in context.in_hand}
        lent = sum(getattr(holder, "waits_for", None) is not None for holder in holders)
        if context.lent != lent and not context.is_shutting_down:
            self._tell(("lent", context), f"{context.name} lends {context.lent} slots, and {lent} attempts wait")
        if len(context.in_hand) > 2 * context.concurrency:
            self._tell(("slots", context), f"{context.name} has {len(context.in_hand)} tasks in hand")

    def _look_at_lease(self, context: WorkerContext, task: Task[Any]) -> None:
        """For as long as a task is in hand its lease is renewed; and who has lost it knows it with the next beat."""
        books, parts = self._books, task.parts
        claims = books.claims_of(task)
        if len(claims) != 1 or parts in books.settling_since or parts.holder is None or parts not in books.engaged:
            return
        [claim] = claims
        now: float = trio.current_time()
        holder: Any = parts.holder
        if claim.overtaken_at is not None:
            worker = context.recipe
            assert isinstance(worker, Worker)
            assert worker.backend.heartbeat_interval is not None
            interval = worker.backend.heartbeat_interval + self._latest_beat
            since = max(claim.overtaken_at, books.engaged[parts])
            if now > since + interval + _CLOSE and not holder.scope.cancel_called:
                self._tell(claim, f"{context.name} goes on with {task}, which somebody else has")
        elif (
            not self._jumps
            and not self._latest_beat
            and parts.id not in books.lost
            and claim.parts is parts
            and claim.came_at_once
            and parts.context.until < books.storage_now() - _CLOSE
        ):
            self._tell(claim, f"{context.name} has {task} in hand, and its lease is over")

    def _tell(self, whom: object, what: str) -> None:
        """Once is enough."""
        if whom not in self._told:
            self._told.add(whom)
            self._books.fault(what)
