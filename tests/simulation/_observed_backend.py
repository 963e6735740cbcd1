"""A wrapper around a storage, which reports each claim and settlement to an observer."""

from __future__ import annotations

from typing import Any, Protocol

import trio
from trio_tasks import BackendError, LeaseLostError, Outcome, Task, UnsettledError, WorkerContext
from trio_tasks._backends.mirroring import mirroring
from trio_tasks.abc import Backend

from tests.simulation._claim_checker import ClaimChecker


class Observer(Protocol):
    """The interface of an observer."""

    def claimed(self, task: Task[Any]) -> None: ...
    def settling(self, task: Task[Any], outcome: Outcome) -> None: ...
    def settled(self, task: Task[Any], outcome: Outcome) -> None: ...
    def unsettled(self, task: Task[Any], outcome: Outcome, error: BackendError) -> None: ...
    def withdrew(self) -> None: ...
    def cut(self, task: Task[Any]) -> None: ...
    def will_register(self, context: WorkerContext) -> None: ...
    def was_registered(self, context: WorkerContext, storage: Any) -> None: ...
    def will_unregister(self, context: WorkerContext) -> None: ...


class ObservedBackend(Backend[Any]):
    """Passes all calls on to a storage, and reports them to an observer."""

    def __new__(cls, inside: Backend[Any], observer: Observer) -> ObservedBackend:
        return object.__new__(mirroring(cls, inside))

    def __init__(self, inside: Backend[Any], observer: Observer) -> None:
        self.inside: Any = inside
        self.observer = observer
        self.heartbeat_interval = inside.heartbeat_interval
        self.settles_within_bounds = inside.settles_within_bounds

    async def pass_on(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.inside, verb)(*args, **kwargs)

    def pass_through(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inside, verb)(*args, **kwargs)

    async def register_worker(self, context: WorkerContext) -> None:
        self.observer.will_register(context)
        await self.inside.register_worker(context)
        self.observer.was_registered(context, self.inside)

    async def unregister_worker(self, context: WorkerContext) -> None:
        self.observer.will_unregister(context)
        await self.inside.unregister_worker(context)

    async def receive(self) -> Task[Any]:
        try:
            task: Task[Any] = await self.inside.receive()
        except trio.Cancelled:
            self.observer.withdrew()
            raise
        self.observer.claimed(task)
        return task

    def receive_nowait(self) -> Task[Any]:
        task: Task[Any] = self.inside.receive_nowait()
        self.observer.claimed(task)
        return task

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self.observer.settling(task, outcome)
        try:
            await self.inside.settle(task, outcome)
        except (LeaseLostError, UnsettledError) as error:
            self.observer.unsettled(task, outcome, error)
            raise
        except trio.Cancelled:
            self.observer.cut(task)
            raise
        self.observer.settled(task, outcome)

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        self.observer.settling(task, outcome)
        try:
            self.inside.settle_nowait(task, outcome)
        except (LeaseLostError, UnsettledError) as error:
            self.observer.unsettled(task, outcome, error)
            raise
        self.observer.settled(task, outcome)

    async def beat(self, context: WorkerContext) -> None:
        await self.inside.beat(context)

    async def aclose(self) -> None:
        await self.inside.aclose()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inside":
            raise AttributeError(name)
        return getattr(self.inside, name)

    def __repr__(self) -> str:
        return f"<watched {self.inside!r}>"


class Barrier:
    """Reports each outcome that a worker is about to settle, before faults are injected.

    Args:
      checker: to be told.
    """

    def __init__(self, checker: ClaimChecker) -> None:
        self._checker = checker

    def settling(self, task: Task[Any], outcome: Outcome) -> None:
        self._checker.will_settle(task)

    def cut(self, task: Task[Any]) -> None:
        self._checker.cut(task)

    def claimed(self, task: Task[Any]) -> None: ...
    def settled(self, task: Task[Any], outcome: Outcome) -> None: ...
    def unsettled(self, task: Task[Any], outcome: Outcome, error: BackendError) -> None: ...
    def withdrew(self) -> None: ...
    def will_register(self, context: WorkerContext) -> None: ...
    def was_registered(self, context: WorkerContext, storage: Any) -> None: ...
    def will_unregister(self, context: WorkerContext) -> None: ...
