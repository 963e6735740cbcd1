"""Signal handling for a monitor: the first signal shuts down gracefully, the second one cancels.

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
    """The interface of a monitor's run that signals need. It is a protocol since ``_monitor`` imports this module."""

    def shut_down(self) -> None:
        """Stop the intake of all workers."""

    def cancel(self) -> None:
        """Cancel all workers."""

    def name_stuck_threads(self) -> bool:
        """Log the threads that go on after the cancellation; return whether there are any, and whether the log had
        named them.
        """
        ...


def usual_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a program to end, on this system."""
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def check_signals(signals: Iterable[int]) -> tuple[signal.Signals, ...]:
    """Check the signals given; return them as a tuple."""
    try:
        return tuple(map(signal.Signals, signals))
    except (TypeError, ValueError) as error:
        raise TypeError(f"signals must be several of signal.Signals, such as (signal.SIGTERM,): {error}") from None


@final
class handling_signals:  # noqa: N801  it is used as trio.open_signal_receiver is
    """Let signals end a run of a monitor inside the block.

    Args:
      signals: the signals to handle; there may be none.
      run: the run that they end.

    Raises:
      RuntimeError: this is not the main thread, which alone can have handlers of signals.
    """

    def __init__(self, signals: tuple[signal.Signals, ...], run: Ending) -> None:
        self._signals = signals
        self._run = run
        self._heard = 0
        self._kept: list[int] = []
        self._handlers: dict[int, Any] = {}  # the handlers to restore
        self._token: trio.lowlevel.TrioToken

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> None:
        if self._signals and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "signals can be handled only in the main thread: run the monitor there, or call monitor.shutdown()"
            )
        self._token = trio.lowlevel.current_trio_token()
        for earlier in tuple(_keeping):
            earlier.give_up(self)
        for each in self._signals:
            self._handlers[each] = signal.signal(each, self._receive)

    @trio.lowlevel.enable_ki_protection
    def __exit__(self, *error: object) -> None:
        if self._heard and are_some_open():
            self._restore(signal.SIGINT)  # so that Ctrl+C interrupts the closing of stores
            _keeping.add(self)
            trio.lowlevel.spawn_system_task(self._keep)
        else:
            self._end()

    async def _keep(self) -> None:
        """Keep handling the remaining signals until the stores are closed or the trio run ends."""
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

    def give_up(self, successor: handling_signals) -> None:
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
        """Note that a signal has come; Python may call this between any two instructions of the main thread."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._handle, number)

    def _handle(self, number: int) -> None:
        self._heard += 1
        name = signal.Signals(number).name
        if self._heard == 1:
            log.info("%s: shutting down; a second signal cancels the running attempts", name)
            self._run.shut_down()
        elif self._heard == 2:
            log.info("%s: cancelling the running attempts", name)
            self._run.cancel()
        elif number != signal.SIGINT:
            self._kept.append(number)
        elif self._run.name_stuck_threads():
            _exit_at_once()


_keeping: set[handling_signals] = set()


def _exit_at_once() -> None:
    """End the process at once, threads included, after flushing its output."""
    log.error(
        "SIGINT: threads that cannot be cancelled are still running: ending the process with status %d", INTERRUPTED
    )
    with catch_errors():
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with catch_errors():
            stream.flush()
    os._exit(INTERRUPTED)
