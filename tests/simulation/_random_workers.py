"""Random workers, alone and under monitors, each on a faulty backend."""

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

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._monitor_model import MonitorModel
from tests.simulation._observed_backend import Barrier, ObservedBackend
from tests.simulation._program_run import ProgramRun, rng
from tests.simulation._random_handlers import RandomGate, RandomHandlers, RandomNowaitGate

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class FailingListener:
    """A listener that fails now and then, which must have no effect on anything else."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, context: WorkerContext, event: Event) -> None:
        if self._random.random() < 0.05:
            raise self._random.choice((ValueError("a listener fails"), SystemExit("a listener gives up")))


class RandomWorkers:
    """Starts workers, alone and under monitors, on faulty backends.

    Args:
      seed: of the program.
      faults: of its backends.
      checker: its checker.
      behaviour: of its handlers.
    """

    def __init__(self, seed: int, faults: Faults, checker: ClaimChecker, behaviour: RandomHandlers) -> None:
        self.backends_made = 0
        self._seed = seed
        self._faults = faults
        self._checker = checker
        self._random_handlers = behaviour
        self._started = 0

    def faulty_backend(self, program_run: ProgramRun, random: Random) -> Any:
        """Wrap one of the storages in a faulty backend."""
        self.backends_made += 1
        storage = random.choice(program_run.storages)
        if not self._checker.has_leases and random.random() < 0.2 and not program_run.is_closed:
            storage = storage.clone()
            storage.close()  # one to receive from
        seed = rng(self._seed, "line", self.backends_made).randrange(10**9)
        observed = ObservedBackend(storage, self._checker)
        line = FaultyBackend[int](observed, self._faults, seed=seed, on_fault=self._checker.add_fault)
        return ObservedBackend(line, Barrier(self._checker))

    def start_worker(self, program_run: ProgramRun, nursery: trio.Nursery) -> None:
        """Start one more worker, or a monitor with workers."""
        self._started += 1
        random = rng(self._seed, "worker", self._started)
        nursery.start_soon(self._run_one, program_run, random, f"worker {self._started}")

    def orderly_worker(self, storage: Any) -> Worker[Any, int]:
        """Make a worker without any faults."""
        backend = ObservedBackend(storage, self._checker)
        return Worker("calm", backend, self._random_handlers.handle, on_event=self._checker.on_event)

    def _worker(self, program_run: ProgramRun, random: Random, *, name: str) -> Worker[Any, int]:
        backend: Backend[int] = self.faulty_backend(program_run, random)
        more = rng(self._seed, "more of a worker", self.backends_made)
        in_threads = more.random() < 0.15
        handler: Callable[..., Any] = (
            self._random_handlers.handle_in_thread if in_threads else self._random_handlers.handle
        )
        layers: list[Any] = [self._cancelled_unseen] if in_threads else []
        gate = rng(self._seed, "the gate of a worker", self.backends_made).choice((RandomGate, RandomNowaitGate))
        make: Any = Worker  # whether what is handled is handled in a thread is decided here
        worker: Worker[Any, int] = make(
            name,
            backend,
            handler,
            concurrency=random.choice((1, 1, 2, 5, 20)),
            layers=[*layers, gate(self._checker, random)] if random.random() < 0.2 else layers,
            retry=RetryPolicy(random.randint(1, 4), linear(random.choice((0.0, 1.0)))),
            on_event=[self._checker.on_event, FailingListener(more)],
        )
        return worker

    async def _cancelled_unseen(self, handler: Callable[[Task[int]], Awaitable[int]], task: Task[int]) -> int:
        """Return True for attempts in threads, which do not see a cancellation."""
        self._checker.may_be_cancelled.add(task.parts)
        return await handler(task)

    async def _run_one(self, program_run: ProgramRun, random: Random, name: str) -> None:
        try:
            with trio.CancelScope() as scope:
                program_run.scopes.append(scope)
                if random.random() < 0.5:
                    await self._run_monitor(program_run, random, name)
                else:
                    worker = self._worker(program_run, random, name=name)
                    context = worker.prepare()
                    program_run.contexts.append(context)
                    await worker.run(context)
        except BaseExceptionGroup as group:
            self._checker.note(f"{name} has ended: {[type(each).__name__ for each in leaves(group)]}")
            _, rest = group.split((BackendError, trio.TooSlowError))
            if rest is not None:
                raise rest from None

    async def _run_monitor(self, program_run: ProgramRun, random: Random, name: str) -> None:
        monitor_model = MonitorModel(self._checker, self._faults, random, rng(self._seed, "more of a monitor", name))
        program_run.monitors.append(monitor_model)
        for number in range(random.randint(1, 2)):
            monitor_model.add_worker(partial(self._worker, program_run, random), f"{name}.{number}")
        await monitor_model.run()
