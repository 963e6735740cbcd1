"""Random programs: everything that may be done to a storage and its workers, in an order that a seed decides.

A program pushes, meddles, and is cut short or wound down, over lines on which things go wrong; then its books are
audited. A program over files may do so several times, closing and opening them. After that calm workers do what is
left, and the books are audited again: now nothing may be waiting. A watchman looks at all of it whenever nothing moves.
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
from trio_tasks import Status
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.testing import Faults, run_seeded

from tests._books import ALL
from tests.simulation._audit import audit
from tests.simulation._behaviour import Behaviour
from tests.simulation._books import Books
from tests.simulation._claim import Claim
from tests.simulation._hiring import Hiring
from tests.simulation._life import Life, rng
from tests.simulation._meddling import Meddling
from tests.simulation._pushing import Pushing
from tests.simulation._stores import Kind, Stores
from tests.simulation._threads import Threads
from tests.simulation._watchman import Watchman

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

LONG = 2e4
"""Seconds after which a program is stuck."""
_PEACE = 300.0
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


class Program:
    """One random program; :meth:`run` it, then look at its books' faults."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.random = rng(seed, "plan")
        self.faults = draw_faults(self.random)
        self.stores = Stores(kind, self.random)
        self.books = Books(has_leases=kind != "memory", may_oversleep=self.faults.jump > 0)
        self._threads = Threads()
        self._pushing = Pushing(self.books)
        self._behaviour = Behaviour(self.books, seed, self, self._threads)
        self._hiring = Hiring(seed, self.faults, self.books, self._behaviour)
        self._meddling = Meddling(self.books, self._pushing, self._hiring)
        self._watchman = Watchman(self.books, self.stores, self.faults)
        self._missing: set[Claim] = set()
        self._life: Life

    def run(self) -> None:
        """Run it, in a trio and a time of its own. What comes out of it is an AssertionError, and a short one."""
        try:
            with self._threads.in_place_of_real_ones():
                run_seeded(self._main, seed=self.seed, instruments=[self._watchman])
            return
        except (Exception, SystemExit, BaseExceptionGroup) as error:
            if any(isinstance(each, KeyboardInterrupt) for each in leaves(error)):
                raise
            trouble = f"the program {self.kind} {self.seed} has ended by {[*leaves(error)]!r:.600}"
        finally:
            self.stores.remove()
        gc.collect()  # the ruins of a trio that broke down make noise, and had better make it now
        raise AssertionError(trouble)

    async def _main(self) -> None:
        with self._watchman.everything, trio.fail_after(LONG):
            for number in range(self.stores.lives):
                async with self.stores.opened() as storages:
                    self._begin_life(number, storages)
                    try:
                        await self._live(self._life)
                        await audit(self.books, storages[0])
                        if number == self.stores.lives - 1:
                            await self._end_in_peace(self._life)
                            await audit(self.books, storages[0])
                    finally:
                        self._watchman.life = None
                self.books.closed()

    def _begin_life(self, number: int, storages: list[Any]) -> None:
        self.books.note(f"life {number} begins: {storages}, {self.faults}")
        if not self.stores.is_memory:
            self.books.storage_now = storages[0]._loop.engine.now
        self._watchman.life = self._life = Life(self.books, storages)

    async def _live(self, life: Life) -> None:
        random, lines = self.random, self._hiring
        with trio.CancelScope() as everything:
            async with trio.open_nursery() as nursery:
                for number in range(random.randint(1, 4)):
                    line = lines.line(life, random) if random.random() < 0.5 else random.choice(life.storages)
                    nursery.start_soon(self._pushing.push, line, rng(self.seed, "pusher", number, lines.lines))
                for _ in range(random.randint(1, 3)):
                    self._hiring.hire(life, nursery)
                nursery.start_soon(self._meddling.meddle, life, nursery, rng(self.seed, "meddler", lines.lines))
                nursery.start_soon(self._meddling.try_doors, life, rng(self.seed, "doors", lines.lines))
                await trio.sleep(random.random() * 30)
                if random.random() < 0.3:
                    self._wind_down(life)
                    if life.is_closed:
                        await self._pushing.push_too_late(random.choice(life.storages))
                    await trio.sleep(random.random() * 30)
                everything.cancel()

    def _wind_down(self, life: Life) -> None:
        if self.random.random() < 0.5:
            life.close()
        for context in life.contexts:
            life.stop(context)
        for boss in life.bosses:
            boss.shut_down()

    async def _end_in_peace(self, life: Life) -> None:
        """A successor without any trouble does what is left, and then there is nothing."""
        self._behaviour.is_calm = True
        self.books.note("calm")
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            while await self._is_live(life, began_at):
                workers = [self._hiring.calm_worker(each) for each in life.storages]
                contexts = [worker.prepare() for worker in workers]
                life.contexts += contexts
                for worker, context in zip(workers, contexts, strict=True):
                    nursery.start_soon(worker.run, context)
                while not all(context.is_stopped for context in contexts) and await self._is_live(life, began_at):  # noqa: ASYNC110  nobody tells
                    await trio.sleep(1)
                if trio.current_time() > began_at + _PEACE:
                    self.books.fault(f"calm workers are not done after {_PEACE:g} s")
                    nursery.cancel_scope.cancel()
                    return
                await trio.sleep(1)  # a closed queue may end while somebody who is gone has a lease there
            life.close()
        await self._pushing.push_too_late(life.storages[0])

    async def _is_live(self, life: Life, began_at: float) -> bool:
        """Whether anything is left, and it is not too late for that."""
        metrics = await life.storages[0].metrics()
        is_quiet = self.books.has_leases and not self.faults.jump  # or a lease that was over may be renewed unseen
        if metrics["running"] and trio.current_time() > began_at + _NOTICE and is_quiet:
            await self._look_for_orphans(life.storages[0])
        is_late = trio.current_time() > began_at + _PEACE
        return bool(metrics["waiting"] + metrics["running"]) and not is_late

    async def _look_for_orphans(self, storage: Any) -> None:
        """What nobody holds any more has come back by now."""
        for task in await storage.list_tasks(Status.Running, limit=ALL):
            claim = self.books.latest.get(task.parts.id)
            if claim is None or claim.settled is not None or claim in self._missing:
                continue
            if claim.lease_until + _NOTICE < self.books.storage_now():
                self._missing.add(claim)
                self.books.fault(f"{task.parts.id} is nobody's since {claim.lease_until:f}, and has not come back")

    async def push_more(self, random: Random) -> None:
        """What handlers push goes by itself, whatever happens to the attempt."""
        task = self._pushing.task(random)
        with trio.CancelScope(shield=True):
            patience = 5 if self.stores.is_memory else math.inf  # for there may never be room again
            with suppress(trio.ClosedResourceError):
                await self._pushing.push_one(self._life.storages[0], task, patience)
