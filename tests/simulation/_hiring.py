"""Workers, alone and under monitors, each on a line to a storage on which things go wrong."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import trio
from trio_tasks import BackendError, Event, RetryPolicy, Task, Worker, WorkerContext, linear
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.abc import Backend
from trio_tasks.testing import Faults, FaultyBackend

from tests.simulation._behaviour import Behaviour, Moody
from tests.simulation._books import Books
from tests.simulation._boss import Boss
from tests.simulation._life import Life, rng
from tests.simulation._watched import Barrier, Watched

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class Clumsy:
    """A listener who fails now and then, which is nobody's business but its own."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, context: WorkerContext, event: Event) -> None:
        if self._random.random() < 0.05:
            raise self._random.choice((ValueError("a listener fails"), SystemExit("a listener gives up")))


class Hiring:
    """Whoever hires workers.

    Args:
      seed: of the program.
      faults: of its lines.
      books: its books.
      behaviour: of its handlers.
    """

    def __init__(self, seed: int, faults: Faults, books: Books, behaviour: Behaviour) -> None:
        self.lines = 0
        self._seed = seed
        self._faults = faults
        self._books = books
        self._behaviour = behaviour
        self._employed = 0

    def line(self, life: Life, random: Random) -> Any:
        """A way to one of the storages, on which things go wrong."""
        self.lines += 1
        storage = random.choice(life.storages)
        if not self._books.has_leases and random.random() < 0.2 and not life.is_closed:
            storage = storage.clone()
            storage.close()  # one to receive from
        seed = rng(self._seed, "line", self.lines).randrange(10**9)
        watched = Watched(storage, self._books)
        line = FaultyBackend[int](watched, self._faults, seed=seed, on_fault=self._books.went_wrong)
        return Watched(line, Barrier(self._books))

    def hire(self, life: Life, nursery: trio.Nursery) -> None:
        """One more."""
        self._employed += 1
        random = rng(self._seed, "worker", self._employed)
        nursery.start_soon(self._employ, life, random, f"worker {self._employed}")

    def calm_worker(self, storage: Any) -> Worker[Any, int]:
        """One without any trouble."""
        backend = Watched(storage, self._books)
        return Worker("calm", backend, self._behaviour.handle, on_event=self._books.hear)

    def _worker(self, life: Life, random: Random, *, name: str) -> Worker[Any, int]:
        backend: Backend[int] = self.line(life, random)
        more = rng(self._seed, "more of a worker", self.lines)
        in_threads = more.random() < 0.15
        handler: Callable[..., Any] = self._behaviour.handle_in_thread if in_threads else self._behaviour.handle
        layers: list[Any] = [self._struck_unseen] if in_threads else []
        make: Any = Worker  # whether what is handled is handled in a thread is decided here
        worker: Worker[Any, int] = make(
            name,
            backend,
            handler,
            concurrency=random.choice((1, 1, 2, 5, 20)),
            layers=[*layers, Moody(self._books, random)] if random.random() < 0.2 else layers,
            retry=RetryPolicy(random.randint(1, 4), linear(random.choice((0.0, 1.0)))),
            on_event=[self._books.hear, Clumsy(more)],
        )
        return worker

    async def _struck_unseen(self, handler: Callable[[Task[int]], Awaitable[int]], task: Task[int]) -> int:
        """Who is in a thread does not see a cancellation."""
        self._books.may_be_struck.add(task.parts)
        return await handler(task)

    async def _employ(self, life: Life, random: Random, name: str) -> None:
        try:
            with trio.CancelScope() as scope:
                life.scopes.append(scope)
                if random.random() < 0.5:
                    await self._employ_several(life, random, name)
                else:
                    worker = self._worker(life, random, name=name)
                    context = worker.prepare()
                    life.contexts.append(context)
                    await worker.run(context)
        except BaseExceptionGroup as group:
            self._books.note(f"{name} has ended: {[type(each).__name__ for each in leaves(group)]}")
            _, rest = group.split((BackendError, trio.TooSlowError))
            if rest is not None:
                raise rest from None

    async def _employ_several(self, life: Life, random: Random, name: str) -> None:
        boss = Boss(self._books, self._faults, random, rng(self._seed, "more of a monitor", name))
        life.bosses.append(boss)
        for number in range(random.randint(1, 2)):
            boss.employ(partial(self._worker, life, random), f"{name}.{number}")
        await boss.run()
