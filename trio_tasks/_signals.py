"""Signals for a monitor: the first one shuts down gracefully, the second one cancels.

What comes later must not hurt. A further SIGTERM is kept until the stores of this run are closed, and is delivered
then. A further SIGINT ends the process only if nothing else can: a thread goes on in spite of the cancellation, and the
log has named it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, final

import trio

from ._contracts.open_stores import are_some_open, wait_all_closed
from ._logging import catch_errors, log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

INTERRUPTED = 130
"""The exit status of a process that Ctrl-C has ended."""


class Ending(Protocol):
    """The part of a monitor's run that signals need. It is a protocol since ``_monitor`` imports this module."""

    def shut_down(self) -> None:
        """Stop all intake."""

    def cancel(self) -> None:
        """Cancel what runs."""

    def name_stuck_threads(self) -> bool:
        """Name the threads that go on after the cancellation; whether there are some, and the log had named them
        already."""
        ...


def usual_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a program to end, on this system."""
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def check_signals(signals: Iterable[int]) -> tuple[signal.Signals, ...]:
    """Several signals, which exist here."""
    try:
        return tuple(map(signal.Signals, signals))
    except (TypeError, ValueError) as error:
        raise TypeError(f"signals must be several of signal.Signals, such as (signal.SIGTERM,): {error}") from None


@final
class heeding_signals:  # noqa: N801  it is used as trio.open_signal_receiver is
    """Have signals end a run of a monitor inside the block, and do nothing else.

    Args:
      signals: which; none of them is no mistake.
      run: what they end.

    Raises:
      RuntimeError: this is not the main thread, which alone can have handlers of signals.
    """

    def __init__(self, signals: tuple[signal.Signals, ...], run: Ending) -> None:
        self._signals = signals
        self._run = run
        self._heard = 0
        self._kept: list[int] = []
        self._handlers: dict[int, Any] = {}  # those from before
        self._token: trio.lowlevel.TrioToken

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> None:
        if self._signals and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals can be handled in the main thread only: call monitor.shutdown() where you do")
        self._token = trio.lowlevel.current_trio_token()
        for earlier in tuple(_keeping):
            earlier.give_up(self)
        for each in self._signals:
            self._handlers[each] = signal.signal(each, self._receive)

    @trio.lowlevel.enable_ki_protection
    def __exit__(self, *error: object) -> None:
        if self._heard and are_some_open():
            self._restore(signal.SIGINT)  # closing what is open can be interrupted as it always can
            _keeping.add(self)
            trio.lowlevel.spawn_system_task(self._keep)
        else:
            self._end()

    async def _keep(self) -> None:
        """Keep the signals that are left until the stores are closed, or this run of trio ends."""
        try:
            await wait_all_closed()
        finally:
            self._end()

    def _end(self) -> None:
        _keeping.discard(self)
        self._restore(*self._handlers)
        kept, self._kept = self._kept, []
        for each in kept:
            signal.raise_signal(each)

    def give_up(self, successor: heeding_signals) -> None:
        """Leave the signals to another run of a monitor."""
        _keeping.discard(self)
        self._restore(*self._handlers)
        kept, self._kept = self._kept, []
        for each in kept:
            successor._receive(each, None)

    def _restore(self, *signals: int) -> None:
        for each in signals:
            before = self._handlers.pop(each, None)
            if signal.getsignal(each) == self._receive:
                signal.signal(each, signal.SIG_DFL if before is None else before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Leave a note that a signal has come: this is called between any two steps of the main thread."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._heed, number)

    def _heed(self, number: int) -> None:
        self._heard += 1
        name = signal.Signals(number).name
        if self._heard == 1:
            log.info("%s: shutting down; a second signal cancels what runs", name)
            self._run.shut_down()
        elif self._heard == 2:
            log.info("%s: cancelling what runs", name)
            self._run.cancel()
        elif number != signal.SIGINT:
            self._kept.append(number)
        elif self._run.name_stuck_threads():
            _exit_at_once()


_keeping: set[heeding_signals] = set()


def _exit_at_once() -> None:
    """End the process, threads and all; what is written is flushed first."""
    log.error("SIGINT: threads that cannot be cancelled go on, so the process ends, with status %d", INTERRUPTED)
    with catch_errors():
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with catch_errors():
            stream.flush()
    os._exit(INTERRUPTED)
