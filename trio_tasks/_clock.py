"""The wall clock and the machine's clock, which no other module reads.

Inside, the library measures with :func:`trio.current_time` alone. The wall clock is needed only at the edges, for what
a person says (``run_at(datetime)``), which is compared with it, and reads (``parts.run_at``). The machine's clock is
what processes that share a store have in common: nobody can set it, and it counts the time that the machine was asleep.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@final
class EpochClock:
    """A clock that counts the seconds since the epoch.

    Args:
      read: a function that returns its time.
    """

    __slots__ = ("read",)

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read


WALL_CLOCK = EpochClock(time.time)
"""The wall clock; :func:`use_wall_clock` replaces what it reads. Code that runs for each task calls its ``read``."""
_machine: Callable[[], tuple[str, float]] | None = None


def wall_now() -> datetime:
    """Return the present time as an aware datetime in UTC."""
    return datetime.fromtimestamp(WALL_CLOCK.read(), timezone.utc)


def wall_seconds() -> float:
    """Return the present time by the wall clock, in seconds since the epoch."""
    return WALL_CLOCK.read()


def machine_now() -> tuple[str, float]:
    """Read the machine's monotonic clock: return the name of the clock, and its seconds.

    The name identifies the boot of the machine and the time namespace; it is empty if there is none. All processes with
    the same name read the same clock. It cannot be set, and it counts the time for which the machine is asleep.
    """
    if _machine is not None:
        return _machine()
    return _machine_name(), _machine_seconds()


def machine_seconds() -> float:
    """The number of :func:`machine_now` alone."""
    return _machine_seconds() if _machine is None else _machine()[1]


def seconds_asleep() -> float:
    """Return the seconds that the machine was asleep since it was started; 0 if that is not known."""
    if _machine is not None or sys.platform == "win32":
        return 0.0
    before, seconds, after = time.monotonic(), _machine_seconds(), time.monotonic()
    return max(0.0, seconds - (before + after) / 2)


@cache
def _machine_name() -> str:
    """Return the identity of the boot and of the time namespace, since clocks differ between namespaces."""
    if sys.platform == "darwin":
        return _sysctl("kern.bootsessionuuid")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    try:
        namespace = os.readlink("/proc/self/ns/time")  # noqa: PTH115  it is no path
    except OSError:
        namespace = ""
    return f"{boot} {namespace}".rstrip()


def _sysctl(name: str) -> str:
    """Return a value of the macOS kernel as text; empty if there is none."""
    size = ctypes.c_size_t(128)
    text = ctypes.create_string_buffer(size.value)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), text, ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return ""
    return "" if failed else text.value.decode("ascii", "replace")


def _machine_seconds() -> float:
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)  # it counts the time asleep
    return time.perf_counter()  # trio's own clock, so that the two do not drift apart


def wall_after(seconds: float) -> datetime:
    """Return the moment ``seconds`` from now; the last one that a datetime can represent if that is too late."""
    try:
        return wall_now() + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=timezone.utc)


def microseconds_of(moment: datetime) -> int:
    """Return the whole microseconds from the epoch to a moment, without rounding."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_after(microseconds: int) -> datetime:
    """Return the moment this many microseconds after the epoch, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def moment_at(seconds: float) -> datetime:
    """The moment that is so many seconds after the epoch, in UTC; the last one, if it is beyond the calendar."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=timezone.utc)


def is_wall_clock_replaced() -> bool:
    """Return True inside :func:`use_wall_clock`."""
    return WALL_CLOCK.read is not time.time


def is_machine_clock_replaced() -> bool:
    """Return True inside :func:`use_machine_clock`."""
    return _machine is not None


def seconds_until(moment: datetime) -> float:
    """Return the seconds until ``moment``; zero if it has passed."""
    return max(0.0, (moment - wall_now()).total_seconds())


@contextmanager
def use_wall_clock(source: Callable[[], float]) -> Generator[None, None, None]:
    """Read the wall clock from ``source`` (seconds since the epoch, as :func:`time.time`) inside the block."""
    previous, WALL_CLOCK.read = WALL_CLOCK.read, source
    try:
        yield
    finally:
        WALL_CLOCK.read = previous


@contextmanager
def use_machine_clock(source: Callable[[], tuple[str, float]]) -> Generator[None, None, None]:
    """Read the machine's clock from ``source`` inside the block; it returns values as :func:`machine_now` does."""
    global _machine  # noqa: PLW0603  the one replaceable function is a module global by design
    previous, _machine = _machine, source
    try:
        yield
    finally:
        _machine = previous
