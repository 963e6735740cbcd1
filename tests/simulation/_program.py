"""Random programs, which call everything that a storage and its workers offer, in an order that a seed decides.

A program pushes, controls tasks and workers, and is cut short or wound down, over backends on which things go wrong;
then its claims are audited. A program over files may do so several times, closing and opening them. After that calm
workers do what is left, and all is audited again: now nothing may be waiting. :class:`QuiescenceChecks` look at all of
it whenever nothing moves.
"""

from __future__ import annotations

import gc
import math
import sys
from contextlib import suppress
from dataclasses import fields
from random import Random
from typing import Any

import trio
from trio_tasks import Status, WorkerContext
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.testing import Faults, run_seeded

from tests._attempt_checker import ALL
from tests.simulation._audit import audit
from tests.simulation._bulk_changes import BulkChanges
from tests.simulation._claim import Claim
from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._program_run import ProgramRun, rng
from tests.simulation._quiescence_checks import QuiescenceChecks
from tests.simulation._random_calls import RandomCalls
from tests.simulation._random_controls import RandomControls
from tests.simulation._random_handlers import RandomHandlers
from tests.simulation._random_looks import RandomLooks
from tests.simulation._random_pushes import RandomPushes
from tests.simulation._random_workers import RandomWorkers
from tests.simulation._stores import Kind, Stores
from tests.simulation._virtual_threads import Threads

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

LONG = 2e4
"""Seconds after which a program is stuck."""
_FINISH_SECONDS = 300.0
"""Seconds after which calm workers have done whatever can be left: no lease, delay or absence is nearly as long."""
_NOTICE = 4.0
"""Seconds within which an orphan is noticed: SQLite looks for them each second, a file knows when a lease is over."""
_RATES = [field.name for field in fields(Faults) if not field.name.endswith("_seconds")]


def draw_faults(random: Random) -> Faults:
    """How rough the lines of a program are: one in five has no faults."""
    if random.random() < 0.2:
        return Faults.none()
    rates: dict[str, Any] = {name: random.choice((0.0, 0.0, 0.02, 0.1)) for name in _RATES}
    rates |= {"disconnect": rates["disconnect"] / 4, "jump": random.choice((0.0, 0.0, 0.01))}
    return Faults(**rates)


def _have_stopped(contexts: list[WorkerContext]) -> bool:
    return all(context.is_stopped for context in contexts)


class Program:
    """One random program; :meth:`run` it, then look at the faults of its checker."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.random = rng(seed, "plan")
        self.faults = draw_faults(self.random)
        self.stores = Stores(kind, self.random, seed)
        self.checker = ClaimChecker(has_leases=kind != "memory", may_oversleep=self.faults.jump > 0)
        self.checker.per_key = self.stores.per_key
        self.checker.rate, self.checker.rate_per_key = self.stores.rate, self.stores.rate_per_key
        self._threads = Threads()
        self._random_pushes = RandomPushes(self.checker)
        self._random_handlers = RandomHandlers(self.checker, seed, self, self._threads)
        self._random_workers = RandomWorkers(seed, self.faults, self.checker, self._random_handlers)
        self._bulk_changes = BulkChanges(self.checker)
        self._random_controls = RandomControls(self.checker, self._random_pushes, self._random_workers)
        self._random_calls = RandomCalls(self.checker, self._random_pushes, self.stores.lease)
        self._random_looks = RandomLooks(self.checker, self._random_pushes)
        self._quiescence_checks = QuiescenceChecks(self.checker, self.stores, self.faults)
        self._missing: set[Claim] = set()
        self._program_run: ProgramRun

    def run(self) -> None:
        """Run the program in a trio run of its own, in virtual time. What comes out of it is an AssertionError, and a
        short one.
        """
        try:
            with self._threads.in_place_of_real_ones():
                run_seeded(self._main, seed=self.seed, instruments=[self._quiescence_checks])
            return
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if any(isinstance(each, KeyboardInterrupt) for each in leaves(error)):
                raise
            trouble = f"the program {self.kind} {self.seed} has ended by {[*leaves(error)]!r:.600}"
        finally:
            self.stores.remove()
        gc.collect()  # trio tasks of a run that broke down warn when they are collected: do it now
        raise AssertionError(trouble)

    async def _main(self) -> None:
        with self._quiescence_checks.scope, trio.fail_after(LONG):
            for number in range(self.stores.run_count):
                async with self.stores.opened() as storages:
                    self._begin_run(number, storages)
                    try:
                        await self._run_random(self._program_run)
                        await self._audit(storages)
                        if number == self.stores.run_count - 1:
                            await self._bulk_changes.act(storages[0], rng(self.seed, "bulk"))
                            await self._audit(storages)
                            await self._finish_in_order(self._program_run)
                            await self._audit(storages)
                    finally:
                        self._quiescence_checks.program_run = None
                self.checker.closed()

    async def _audit(self, storages: list[Any]) -> None:
        await self._random_calls.forget_withdrawn(storages[0])
        await audit(self.checker, storages)

    def _begin_run(self, number: int, storages: list[Any]) -> None:
        self.checker.note(f"storages opened for the {number}th time: {storages}, {self.faults}")
        for storage in storages:
            storage._queue.events.open.append(self.checker)  # as a reader would be, but for its checkpoints
        if not self.stores.is_memory:
            self.checker.storage_now = storages[0]._loop.engine.now
        self._quiescence_checks.program_run = self._program_run = ProgramRun(self.checker, storages)

    async def _run_random(self, program_run: ProgramRun) -> None:
        random, workers = self.random, self._random_workers
        with trio.CancelScope() as everything:
            async with trio.open_nursery() as nursery:
                for number in range(random.randint(1, 4)):
                    sink = (
                        workers.faulty_backend(program_run, random)
                        if random.random() < 0.5
                        else random.choice(program_run.storages)
                    )
                    nursery.start_soon(
                        self._random_pushes.push, sink, rng(self.seed, "pusher", number, workers.backends_made)
                    )
                for _ in range(random.randint(1, 3)):
                    self._random_workers.start_worker(program_run, nursery)
                nursery.start_soon(
                    self._random_controls.act, program_run, nursery, rng(self.seed, "meddler", workers.backends_made)
                )
                nursery.start_soon(
                    self._random_controls.push_again_and_listen,
                    program_run,
                    rng(self.seed, "doors", workers.backends_made),
                )
                if self.seed % 3 == 2:
                    self._start_callers(program_run, nursery, rng(self.seed, "callers", workers.backends_made))
                looks = rng(self.seed, "looks", workers.backends_made)
                if looks.random() < 0.5:
                    nursery.start_soon(self._random_looks.look, program_run, looks)
                await trio.sleep(random.random() * 30)
                if random.random() < 0.3:
                    self._wind_down(program_run)
                    if program_run.is_closed:
                        await self._random_pushes.push_too_late(random.choice(program_run.storages))
                    await trio.sleep(random.random() * 30)
                everything.cancel()

    def _start_callers(self, program_run: ProgramRun, nursery: trio.Nursery, random: Random) -> None:
        for number in range(random.randint(1, 3)):
            caller = rng(self.seed, "caller", number, self._random_workers.backends_made)
            nursery.start_soon(self._random_calls.call, random.choice(program_run.storages), caller)

    def _wind_down(self, program_run: ProgramRun) -> None:
        if self.random.random() < 0.5:
            program_run.close()
        for context in program_run.contexts:
            program_run.stop(context)
        for monitor_model in program_run.monitors:
            monitor_model.shut_down()

    async def _finish_in_order(self, program_run: ProgramRun) -> None:
        """Run a successor without faults until no task is left."""
        self._random_handlers.is_orderly = True
        self.checker.note("calm")
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            while await self._is_live(program_run, began_at):
                calm = [self._random_workers.orderly_worker(each) for each in program_run.storages]
                contexts = [worker.prepare() for worker in calm]
                program_run.contexts += contexts
                for worker, context in zip(calm, contexts, strict=True):
                    nursery.start_soon(worker.run, context)
                while not _have_stopped(contexts) and await self._is_live(program_run, began_at):  # noqa: ASYNC110  no event tells of it
                    await trio.sleep(1)
                if trio.current_time() > began_at + _FINISH_SECONDS:
                    self.checker.fault(f"calm workers are not done after {_FINISH_SECONDS:g} s")
                    nursery.cancel_scope.cancel()
                    return
                await trio.sleep(1)  # a closed queue may end while somebody who is gone has a lease there
            program_run.close()
        await self._random_pushes.push_too_late(program_run.storages[0])

    async def _is_live(self, program_run: ProgramRun, began_at: float) -> bool:
        """Return True if tasks are left, and there is time for them."""
        metrics = await program_run.storages[0].metrics()
        is_quiet = self.checker.has_leases and not self.faults.jump  # or a lease that was over may be renewed unseen
        if metrics["running"] and trio.current_time() > began_at + _NOTICE and is_quiet:
            await self._look_for_orphans(program_run.storages[0])
        is_late = trio.current_time() > began_at + _FINISH_SECONDS
        return bool(metrics["waiting"] + metrics["delayed"] + metrics["running"]) and not is_late

    async def _look_for_orphans(self, storage: Any) -> None:
        """Check that tasks without a holder have come back."""
        for task in await storage.list_tasks(Status.Running, limit=ALL):
            claim = self.checker.latest.get(task.parts.id)
            if claim is None or claim.settled is not None or claim in self._missing:
                continue
            if claim.lease_until + _NOTICE < self.checker.storage_now():
                self._missing.add(claim)
                self.checker.fault(f"{task.parts.id} is nobody's since {claim.lease_until:f}, and has not come back")

    async def push_more(self, random: Random) -> None:
        """Push from a handler, in a trio task that outlives the attempt."""
        task = self._random_pushes.task(random)
        with trio.CancelScope(shield=True):
            seconds = 5 if self.stores.is_memory else math.inf  # for there may never be room again
            with suppress(trio.ClosedResourceError):
                await self._random_pushes.push_one(self._program_run.storages[0], task, seconds)
