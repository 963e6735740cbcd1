"""Virtual time for tests: the clocks, and a function that moves time forward."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ..._checks import check_flag, check_moment, check_seconds
from ..._clock import use_machine_clock, use_wall_clock
from ..._concurrency.threads import without_threads

if TYPE_CHECKING:
    from collections.abc import Generator

START = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""The default time of the wall clock when virtual time begins."""


@contextmanager
def virtual_clock(*, start: datetime = START, autojump: bool = True) -> Generator[MockClock, None, None]:
    """Make a virtual clock for trio, and let the wall clock follow it inside the block.

    >>> with virtual_clock() as clock:
    ...     trio.run(main, clock=clock)

    As a fixture of pytest-trio, for every test that asks for it: decorate with ``pytest.fixture`` a function that
    yields what this gives.

    trio's clock starts at 0. ``run_at``, ``parts.run_at`` and everything else that uses the wall clock agree with it.
    Virtual time does not wait for threads. So sync handlers, and storages that are opened inside the block, do in place
    what they would otherwise do in a thread; therefore it works for ``SqliteStorage`` and ``FileStorage``, too.

    Args:
      start: the time of the wall clock at the beginning; an aware datetime.
      autojump: True lets time jump to the next deadline as soon as all trio tasks wait. False lets it stand still until
        :func:`advance` moves it.

    Raises:
      TypeError, ValueError: ``start`` is no datetime, or has no time zone; ``autojump`` is no bool.

    It is for one run at a time, and holds for the whole process: other threads see the same wall clock.
    """
    beginning = check_moment(start, "start").timestamp()
    clock = MockClock(autojump_threshold=0 if check_flag(autojump, "autojump") else float("inf"))
    with use_clocks(clock, beginning), without_threads(trio.lowlevel.checkpoint):
        yield clock


@contextmanager
def use_clocks(clock: trio.abc.Clock, beginning: float) -> Generator[None, None, None]:
    """Let the wall clock and the machine's clock follow this clock; at its 0 the wall clock shows ``beginning``."""

    def wall() -> float:
        return beginning + clock.current_time()

    with use_wall_clock(wall), use_machine_clock(lambda: ("virtual time", clock.current_time())):
        yield


async def advance(seconds: float) -> None:
    """Move virtual time forward; events that fall due meanwhile happen in order, each at its time.

    >>> await storage.push(email, delay=3600)
    >>> await advance(3599)  # it still waits
    >>> await advance(1)  # now it has been sent

    First, and after each step, it waits until every other trio task is blocked, as in
    :func:`trio.testing.wait_all_tasks_blocked`. ``advance(0)`` only does this.

    Args:
      seconds: the seconds to move it by, 0 or more.

    Raises:
      TypeError, ValueError: ``seconds`` is no such number.
      RuntimeError: the run's clock is no :class:`trio.testing.MockClock`, such as :func:`virtual_clock` gives, or
        one that runs by itself.

    If it is cancelled, time is not moved back.
    """
    check_seconds(seconds, "seconds")
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock) or clock.rate:
        raise RuntimeError(f"advance() needs a trio.testing.MockClock of rate 0 as trio's clock, not {clock!r}")
    until = trio.current_time() + seconds
    await wait_all_tasks_blocked()
    while True:
        step = trio.lowlevel.current_statistics().seconds_to_next_deadline
        rest = max(0.0, until - trio.current_time())
        if step > rest:
            break
        clock.jump(max(0.0, step))
        await wait_all_tasks_blocked()
    clock.jump(rest)  # nothing becomes due by that
