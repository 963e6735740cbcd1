"""A backend made of the user's functions, for an existing system.

With ``settle=`` that system keeps the tasks, and is told the outcome of each attempt. Without it that system takes
nothing back, so a retried or released task waits here, as it does over a channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, final, overload

import trio

from .._checks import check_callable, check_seconds
from .._clock import wall_after
from .._contracts.backend import Backend
from .._contracts.sink import TaskSink, check_task
from .._contracts.states import OUTCOMES, STATUSES
from .._printing import escaped, quoted
from .._tasks.errors import BackendError, LeaseLostError
from .._tasks.outcome import ALL_OUTCOMES, Released, Retried, Status, Suspended
from .._tasks.task import Parts, Task, attempt_number
from .._tasks.task_id import TaskId
from .capabilities import LedgerCapabilities
from .retry_buffer import RetryBuffer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._contracts.context import WorkerContext
    from .._tasks.outcome import Outcome

A = TypeVar("A")

_STATUS_AFTER = {kind: STATUSES[change.state] for kind, change in OUTCOMES.items()}


class CustomBackend(TaskSink[A], Backend[A]):
    """A backend made of functions, such as ``receive`` and ``settle``.

    >>> CustomBackend(receive=fetch_row, push=insert_row, settle=update_row)

    Args:
      receive: ``async () -> Task[A] | A``. It waits for the next task, or for plain args, and raises
          ``trio.EndOfChannel`` when no more will come. The parts of the task count the attempts made so far; the
          backend adds this one. If it is cancelled (by ``stop``, ``pause`` or a retry), it must have taken nothing.
          One trio task at a time calls it. :func:`poll` turns a function that polls into one that waits.
      push: ``async (task: Task[A]) -> object``. It stores a task, for :meth:`push` and the other push methods. If it
          returns a ``TaskId``, ``push`` returns that id; otherwise ``push`` returns the task's own id.
      settle: ``async (task, outcome) -> object``. It records how an attempt ended. Its argument is the task as it
          should be stored: with the status that follows from the outcome; and, if the task will run again, with the
          number of attempts that count (a release or a suspension takes one off) and its ``run_at``. It may raise
          :class:`LeaseLostError`.
      beat: ``async (context) -> object``; see :meth:`Backend.beat`.
      heartbeat_interval: the seconds between two calls of ``beat``.
      close: ``() -> object``. After it, ``receive`` must raise ``trio.EndOfChannel`` once no task is left.

    If ``receive`` gives a task that is running already, the older attempt has lost its lease: it is cancelled, and it
    cannot settle.
    """

    def __new__(cls, *args: Any, **functions: Any) -> CustomBackend[A]:
        """Make a backend; without ``settle``, one that keeps retried and released tasks itself."""
        keeps = cls is CustomBackend and functions.get("settle") is None
        return object.__new__(cast("type[CustomBackend[A]]", _KeepingBackend if keeps else cls))

    @overload
    def __init__(
        self,
        *,
        receive: Callable[[], Awaitable[Task[A]]],
        push: Callable[[Task[A]], Awaitable[object]] | None = None,
        settle: Callable[[Task[A], Outcome], Awaitable[object]] | None = None,
        beat: Callable[[WorkerContext], Awaitable[object]] | None = None,
        heartbeat_interval: float | None = None,
        close: Callable[[], object] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        receive: Callable[[], Awaitable[Task[A] | A]],
        push: Callable[[Task[A]], Awaitable[object]] | None = None,
        settle: Callable[[Task[A], Outcome], Awaitable[object]] | None = None,
        beat: Callable[[WorkerContext], Awaitable[object]] | None = None,
        heartbeat_interval: float | None = None,
        close: Callable[[], object] | None = None,
    ) -> None: ...
    def __init__(
        self,
        *,
        receive: Callable[[], Awaitable[Task[A] | A]],
        push: Callable[[Task[A]], Awaitable[object]] | None = None,
        settle: Callable[[Task[A], Outcome], Awaitable[object]] | None = None,
        beat: Callable[[WorkerContext], Awaitable[object]] | None = None,
        heartbeat_interval: float | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        check_callable(receive, "receive", "async receive() -> task or args")
        for value, name, shape in (
            (push, "push", "async push(task)"),
            (settle, "settle", "async settle(task, outcome)"),
            (beat, "beat", "async beat(context)"),
            (close, "close", "close()"),
        ):
            if value is not None:
                check_callable(value, name, shape)
        if (beat is None) != (heartbeat_interval is None):
            raise TypeError("CustomBackend needs both beat and heartbeat_interval, or neither")
        if heartbeat_interval is not None:
            check_seconds(heartbeat_interval, "heartbeat_interval", positive=True)
        self.heartbeat_interval: float | None = heartbeat_interval
        self._receive: Callable[[], Awaitable[Any]] = receive
        self._push = push
        self._settle = settle
        self._beat = beat
        self._close = close
        self._closed = False
        self._receiving = trio.Lock()
        self._running: dict[str, Parts] = {}

    # Pushing

    async def push_task(self, task: Task[A]) -> TaskId:
        """Push a whole task, by ``push``.

        Raises:
          BackendError: this backend was made without ``push=``.
          trio.ClosedResourceError: it is closed.

        What ``push`` raises comes through as it is; so what a cancellation means, ``push`` decides.
        """
        check_task(task)
        if self._push is None:
            raise BackendError("CustomBackend.push: this backend was made without push=")
        if self._closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: nothing more can be pushed here")
        answer = await _call("push", self._push, task)
        return answer if isinstance(answer, TaskId) else task.parts.id

    def close(self) -> None:
        """Refuse further pushes, and call ``close``, so that ``receive`` may end.

        Raises:
          BackendError: this backend was made without ``close=``, so there is no way to tell ``receive``.
        """
        if self._close is None:
            raise BackendError(
                "CustomBackend.close: this backend was made without close=, so its receive cannot be told to end"
            )
        if not self._closed:
            self._closed = True
            self._close()

    # Receiving and settling

    async def receive(self) -> Task[A]:
        """Wait for the next task, and claim it. What ``receive`` raises comes through as it is.

        If it is cancelled, nothing was taken, if the same is true of ``receive``.
        """
        async with self._receiving:
            item = await self._fetch()
            task: Task[A] = _copy(cast("Task[A]", item)) if isinstance(item, Task) else Task(item)
            parts = task.parts
            parts.attempt = attempt_number(parts.attempt + 1)
            parts.status = Status.Running
            older = self._running.get(parts.id)
            self._running[parts.id] = parts
            if older is not None and older.holder is not None:
                older.holder.revoke(Released("its lease was lost: the backend gave the task out again"))
            return task

    async def _fetch(self) -> Any:
        return await _call("receive", self._receive)

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome of the attempt, by ``settle``. What it raises comes through as it is.

        Raises:
          LeaseLostError: the task is not running in this attempt.

        If it is cancelled or fails, the task is still running as far as this backend is concerned.
        """
        assert self._settle is not None
        if type(outcome) not in _STATUS_AFTER:
            raise TypeError(f"an outcome is {ALL_OUTCOMES}, not {quoted(outcome)}")
        parts = task.parts
        if self._running.get(parts.id) is not parts:
            raise LeaseLostError(
                f"task {escaped(parts.id)} is not running in its attempt {parts.attempt}: nothing to settle"
            )
        del self._running[parts.id]  # before the call: a task to be run again may come back before it returns
        is_running = True
        try:
            await _call("settle", self._settle, _as_stored(task, outcome), outcome)
            parts.status = _STATUS_AFTER[type(outcome)]
            is_running = False
        except LeaseLostError:
            is_running = False
            raise
        finally:
            if is_running:
                self._running.setdefault(parts.id, parts)

    async def beat(self, context: WorkerContext) -> None:
        """Renew the leases, by ``beat``."""
        if self._beat is not None:
            await _call("beat", self._beat, context)
        else:
            await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        functions = (("receive", self._receive), ("push", self._push), ("settle", self._settle), ("beat", self._beat))
        named = (f"{name}={getattr(each, '__qualname__', each)}" for name, each in functions if each is not None)
        return f"<CustomBackend {', '.join(named)}>"


@final
class _KeepingBackend(LedgerCapabilities[A], CustomBackend[A]):
    """A backend without ``settle=``, which keeps retried, released and failed tasks in memory."""

    def __init__(self, **functions: Any) -> None:
        super().__init__(**functions)
        self._ledger_holder = self._buffer = RetryBuffer[A](self._fetch)

    async def receive(self) -> Task[A]:
        return await self._buffer.take()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self._buffer.settle(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()


async def _call(name: str, function: Callable[..., Any], *args: Any) -> Any:
    answer = function(*args)
    if not hasattr(answer, "__await__"):
        raise TypeError(
            f"{name} must be an async function, but {function!r} returned {type(answer).__name__}, not an awaitable"
        )
    return await answer


def _copy(task: Task[A]) -> Task[A]:
    """Copy a task, with parts of its own, since a task that is given twice has two attempts."""
    parts = task.parts.again(task.parts.attempt)
    parts.context = task.parts.context
    parts.run_at = task.parts.run_at
    return Task(task.args, parts)


def _as_stored(task: Task[A], outcome: Outcome) -> Task[A]:
    """Return the task as it is to be stored after this outcome."""
    stored = _copy(task)
    parts = stored.parts
    parts.status = _STATUS_AFTER[type(outcome)]
    if isinstance(outcome, (Released, Suspended)):
        parts.attempt = attempt_number(parts.attempt - 1)
    if isinstance(outcome, Retried):
        parts.run_at = wall_after(outcome.after)
    elif isinstance(outcome, Suspended):
        parts.run_at = wall_after(outcome.until - trio.current_time())
    return stored
