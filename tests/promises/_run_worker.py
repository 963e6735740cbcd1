"""Helpers for tests of the promises: run one worker to its end, and record its events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from trio_tasks import (
    Attempt,
    Backend,
    Engage,
    Event,
    MemoryStorage,
    Outcome,
    Release,
    Task,
    Worker,
    WorkerContext,
)

from tests._event_checker import outcome_of

T = TypeVar("T")

A_MONTH = 30 * 24 * 3600.0


class EventRecord:
    """A listener that records events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, context: WorkerContext, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        """The events of this kind."""
        return [each for each in self.events if isinstance(each, kind)]

    @property
    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of the attempts, in order."""
        return [outcome for each in self.events if (outcome := outcome_of(each)) is not None]

    @property
    def kinds(self) -> list[str]:
        """Return the names of the outcomes."""
        return [type(each).__name__ for each in self.outcomes]

    @property
    def attempts(self) -> list[int]:
        """Return the numbers of the attempts, in order."""
        return [int(each.task.parts.attempt) for each in self.of(Engage)]


async def run_handler(handler: Callable[..., Any], *args: Any, seconds: float = A_MONTH, **options: Any) -> EventRecord:
    """Run a worker of one slot on these args until all of them are finished; raises what the worker raises."""
    storage = MemoryStorage[Any]()
    await storage.push_bulk(args or (0,))
    storage.close()
    return await run_handler_on(storage, handler, seconds=seconds, **options)


async def run_handler_on(
    backend: trio.abc.ReceiveChannel[Any], handler: Callable[..., Any], *, seconds: float = A_MONTH, **options: Any
) -> EventRecord:
    """Run a worker on a backend that ends, within ``seconds``."""
    record = EventRecord()
    more = options.pop("on_event", ())
    options.setdefault("concurrency", 1)
    with trio.fail_after(seconds):
        await Worker("performer", backend, handler, on_event=[record, *more], **options).run()
    return record


async def run_for(seconds: float, worker: Worker[Any, Any]) -> None:
    """Run the worker, and cancel it after so many seconds."""
    with trio.move_on_after(seconds):
        await worker.run()


class Open(Backend[Any]):
    """A minimal backend that gives out given tasks, and notes the outcomes.

    The two methods may be replaced; ``log`` tells what was called, and when.
    """

    def __init__(self, *args: Any, heartbeat_interval: float | None = None) -> None:
        self.heartbeat_interval = heartbeat_interval
        self.given: list[Task[Any]] = []
        self.settled: list[tuple[Task[Any], Outcome]] = []
        self.log: list[tuple[float, str]] = []
        self.on_beat: Callable[[], object] = lambda: None
        self.on_settle: Callable[[Task[Any], Outcome], Awaitable[object]] | None = None
        self._waiting = [each if isinstance(each, Task) else Task(each) for each in args]
        self._begun = trio.current_time()

    def note(self, what: str) -> None:
        """Note that this happens now."""
        self.log.append((round(trio.current_time() - self._begun, 6), what))

    def when(self, what: str) -> list[float]:
        """Return the times at which this happened."""
        return [time for time, each in self.log if each == what]

    async def receive(self) -> Task[Any]:
        self.note("receive")
        await trio.lowlevel.checkpoint()
        if not self._waiting:
            await trio.sleep_forever()
        task = self._waiting.pop(0)
        task.parts.attempt = Attempt(task.parts.attempt + 1)
        self.given.append(task)
        return task

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self.note("settle")
        if self.on_settle is not None:
            await self.on_settle(task, outcome)
        await trio.lowlevel.checkpoint()
        self.settled.append((task, outcome))
        self.note("settled")

    async def beat(self, context: WorkerContext) -> None:
        self.note("beat")
        self.on_beat()
        await trio.lowlevel.checkpoint()


def released(record: EventRecord) -> list[str]:
    """Return the reasons of releases."""
    return [each.reason for each in record.of(Release)]
