"""Calls into a trio run from inside it, from one of its threads, or from any other thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

R = TypeVar("R")
Pause = Callable[[], Awaitable[object]]
OpenContext = Callable[[], AbstractContextManager[object]]


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


_opened_inside: ContextVar[tuple[OpenContext, ...]] = ContextVar("trio_tasks.opened_inside", default=())


@contextmanager
def opened_in_threads(open_context: OpenContext) -> Generator[None, None, None]:
    """Open a context manager, inside the block, around each call that :func:`call_in_contexts` makes in a thread."""
    token = _opened_inside.set((*_opened_inside.get(), open_context))
    try:
        yield
    finally:
        _opened_inside.reset(token)


def call_in_contexts(function: Callable[[Unpack[Ts]], R], *args: Unpack[Ts]) -> R | None:
    """Call the function in this thread, inside of what :func:`opened_in_threads` says; None if an error of it was
    suppressed there.
    """
    if not (opened := _opened_inside.get()):
        return function(*args)
    with ExitStack() as stack:
        for open_context in opened:
            stack.enter_context(open_context())
        return function(*args)
    return None
