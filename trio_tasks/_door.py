"""The way in: whether a worker may take tasks, and the scopes in which its seats wait for one.

What ``close`` and ``pause`` cancel is the waiting, never an attempt.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Generator


@final
class Door:
    """Open, shut for a while (paused), or closed for good. It starts open."""

    __slots__ = ("_opened", "_scopes", "closed", "paused", "waiting")

    def __init__(self) -> None:
        self.closed = False
        self.paused = False
        self.waiting = 0
        """How many seats wait for a task, or for the door to be opened again."""
        self._opened = trio.Event()
        self._opened.set()
        self._scopes: set[trio.CancelScope] = set()

    @property
    def is_open(self) -> bool:
        """Whether tasks may be taken now."""
        return not (self.closed or self.paused)

    def enter(self, scope: trio.CancelScope) -> None:
        """A seat begins to wait, in this scope, which :meth:`close` and :meth:`pause` cancel until it leaves."""
        self._scopes.add(scope)
        self.waiting += 1

    def leave(self, scope: trio.CancelScope) -> None:
        """It does not wait any more."""
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
        self._send_away()

    def pause(self) -> None:
        """Let nobody in until :meth:`resume`."""
        if not self.paused:
            self.paused = True
            self._opened = trio.Event()
            self._send_away()

    def resume(self) -> None:
        """Let tasks in again."""
        self.paused = False
        self._opened.set()

    def _send_away(self) -> None:
        for scope in self._scopes:
            scope.cancel()
