"""What trio tasks wait for while an engine is at work: rows let in, and settlements made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

import trio

if TYPE_CHECKING:
    from ..._tasks.errors import BackendError
    from ..._tasks.task import Parts
    from .engine import NewRow, Settlement
    from .queue import QueueState


@final
class PushRequest:
    """Somebody who waits for rows to be let in."""

    __slots__ = ("is_under_way", "queue", "rows", "trio_task")

    def __init__(self, queue: QueueState, rows: list[NewRow]) -> None:
        self.queue = queue
        self.rows = rows
        self.trio_task = trio.lowlevel.current_task()
        self.is_under_way = False


class Refused(NamedTuple):
    """The answer to a settlement that the store does not take."""

    error: BackendError


class SettleRequest(NamedTuple):
    """Somebody who waits for a settlement; nobody does for those that only give back what was at hand.

    ``holder`` is the slot that waits, if it is one. It is asked whether it will take another task only when the claims
    of the exchange are made: by then it may have been cancelled, or its worker stopped.
    """

    queue: QueueState
    settlement: Settlement
    holder: Any = None
    parts: Parts | None = None
    trio_task: trio.lowlevel.Task | None = None

    @property
    def will_take_more(self) -> bool:
        """True if its slot will come back for another task at once."""
        return self.holder is not None and getattr(self.holder, "will_take_more", False)
