"""Poll strategies, which decide when to poll again after a poll that found nothing.

>>> backend = CustomBackend(
...     receive=poll(fetch_row, race(OnSignal(rows_changed), Interval(30)))
... )

While there is something, it is fetched without waiting. All times are on trio's clock.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

from .._checks import check_callable, check_seconds
from .._contracts.backend import PollStrategy
from .._printing import quoted
from .._tasks.retry import exponential

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@final
class Interval(PollStrategy):
    """Poll at regular times, ``seconds`` apart.

    The duration of a look does not shift later looks: a look that is missed is left out, and the next one is on time.

    Args:
      seconds: the interval, more than 0.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = check_seconds(seconds, "seconds", positive=True)
        self._last: float | None = None

    async def wait(self) -> None:
        """Wait until the next regular time."""
        now = trio.current_time()
        # The first call, or a call in a later trio run, which has another clock.
        if self._last is None or self._last > now:
            self._last = now
        due = self._last + self._seconds
        if due < now:
            due += math.ceil((now - due) / self._seconds) * self._seconds  # skip the looks that were missed
        await trio.sleep_until(due)
        self._last = due

    def __repr__(self) -> str:
        return f"Interval({self._seconds})"


@final
class Backoff(PollStrategy):
    """Poll ever more rarely while nothing is found, and often again after something was.

    Args:
      first: the seconds before the next look after the first one that found nothing; more than 0.
      factor: the factor by which each further wait is longer; 1 or more.
      maximum: the longest wait, in seconds.
      jitter: the part of each wait, from 0 to 1, of which a random share is taken off, so that not all look at once.
    """

    def __init__(self, first: float = 0.1, *, factor: float = 2.0, maximum: float = 30.0, jitter: float = 0.0) -> None:
        check_seconds(first, "first", positive=True)
        if check_seconds(maximum, "maximum") < first:
            raise ValueError(f"maximum must be {first} seconds or more, as first is, not {quoted(maximum)}")
        self._delay = exponential(first, factor=factor, maximum=maximum, jitter=jitter)
        self._described = f"{first}, factor={factor}, maximum={maximum}, jitter={jitter}"
        self._quiet = 0

    async def wait(self) -> None:
        """Wait for a while, longer each time."""
        self._quiet += 1
        await trio.sleep(self._delay(self._quiet))

    def found(self) -> None:
        """Start again with the shortest wait."""
        self._quiet = 0

    def __repr__(self) -> str:
        return f"Backoff({self._described})"


@final
class OnSignal(PollStrategy):
    """Poll when :meth:`notify` is called.

    A signal that comes while nothing waits is kept, and several of them count as one: there is always a look after the
    last one.

    Args:
      source: the source of signals: an async function without parameters, each return of which is a signal; or a
          ``trio.abc.ReceiveChannel``, each item of which is a signal. The end of the channel is a signal too; after
          it, ``wait`` raises ``trio.EndOfChannel``. Without a source, only :meth:`notify` gives signals.
    """

    def __init__(self, source: trio.abc.ReceiveChannel[Any] | Callable[[], Awaitable[object]] | None = None) -> None:
        if isinstance(source, trio.Event):
            raise TypeError(
                "a trio.Event stays set, so polling would never pause: "
                "use OnSignal() and its notify(), a channel, or an async function"
            )
        if source is None:
            self._wait: Callable[[], Awaitable[object]] = self._wait_notified
        elif isinstance(source, trio.abc.ReceiveChannel):
            self._wait = partial(self._wait_channel, source)
        else:
            self._wait = check_callable(source, "source", "an async function, unless it is a trio.abc.ReceiveChannel")
        self._source: object = source
        self._ended = False
        self._notified = trio.Event()

    def notify(self) -> None:
        """Cause a poll: now, or as soon as the present one is over. From a thread, call it with
        ``trio.from_thread.run_sync``.

        Raises:
          RuntimeError: this one has a source, which alone tells it.
        """
        if self._source is not None:
            raise RuntimeError(f"{self!r} has a source of signals; only an OnSignal() without one can be notified")
        self._notified.set()

    async def wait(self) -> None:
        """Wait for a signal; return at once if one has come since the last poll."""
        await self._wait()

    async def _wait_notified(self) -> None:
        event = self._notified
        await event.wait()
        if self._notified is event:
            self._notified = trio.Event()

    async def _wait_channel(self, channel: trio.abc.ReceiveChannel[Any]) -> None:
        await trio.lowlevel.checkpoint()
        if self._ended:
            raise trio.EndOfChannel
        receive_nowait = getattr(channel, "receive_nowait", None)
        try:
            await channel.receive()
            while receive_nowait is not None:
                receive_nowait()
        except trio.EndOfChannel:
            self._ended = True
        except trio.WouldBlock:
            pass

    def __repr__(self) -> str:
        return f"OnSignal({self._source!r})" if self._source is not None else "OnSignal()"


@final
class _Race(PollStrategy):
    """Several strategies at once, made by :func:`race`."""

    def __init__(self, strategies: tuple[PollStrategy, ...]) -> None:
        self._strategies = strategies

    async def wait(self) -> None:
        """Wait until the first strategy returns, and cancel the others."""
        errors: list[Exception] = []

        async def run(strategy: PollStrategy) -> None:  # noqa: ASYNC910  it is the nursery that checkpoints
            try:
                await strategy.wait()
            except Exception as error:
                errors.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for strategy in self._strategies:
                nursery.start_soon(run, strategy)
        if errors:
            raise errors[0]

    def found(self) -> None:
        """Tell all strategies that a poll found something."""
        for strategy in self._strategies:
            strategy.found()

    def __repr__(self) -> str:
        return f"race({', '.join(map(repr, self._strategies))})"


def race(*strategies: PollStrategy) -> PollStrategy:
    """Combine strategies: poll as soon as one of them says so. ``race(OnSignal(changed), Interval(30))``.

    An error of one of them, the end of a signal's channel included, comes out as it is.
    """
    if not strategies:
        raise TypeError("race needs at least one strategy, such as Interval(5)")
    for strategy in strategies:
        _check_strategy(strategy, "race")
    return _Race(strategies)


def poll(fetch: Callable[[], Awaitable[T | None]], strategy: PollStrategy) -> Callable[[], Awaitable[T]]:
    """Turn a function that polls for a task into one that waits for a task, for ``CustomBackend(receive=…)``.

    Args:
      fetch: ``async () -> Task | args | None``. It looks for a task, and returns None if there is none now. It may
          raise ``trio.EndOfChannel`` when no more will come. If it is cancelled, it must have taken nothing.
      strategy: the strategy that decides when to look again after nothing was found.
    """
    check_callable(fetch, "fetch", "async fetch() -> task, args or None")
    return _Poller(fetch, _check_strategy(strategy, "poll")).receive


@final
class _Poller(Generic[T]):
    """The loop that :func:`poll` makes. There is no checkpoint between fetching something and returning it."""

    def __init__(self, fetch: Callable[[], Awaitable[T | None]], strategy: PollStrategy) -> None:
        self._fetch = fetch
        self._strategy = strategy
        self._quiet = False

    async def receive(self) -> T:
        """Poll until something is found, and return it."""
        while True:
            await trio.lowlevel.checkpoint()
            if self._quiet:
                self._quiet = False  # even if the wait is cancelled, a look follows
                await self._strategy.wait()
            found = await self._fetch()
            if found is not None:
                self._strategy.found()
                return found
            self._quiet = True


def _check_strategy(strategy: object, where: str) -> PollStrategy:
    if not isinstance(strategy, PollStrategy):
        raise TypeError(
            f"{where} takes poll strategies, such as Interval(5), Backoff() or OnSignal(), not {quoted(strategy)}"
        )
    return strategy
