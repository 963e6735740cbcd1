"""A state machine that calls a storage and a model with the same steps, and compares all that can be seen."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, precondition, rule
from trio_tasks import (
    BackendError,
    DeadlinePassed,
    DuplicateTaskError,
    Expired,
    LeaseLostError,
    Limits,
    MemoryStorage,
    Minute,
    Outcome,
    Pushed,
    Rate,
    Status,
    StoredTaskInfo,
    Task,
    UnknownTaskError,
)
from trio_tasks._contracts.calls import SETTLE_TIMEOUT, USUAL_LEASE
from trio_tasks._tasks.extensions import Metadata
from trio_tasks._tasks.task import Parts, make_task
from trio_tasks.abc import ScheduleChange, StoredSchedule

from tests.storages._engine import FinalError

from ._model import LIVE, Model, Refused, Row
from ._participants import CALL_ERRORS, VERDICTS, Caller, Held, ToldEvents, Waiter
from ._stepped_run import TICK, SteppedRun
from ._stores import WORKERS, Store

workers = st.integers(0, WORKERS - 1)
delays = st.sampled_from([0.0, 1 + 1 / 64, 5 + 1 / 64])
HELD = 4 + 1 / 128
"""Seconds for which a key is held, if that is for a time."""
UNKNOWN = "nobody"
CLOSE = 2 * TICK
"""Seconds: what comes within a step may come this much later than the step."""


def _is_at(seen: float | None, expected: float | None) -> bool:
    return seen is expected is None or (None not in (seen, expected) and abs((seen or 0) - (expected or 0)) <= 3 * TICK)


def step(**arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register a step of the machine, after which the visible state is compared."""

    def decorate(do: Callable[..., Any]) -> Any:
        @wraps(do)
        def do_and_look(self: Machine, **drawn: Any) -> Any:
            result = do(self, **drawn)
            self.they_agree()
            return result

        make_rule: Any = rule(**arguments)
        return make_rule(do_and_look)

    return decorate


class Machine(RuleBasedStateMachine):
    kind: type[Store]
    tasks = Bundle("tasks")
    hands = Bundle("hands")
    known = st.one_of(tasks, tasks, tasks, st.just(UNKNOWN))

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="model-"))
        self.model = Model(self.kind.traits)
        self.run = SteppedRun()
        self.store = self.run.do(self._open)
        self.told = ToldEvents()
        self._listen()
        self.held: list[Held] = []
        self.waiters: list[Waiter] = []
        self.closed: set[Any] = set()
        self.written = {**self.model.attempts}
        """The attempts that were settled when the sums of all processes were written last."""
        self.unsure = Counter[str]()
        """Attempts that may be missing in the sums, since a process has crashed."""
        self.numbers = 0
        self.steps = 0
        self.epoch: float | None = None
        """The storage's time when the model's was 0."""

    def _listen(self) -> None:
        """Hear all events of all handles, also of those that are closed."""
        for handle in self.store.handles:
            handle._queue.events = self.told
            if isinstance(handle, MemoryStorage):
                handle._queue.ledger.events = self.told  # type: ignore[assignment]  # it does as readers do

    async def _open(self) -> Store:
        store = self.kind(self.directory, self.run.nursery)
        await store.open()
        return store

    def teardown(self) -> None:
        try:
            self.run.do(self._end_calls)
            self.run.do(self.store.close_all)
        finally:  # or the next history finds this run under way, and that hides the fault
            self._end()

    async def _end_calls(self) -> None:
        """Cancel all calls, and let the time pass that they wait for the end of their tasks."""
        for waiter in self.waiters:
            if isinstance(waiter, Caller):
                waiter.scope.cancel()
        await self.run.pass_time(SETTLE_TIMEOUT + USUAL_LEASE + 1.0)

    def _end(self) -> None:
        try:
            self.run.end()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    # Pushing

    @step(
        target=tasks,
        worker=workers,
        priority=st.sampled_from([0, 0, 1, -1]),
        delay=delays,
        unique=st.sampled_from([None, "key"]),
        on_conflict=st.sampled_from(["replace", "skip", "update", "raise"]),
        hold=st.sampled_from([{}, {}, {"unique_until": "start"}, {"unique_until": "forgotten"}, {"unique_for": HELD}]),
        expires_in=st.sampled_from([None, None, 3 + 1 / 256]),
        deadline=st.sampled_from([None, None, 4 + 1 / 512, 40 + 1 / 512]),
        attempts=st.sampled_from([None, 2]),
    )
    def push(
        self,
        worker: int,
        priority: int,
        delay: float,
        unique: str | None,
        on_conflict: str,
        hold: dict[str, Any],
        expires_in: float | None,
        deadline: float | None,
        attempts: int | None,
    ) -> Any:
        self.numbers += 1
        options: dict[str, Any] = {"id": f"t{self.numbers}", "priority": priority, "metadata": {"n": self.numbers}}
        options["key"] = self._key(self.numbers)
        options |= {"delay": delay, "expires_in": expires_in, "deadline": deadline, "attempts": attempts}
        options |= {"unique": unique, "on_conflict": on_conflict, **hold} if unique else {}
        return self._push({key: value for key, value in options.items() if value not in (None, 0.0)}, worker)

    @step(worker=workers, task=tasks)
    def push_the_same_id(self, worker: int, task: str) -> None:
        if not self._is_overdue(task):
            self._push({"id": task}, worker)

    @staticmethod
    def _key(number: int) -> str | None:
        return "odd" if number % 2 else None

    def _push(self, options: dict[str, Any], worker: int) -> Any:
        storage, model = self.store.handles[worker], self.model
        if options.get("delay", 0.0) >= min(options.get(each, math.inf) for each in ("expires_in", "deadline")):
            self._raises(ValueError, storage.push, 0, options)
            return multiple()
        if storage in self.closed:
            self._raises(trio.ClosedResourceError, storage.push, 0, options)
            return multiple()
        expires = model.now + options["expires_in"] if "expires_in" in options else float("inf")
        priority, unique = options.get("priority", 0), options.get("unique")
        row = Row(options["id"], self.numbers, priority, unique, expires, metadata=options.get("metadata", {}))
        row.key = options.get("key")
        row.deadline = model.now + options.get("deadline", math.inf)
        row.until, row.seconds = options.get("unique_until", "end"), options.get("unique_for")
        try:
            expected: Any = model.push(row, options.get("delay", 0.0), options.get("on_conflict", "skip"))
        except Refused:
            self._raises(DuplicateTaskError, storage.push, self.numbers, options)
            return multiple()
        got = self._do(storage.push_or_get, self.numbers, options)
        assert got == Pushed(expected, expected == row.id)
        pushed = got.id
        return pushed if pushed == row.id else multiple()

    @step(target=tasks, worker=workers, number=st.integers(0, 3), priority=st.sampled_from([0, 1]), delay=delays)
    def push_bulk(self, worker: int, number: int, priority: int, delay: float) -> Any:
        storage = self.store.handles[worker]
        options = {"priority": priority, "delay": delay}
        if storage in self.closed:
            if number:
                self._raises(trio.ClosedResourceError, storage.push_bulk, range(number), options)
            return multiple()
        ids = self._do(storage.push_bulk, range(number), options)
        for args, task_id in enumerate(ids):
            self.model.push(Row(task_id, args, priority, None, float("inf")), delay)
        return multiple(*ids)

    # Calling

    @step(target=tasks, worker=workers, delay=delays, unique=st.sampled_from([None, None, "key"]))
    def call(self, worker: int, delay: float, unique: str | None) -> Any:
        """Begin a call, which goes on until its task is finished, or it is cancelled."""
        storage = self.store.handles[worker]
        if storage in self.closed:
            self._raises(trio.ClosedResourceError, storage.call, 0)
            return multiple()
        self.numbers += 1
        options: dict[str, Any] = {"id": f"t{self.numbers}", "delay": delay, "metadata": {"n": self.numbers}}
        row = Row(options["id"], self.numbers, 0, unique, math.inf, metadata={"n": self.numbers})
        row.key = self._key(self.numbers)
        options |= {name: value for name, value in (("key", row.key), ("unique", unique)) if value}
        task_id = self.model.push(row, delay)
        caller = Caller([task_id], storage, {task_id}, is_new=task_id == row.id)
        args = self.numbers

        async def call() -> None:
            with caller.scope:
                try:
                    caller.outcome = "returned", await storage.call(args, **options)
                except CALL_ERRORS as error:
                    caller.outcome = error
            caller.outcome = caller.outcome or "cancelled"

        self.run.do(self._begin, call)
        self.waiters.append(caller)
        return multiple(*[task_id] * caller.is_new)

    @step(number=st.integers(0, 5))
    def cancel_call(self, number: int) -> None:
        """Cancel a call: if it has pushed its task, that is forgotten, or its attempt is cancelled."""
        callers = [each for each in self.waiters if isinstance(each, Caller) and each.cancelled_at == math.inf]
        if not callers:
            return
        caller = callers[number % len(callers)]
        [task_id] = caller.ids
        if self._is_overdue(task_id):  # it may be told still, or not any more
            return

        async def cancel() -> None:
            caller.scope.cancel()
            await self.run.wait_until_blocked()

        self.run.do(cancel)
        caller.cancelled_at = self.model.now
        row = self.model.rows.get(task_id)
        if caller.is_new and row is not None and self.model.withdraw(row):
            self._expect_end(row)

    # Scheduling

    @step(
        target=tasks,
        worker=workers,
        name=st.sampled_from(["s1", "s2"]),
        revision=st.sampled_from(["known", "known", "stale", "none"]),
        removes=st.sampled_from([False, False, True]),
        pushed=st.lists(st.tuples(delays, st.sampled_from([None, "key"])), max_size=2),
    )
    def set_schedule(
        self, worker: int, name: str, revision: str, removes: bool, pushed: list[tuple[float, str | None]]
    ) -> Any:
        """Change a schedule and push tasks in one step, if nobody else has changed it."""
        self.numbers += 1
        storage, model = self.store.handles[worker], self.model
        known = model.revision(name)
        was = {"known": known, "stale": known - 1, "none": 0}[revision]
        templates: list[Any] = []
        for delay, unique in pushed:
            options: Any = {"delay": delay, "metadata": {"n": self.numbers}}
            options |= {"unique": unique, "on_conflict": "skip"} if unique else {}
            templates.append(storage.make_template(make_task(self.numbers, options)))
        template = storage.make_template(Task(self.numbers))
        schedule = None if removes else StoredSchedule("every(days=1)", "default", template, self.numbers)
        changes = [ScheduleChange(name, was, schedule, templates)]
        if storage in self.closed:
            self._raises(trio.ClosedResourceError, storage.set_schedules, changes)
            return multiple()
        [result] = self._do(storage.set_schedules, changes)
        if was != known:
            assert not result.revision, f"{name} was changed as of {was}, and is {known}"
            assert not result.ids
            return multiple()
        assert result.revision > max((each for each, _ in model.schedules.values()), default=0)
        model.schedules[name] = result.revision, schedule
        return multiple(*self._enter_pushed(pushed, result.ids))

    def _enter_pushed(self, pushed: list[tuple[float, str | None]], ids: Any) -> list[str]:
        """Enter tasks that were pushed with a schedule; return those that are new."""
        assert len(ids) == len(pushed)
        new: list[str] = []
        for (delay, unique), task_id in zip(pushed, ids, strict=True):
            row = Row(task_id, self.numbers, 0, unique, math.inf, metadata={"n": self.numbers})
            owner = self.model.owner(unique)
            assert owner is None or owner.id == task_id
            if owner is None:
                new.append(self.model.push(row, delay))
        return new

    def _agree_on_schedules(self, storage: Any) -> None:
        """All schedules are listed by their changes, and those alone that were changed after one."""
        expected = sorted((number, name, schedule) for name, (number, schedule) in self.model.schedules.items())
        listed = self._do(storage.list_schedules)
        assert [(each.revision, each.name, each.schedule) for each in listed] == expected
        assert [each.is_removed for each in listed] == [schedule is None for *_, schedule in expected]
        if expected:
            assert self._do(storage.list_schedules, expected[0][0]) == listed[1:]
            assert self._do(storage.list_schedules, {"name": listed[0].name}) == listed[:1]

    # Working

    @step(target=hands, worker=workers)
    def receive(self, worker: int) -> Any:
        storage, model = self.store.handles[worker], self.model
        while model.is_unsure():
            self._pass_time(1 / 2)
        got = self.run.do(self._receive, storage)
        self._renew_late(storage)
        ready = model.ready()
        still_run = {held.id for held in self._unsettled(storage) if "Released" in held.told}
        if isinstance(got, trio.EndOfChannel):
            assert storage in self.closed and not ready, "it has not ended"
            assert not any(row.is_live and not model.is_overdue(row) for row in model.rows.values()), "it is not empty"
            return multiple()
        if got is None and any(row.id in still_run for row in ready):
            model.given_back += [(model.now, row.key) for row in ready if row.id in still_run]
            self._give_back_prefetched(storage)
            return multiple()
        if got is None:
            assert not ready, f"nothing came, though {ready} is ready"
            has_some = any(not held.is_settled and held.storage is storage for held in self.held)
            assert storage not in self.closed or has_some or not model.is_empty(), "it has ended, and does not say so"
            return multiple()
        assert got.parts.id in [row.id for row in ready], f"{got} came, in place of {ready}"
        assert got.parts.id not in still_run, f"{got} came, though an attempt before it has not ended here"
        row = model.rows[got.parts.id]
        held = Held(worker, storage, got, model.take(row), row.due)
        got.parts.holder = held
        assert (got.args, got.parts.attempt, got.parts.status) == (row.args, row.attempt, Status.Running)
        assert (dict(got.parts.metadata), got.parts.unfit) == (row.metadata, None)
        assert got.parts.is_orphan == bool(row.history and row.history[-1][1] == "lost")
        self.held.append(held)
        return held

    def _renew_late(self, storage: Any) -> None:
        """Renew leases that are less than half left, as a storage does before it claims. Whether a claim was made at
        all is the storage's business, and is seen by when the lease ends now. Who has lost it is told so.
        """
        if not self.kind.traits.is_stored:
            return
        lease = self.kind.traits.lease
        for held in self._unsettled(storage):
            left = held.task.parts.context.until - storage._loop.engine.now()
            until = self.model.now + left
            if not self.model.holds(held.id, held.claim):
                assert until <= held.until + CLOSE, f"{held} was lost, and renewed after that"
                held.to_be_told |= held.told & {"Released"}
            elif until > held.until + CLOSE:
                assert held.until - self.model.now <= lease / 2, f"{held} was renewed too soon"
                assert lease - 3 * TICK <= left <= lease + CLOSE, f"{held} was renewed for {left} seconds"
                held.until = self.model.rows[held.id].due = until

    def _give_back_prefetched(self, storage: Any) -> None:
        """Release claimed tasks that cannot begin yet, as a storage does after some rounds."""
        for _ in range(8):
            self.run.do(self._tick)
        released = self._do(storage.metrics)["released"]
        assert released > self.model.counts["released"]
        self.model.counts["released"] = released

    async def _receive(self, storage: Any) -> Task[Any] | trio.EndOfChannel | None:
        """Receive a task that is ready at once, or after a moment."""
        got: list[Any] = []

        async def receive() -> None:
            try:
                got.append(await storage.receive())
            except trio.EndOfChannel as error:
                got.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await self.run.wait_until_blocked()
            if not got:
                await self._tick()
            nursery.cancel_scope.cancel()
        return got[0] if got else None

    @step(held=hands, verdict=st.sampled_from([*VERDICTS]), after=delays)
    def settle(self, held: Held, verdict: str, after: float) -> None:
        """Settle a task, perhaps a second time or without its lease; then nothing changes."""
        outcome = self._outcome(verdict, after)
        if held.storage is None:  # its process is dead
            return
        if held.is_settled or not self.model.holds(held.id, held.claim):
            self._raises(LeaseLostError, held.storage.settle, held.task, outcome)
        else:
            self._do(held.storage.settle, held.task, outcome)
            self.unsure[verdict] += held.storage not in self.store.handles  # its process writes its sums, or is killed
            error = None if verdict in ("succeeded", "released", "suspended") else "trouble"
            self.model.settle(
                held.id, verdict, after=after, error=error, result=after if verdict == "succeeded" else None
            )
        held.is_settled, held.task.parts.holder = True, None

    def _outcome(self, verdict: str, after: float) -> Outcome:
        async def now() -> float:
            await trio.lowlevel.checkpoint()
            return trio.current_time()

        return VERDICTS[verdict](self.run.do(now) + after if verdict == "suspended" else after)

    @step(held=hands, verdict=st.sampled_from([*VERDICTS]))
    @precondition(lambda self: self.kind.traits.is_stored)
    def settle_in_vain(self, held: Held, verdict: str) -> None:
        """Settle while the store cannot be reached: the task comes back when its lease has run out."""
        if held.storage is None or held.is_settled:
            return
        engine = held.storage._loop.engine

        async def fail(_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise FinalError("there is no store")

        engine.exchange = fail
        try:
            self._raises(BackendError, held.storage.settle, held.task, self._outcome(verdict, 0.0))
        finally:
            del engine.exchange
        held.is_settled, held.task.parts.holder = True, None
        self._pass_time(2.0)  # the storage pauses for up to one

    @step(held=hands, progress=st.integers(0, 9))
    def report_progress(self, held: Held, progress: int) -> None:
        if held.storage is None:
            return
        if held.is_settled or not self.model.holds(held.id, held.claim):
            self._raises(LeaseLostError, held.storage.report_progress, held.task, progress)
        else:
            self._do(held.storage.report_progress, held.task, progress)
            self.model.rows[held.id].progress = progress

    @step(held=hands, note=st.integers(0, 9))
    def set_metadata(self, held: Held, note: int) -> None:
        if held.storage is None:
            return
        if held.is_settled or not self.model.holds(held.id, held.claim):
            self._raises(LeaseLostError, held.storage.set_metadata, held.task, {"note": note}, {})
        else:
            assert self._do(held.storage.set_metadata, held.task, Metadata({"note": note})) is None
            self.model.rows[held.id].metadata = {**self.model.rows[held.id].metadata, "note": note}

    @step(worker=workers)
    @precondition(lambda self: self.kind.traits.is_stored)
    def beat(self, worker: int) -> None:
        storage, context = self.store.handles[worker], self.store.contexts[worker]
        mine = [held for held in self._unsettled(storage) if held.number == worker]
        context.running_tasks = {held.task: None for held in mine}
        self._do(storage.beat, context)
        for held in mine:
            row = self.model.rows.get(held.id)
            if row is None or not self.model.holds(held.id, held.claim):
                held.to_be_told.add("Released")
            else:
                held.until = row.due = self.model.now + self.kind.traits.lease
                held.to_be_told |= {"Killed"} if row.aborted or row.withdrawn else set()

    @step(seconds=st.sampled_from([1.0, 4.0, 12.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self._pass_time(seconds)

    def _pass_time(self, seconds: float) -> None:
        self.run.do(self.run.pass_time, seconds)
        self.model.pass_time(seconds)

    @step(worker=workers, cleanly=st.booleans())
    @precondition(lambda self: self.kind.traits.is_stored)
    def restart(self, worker: int, cleanly: bool) -> None:
        """Restart a worker's process, after a crash or after closing its storage."""
        if not cleanly:  # the sums of its last second are lost
            self.unsure.update({each: n - self.written[each] for each, n in self.model.attempts.items()})
            self.written = {**self.model.attempts}
        for storage in self.run.do(lambda: self.store.restart(worker, self.model, cleanly=cleanly)):
            for held in self.held:
                held.storage = None if held.storage is storage else held.storage
            self.waiters = [waiter for waiter in self.waiters if waiter.storage is not storage]
        self._listen()
        self.model.events.clear()  # what opening a file kills, nobody is there to be told of
        self.told.events.clear()

    @step(worker=workers)
    @precondition(lambda self: self.kind.traits.is_stored or self.steps > 20)
    def close(self, worker: int) -> None:
        storage = self.store.handles[worker]

        async def close() -> None:
            storage.close()

        self.run.do(close)
        self.closed.add(storage)

    # Intervening

    @step(worker=workers, task=known, running=st.booleans())
    def cancel(self, worker: int, task: str, running: bool) -> None:
        row, storage = self.model.waiting(task), self.store.handles[worker]
        if row is None and running:
            self._abort(task, lambda: self._do(storage.cancel, task, {"running": True}))
            return
        assert self._do(storage.cancel, task, {"running": running}) is (row is not None)
        if row is not None:
            self.model.finish(row, "killed", "cancelled while it waited")

    @step(worker=workers, task=known)
    def abort(self, worker: int, task: str) -> None:
        storage = self.store.handles[worker]
        self._abort(task, lambda: self._do(storage.abort, task))

    def _abort(self, task: str, call: Callable[[], bool]) -> None:
        row = self.model.rows.get(task)
        if self._is_overdue(task):  # it may be told still, or not any more
            return
        runs = row is not None and row.place == "running"
        assert call() is runs
        if row is None or not runs:
            return
        row.aborted = True
        self._expect_end(row)

    def _expect_end(self, row: Row) -> None:
        """Expect that the worker of a row is told to end its attempt."""
        holder = next((held for held in self.held if held.id == row.id and held.claim == row.claim), None)
        if holder is not None and holder.storage is not None and not holder.is_settled:
            holder.to_be_told.add("Killed")

    @step(worker=workers, task=known, delay=delays)
    def reschedule(self, worker: int, task: str, delay: float) -> None:
        row = self.model.waiting(task)
        assert self._do(self.store.handles[worker].reschedule, task, delay) is (row is not None)
        if row is not None and (delay or not self.model.is_ready(row)):  # what is ready keeps its place
            self.model.wait(row, delay)

    @step(worker=workers, task=known, args=st.integers(100, 200))
    def update(self, worker: int, task: str, args: int) -> None:
        row = self.model.waiting(task)
        new = Task(args, Parts(task, metadata=Metadata({"args": args})))
        assert self._do(self.store.handles[worker].update, new) is (row is not None)
        if row is not None:
            row.args, row.metadata = args, {"args": args}

    @step(worker=workers, task=known)
    def resume(self, worker: int, task: str) -> None:
        resume = self.store.handles[worker].resume_by_id
        try:
            resumed = self.model.resume(task)
        except Refused:
            self._raises(DuplicateTaskError, resume, task)
        else:
            assert self._do(resume, task) is resumed

    @step(worker=workers)
    def resume_abandoned(self, worker: int) -> None:
        storage, now = self.store.handles[worker], self.model.now
        for held in self._unsettled(storage):  # what runs here is not abandoned, and its lease is renewed if it is late
            late = held.until - now <= self.kind.traits.lease / 2
            if self.kind.traits.is_stored and late and self.model.holds(held.id, held.claim):
                held.until = self.model.rows[held.id].due = now + self.kind.traits.lease
        abandoned = [row for row in self.model.rows.values() if row.place == "running" and self.model.is_overdue(row)]
        assert self._do(storage.resume_abandoned) == len(abandoned)
        for row in abandoned:
            self.model.lapse(row)
        for held in self._unsettled(storage):  # one that was to be renewed, and was lost before, is told so
            if self.kind.traits.is_stored and not self.model.holds(held.id, held.claim):
                held.to_be_told |= held.told & {"Released"}

    @step(worker=workers, task=known)
    def discard(self, worker: int, task: str) -> None:
        row = self.model.rows.get(task)
        is_there = row is not None and row.place != "running"
        forgotten = self._do(self.store.handles[worker].discard, task)
        assert forgotten is is_there
        if row is not None and is_there:
            self.model.discard(row)

    @step(worker=workers)
    def vacuum(self, worker: int) -> None:
        finished = [row for row in self.model.rows.values() if not row.is_live]
        assert self._do(self.store.handles[worker].vacuum) == len(finished)
        for row in finished:
            del self.model.rows[row.id]

    # Changing many

    @step(worker=workers, delayed=st.sampled_from([None, True, False]))
    def cancel_all(self, worker: int, delayed: bool | None) -> None:
        if delayed is not None and (self.model.held_back() or self.model.is_unsure()):
            return  # which of them are held back is for the storage to say
        now, rows = self.model.now, [row for row in self.model.rows.values() if row.waits]
        chosen = [row for row in rows if delayed in (None, row.place == "delayed" and row.due > now)]
        assert self._do(self.store.handles[worker].cancel_all, {"delayed": delayed}) == len(chosen)
        for row in chosen:
            self.model.finish(row, "killed", "cancelled while it waited")

    @step(worker=workers, task=known)
    def retry_all(self, worker: int, task: str) -> None:
        row = self.model.rows.get(task)
        if row is None or row.unique is None or row.place not in ("failed", "killed"):
            return
        dead = [each for each in self.model.rows.values() if each.place in ("failed", "killed")]
        if [each for each in dead if each.unique == row.unique] != [row]:
            return  # the order would matter
        try:
            expected = int(self.model.resume(task))
        except Refused:
            expected = 0
        assert self._do(self.store.handles[worker].retry_all, {"unique": row.unique}) == expected

    @step(worker=workers, status=st.sampled_from([Status.Done, Status.Failed, Status.Killed]))
    def discard_all(self, worker: int, status: Status) -> None:
        chosen = [row for row in self.model.rows.values() if row.place == status.name.lower()]
        assert self._do(self.store.handles[worker].discard_all, status, {}) == len(chosen)
        for row in chosen:
            self.model.discard(row)

    # Changing several

    @step(
        worker=workers,
        ids=st.lists(known, max_size=4),
        verb=st.sampled_from(["cancel", "discard", "resume_by_id", "reschedule"]),
    )
    def change_several(self, worker: int, ids: list[str], verb: str) -> None:
        storage, refused, changed = self.store.handles[worker], dict[str, str](), list[str]()
        for task_id in dict.fromkeys(ids):
            reason = self.model.change(task_id, verb)
            if reason is None:
                changed.append(task_id)
            else:
                refused[task_id] = reason
        report = self._do(getattr(storage, verb), iter(ids), *((5 + 1 / 64,) if verb == "reschedule" else ()))
        assert (report.changed, report.refused.keys()) == (tuple(changed), refused.keys())
        for task_id, reason in refused.items():
            assert report.refused[task_id].startswith(reason), report

    @step(worker=workers, ids=st.lists(known, max_size=4))
    def fetch_several(self, worker: int, ids: list[str]) -> None:
        found = self._do(self.store.handles[worker].fetch_by_id, ids)
        assert [task and task.parts.id for task in found] == [each if each in self.model.rows else None for each in ids]

    @step(worker=workers, paused=st.sampled_from([True, False, False]))
    def pause(self, worker: int, paused: bool) -> None:
        storage = self.store.handles[worker]
        self._do(storage.pause if paused else storage.resume)
        self.model.is_paused = paused
        assert self._do(storage.is_paused) is paused

    @step(
        worker=workers,
        key=st.sampled_from([None, "odd"]),
        concurrency=st.sampled_from([None, None, 1, 3]),
        per_key=st.sampled_from([None, 1, 1, 2]),
        rate=st.sampled_from([None, None, None, Rate(2, per=5.0)]),
        key_rate=st.sampled_from([None, Rate(1, per=3.0), Rate(1, per=13.0)]),
    )
    def set_limits(
        self,
        worker: int,
        key: str | None,
        concurrency: int | None,
        per_key: int | None,
        rate: Rate | None,
        key_rate: Rate | None,
    ) -> None:
        """Set limits, or remove them; what is lowered takes nothing back."""
        limits = Limits(concurrency=concurrency, per_key=per_key, rate=rate, rate_per_key=key_rate)
        limits = Limits(per_key=per_key, rate_per_key=key_rate, weight=2.0) if key else limits
        given = None if {concurrency, per_key, rate, key_rate} == {None} else limits
        rates = {each: self.model.rate(each) for each in (None, "odd")}
        self._do(self.store.handles[worker].set_limits, given, {"key": key})
        self.model.limits.pop(key, None)
        if given is not None:
            self.model.limits[key] = given
        for each, before in rates.items():
            if self.model.rate(each) != before:
                self.model.rated_since[each] = self.model.now
        for each in (None, "odd"):
            assert self._do(self.store.handles[-1].get_limits, {"key": each}) == self.model.limits.get(each)

    # Looking

    @step(worker=workers, ids=st.lists(tasks, min_size=1, max_size=3))
    def wait_for(self, worker: int, ids: list[str]) -> None:
        waiter = Waiter(ids, self.store.handles[worker], {*ids})

        async def wait() -> None:
            try:
                waiter.outcome = await waiter.storage.wait_for(ids if len(ids) > 1 else ids[0])
            except (UnknownTaskError, trio.ClosedResourceError) as error:
                waiter.outcome = error

        self.run.do(self._begin, wait)
        self.waiters.append(waiter)

    async def _begin(self, wait: Callable[[], Any]) -> None:
        self.run.nursery.start_soon(wait)
        await self.run.wait_until_blocked()

    def they_agree(self) -> None:
        self.steps += 1
        self.run.do(self._tick)
        self.run.do(self._tick)
        for waiter in self.waiters:  # a cancelled call looks for leases that are over, and renews those of its process
            if isinstance(waiter, Caller) and waiter.cancelled_at < math.inf:
                self._renew_late(waiter.storage)
        storage = self.store.handles[self.steps % WORKERS]
        seen: list[Task[Any]] = self._do(storage.list_tasks, None, {"limit": 10_000})
        assert len({task.parts.id for task in seen}) == len(seen)
        by_id: dict[str, Task[Any]] = {task.parts.id: task for task in seen}
        claimed = [held for held in self.held if not held.is_settled and self.model.holds(held.id, held.claim)]
        for task_id in [*self.model.rows]:
            task = by_id.get(task_id)
            self.model.see(task_id, task and (task.parts.status.value, task.parts.attempt))
        for held in claimed if self.kind.has_one_process else ():
            lost = held.storage is not None and not self.model.holds(held.id, held.claim)
            assert not lost, f"{held} was taken from the process that runs it"
        assert by_id.keys() == self.model.rows.keys()
        for task in seen:
            self._agree_on(storage, task, self.model.rows[task.parts.id])
        self._agree_on_order([self.model.rows[task.parts.id] for task in seen])
        self._agree_on_pages(storage, [task.parts.id for task in seen])
        metrics = self._do(storage.metrics)
        assert metrics.pop("oldest_waiting") >= 0
        assert metrics.pop("is_paused") is self.model.is_paused
        assert _in_sum(metrics) == _in_sum(self.model.metrics())
        if self.kind.traits.is_exact and not self.model.is_unsure():
            assert metrics == self.model.metrics()
        if not self.kind.traits.waits_from_due:
            self.model.enter_due()  # as metrics() did
        balance = self._do(storage.audit)
        assert balance, balance
        self._agree_on_attempts()
        self._agree_on_schedules(storage)
        for row in [*self.model.rows.values()][self.steps % 3 :: 3]:
            self._agree_on_explanation(storage, row)
        assert self._do(storage.fetch_by_id, UNKNOWN) is None
        self._agree_on_events()
        for waiter in self.waiters:
            self._agree_on_end(waiter)
        self.waiters = [waiter for waiter in self.waiters if waiter.outcome is None]
        for held in self.held:
            assert held.told == held.to_be_told, f"{held} was told {held.told}, not {held.to_be_told}"

    def _agree_on_attempts(self) -> None:
        """The sums of the minutes, which each process adds to when it is asked, are those of what was settled, and no
        attempt is without its times."""
        minutes: list[Minute] = []
        for handle in self.store.handles:
            minutes = self._do(handle.throughput)
        for verdict, number in self.model.attempts.items():
            told = sum(getattr(each, verdict) for each in minutes)
            assert number - self.unsure[verdict] <= told <= number, f"{told} {verdict}, not {number}"
        self.written = {**self.model.attempts}
        for minute in minutes:
            assert sum(minute.durations.values()) == sum(minute.waits.values()) == minute.attempts

    def _agree_on(self, storage: Any, task: Task[Any], row: Row) -> None:
        parts = task.parts
        assert (parts.status.value, parts.attempt) == self.model.shown(row)
        assert (task.args, dict(parts.metadata), parts.priority) == (row.args, row.metadata, row.priority)
        if not row.is_live:
            result = self._do(storage.wait_for, row.id)
            assert (result.status, result.result) == (parts.status, row.result)
            assert (result.error is None) == (row.error is None)
            assert row.error is None or str(result.error).startswith(row.error)
        self._agree_on_times(parts, row)
        kept = parts.context
        assert isinstance(kept, StoredTaskInfo)
        assert [(each.attempt, each.became) for each in kept.history] == row.history
        assert kept.progress == row.progress
        assert kept.result == row.result
        assert (kept.error is None) == (row.error is None)

    def _agree_on_times(self, parts: Parts, row: Row) -> None:
        """When the latest attempt began is known here only of one under way: one more may have been claimed, and been
        released without having begun."""
        assert parts.pushed is not None
        if self.epoch is None:
            self.epoch = parts.pushed - row.pushed
        assert _is_at(parts.pushed, self.epoch + row.pushed)
        if row.place == "running":
            assert _is_at(parts.started, None if row.started is None else self.epoch + row.started)
        assert _is_at(parts.finished, None if row.finished is None else self.epoch + row.finished)
        assert _is_at(parts.deadline, None if row.deadline == math.inf else self.epoch + row.deadline)

    def _agree_on_order(self, rows: list[Row]) -> None:
        """Who waits is listed in the order in which it would be received, or falls due; but for one that is due since
        somebody last received, which may be listed with these or with those."""
        for key in {row.key for row in rows} if self.kind.traits.is_exact else ():
            ready = [(-row.priority, row.line) for row in rows if row.place == "waiting" and row.key == key]
            assert ready == sorted(ready)
        dues = [min(row.due, row.end) for row in rows if row.place == "delayed" and row.due > self.model.now]
        assert dues == sorted(dues)

    def _agree_on_pages(self, storage: Any, whole: list[str]) -> None:
        """The pages of a list are the whole list, in either order; and a filter leaves out the others."""
        newest_first = self.steps % 2 == 1
        page = self._do(storage.list_tasks, None, {"limit": 3, "newest_first": newest_first})
        pages = [task.parts.id for task in page]
        while page.next is not None:
            page = self._do(storage.list_tasks, None, {"limit": 3, "newest_first": newest_first, "after": page.next})
            pages += [task.parts.id for task in page]
        assert pages == (whole[::-1] if newest_first else whole)
        chosen = {task.parts.id for task in self._do(storage.list_tasks, None, {"key": "odd"})}
        assert chosen == {row.id for row in self.model.rows.values() if row.key == "odd"}
        keys = sorted({row.unique for row in self.model.rows.values() if row.unique is not None})
        for key in keys[:1]:
            chosen = {task.parts.id for task in self._do(storage.list_tasks, None, {"unique": key})}
            assert chosen == {row.id for row in self.model.rows.values() if row.unique == key}

    def _agree_on_explanation(self, storage: Any, row: Row) -> None:
        """A task is explained by its place, and one that is ready by those that go first. The workers that are
        registered here do not run: their intake is closed."""
        found = self._do(storage.explain, row.id)
        kind = "no_worker" if found.kind in ("held_by_gate", "held_by_limit") else found.kind
        assert kind == self.model.explanation(row), found
        if found.kind == "held_by_limit":
            assert self.model.free_in_all() <= 0 or self.model.held_back() or self.model.is_unsure(), found
        elif kind in ("paused", "no_worker") and len({each.key for each in self.model.rows.values()}) == 1:
            before, with_ties = self.model.ahead_of(row)
            assert before <= found.ahead <= with_ties, found

    def _agree_on_events(self) -> None:
        """Each change is told of once, and an expiry when it is entered, by somebody."""
        told, self.told.events = self.told.events, []
        expected, self.model.events = self.model.events, []
        for event in told:
            if isinstance(event, (Expired, DeadlinePassed)):
                assert self.model.expired[event] > 0, f"{event}, which has not come, or was told before"
                self.model.expired[event] -= 1
        others = (each for each in told if not isinstance(each, (Expired, DeadlinePassed)))
        assert Counter(others) == Counter(expected)

    def _agree_on_end(self, waiter: Waiter) -> None:
        rows = {task_id: self.model.rows.get(task_id) for task_id in waiter.pending}
        waiter.pending -= {task_id for task_id, row in rows.items() if row is not None and row.place not in LIVE}
        is_over = not waiter.pending or None in rows.values()
        if isinstance(waiter, Caller) and waiter.cancelled_at < math.inf:
            seconds = self.model.now - waiter.cancelled_at
            bound = SETTLE_TIMEOUT + (self.kind.traits.lease if self.kind.traits.is_stored else USUAL_LEASE)
            is_over = is_over or not waiter.is_new or seconds >= bound
        assert (waiter.outcome is not None) == is_over, f"{waiter} of {rows}"

    # Doing

    async def _tick(self) -> None:
        await self.run.pass_time(TICK)
        self.model.pass_time(TICK)

    def _do(self, async_fn: Any, *args: Any) -> Any:
        options: dict[str, Any] = {}
        if args and isinstance(args[-1], dict):
            options, args = args[-1], args[:-1]
        return self.run.do(lambda: async_fn(*args, **options))

    def _raises(self, kind: type[Exception], async_fn: Any, *args: Any) -> None:
        try:
            result = self._do(async_fn, *args)
        except kind:
            return
        raise AssertionError(f"{async_fn.__name__}{args} returned {result!r}, and raised no {kind.__name__}")

    def _is_overdue(self, task_id: str) -> bool:
        row = self.model.rows.get(task_id)
        return row is not None and self.model.is_overdue(row)

    def _unsettled(self, storage: Any) -> list[Held]:
        return [held for held in self.held if held.storage is storage and not held.is_settled]


def _in_sum(metrics: dict[str, int]) -> dict[str, int]:
    """Return counts in which it does not matter whether a task is held back, or could be."""
    others = {name: number for name, number in metrics.items() if name not in ("waiting", "delayed", "held_now")}
    return {**others, "waiting and delayed": metrics["waiting"] + metrics["delayed"]}
