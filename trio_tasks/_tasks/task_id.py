"""Ids of tasks: unique, in the order in which they were made, and plain text."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from .._checks import check_name, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_RANDOM_BITS = 74
_RANDOM_LIMIT = 1 << _RANDOM_BITS
_LAST_MILLISECOND = (1 << 48) - 1


@final
class TaskId(str):
    """The id of a task: a ``str``, so that it can be logged, stored and compared as text.

    :meth:`new` makes a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits which
    only ever grow within a millisecond (section 6.2, method 2). Ids that one process makes therefore sort, as text,
    in the order in which they were made; so do, to the millisecond, those of several processes.
    Any other text of 1 to 1024 bytes in UTF-8 serves as well: ``TaskId("task-123")``.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> TaskId:
        return str.__new__(cls, check_name(text, "a task's id"))

    @classmethod
    def new(cls) -> TaskId:
        """Make a new id, greater than every id that this process has made before."""
        return str.__new__(cls, _sequence.next_text())

    def __repr__(self) -> str:
        return f"TaskId({str.__repr__(self)})"


def stored_id(text: str) -> TaskId:
    """Return the id that was read from a store; its length is not checked, since the push checked it."""
    if type(text) is str and text:
        return str.__new__(TaskId, text)
    return text if type(text) is TaskId else str.__new__(TaskId, check_text(text, "a task's id"))


class _Sequence:
    """A generator of UUIDs of version 7, which grow even if the clock is set back."""

    __slots__ = ("_lock", "_millisecond", "_nanoseconds", "_random", "_tail")

    def __init__(self, generator: random.Random | None = None, nanoseconds: Callable[[], int] = time.time_ns) -> None:
        self._random = random.Random(os.urandom(32)) if generator is None else generator
        self._nanoseconds = nanoseconds
        self._lock = threading.Lock()
        self._millisecond = 0
        self._tail = 0

    def next_text(self) -> str:
        with self._lock:  # tasks may be made in several threads
            now = self._nanoseconds() // 1_000_000
            if now > self._millisecond:
                self._millisecond = now
                self._tail = self._random.getrandbits(_RANDOM_BITS - 1)  # leaves half of the range to grow into
            else:
                self._tail += 1 + self._random.getrandbits(32)
                if self._tail >= _RANDOM_LIMIT:
                    self._millisecond += 1
                    self._tail = self._random.getrandbits(_RANDOM_BITS - 1)
            millisecond, tail = self._millisecond & _LAST_MILLISECOND, self._tail
        high = f"{millisecond:012x}"
        low = f"{tail & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000:016x}"
        return f"{high[:8]}-{high[8:]}-7{tail >> 62:03x}-{low[:4]}-{low[4:]}"


_sequence = _Sequence()


@contextmanager
def use_ids_from(generator: random.Random, nanoseconds: Callable[[], int]) -> Generator[None, None, None]:
    """Make new ids from this generator and this clock (nanoseconds since the epoch) inside the block.

    So a repeated run makes the same ids.
    """
    global _sequence  # noqa: PLW0603  there is one sequence for each process
    previous, _sequence = _sequence, _Sequence(generator, nanoseconds)
    try:
        yield
    finally:
        _sequence = previous


def _reseed() -> None:
    """Start a new sequence of ids in a forked child, so that it does not repeat those of its parent."""
    global _sequence  # noqa: PLW0603  there is one sequence for each process
    _sequence = _Sequence()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_reseed)
