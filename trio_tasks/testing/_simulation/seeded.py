"""A trio run that is decided by a seed."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.testing import MockClock

from ..._checks import check_count
from ..._clock import wall_now
from ..._concurrency.threads import without_threads
from ..._tasks.task_id import use_ids_from
from .scheduler import seeded_scheduling
from .virtual_time import START, use_clocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

T = TypeVar("T")

_MORE_ROUNDS = (0, 0, 0, 1, 2)
"""Further rounds of the scheduler that work in place of a thread may take."""

_run_lock = threading.Lock()


def run_seeded(
    async_fn: Callable[[Unpack[Ts]], Awaitable[T]],
    *args: Unpack[Ts],
    seed: int,
    instruments: Sequence[trio.abc.Instrument] = (),
    clock: trio.abc.Clock | None = None,
) -> T:
    """Call ``async_fn(*args)`` in a new trio run that the seed decides: the same seed gives the same run.

    >>> run_seeded(my_program, seed=1234)

    The seed decides the following, on every machine and whatever ``PYTHONHASHSEED`` is:

    * the order in which trio runs those trio tasks that are ready;
    * the time: trio's clock starts at 0 and jumps to the next deadline as soon as all trio tasks wait; the wall clock
      that ``run_at`` and ``parts.run_at`` go by starts with the year 2000, in UTC, and goes with it;
    * the ids of new tasks;
    * the module ``random``: the jitter of a backoff, and the numbers that handlers draw from it;
    * the work of the writer threads of :class:`FileStorage` and :class:`SqliteStorage`, if the storage is opened
      inside: the calling trio task does it in place, after one to three rounds of the scheduler. Two storages on one
      file notice each other's changes as on a machine without sockets: they look every ``poll_interval``, of virtual
      time;
    * sync handlers, likewise: such a handler runs in place, takes no virtual time, and nothing else runs meanwhile.
      It cannot use ``trio.from_thread``.

    The seed does not decide:

    * threads of your own (``trio.to_thread``), processes and sockets. The clock jumps over them, since to it they look
      like waiting. A clock with an ``autojump_threshold`` of 0.05 gives them time, but then chance decides their order;
    * values from ``os.urandom``, ``uuid``, ``secrets`` or ``time``;
    * the order of a ``set``.

    Args:
      async_fn: the function; it is called with the arguments that follow.
      seed: a whole number.
      instruments: the instruments for ``trio.run``.
      clock: a clock to use instead of ``MockClock(autojump_threshold=0)``.

    Returns:
      what ``async_fn`` returns; an error that it raises comes out as out of ``trio.run``.

    Raises:
      TypeError: the seed is no whole number.
      RuntimeError: it is called inside a trio run, or while another thread is in a seeded run, since the seed applies
        to the whole process; or this version of trio keeps its generator in another place than earlier versions.

    When it returns or raises, it restores trio's order, ``random``, the clocks and the ids.
    """
    check_count(seed, "seed", minimum=None)
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("run_seeded makes a trio run of its own: call it outside of trio, from a plain function")
    if not _run_lock.acquire(blocking=False):
        raise RuntimeError("another seeded run is under way in this process: there can be one at a time")
    try:
        clock = MockClock(autojump_threshold=0) if clock is None else clock
        with seeded_process(seed, clock):
            return trio.run(async_fn, *args, clock=clock, instruments=instruments)
    finally:
        _run_lock.release()


@contextmanager
def seeded_process(seed: int, clock: trio.abc.Clock) -> Generator[None, None, None]:
    """Make everything outside of the trio run depend on the seed: random numbers, task ids and threads. Each decision
    has a generator of its own, so they are independent.
    """

    disk = random.Random(f"disk {seed}")

    async def pause() -> None:
        await trio.lowlevel.checkpoint()
        for _ in range(disk.choice(_MORE_ROUNDS)):
            await trio.lowlevel.checkpoint()

    with ExitStack() as stack:
        stack.enter_context(seeded_scheduling(f"schedule {seed}"))
        stack.enter_context(use_clocks(clock, START.timestamp()))
        stack.enter_context(use_ids_from(random.Random(f"ids {seed}"), lambda: int(wall_now().timestamp() * 1e9)))
        stack.enter_context(without_threads(pause))
        stack.callback(random.setstate, random.getstate())
        random.seed(f"random {seed}")
        yield
