"""The claims that are left alone for a while though their leases seem to be over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .driver import Connection
    from .task_table import Due


class Watched(NamedTuple):
    """A claim whose lease is over, unless the clock of its session is behind."""

    token: int
    due: float
    until: float
    """The moment at which it is taken back, unless it was renewed meanwhile."""


@final
class OrphanWatch:
    """Watches claims of sessions whose clocks may show another time, for as long as a lease: the living renew theirs
    three times meanwhile, whatever time they take it to be.

    Args:
      connection: to the file.
      out_of_step: returns such sessions, and the time that each has noted last.
    """

    def __init__(self, connection: Connection, out_of_step: Callable[[Connection], dict[int, float]]) -> None:
        self._connection = connection
        self._out_of_step = out_of_step
        self._watched: dict[int, dict[int, Watched]] = {}  # by queue, and key of the row

    def see(self, queue: int, rows: Sequence[Due], now: float, lease: float) -> None:
        """Note the claims of others in this queue whose leases are over; these are all of them."""
        before = self._watched.pop(queue, None) or {}
        others = self._out_of_step(self._connection) if rows else {}
        if not others:
            return
        watched: dict[int, Watched] = {}
        for row in rows:
            noted = others.get(row.token >> 32)
            if noted is None:
                continue
            known = before.get(row.seq)
            if known is None or (known.token, known.due) != (row.token, row.due):
                known = Watched(row.token, row.due, now + max(lease, row.due - noted))
            if known.until > now:
                watched[row.seq] = known
        if watched:
            self._watched[queue] = watched

    def rows(self, queue: int) -> list[int]:
        """The keys of the rows in this queue that are left alone."""
        return [*self._watched.get(queue, ())]

    def next_end(self, queue: int) -> float:
        """When the first of these may be taken back."""
        return min(each.until for each in self._watched[queue].values())

    def begin_anew(self) -> None:
        """Time has passed in which nothing was watched."""
        self._watched.clear()
