"""Random programs: everything that may be done to a storage and its workers, in an order that a seed decides.

A program pushes, meddles, and is cut short or wound down, over lines on which things go wrong; then its books are
audited. A program over files may do so several times, closing and opening them. After that calm workers do what is
left, and the books are audited again: now nothing may be waiting.
"""

from __future__ import annotations

import gc
import math
import sys
from contextlib import suppress
from dataclasses import fields
from functools import partial
from random import Random
from typing import Any

import trio
from trio_tasks import (
    BackendError,
    DuplicateTaskError,
    Monitor,
    Outcome,
    RetryPolicy,
    Task,
    Worker,
    WorkerContext,
    linear,
)
from trio_tasks._groups import leaves
from trio_tasks.abc import Backend
from trio_tasks.testing import Faults, FaultyBackend, run_seeded

from tests.simulation._behaviour import Behaviour, Moody
from tests.simulation._books import Books
from tests.simulation._pushing import Pushing
from tests.simulation._stores import Kind, Stores
from tests.simulation._watched import Watched

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

LONG = 2e4
"""Seconds after which a program is stuck."""
_RATES = [field.name for field in fields(Faults) if not field.name.endswith("_seconds")]


def draw_faults(random: Random) -> Faults:
    """How rough the lines of a program are: one in five has no faults."""
    if random.random() < 0.2:
        return Faults.none()
    rates: dict[str, Any] = {name: random.choice((0.0, 0.0, 0.02, 0.1)) for name in _RATES}
    rates |= {"disconnect": rates["disconnect"] / 4, "jump": random.choice((0.0, 0.0, 0.01))}
    return Faults(**rates)


class Barrier:
    """Sees what is about to be settled, before anything can go wrong on its way.

    Args:
      books: to be told of children that are alive then.
    """

    def __init__(self, books: Books) -> None:
        self._books = books

    def settling(self, task: Task[Any], outcome: Outcome) -> None:
        self._books.check_children(task)

    def claimed(self, task: Task[Any]) -> None: ...
    def settled(self, task: Task[Any], outcome: Outcome) -> None: ...
    def unsettled(self, task: Task[Any], outcome: Outcome, error: BackendError) -> None: ...


class Program:
    """One random program; :meth:`run` it, then look at its books' faults."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.random = self._dice("plan")
        self.faults = draw_faults(self.random)
        self.stores = Stores(kind, self.random)
        self.books = Books(has_leases=kind != "memory", may_oversleep=self.faults.jump > 0)
        self._pushing = Pushing(self.books)
        self._behaviour = Behaviour(self.books, seed, self)
        self._storages: list[Any] = []
        self._contexts: list[WorkerContext] = []
        self._scopes: list[trio.CancelScope] = []
        self._monitors: list[Monitor] = []
        self._closed = False
        self._lines = 0
        self._employed = 0

    def _dice(self, *whose: object) -> Random:
        return Random(f"{self.seed} {whose}")

    def run(self) -> None:
        """Run it, in a trio and a time of its own. What comes out of it is an AssertionError, and a short one."""
        try:
            run_seeded(self._main, seed=self.seed)
            return
        except Exception as error:
            trouble = f"the program {self.kind} {self.seed} has ended by {[*leaves(error)]!r:.600}"
        finally:
            self.stores.remove()
        gc.collect()  # the ruins of a trio that broke down make noise, and had better make it now
        raise AssertionError(trouble)

    async def _main(self) -> None:
        with trio.fail_after(LONG):
            for life in range(self.stores.lives):
                async with self.stores.opened() as self._storages:
                    self._begin_life(life)
                    await self._live()
                    await self.books.audit(self._storages[0])
                    if life == self.stores.lives - 1:
                        await self._end_in_peace()
                        await self.books.audit(self._storages[0])
                self.books.closed()

    def _begin_life(self, life: int) -> None:
        self.books.note(f"life {life} begins: {self._storages}, {self.faults}")
        if not self.stores.is_memory:
            self.books.storage_now = self._storages[0]._traffic.engine.now
        self._contexts, self._scopes, self._monitors = [], [], []
        self._closed = False

    async def _live(self) -> None:
        random = self.random
        with trio.CancelScope() as everything:
            async with trio.open_nursery() as nursery:
                for number in range(random.randint(1, 4)):
                    line = self._line(random) if random.random() < 0.5 else random.choice(self._storages)
                    nursery.start_soon(self._pushing.push, line, self._dice("pusher", number, self._lines))
                for _ in range(random.randint(1, 3)):
                    self._hire(nursery)
                nursery.start_soon(self._meddle, nursery, self._dice("meddler", self._lines))
                await trio.sleep(random.random() * 30)
                if random.random() < 0.3:
                    self._wind_down()
                    await trio.sleep(random.random() * 30)
                self._look()
                everything.cancel()

    def _wind_down(self) -> None:
        if self.random.random() < 0.5:
            for storage in self._storages:
                storage.close()
            self._closed = True
        for context in self._contexts:
            context.stop()
        for monitor in self._monitors:
            monitor.shutdown()

    async def _end_in_peace(self) -> None:
        """A successor without any trouble does what is left, and then there is nothing."""
        self._behaviour.is_calm = True
        self.books.note("calm")
        async with trio.open_nursery() as nursery:
            while True:
                workers = [
                    Worker("calm", self._watched(each), self._behaviour.handle, on_event=self.books.hear)
                    for each in self._storages
                ]
                contexts = [worker.prepare() for worker in workers]
                for worker, context in zip(workers, contexts, strict=True):
                    nursery.start_soon(worker.run, context)
                while not all(context.is_stopped for context in contexts) and await self._is_live():  # noqa: ASYNC110  nobody tells
                    await trio.sleep(1)
                if not await self._is_live():
                    break
                await trio.sleep(1)  # a closed queue may end while somebody who is gone has a lease there
            for storage in self._storages:
                storage.close()

    async def _is_live(self) -> bool:
        metrics = await self._storages[0].metrics()
        return bool(metrics["waiting"] + metrics["running"])

    def _look(self) -> None:
        """Whoever can be served has been served, at every moment that others see."""
        if not self.stores.is_memory:
            return
        storage = self._storages[0]
        books = storage.statistics()
        if books.pushers_waiting and books.waiting < books.max_buffer_size:
            self.books.fault(f"there is room, and somebody waits for room: {books}")
        due = storage._desk.ledger.next_due
        if books.receivers_waiting and due is not None and due < trio.current_time() and not self.faults.jump:
            self.books.fault(f"a task was due at {due:g}, and somebody waits for one: {books}")

    # Working

    def _watched(self, storage: Any) -> Watched:
        return Watched(storage, self.books)

    def _line(self, random: Random) -> Any:
        """A way to one of the storages, on which things go wrong."""
        self._lines += 1
        storage = random.choice(self._storages)
        if self.stores.is_memory and random.random() < 0.2 and not self._closed:
            storage = storage.clone()
            storage.close()  # one to receive from
        seed = self._dice("line", self._lines).randrange(10**9)
        line = FaultyBackend[int](self._watched(storage), self.faults, seed=seed, on_fault=self.books.went_wrong)
        return Watched(line, Barrier(self.books))

    def _worker(self, random: Random, *, name: str) -> Worker[Any, int]:
        backend: Backend[int] = self._line(random)
        return Worker(
            name,
            backend,
            self._behaviour.handle,
            concurrency=random.choice((1, 1, 2, 5, 20)),
            layers=[Moody(self.books, random)] if random.random() < 0.2 else [],
            retry=RetryPolicy(random.randint(1, 4), linear(random.choice((0.0, 1.0)))),
            on_event=self.books.hear,
        )

    def _nth_worker(self, random: Random, name: str, attempt: int) -> Worker[Any, int]:
        return self._worker(random, name=f"{name}.{attempt}")

    def _hire(self, nursery: trio.Nursery) -> None:
        self._employed += 1
        nursery.start_soon(self._employ, self._dice("worker", self._employed), f"worker {self._employed}")

    async def _employ(self, random: Random, name: str) -> None:
        try:
            with trio.CancelScope() as scope:
                self._scopes.append(scope)
                if random.random() < 0.5:
                    await self._monitor(random, name)
                else:
                    worker = self._worker(random, name=name)
                    context = worker.prepare()
                    self._contexts.append(context)
                    await worker.run(context)
        except BaseExceptionGroup as group:
            self.books.note(f"{name} has ended: {[type(each).__name__ for each in leaves(group)]}")
            _, rest = group.split((BackendError, trio.TooSlowError))
            if rest is not None:
                raise rest from None

    async def _monitor(self, random: Random, name: str) -> None:
        monitor = Monitor(
            shutdown_timeout=random.choice((None, 0, random.random() * 3)),
            should_restart=lambda context, error, attempt: attempt < 6,
            restart_backoff=linear(random.random()),
        )
        self._monitors.append(monitor)
        for number in range(random.randint(1, 2)):
            monitor.register(partial(self._nth_worker, random, f"{name}.{number}"))
        try:
            await monitor.run()
        finally:
            report = monitor.report
            released = sum(each.released for each in report.workers)
            if len(report.interrupted) > released and self.faults == Faults.none():
                self.books.fault(f"{len(report.interrupted)} were interrupted, {released} released")

    async def push_more(self, random: Random) -> None:
        """What handlers push goes by itself, whatever happens to the attempt."""
        task = self._pushing.task(random)
        with trio.CancelScope(shield=True):
            patience = 5 if self.stores.is_memory else math.inf  # for there may never be room again
            with suppress(trio.ClosedResourceError):
                await self._pushing.push_one(self._storages[0], task, patience)

    # Meddling

    async def _meddle(self, nursery: trio.Nursery, random: Random) -> None:
        for _ in range(random.randint(0, 20)):
            await trio.sleep(random.choice((0, random.random() * 3)))
            self._look()
            what = random.choice((self._meddle_with_a_task, self._meddle_with_a_task, self._meddle_with_a_worker))
            await what(random)
            if random.random() < 0.1:
                self._hire(nursery)

    async def _meddle_with_a_task(self, random: Random) -> None:
        storage, books = random.choice(self._storages), self.books
        task_id = random.choice(self._pushing.ids or ["nobody"])
        what = random.choice(("abort", "abort", "cancel", "reschedule", "resume", "wait", "abandoned"))
        books.note(f"{what} {task_id}")
        if what == "abort":
            books.to_abort.add(task_id)
            if await storage.abort(task_id):
                books.was_aborted(task_id)
        elif what == "cancel":
            await storage.cancel(task_id)
        elif what == "reschedule":
            delay = random.choice((0.0, random.random() * 10))
            books.will_reschedule(task_id, delay)
            try:
                await storage.reschedule(task_id, delay)
            finally:
                books.was_rescheduled(task_id)
        elif what == "resume":
            await self._resume(storage, task_id)
        elif what == "wait" and await storage.fetch_by_id(task_id) is not None:
            with trio.move_on_after(random.random()):
                await storage.wait_for(task_id)
        elif what == "abandoned" and not self.stores.is_memory:
            await storage.resume_abandoned()

    async def _resume(self, storage: Any, task_id: str) -> None:
        self.books.will_resume(task_id)
        resumed = False
        try:
            with trio.CancelScope(shield=True):  # or nobody would know
                resumed = await storage.resume_by_id(task_id)
        except DuplicateTaskError:
            pass  # its unique key is taken
        self.books.was_resumed(task_id, really=resumed)

    async def _meddle_with_a_worker(self, random: Random) -> None:
        context = random.choice([*self._contexts, *(each for m in self._monitors for each in m.workers), None])
        what = random.random()
        if what < 0.15 and self._scopes:
            random.choice(self._scopes).cancel()
        elif what < 0.25 and self._monitors:
            random.choice(self._monitors).shutdown()
        elif context is not None and what < 0.4:
            context.stop()
        elif context is not None:
            context.pause()
            await trio.sleep(random.choice((0, random.random() * 3)))
            context.resume()
