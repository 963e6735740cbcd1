"""The wall clock, touched here and nowhere else.

Inside, the library measures with :func:`trio.current_time` alone. The wall clock is needed only at the edges, to
translate what a person says (``run_at(datetime)``) and to stamp what a person reads (``parts.run_at``).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_source: Callable[[], float] = time.time
_machine: Callable[[], tuple[str, float]] | None = None


def wall_now() -> datetime:
    """The present, as an aware datetime in UTC."""
    return datetime.fromtimestamp(_source(), timezone.utc)


def machine_now() -> tuple[str, float]:
    """The machine's own clock: what names the time since it was started (empty where that cannot be known), and how
    many seconds have passed by a clock that nobody can set, and that all processes share."""
    if _machine is not None:
        return _machine()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    return boot, time.monotonic()


def wall_after(seconds: float) -> datetime:
    """The moment that lies ``seconds`` from now; the last representable one if that is beyond the calendar."""
    try:
        return wall_now() + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=timezone.utc)


def seconds_until(moment: datetime) -> float:
    """How long it is until ``moment``, in seconds; zero if it has passed."""
    return max(0.0, (moment - wall_now()).total_seconds())


@contextmanager
def use_wall_clock(source: Callable[[], float]) -> Generator[None, None, None]:
    """Read the wall clock from ``source`` (seconds since the epoch, as :func:`time.time`) inside the block."""
    global _source  # noqa: PLW0603  the one replaceable function is a module global by design
    previous, _source = _source, source
    try:
        yield
    finally:
        _source = previous


@contextmanager
def use_machine_clock(source: Callable[[], tuple[str, float]]) -> Generator[None, None, None]:
    """Read the machine's own clock from ``source`` inside the block; what it gives is as of :func:`machine_now`."""
    global _machine  # noqa: PLW0603  the one replaceable function is a module global by design
    previous, _machine = _machine, source
    try:
        yield
    finally:
        _machine = previous
