"""Threads simulated in virtual time: the function is called at once, and then time passes.

Under a seed nothing runs in a real thread, and a sync handler takes no time. So that one can be interrupted all the
same, its thread is stood in for here, with the contract of ``trio.to_thread.run_sync``: who waits for it cannot be
cancelled, unless it is to be abandoned; then it goes on by itself.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import trio
import trio_tasks._handlers.adapter
from outcome import capture


class Threads:
    """The simulated threads of a program."""

    def __init__(self) -> None:
        self._lasts = 0.0
        self._ended: list[Callable[[], object]] = []

    @contextmanager
    def in_place_of_real_ones(self) -> Generator[None, None, None]:
        """Run sync handlers in simulated threads inside the block."""
        with (
            patch.object(trio_tasks._handlers.adapter, "pause_instead", lambda: None),
            patch.object(trio.to_thread, "run_sync", self._run_sync),
        ):
            yield

    def last(self, seconds: float, ended: Callable[[], object]) -> None:
        """Say, in a simulated thread, how long it lasts and what is called at its end."""
        self._lasts = seconds
        self._ended.append(ended)

    async def _run_sync(
        self, sync_fn: Callable[[], Any], *, abandon_on_cancel: bool, limiter: trio.CapacityLimiter
    ) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._lasts, self._ended = 0.0, []
        returned = capture(contextvars.copy_context().run, sync_fn)
        seconds, ended, is_over = self._lasts, self._ended, trio.Event()

        async def live() -> None:
            await trio.sleep(seconds)
            for each in ended:
                each()
            is_over.set()

        trio.lowlevel.spawn_system_task(live)
        with trio.CancelScope(shield=not abandon_on_cancel):
            await is_over.wait()
        return returned.unwrap()
