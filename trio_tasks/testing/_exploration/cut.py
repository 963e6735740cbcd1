"""The argument of a scenario, which marks the blocks to be cancelled; and the blocks that are open."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, final

import trio

from .stacks import below, place_of, places_of_cancellation

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .stacks import Line, Place


@final
class Cut:
    """The argument of a scenario: each run cancels the block ``with cut:`` at another moment.

    >>> async def scenario(cut: Cut) -> None:
    ...     storage = MemoryStorage[int]()
    ...     with cut:
    ...         await storage.push_bulk([1, 2, 3])
    ...     assert storage.statistics().running == 0

    ``with cut("pusher"):`` marks a part by a name, such as a pusher, a worker, or the inside of a handler. Each part is
    cut alone, in runs of its own. A block may be entered several times, in several trio tasks; a cut cancels all blocks
    of one part that are open at that moment. Either form gives the ``trio.CancelScope`` of the block, whose
    ``cancelled_caught`` is True if the cancellation ended the block.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._entered: dict[trio.lowlevel.Task, list[AbstractContextManager[trio.CancelScope]]] = {}

    @property
    def has_come(self) -> bool:
        """True once the block has been cancelled; never in the first run of a scenario."""
        return self._blocks.has_come

    def __call__(self, part: str) -> AbstractContextManager[trio.CancelScope]:
        """Return a block that belongs to the part of this name."""
        if not isinstance(part, str):
            raise TypeError(f"cut(part) takes the name of the part, a text, not {part!r}")
        return self._blocks.block(part)

    def __enter__(self) -> trio.CancelScope:
        block = self._blocks.block("")
        scope = block.__enter__()
        self._entered.setdefault(trio.lowlevel.current_task(), []).append(block)
        return scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        me = trio.lowlevel.current_task()
        entered = self._entered[me]
        block = entered.pop()
        if not entered:
            del self._entered[me]
        return block.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        parts = ", ".join(map(repr, self._blocks.parts))
        return f"<Cut {'that has come' if self.has_come else 'to come'}, open: {parts or 'nothing'}>"


class _Block(NamedTuple):
    """An open ``with cut:`` block."""

    part: str
    scope: trio.CancelScope
    trio_task: trio.lowlevel.Task
    older: list[trio.Nursery]  # nurseries that the trio task had opened before the block

    def trio_tasks(self) -> list[trio.lowlevel.Task]:
        """List the trio tasks that run inside the block."""
        return list(below(self.trio_task, self.older))


@final
class Blocks:
    """The ``with cut:`` blocks that are open now.

    Args:
      on_entry: a function that is called whenever a block is entered, before its first step.
    """

    def __init__(self, on_entry: Callable[[trio.lowlevel.Task], object]) -> None:
        self.has_come = False
        """True once the cancellation has been delivered."""
        self.raised_at: list[Line] = []
        """The lines at which it was raised, so far as that has come out of the blocks."""
        self._open: list[_Block] = []
        self._on_entry = on_entry

    @contextmanager
    def block(self, part: str) -> Generator[trio.CancelScope, None, None]:
        """Open a block that belongs to the part of this name."""
        me = trio.lowlevel.current_task()
        block = _Block(part, trio.CancelScope(), me, list(me.child_nurseries))
        self._open.append(block)
        try:
            self._on_entry(me)
            with block.scope:  # noqa: ASYNC100  what is in the block is the scenario's
                try:
                    yield block.scope
                except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
                    if block.scope.cancel_called:
                        self.raised_at += places_of_cancellation(error)
                    raise
        finally:
            if block in self._open:  # not after `forget`
                self._open.remove(block)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that have an open block."""
        return tuple(sorted({block.part for block in self._open}))

    def cancel(self, part: str) -> None:
        """Cancel all open blocks of this part."""
        self.has_come = True
        for block in self._open:
            if block.part == part:
                block.scope.cancel()

    def forget(self) -> None:
        """Drop all references to blocks whose run broke down."""
        self._open = []

    def contain(self, part: str, task: trio.lowlevel.Task) -> bool:
        """Return True if the trio task runs inside a block of this part."""
        return any(task in block.trio_tasks() for block in self._open if block.part == part)

    def places(self, *parts: str) -> tuple[Place, ...]:
        """List the places of the trio tasks inside these parts, except those that only wait for their children."""
        inside = {task for block in self._open if block.part in parts for task in block.trio_tasks()}
        leaves = [task for task in inside if not any(child in inside for child in [*below(task)][1:])]
        return tuple(sorted((place_of(task) for task in leaves), key=str))
