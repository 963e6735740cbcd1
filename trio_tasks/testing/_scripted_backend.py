"""A backend that follows a script of tasks, pauses and errors.

It keeps the contract of a backend, in the smallest form that there is, and notes down what it was told.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast, final

import trio

from .._checks import check_seconds
from .._contracts.backend import Backend
from .._tasks.errors import LeaseLostError
from .._tasks.outcome import Failed, Killed, Released, Status, Succeeded, Suspended
from .._tasks.task import Parts, Task, attempt_number

if TYPE_CHECKING:
    from .._tasks.outcome import Outcome

A = TypeVar("A")
T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Pause:
    """A line of a script: for this many seconds of trio's clock, from the first receive that waits, no task comes."""

    seconds: float

    def __post_init__(self) -> None:
        check_seconds(self.seconds, "Pause.seconds")


@final
class ScriptedBackend(Backend[A]):
    """A backend that gives out the tasks and errors of a script, in order, and then ends.

    >>> backend = ScriptedBackend[int]([1, 2, Pause(60), 3, ConnectionError("gone")])
    >>> await Worker("test", backend, double).run()  # does 1, 2 and 3; then fails
    >>> [outcome for task, outcome in backend.settled]
    [Succeeded(result=<int>), Succeeded(result=<int>), Succeeded(result=<int>)]

    The script alone decides what is given out. A task that is settled as retried, released or suspended does not come
    again by itself. To give it out again, write it into the script again: this is its next attempt (after a release or
    a suspension, the same attempt). A task's delay, priority, unique key and expiry are ignored.

    Args:
      script: the lines. Each is plain args; a whole :class:`Task`; an exception, which is raised to the receiver; or a
          :class:`Pause`. What follows an exception can still be received, by a worker that was restarted, say. (Args
          that are exceptions themselves can be given in a whole task.)

    Raises:
      TypeError: a line is none of these, but something that was probably meant to be one.
    """

    def __init__(self, script: Iterable[A | Task[A] | Exception | Pause]) -> None:
        if isinstance(script, (str, bytes)) or not isinstance(script, Iterable):
            raise TypeError(f"a script must be a list of args, tasks, exceptions and pauses, not {script!r}")
        self.settled: list[tuple[Task[A], Outcome]] = []
        """Every task that was settled, with its outcome, in the order in which that happened."""
        self._script: deque[A | Task[A] | Exception | Pause] = deque(map(_checked, script))
        self._lock = trio.Lock()
        self._pause_ends: float | None = None
        self._last: dict[str, Parts] = {}
        self._running: set[Parts] = set()

    async def receive(self) -> Task[A]:
        """Claim the next task of the script; wait for pauses, and raise the script's errors.

        Raises:
          trio.EndOfChannel: the script is at its end.

        If it is cancelled, nothing was taken; a pause that has begun goes on meanwhile.
        """
        async with self._lock:
            while self._script and isinstance(pause := self._script[0], Pause):
                await trio.sleep_until(self._end_of(pause))
                self._pause_ends = None
                self._script.popleft()
            if not self._script:
                raise trio.EndOfChannel
            line = self._script.popleft()
            if isinstance(line, Exception):
                raise line
            return self._begin_attempt(line if is_task(line) else Task(cast("A", line)))

    def _end_of(self, pause: Pause) -> float:
        if self._pause_ends is None:
            self._pause_ends = trio.current_time() + pause.seconds
        return self._pause_ends

    def _begin_attempt(self, task: Task[A]) -> Task[A]:
        last = self._last.get(task.parts.id)
        if last is not None:
            task = Task(task.args, last.again(last.attempt))
        parts = self._last[task.parts.id] = task.parts
        parts.attempt = attempt_number(parts.attempt + 1)
        parts.status = Status.Running
        self._running.add(parts)
        return task

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome in :attr:`settled`. It takes effect even if it is cancelled.

        Raises:
          LeaseLostError: the task is not running in this attempt. Nothing changed.
        """
        parts = task.parts
        if parts not in self._running:
            raise LeaseLostError(f"task {parts.id} is not running in its attempt {parts.attempt}: nothing to settle")
        self._running.discard(parts)
        parts.status = _status_after(outcome)
        if isinstance(outcome, (Released, Suspended)) and self._last[parts.id] is parts:
            self._last[parts.id] = parts.again(parts.attempt - 1)
        self.settled.append((task, outcome))
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __repr__(self) -> str:
        return (
            f"<ScriptedBackend: {len(self._script)} lines left, {len(self._running)} running, "
            f"{len(self.settled)} settled>"
        )


def is_task(value: object) -> TypeGuard[Task[Any]]:
    """Return True if the value is a Task rather than plain args."""
    return isinstance(value, Task)


def _status_after(outcome: Outcome) -> Status:
    if isinstance(outcome, Succeeded):
        return Status.Done
    if isinstance(outcome, Failed):
        return Status.Failed
    return Status.Killed if isinstance(outcome, Killed) else Status.Pending


def _checked(line: T) -> T:
    """Return a line of a script, or raise a TypeError that suggests the line that was probably meant."""
    complaint = _problem_with(line)
    if complaint is not None:
        raise TypeError(complaint)
    return line


def _problem_with(line: object) -> str | None:
    if line is Pause:
        return "a Pause in a script needs its length in seconds: Pause(60)"
    if isinstance(line, (trio.EndOfChannel, trio.WouldBlock)):
        return f"a script cannot raise {line!r}: it ends after its last line, and waits by Pause(seconds)"
    if isinstance(line, BaseException) and not isinstance(line, Exception):
        return f"an error in a script must be an Exception, not {line!r}"
    if inspect.iscoroutine(line):
        line.close()  # or Python would warn that it was never awaited
        return f"a script cannot await {line!r}; to wait, use Pause(seconds)"
    if isinstance(line, type) and issubclass(line, BaseException):
        return f"a script holds exceptions, not their classes: write {line.__name__}(...)"
    return None
