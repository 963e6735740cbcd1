"""Calling into a trio run from wherever one is: from inside it, from one of its threads, or from any other."""

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
    """Return True in the thread of the run that has this token, and everywhere if the run has not begun."""
    try:
        return token is None or trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # no trio in this thread
        return False


def call_in_trio_thread(
    token: trio.lowlevel.TrioToken | None, sync_fn: Callable[[Unpack[Ts]], object], *args: Unpack[Ts]
) -> None:
    """Call it now if this is inside the run, or else have it called there soon; nothing happens if the run is over."""
    if token is None or is_in_trio_thread(token):
        sync_fn(*args)
    else:
        with suppress(trio.RunFinishedError):  # there is nothing left to be told
            token.run_sync_soon(sync_fn, *args)


_instead: Pause | None = None


def pause_instead() -> Pause | None:
    """The function to await before doing in place what a thread would do; None if there are threads."""
    return _instead


@contextmanager
def without_threads(pause: Pause) -> Generator[None, None, None]:
    """Start no thread inside the block: who asks for something does it himself, after ``await pause()``, which
    stands for the time that a thread takes."""
    global _instead  # noqa: PLW0603  there is one answer for the whole process
    previous, _instead = _instead, pause
    try:
        yield
    finally:
        _instead = previous
