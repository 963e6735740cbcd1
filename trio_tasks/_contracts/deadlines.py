"""The deadline of a push: from its options, or from the trio task that pushes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import WeakSet

import trio

from .._checks import check_flag
from .._printing import quoted

if TYPE_CHECKING:
    from .._tasks.task import Task, Terms

DefaultDeadline = Literal["inherit"]
"""The deadline of tasks that are pushed without one, as an option of a storage; None: they have none."""

_OUTSIDE = (
    'deadline="inherit" takes the deadline of the trio task that pushes, and this code runs outside of trio: give the '
    "deadline in seconds"
)


def check_default(deadline: object) -> bool:
    """Check the option ``deadline`` of a storage; return True if pushes inherit."""
    if deadline is not None and deadline not in get_args(DefaultDeadline):
        raise ValueError(f"deadline of a storage must be 'inherit' or None, not {quoted(deadline)}")
    return deadline is not None


def seconds_left(terms: Terms, *, inherits: bool) -> float | None:
    """Return the seconds from now until the deadline of a push; None if it has none.

    Args:
      terms: the options of the push.
      inherits: True if a push without a deadline inherits one, where there is one.

    Raises:
      RuntimeError: the push itself says ``"inherit"``, and this is called outside of trio.
      trio.Cancelled: the same in a thread of trio, and the trio task that waits for it is cancelled.
    """
    if terms.deadline is None:
        return inherited(needed=False) if inherits else None
    if terms.deadline == "inherit":
        return inherited(needed=True)
    return None if terms.deadline == math.inf else terms.deadline


def seconds_to_deadline(task: Task[Any], *, inherits: bool = False) -> float | None:
    """Return the seconds from now until the deadline of a task that is pushed, for a backend of one's own; None if it
    has none. Call it in the push, before anything else waits.

    >>> left = seconds_to_deadline(task)
    >>> task.parts.deadline = None if left is None else now + left

    A backend keeps that moment, sets ``parts.deadline`` to it, by its own clock, and ``parts.cancel_at`` to the same
    moment by trio's clock in each task that it gives out. It kills a task that waits then by :exc:`DeadlineError`.

    Args:
      task: the task.
      inherits: True gives a task without a deadline that of the trio task which pushes it, if there is one.

    Raises:
      RuntimeError: the task says ``"inherit"``, and this is called outside of trio.
    """
    return seconds_left(task.parts.terms, inherits=check_flag(inherits, "inherits"))


def inherited(*, needed: bool) -> float | None:
    """Return the seconds until the deadline of the caller, 0 if it is over; None if it has none.

    In a thread that trio has started, this is the deadline of the trio task that waits for the thread. Outside of trio
    there is none, which is an error if one is needed.
    """
    if trio.lowlevel.in_trio_task():
        return _rest()
    try:
        return trio.from_thread.run_sync(_rest)
    except RuntimeError:  # no thread of trio, or its run is over
        if needed:
            raise RuntimeError(_OUTSIDE) from None
        return None


def _rest() -> float | None:
    rest = _deadline_inside_attempt(trio.lowlevel.current_task()) - trio.current_time()
    return None if rest == math.inf else max(0.0, rest)


ATTEMPT_SCOPES: WeakSet[trio.CancelScope] = WeakSet()
"""The scopes in which slots make their attempts. The scopes around them belong to runs of workers: when one of these
ends, as a shutdown does, what its attempts have pushed is not over."""


def _deadline_inside_attempt(trio_task: Any) -> float:
    """Return the effective deadline of the current trio task; in an attempt, without the scopes around that.

    trio has no public way to look at one scope after the other. The attributes that are read here have had their names
    since 2019; without them, the scopes around an attempt count, too.
    """
    deadline, status = math.inf, getattr(trio_task, "_cancel_status", None)
    while status is not None and (scope := getattr(status, "_scope", None)) is not None:
        if scope in ATTEMPT_SCOPES:
            return deadline
        deadline = min(deadline, -math.inf if scope.cancel_called else scope.deadline)
        if scope.shield:
            return deadline
        status = getattr(status, "_parent", None)
    return trio.current_effective_deadline()


def end_of(terms: Terms, *, inherits: bool) -> float | None:
    """Return the deadline of a push by trio's clock; None if it has none. The arguments and errors are those of
    :func:`seconds_left`.
    """
    rest = seconds_left(terms, inherits=inherits)
    return None if rest is None else trio.current_time() + rest
