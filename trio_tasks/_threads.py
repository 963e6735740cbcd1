"""Whether we use threads of our own. They bring chance into a program, so a run that is to be repeated does without.

There are two kinds: the writer threads of the stored storages, and those that sync handlers run in.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    Pause = Callable[[], Awaitable[object]]

_instead: Pause | None = None


def pause_instead() -> Pause | None:
    """What to await before doing in place what a thread would do; None if there are threads."""
    return _instead


@contextmanager
def without_threads(pause: Pause) -> Generator[None, None, None]:
    """Inside the block no thread is started: who asks for something does it himself, after ``await pause()``, which
    stands for the time that a thread takes."""
    global _instead  # noqa: PLW0603  there is one answer for the whole process
    previous, _instead = _instead, pause
    try:
        yield
    finally:
        _instead = previous
