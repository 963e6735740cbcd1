"""Slots that are lent: an attempt that waits for another task does not keep that task from running.

The trio task that runs a handler is known here by its slot, for as long as the slot lasts. So a wait that happens in
it, and not in a child or a thread, finds the slot, and lends it until the wait is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import trio

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from .._tasks.task import Task


class LendingSlot(Protocol):
    """A slot, as those see it for whom its attempt waits."""

    worker: str
    """The name of its worker."""

    @property
    def attempted(self) -> str | None:
        """The id of the task that is attempted in it now; None if there is none."""
        ...

    @property
    def waits_for(self) -> str | None:
        """The id of the task that its attempt waits for; None if it does not wait for one."""
        ...

    def lend(self, waits_for: str, what: str) -> None:
        """Lend the slot until :meth:`reclaim`."""
        ...

    def reclaim(self) -> None:
        """Take note that the wait is over; the attempt goes on at once."""
        ...


@runtime_checkable
class LendingGate(Protocol):
    """A layer that can lend the place that an attempt has in it."""

    def lend(self, task: Task[Any]) -> None:
        """Let another attempt have the places of this one, until :meth:`reclaim`. It may have none."""
        ...

    def reclaim(self, task: Task[Any]) -> None:
        """Give the attempt its places again: it goes on, even if that makes it one too many for a while."""
        ...


SLOTS: dict[trio.lowlevel.Task, LendingSlot] = {}
"""The slots of all workers of this process, by the trio task in which their attempts run."""


@final
class Loan:
    """The slot of the attempt that waits in the block, if it is one; lent from :meth:`begin` to the end of the block.

    Args:
      waits_for: the id of the task that is waited for; empty if it is something else.
      what: that is waited for, in words.
    """

    __slots__ = ("_slot", "_waits_for", "_what")

    def __init__(self, waits_for: str, what: str) -> None:
        self._waits_for = waits_for
        self._what = what
        self._slot: LendingSlot | None = None

    def begin(self) -> None:
        """Lend the slot, since the wait begins; called again, it does nothing."""
        if self._slot is None and (slot := SLOTS.get(trio.lowlevel.current_task())) is not None:
            self._slot = slot
            slot.lend(self._waits_for, self._what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._slot is not None:
            self._slot.reclaim()


def is_attempted(task_id: str) -> bool:
    """Return True if a slot of this process attempts this task, and does not wait itself."""
    return any(slot.attempted == task_id and slot.waits_for is None for slot in SLOTS.values())
