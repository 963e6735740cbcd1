"""The argument of a scenario, which marks the blocks to be cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .blocks import Blocks


@final
class Cut:
    """The argument of a scenario: each run cancels the block ``with cut:`` at another moment.

    >>> async def scenario(cut: Cut) -> None:
    ...     storage = MemoryStorage[int]()
    ...     with cut:
    ...         await storage.push_bulk([1, 2, 3])
    ...     assert storage.statistics().running == 0

    ``with cut("pusher"):`` marks a part that is cut alone, as another part may be, each for itself: a pusher, a worker,
    the inside of a handler. A block may be entered several times, in several trio tasks; what is cut are all blocks of
    one part that are open at that moment. Either form gives the ``trio.CancelScope`` of the block, whose
    ``cancelled_caught`` says whether it was left early.
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
