"""Checks that are made while all trio tasks wait, of facts that no event reports.

They are an instrument, no trio task, so the program is the same with them and without.
"""

from __future__ import annotations

from typing import Any

import trio
from trio_tasks import Task, Worker, WorkerContext
from trio_tasks.testing import Faults

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._program_run import ProgramRun
from tests.simulation._stores import Stores

_CLOSE = 1e-3
_MOST_ROUNDS = 20_000
"""Rounds of the scheduler without a moment of rest, after which there will be none: no program needs a tenth of it."""
_STALLS = 10.0
"""Seconds that a worker on a line that stalls may need to end when nothing is running any more; on others none."""


class QuiescenceChecks(trio.abc.Instrument):
    """Checks the program at moments when all trio tasks wait, and notes faults.

    Args:
      checker: notes the faults.
      stores: counts the running tasks.
      faults: what goes wrong on purpose.

    Attributes:
      scope: the scope of the program, to be cancelled when it would never end.
      program_run: what is checked; None while storages are opened and closed.
    """

    def __init__(self, checker: ClaimChecker, stores: Stores, faults: Faults) -> None:
        self._checker = checker
        self._stores = stores
        self._jumps = faults.jump > 0
        self._beats_fail = faults.disconnect > 0
        self._latest_beat = faults.stall_seconds[1] if faults.stall else 0.0
        self._stop_seconds = _STALLS if faults.stall else _CLOSE
        self._rounds = 0  # since the last quiet moment
        self._reported: set[object] = set()
        self._idle_since: dict[WorkerContext, float] = {}
        self.scope = trio.CancelScope()
        self.program_run: ProgramRun | None = None

    def before_io_wait(self, timeout: float) -> None:
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable or now.seconds_to_next_deadline <= 0:
            self._rounds += 1
            if self._rounds == _MOST_ROUNDS:
                self._checker.fault("the program spins: time stands still, and somebody always has something to do")
                self.scope.cancel()
            return
        self._rounds = 0
        self._checker.quiet += 1
        if self.program_run is None:
            return
        try:
            self._check(self.program_run)
        except Exception as error:  # trio would remove the instrument
            self._checker.fault(f"the quiescence checks have failed: {error!r}")

    def _check(self, program_run: ProgramRun) -> None:
        self._check_slots(program_run)
        if self._stores.is_memory:
            self._check_memory(program_run.storages[0])
        for monitor_model in program_run.monitors:
            monitor_model.check()
        for context in program_run.workers:
            self._check_worker(context)
            self._check_lent_slots(context)
            if self._checker.has_leases and not self._beats_fail:
                for task in context.running_tasks:
                    self._check_lease(context, task)

    def _check_slots(self, program_run: ProgramRun) -> None:
        """Check that no more tasks are claimed than there are slots. (What arrives after its lease, when the clock has
        jumped, is given to nobody, and back to nobody.)
        """
        if self._jumps:
            return
        running, most = self._stores.count_running(program_run.storages), self._checker.most_running
        if running > most:
            self._report_once("slots", f"{running} tasks are claimed, and there are slots for {most}")

    def _check_memory(self, storage: Any) -> None:
        """Check that no receiver waits while a task is ready, and no pusher while there is room."""
        there = storage.statistics()
        if there.pushers_waiting and there.waiting < there.max_buffer_size:
            self._report_once("room", f"there is room, and somebody waits for room: {there}")
        due = storage._queue.ledger.next_due
        if there.receivers_waiting and due is not None and due < trio.current_time():
            self._report_once("due", f"a task was due at {due:g}, and somebody waits for one: {there}")

    def _check_worker(self, context: WorkerContext) -> None:
        """Check that a worker which was told to stop has ended, unless it waits for something."""
        if context not in self._checker.stopped or not context.is_running:
            return
        if context.task_count:
            self._idle_since.pop(context, None)
        elif trio.current_time() > self._idle_since.setdefault(context, trio.current_time()) + self._stop_seconds:
            self._report_once(context, f"{context!r} was told to stop, has no running task, and does not end")

    def _check_lent_slots(self, context: WorkerContext) -> None:
        """Check that a slot is lent exactly while its attempt waits, and that there are at most twice as many slots."""
        holders: set[Any] = {task.parts.holder for task in context.running_tasks}
        lent = sum(getattr(holder, "waits_for", None) is not None for holder in holders)
        if context.lent != lent and not context.is_shutting_down:
            self._report_once(("lent", context), f"{context.name} lends {context.lent} slots, and {lent} attempts wait")
        if len(context.running_tasks) > 2 * context.concurrency:
            self._report_once(("slots", context), f"{context.name} has {len(context.running_tasks)} running tasks")

    def _check_lease(self, context: WorkerContext, task: Task[Any]) -> None:
        """While a task is running its lease is renewed; a worker that has lost it knows it with the next beat."""
        checker, parts = self._checker, task.parts
        claims = checker.claims_of(task)
        if len(claims) != 1 or parts in checker.settling_since or parts.holder is None or parts not in checker.engaged:
            return
        [claim] = claims
        now: float = trio.current_time()
        holder: Any = parts.holder
        if claim.overtaken_at is not None:
            worker = context.recipe
            assert isinstance(worker, Worker)
            assert worker.backend.heartbeat_interval is not None
            interval = worker.backend.heartbeat_interval + self._latest_beat
            since = max(claim.overtaken_at, checker.engaged[parts])
            if now > since + interval + _CLOSE and not holder.scope.cancel_called:
                self._report_once(claim, f"{context.name} goes on with {task}, which somebody else has")
        elif (
            not self._jumps
            and not self._latest_beat
            and parts.id not in checker.lost
            and claim.parts is parts
            and claim.came_at_once
            and parts.context.until < checker.storage_now() - _CLOSE
        ):
            self._report_once(claim, f"{context.name} runs {task}, whose lease is over")

    def _report_once(self, subject: object, what: str) -> None:
        """Report a fault of this subject, unless one of it was reported before."""
        if subject not in self._reported:
            self._reported.add(subject)
            self._checker.fault(what)
