"""Calls into a trio run from inside it, from one of its threads, or from any other thread."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")
    Pause = Callable[[], Awaitable[object]]


def is_in_trio_thread(token: trio.lowlevel.TrioToken | None) -> bool:
    """Return True in the thread of the trio run that has this token, and everywhere if the run has not begun."""
    try:
        return token is None or trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # no trio in this thread
        return False


def call_in_trio_thread(
    token: trio.lowlevel.TrioToken | None, sync_fn: Callable[[Unpack[Ts]], object], *args: Unpack[Ts]
) -> None:
    """Call the function now if this is inside the trio run; otherwise schedule the call there."""
    if token is None or is_in_trio_thread(token):
        sync_fn(*args)
    else:
        with suppress(trio.RunFinishedError):  # the run is over: nothing to do
            token.run_sync_soon(sync_fn, *args)


_instead: Pause | None = None


def pause_instead() -> Pause | None:
    """Return the function to await in place of starting a thread; None if threads are used."""
    return _instead


@contextmanager
def without_threads(pause: Pause) -> Generator[None, None, None]:
    """Use no threads inside the block: make calls in place, after ``await pause()``.

    The pause stands for the time that a thread takes.
    """
    global _instead  # noqa: PLW0603  there is one answer for the whole process
    previous, _instead = _instead, pause
    try:
        yield
    finally:
        _instead = previous


_no_processes = False


def avoids_processes() -> bool:
    """Return True if functions that would run in processes are to run in threads, or in place."""
    return _no_processes or _instead is not None


@contextmanager
def without_processes() -> Generator[None, None, None]:
    """Run functions with ``process=True`` in threads of this process inside the block, as other sync functions.

    >>> with without_processes():
    ...     outcome = await run_once(tasks, resize.bind("cat.jpg"))

    So that a test is quick, and a debugger and a coverage tool see the function. Enter it before the worker is made.
    """
    global _no_processes  # noqa: PLW0603  there is one answer for the whole process
    previous, _no_processes = _no_processes, True
    try:
        yield
    finally:
        _no_processes = previous
