"""The harness in which a rule is checked: one newly opened, empty backend, and the operations that checks use.

Backends are opened in the ways that a user of the kit may give; the opener notes the properties found of their store.
"""

from __future__ import annotations

import inspect
import math
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, final

import trio

from ..._checks import check_callable
from ..._clock import wall_now
from ..._contracts.backend import Backend, Cancel, ListTasks, ResumeAbandoned, Vacuum
from ..._contracts.sink import TaskSink
from ..._tasks.errors import AbortError, LeaseLostError
from ..._tasks.outcome import Killed, Status
from .rule import Feature, RuleBroken, expect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from ..._tasks.outcome import Outcome
    from ..._tasks.task import Task
    from ..._tasks.task_id import TaskId


@final
class BackendOpener:
    """Opens handles on the backend under test, one after the other.

    Args:
      open_backend: a function that returns a backend, an awaitable of one, or a context manager, async or not, that
          gives one.
      args: a function that makes args from a number.
    """

    def __init__(self, open_backend: Callable[[], Any], args: Callable[[int], Any]) -> None:
        self._open_backend = check_callable(open_backend, "open_backend", "a function that opens the backend")
        self.args = check_callable(args, "args", "a function from an int to args")
        self.is_lasting = False
        """True if a later handle finds the tasks that were pushed through an earlier one."""
        self.is_shared = False
        """True if two handles on one store may be open at the same time."""
        self.shows_info = False
        """True if the ``parts.context`` of a task that is looked up is a :class:`StoredTaskInfo`."""
        self.shows_times = False
        """True if a task that is looked up tells when it was pushed."""

    @asynccontextmanager
    async def handle(self) -> AsyncGenerator[Any, None]:
        """Open a handle, and close it when the block ends.

        Raises:
          TypeError: what was opened is no backend into which one can push.
        """
        given = self._open_backend()
        if inspect.isawaitable(given):
            given = await given
        if hasattr(given, "__aenter__"):  # true for every Backend, since it is a ReceiveChannel
            async with given as backend:
                yield _checked(backend)
        elif hasattr(given, "__enter__"):
            with given as backend:
                yield _checked(backend)
        else:
            yield _checked(given)


def _checked(backend: Any) -> Any:
    if not (isinstance(backend, Backend) and isinstance(backend, TaskSink)):
        raise TypeError(
            f"open_backend must open a Backend that is a TaskSink too (the rules push tasks into it), not {backend!r}"
        )
    return backend


TICK = 0.05
"""Seconds of each wait. All waits are made of ticks: a clock that jumps when all trio tasks wait then leaves an engine
that works in a thread, or elsewhere, a little real time at each of them, instead of jumping to the end at once."""
QUIET_SECONDS = 0.1
"""Seconds for which nothing must come."""
DELAY = 0.3
"""Seconds that a delay lasts here."""
EARLY = 0.02
"""Seconds by which clocks may disagree."""
_LEFTOVER = Killed(AbortError("left over from a conformance check"))


@final
class Harness:
    """The backend that a rule is checked on, and the operations that the check calls.

    Args:
      opening: the opener of handles.
      nursery: a nursery that outlives the harness; the trio tasks that keep time run in it.
    """

    def __init__(self, opener: BackendOpener, nursery: trio.Nursery) -> None:
        self._opener = opener
        self._nursery = nursery
        self._stack = AsyncExitStack()
        self._received: list[tuple[Any, Task[Any]]] = []
        self._numbers: dict[str, int] = {}
        self.backend: Any = None

    # Handles

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Open a handle on an empty store for the length of the block."""
        self.backend = await self._stack.enter_async_context(self._opener.handle())
        try:
            await self.empty()
            yield
            await self.release_all()
        finally:
            await self._stack.aclose()  # noqa: ASYNC102  closing is the backend's, and so is its shield

    async def close(self) -> None:  # noqa: ASYNC910  closing is a checkpoint
        """Close the handle, with whatever tasks are running."""
        self._received.clear()
        await self._stack.aclose()

    async def open(self) -> None:  # noqa: ASYNC910  opening is a checkpoint
        """Open another handle after the last one was closed."""
        self.backend = await self._stack.enter_async_context(self._opener.handle())

    async def restart(self) -> None:  # noqa: ASYNC910  closing and opening are checkpoints
        """Close the handle, with whatever tasks are running, and open another one."""
        await self.close()
        await self.open()

    @asynccontextmanager
    async def second_handle(self) -> AsyncGenerator[Any, None]:
        """Open a second handle on the same store; yields the first one if the store allows only one."""
        if not self._opener.is_shared:
            yield self.backend
            return
        async with self._opener.handle() as backend:
            yield backend

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts; 0 if there is none."""
        lease = getattr(self.backend, "lease", None)
        has_one = isinstance(lease, (int, float)) and 0 < lease < math.inf
        return float(lease) if has_one and lease is not None else 0.0

    @property
    def max_wait(self) -> float:
        """Seconds to wait for a task or a state before the rule counts as broken."""
        return 5.0 + 3 * self.lease

    def missing(self, need: type | Feature) -> str | None:
        """Return the reason to skip a rule that needs this; None if the backend has it."""
        if isinstance(need, type):
            return None if isinstance(self.backend, need) else f"does not claim {need.__name__}"
        has_it = {
            Feature.LEASE: bool(self.lease),
            Feature.WORKABLE: self.backend.heartbeat_interval is not None,
            Feature.CLOSE: callable(getattr(self.backend, "close", None)),
            Feature.SHARE: callable(getattr(self.backend, "share", None)),
            Feature.LASTING: self._opener.is_lasting,
            Feature.ENGINE: _stands_on_an_engine(self.backend),
            Feature.INFO: self._opener.shows_info,
            Feature.TIMES: self._opener.shows_times,
        }[need]
        return None if has_it else need.value

    def start_beside(self, async_fn: Callable[[], Awaitable[None]]) -> None:
        """Run this function in a trio task, which ends with the harness; :meth:`close` does not end it."""
        self._nursery.start_soon(async_fn)

    # Time

    @contextmanager
    def limit(
        self, seconds: float, at_the_end: Callable[[], object] = lambda: None
    ) -> Generator[trio.CancelScope, None, None]:
        """Cancel the block after this many seconds, waited for in ticks."""

        async def watch() -> None:  # noqa: ASYNC910  there is one tick at least
            with watching:
                for _ in range(math.ceil(seconds / TICK)):
                    await trio.sleep(TICK)
                at_the_end()
                scope.cancel()

        watching = trio.CancelScope()
        with trio.CancelScope() as scope:  # noqa: ASYNC100  what is in the block is the caller's
            self._nursery.start_soon(watch)
            try:
                yield scope
            finally:
                watching.cancel()

    async def pass_time(self, seconds: float) -> None:
        """Wait until this many seconds have passed on the clock that the storage uses: trio's or the wall clock."""
        clock = Stopwatch()
        await trio.sleep(seconds)
        ticks = math.ceil(4 * seconds / TICK)
        while self._opener.is_lasting and clock.wall_seconds < seconds and ticks:
            await trio.sleep(TICK)
            ticks -= 1

    async def wait_until(self, condition: Callable[[], bool], what: str, state: str) -> None:
        """Wait until the condition is true.

        Raises:
          RuleBroken: it is not, in time.
        """
        with self.limit(self.max_wait):
            while not condition():  # noqa: ASYNC110  what is waited for may be anything
                await trio.sleep(TICK)
            await trio.lowlevel.checkpoint()
            return
        raise RuleBroken(what, f"not {state} within {self.max_wait:g} s", state)

    # Tasks

    def args(self, number: int) -> Any:
        """The args that stand for this number."""
        return self._opener.args(number)

    def number(self, task: Task[Any]) -> int:
        """The number that the task was pushed under; -1 if this harness did not push it."""
        return self.number_of(task.parts.id)

    def number_of(self, task_id: str) -> int:
        """The number that the task of this id was pushed under; -1 if this harness did not push it."""
        return self._numbers.get(task_id, -1)

    def note_pushed(self, number: int, task_id: str) -> None:
        """Note that the task of this id stands for this number, if it was not pushed by :meth:`push`."""
        self._numbers[task_id] = number

    async def push(self, number: int, **options: Any) -> TaskId:
        """Push the args that stand for this number; return the task's id."""
        task_id: TaskId = await self.backend.push(self.args(number), **options)
        self._numbers.setdefault(task_id, number)
        return task_id

    async def receive(self, backend: Any = None) -> Task[Any]:
        """Receive a task; if none comes in time, the rule is broken."""
        source = self.backend if backend is None else backend
        with self.limit(self.max_wait):
            task: Task[Any] = await source.receive()
            self._received.append((source, task))
            return task
        raise RuleBroken("a task that should come", f"none within {self.max_wait:g} s", "one")

    async def receive_number(self, number: int, *, attempt: int = 1) -> Task[Any]:
        """Receive a task, and check that it is the one of this number, in this attempt."""
        task = await self.receive()
        expect("the task that comes", self.number(task), number)
        expect(f"the attempt of task {number}", int(task.parts.attempt), attempt)
        return task

    async def expect_nothing(self, seconds: float = QUIET_SECONDS) -> None:  # noqa: ASYNC910  receiving is a checkpoint
        """Check that no task can be received."""
        task: Task[Any] | None = None
        with self.limit(seconds), suppress(trio.EndOfChannel):
            task = await self.backend.receive()
        if task is not None:
            self._received.append((self.backend, task))
            raise RuleBroken("a receive that should find no task", f"task {self.number(task)} as {task!r}", "nothing")

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle a received task through the handle that it came from."""
        source = next((source for source, each in self._received if each is task), self.backend)
        await source.settle(task, outcome)

    # Emptying

    async def empty(self) -> None:
        """Kill and forget all tasks in the store, by the backend's own methods.

        Raises:
          RuleBroken: it cannot be emptied.
        """
        left: list[Task[Any]] = []
        with self.limit(2 * self.max_wait):
            while True:
                left = await self._unfinished()
                taken = await self._kill_what_comes() if left or not isinstance(self.backend, ListTasks) else 0
                if not left and not taken:
                    break
            if isinstance(self.backend, Vacuum):
                await self.backend.vacuum()
            return
        raise RuleBroken("emptying the store before the rule is checked", left, "no unfinished task")

    async def _unfinished(self) -> list[Task[Any]]:
        if not isinstance(self.backend, ListTasks):
            await trio.lowlevel.checkpoint()
            return []
        return [
            *await self.backend.list_tasks(Status.Pending),
            *await self.backend.list_tasks(Status.Queued),
            *await self.backend.list_tasks(Status.Running),
        ]

    async def _kill_what_comes(self) -> int:
        backend = self.backend
        if isinstance(backend, Cancel):
            for each in await self._unfinished():
                await backend.cancel(each.parts.id)
        if isinstance(backend, ResumeAbandoned):
            await backend.resume_abandoned()
        taken = 0
        while True:  # noqa: ASYNC913  receiving is a checkpoint
            task: Task[Any] | None = None
            with self.limit(QUIET_SECONDS if self._opener.is_lasting else TICK), suppress(trio.EndOfChannel):
                task = await self.backend.receive()
            if task is None:
                return taken  # noqa: ASYNC910  receiving is a checkpoint
            taken += 1
            with suppress(LeaseLostError):
                await self.backend.settle(task, _LEFTOVER)

    async def release_all(self) -> None:
        """Settle all tasks that are still running, so that the next rule need not wait for leases to run out."""
        for source, task in self._received if self._opener.is_lasting else ():
            with suppress(LeaseLostError, trio.ClosedResourceError):
                await source.settle(task, _LEFTOVER)
        await trio.lowlevel.checkpoint()


def _stands_on_an_engine(backend: object) -> bool:
    if not hasattr(backend, "_loop"):
        return False  # and the modules of stored backends are not imported
    from ..._backends.durable.storage import DurableStorage

    return isinstance(backend, DurableStorage)


@final
class Stopwatch:
    """A stopwatch that starts when it is made."""

    def __init__(self) -> None:
        self._begun = trio.current_time()
        self._wall_start = wall_now()

    @property
    def wall_seconds(self) -> float:
        """Seconds passed by the wall clock."""
        return (wall_now() - self._wall_start).total_seconds()

    @property
    def elapsed(self) -> float:
        """Seconds passed, by trio's clock or the wall clock, whichever shows more: it is not known which one the
        storage reads.
        """
        return max(trio.current_time() - self._begun, self.wall_seconds)

    def expect_at_least(self, seconds: float, what: str) -> None:
        """Check that at least this many seconds have passed."""
        if self.elapsed < seconds - EARLY:
            raise RuleBroken(what, f"after {self.elapsed:.3f} s", f"after {seconds:g} s or more")
