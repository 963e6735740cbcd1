"""Lending of slots: an attempt that waits for another task lets its worker run another one meanwhile.

The trio task that runs a handler is known here by its slot, for as long as the slot lasts. So a wait that happens in
it, and not in a child or a thread, finds the slot, and lends it until the wait is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import trio

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from typing_extensions import Self

    from .._tasks.task import Task


class LendingSlot(Protocol):
    """The interface of a slot that can be lent while its attempt waits."""

    worker: str
    """The name of its worker."""

    @property
    def attempted(self) -> str | None:
        """The id of the task whose attempt runs in the slot; None if there is none."""
        ...

    @property
    def waits_for(self) -> Collection[str] | None:
        """The ids of the tasks that the attempt in the slot waits for; None if it does not wait."""
        ...

    def lend(self, waits_for: Collection[str], what: str) -> None:
        """Lend the slot to another attempt until :meth:`reclaim`."""
        ...

    def reclaim(self) -> None:
        """Note that the wait is over; the attempt goes on at once."""
        ...


@runtime_checkable
class LendingGate(Protocol):
    """A gate that can lend the room of an attempt while the attempt waits."""

    def lend(self, task: Task[Any]) -> None:
        """Let other attempts use the room of this one until :meth:`reclaim`. It may have none."""
        ...

    def reclaim(self, task: Task[Any]) -> None:
        """Give the attempt its room again; it goes on at once, even if that exceeds the limit for a while."""
        ...


SLOTS: dict[trio.lowlevel.Task, LendingSlot] = {}
"""The slots of all workers of this process, by the trio task in which their attempts run."""


@final
class Loan:
    """A block in which an attempt waits: its slot is lent from :meth:`begin` to the end of the block.

    Args:
      waits_for: the ids of the tasks that are waited for; empty if it is something else.
      what: a description of what the attempt waits for.
    """

    __slots__ = ("_slot", "_waits_for", "_what")

    def __init__(self, waits_for: Collection[str], what: str) -> None:
        self._waits_for = waits_for
        self._what = what
        self._slot: LendingSlot | None = None

    def begin(self) -> None:
        """Lend the slot, if this trio task runs an attempt; a second call does nothing."""
        if self._slot is None and (slot := SLOTS.get(trio.lowlevel.current_task())) is not None:
            self._slot = slot
            slot.lend(self._waits_for, self._what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._slot is not None:
            self._slot.reclaim()


def is_attempted(ids: Collection[str]) -> bool:
    """Return True if a slot in this process attempts one of these tasks, and its attempt does not wait itself."""
    return any(slot.attempted in ids and slot.waits_for is None for slot in SLOTS.values())
