"""The orphans of sessions whose clocks may show another time: they are watched before they are taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .driver import Connection


class Watched(NamedTuple):
    """A claim whose lease is over, unless the clock of its session is behind."""

    token: int
    due: float
    until: float
    """The moment at which it is taken back, unless it was renewed meanwhile."""


@final
class OrphanWatch:
    """Watches the orphans of sessions whose clocks may show another time, for the length of a lease.

    A living session renews its leases three times in that time, whatever its clock shows. So a claim that was not
    renewed is a real orphan.

    Args:
      connection: a connection to the file.
      out_of_step: a function that returns such sessions, and the latest time that each has stored.
    """

    def __init__(self, connection: Connection, out_of_step: Callable[[Connection], dict[int, float]]) -> None:
        self._connection = connection
        self._out_of_step = out_of_step
        self.rows: dict[int, dict[int, Watched]] = {}
        """What is watched, by the queue and by the key of the row: to be looked at, not to be changed."""

    def see(self, queue: int, claims: Sequence[tuple[int, int, float]], now: float, lease: float) -> None:
        """Note all claims of other sessions in this queue whose leases seem to be over: row, token, lease end."""
        before = self.rows.pop(queue, None) or {}
        others = self._out_of_step(self._connection) if claims else {}
        if not others:
            return
        watched: dict[int, Watched] = {}
        for seq, token, due in claims:
            noted = others.get(token >> 32)
            if noted is None:
                continue
            known = before.get(seq)
            if known is None or (known.token, known.due) != (token, due):
                known = Watched(token, due, now + max(lease, due - noted))
            if known.until > now:
                watched[seq] = known
        if watched:
            self.rows[queue] = watched

    def next_end(self, queue: int) -> float:
        """Return the time at which the first watched claim may be taken back."""
        return min(each.until for each in self.rows[queue].values())

    def begin_anew(self) -> None:
        """Restart the time of all watched claims, since nothing was watched for a while."""
        self.rows.clear()
