"""The argument of a simulated program: its random numbers, its events and its workers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, final

import trio

from ..._monitor import Monitor
from ..._tasks.retry import constant
from .._faults.backend import FaultyBackend
from .recording import Recording

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ..._contracts.context import WorkerContext
    from ..._worker.worker import Worker
    from .._faults.rates import Fault, Faults


@final
class Simulation:
    """One run of a program under :func:`simulate`.

    Attributes:
      seed: the seed that decides this run.
      random: a random number generator from that seed, for the program's own choices: what to push and when, faults.
      events: a :class:`Recording` of the workers that :meth:`start` started; it may listen to other workers,
        and to monitors, too.
      nursery: a nursery for trio tasks beside the program; it is cancelled when the program returns.
      directory: the ``pathlib.Path`` of an empty directory, for storages that need a file; it is removed at the end.
    """

    def __init__(self, seed: int, nursery: trio.Nursery, events: Recording, cleanup: ExitStack) -> None:
        self.seed = seed
        self.random = Random(f"program {seed}")
        self.events = events
        self.nursery = nursery
        self._cleanup = cleanup
        self._directory: Path | None = None
        self._faults = Random(f"faults {seed}")
        self._contexts: list[WorkerContext] = []
        self._monitors: dict[Monitor, trio.Event] = {}

    async def start(self, worker: Worker[Any, Any]) -> WorkerContext:
        """Run this worker in :attr:`nursery`, with its events recorded; return once it is ready to receive.

        If its backend fails, so does the simulation. If it is cancelled, the worker is not running.
        """
        context = worker.prepare(on_event=self.events)
        self._contexts.append(context)
        await self.nursery.start(worker.run, context)
        return context

    async def keep_running(self, worker: Worker[Any, Any]) -> None:
        """Run this worker under a :class:`Monitor` that restarts it one second after each failure of its backend."""
        monitor = Monitor(
            on_event=self.events,
            should_restart=lambda context, error, attempt: True,
            restart_backoff=constant(1.0),
        )
        monitor.register(worker)
        ended = trio.Event()
        self._monitors[monitor] = ended

        async def run(task_status: trio.TaskStatus[Monitor]) -> None:  # noqa: ASYNC128  it is handed on
            await monitor.run(task_status=task_status)
            ended.set()

        await self.nursery.start(run)

    async def wait_workers_stopped(self) -> None:
        """Wait until all workers have ended that :meth:`start` or :meth:`keep_running` started. Workers end when their
        storage is closed and empty.
        """
        await trio.lowlevel.checkpoint()
        for context in self._contexts:
            await context.wait_stopped()
        for ended in self._monitors.values():
            await ended.wait()

    def faulty(self, backend: trio.abc.ReceiveChannel[Any], faults: Faults) -> FaultyBackend[Any]:
        """Wrap a backend in a :class:`FaultyBackend` whose faults the seed decides; each is recorded in
        :attr:`events`.
        """
        return FaultyBackend(backend, faults, seed=self._faults.getrandbits(32), on_fault=self._note)

    def _note(self, fault: Fault) -> None:
        task = "" if fault.task_id is None else f" of {fault.task_id}"
        self.events.note(f"{fault.kind}, in {fault.operation}{task}")

    @property
    def directory(self) -> Path:
        """An empty directory for storages that need a file; it is removed after the run."""
        if self._directory is None:
            self._directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="trio_tasks-")))
        return self._directory

    def current_lines(self) -> dict[str, str]:
        """Return, by the id of each running task, the line at which its attempt waits now."""
        contexts = [*self._contexts, *(each for monitor in self._monitors for each in monitor.workers)]
        return {task_id: line for context in contexts for task_id, line in context.current_lines().items()}

    def __repr__(self) -> str:
        workers = len(self._contexts) + len(self._monitors)
        return f"<Simulation of seed {self.seed}: {workers} workers, {len(self.events)} events>"
