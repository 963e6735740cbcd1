"""The state of intake: open, paused, closed or cancelled, and the scopes in which slots wait for a task.

What ``close`` and ``pause`` cancel is the waiting, never an attempt.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@final
class Door:
    """Open, shut for a while (paused), or closed for good. It starts open.

    Attributes:
      is_open: whether tasks may be taken now. A plain attribute, since it is read for each task.
      closed: whether it was closed for good.
      paused: whether it is shut until :meth:`resume`.
      cancelled: whether a cancellation from outside has reached the worker.
      on_close: called when it is closed, if given.
    """

    __slots__ = ("_opened", "_scopes", "cancelled", "closed", "is_open", "on_close", "paused", "waiting", "was_closed")

    def __init__(self) -> None:
        self.is_open = True
        self.closed = False
        self.paused = False
        self.cancelled = False
        self.on_close: Callable[[], object] | None = None
        self.waiting = 0
        """How many seats wait for a task, or for the door to be opened again."""
        self.was_closed = trio.Event()
        self._opened = trio.Event()
        self._opened.set()
        self._scopes: set[trio.CancelScope] = set()

    def enter(self, scope: trio.CancelScope) -> None:
        """A seat begins to wait, in this scope, which :meth:`close` and :meth:`pause` cancel until it leaves."""
        self._scopes.add(scope)
        self.waiting += 1

    def leave(self, scope: trio.CancelScope) -> None:
        """Note that it does not wait any more."""
        self._scopes.discard(scope)
        self.waiting -= 1

    @contextmanager
    def wait(self) -> Generator[None, None, None]:
        """The block may be cut short, silently, by :meth:`close` and :meth:`pause`; so look afterwards."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def wait_open(self) -> None:
        """Return once the door is not paused."""
        await self._opened.wait()

    def close(self) -> None:
        """Let nobody in any more."""
        self.closed = True
        self.is_open = False
        self.was_closed.set()
        self._send_away()
        if self.on_close is not None:
            self.on_close()

    def cancel(self) -> None:
        """Let nobody in any more, since the worker was cancelled. Slots that wait are cancelled with it, so nobody has
        to be sent away; the others find the cancellation at :meth:`wait_cancelled`."""
        self.cancelled = True
        self.is_open = False

    async def wait_cancelled(self) -> None:
        """Let the cancellation that :meth:`cancel` told of be delivered to a slot that is between two tasks."""
        await trio.sleep_forever()

    def pause(self) -> None:
        """Let nobody in until :meth:`resume`."""
        if not self.paused:
            self.paused = True
            self.is_open = False
            self._opened = trio.Event()
            self._send_away()

    def resume(self) -> None:
        """Let tasks in again."""
        self.paused = False
        self.is_open = not (self.closed or self.cancelled)
        self._opened.set()

    def _send_away(self) -> None:
        for scope in self._scopes:
            scope.cancel()
