"""The table of the queues in an SQLite file: the number and the counters of each queue."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, final

from ..._contracts.states import COUNTERS

if TYPE_CHECKING:
    from .driver import Connection

_COUNTED = (
    *("live", "running", "delayed", "suspended_now", "held_now", "kept_done", "kept_failed", "kept_killed"),
    *COUNTERS,
)

_NONE = -1


@final
class FastPathFailed(Exception):
    """Raised when a batch changed fewer rows than expected, or the rules of a queue are not those that are known: the
    transaction must be made again, an exchange row by row."""


@final
class QueueCounters:
    """The table of the queues, as one connection sees it.

    Counts of a transaction are stored by :meth:`enter_counts`, in one go, before its end. That also finds out whether
    another session has changed the rules of the queue (keys, limits), so nobody has to ask before.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers: dict[str, int] = {}
        self._changes: dict[int, dict[str, int]] = {}
        self.rules: dict[int, int] = {}
        """The number of the latest change of the rules that is known, by queue; 0 or less if there are none now."""
        self.without_rules: set[str] = set()
        """The names of queues that are known to have none."""

    def number(self, name: str) -> int:
        """Return the number of a queue; add a row if the queue is new."""
        if name not in self._numbers:
            self._connection.execute("INSERT INTO trio_tasks_queue (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            self.known(name)
        return self._numbers[name]

    def known(self, name: str) -> int:
        """Return the number of a queue; a number that no queue has, if there is none of this name."""
        number = self._numbers.get(name)
        if number is None:
            rows = self._connection.execute("SELECT num, rules FROM trio_tasks_queue WHERE name = ?", (name,))
            if not rows:
                return _NONE
            number, rules = rows[0]
            self._numbers[name], self.rules[number] = number, _whole(rules)
            if rules <= 0:
                self.without_rules.add(name)
        return number

    def refresh_rules(self, queue: int) -> None:
        """Read the number of the latest change of a queue's rules: for a look, at whose end it is not checked."""
        for (rules,) in self._connection.execute("SELECT rules FROM trio_tasks_queue WHERE num = ?", (queue,)):
            if _whole(rules) != self.rules.get(queue, 0):
                self.rules[queue] = rules
                self._numbers.clear()
                self.without_rules.clear()

    def change_rules(self, queue: int, *, ends: bool = False) -> None:
        """Give a number that was never given to the latest change of a queue's rules; ``ends`` if there are none now.

        Raises:
          FastPathFailed: another session has changed them.
        """
        known = self.rules.get(queue, 0)
        number = -(abs(known) + 1) if ends else abs(known) + 1
        sql = "UPDATE trio_tasks_queue SET rules = ? WHERE num = ? AND rules = ?"
        if self._connection.changed(sql, (number, queue, known)) < 1:
            raise FastPathFailed
        self.rules[queue] = number
        self._numbers.clear()  # they are looked up again
        self.without_rules.clear()

    def count(self, queue: int, **changes: int) -> None:
        """Add to the counts of a queue, to be stored at the end of the transaction."""
        counts = self._changes.get(queue)
        if counts is None:
            self._changes[queue] = changes
            return
        for name, number in changes.items():
            counts[name] = counts.get(name, 0) + number

    def enter_counts(self) -> None:
        """Store what was counted in this transaction.

        Raises:
          FastPathFailed: another session has changed the rules of a queue.
        """
        for queue, counts in self._changes.items():
            parameters = [*counts.values(), queue, self.rules.get(queue, 0)]
            if self._connection.changed(_update_of(tuple(counts)), parameters) < 1:
                self.present(queue)  # else a trigger has had the change ignored
        self._changes.clear()

    def roll_back(self) -> None:
        """Forget the numbers and counts of a transaction that was rolled back."""
        self._numbers.clear()
        self._changes.clear()
        self.rules.clear()
        self.without_rules.clear()

    def counts(self, queue: int) -> dict[str, int]:
        """Return all counts of a queue."""
        rows = self._connection.execute(f"SELECT {', '.join(_COUNTED)} FROM trio_tasks_queue WHERE num = ?", (queue,))
        counts = dict(zip(_COUNTED, map(_whole, rows[0] if rows else [0] * len(_COUNTED)), strict=True))
        return {"waiting": counts.pop("live") - counts["running"] - counts["delayed"], **counts}

    def is_paused(self, queue: int) -> bool:
        """Return True if a queue is paused."""
        rows = self._connection.execute("SELECT paused FROM trio_tasks_queue WHERE num = ?", (queue,))
        return bool(rows and rows[0][0])

    def set_paused(self, queue: int, paused: bool) -> None:
        """Store whether a queue is paused."""
        self._connection.execute("UPDATE trio_tasks_queue SET paused = ? WHERE num = ?", (int(paused), queue))

    def present(self, queue: int) -> tuple[int, int, int]:
        """Return the numbers of unfinished, of running and of held rows of a queue, as they are stored.

        Raises:
          FastPathFailed: another session has changed the rules of the queue.
        """
        sql = "SELECT live, running, held_now, rules FROM trio_tasks_queue WHERE num = ?"
        for live, running, held, rules in self._connection.execute(sql, (queue,)):
            if rules != self.rules.get(queue, 0):
                raise FastPathFailed
            return max(0, _whole(live)), max(0, _whole(running)), max(0, _whole(held))
        return 0, 0, 0

    def names(self) -> list[str]:
        """Return the names of all queues."""
        return [
            text(name)
            for (name,) in self._connection.execute("SELECT name FROM trio_tasks_queue WHERE pushed > 0 ORDER BY name")
        ]


@cache
def _update_of(names: tuple[str, ...]) -> str:
    """The statement that adds to these counts. There are few sets of them, and each binds only what it changes."""
    changes = ", ".join(f"{name} = {name} + ?" for name in names)
    return f"UPDATE trio_tasks_queue SET {changes} WHERE num = ? AND rules = ?"


def _whole(count: object) -> int:
    if not isinstance(count, int):
        raise TypeError(f"a queue has counted {count!r}")
    return count


def text(name: object) -> str:
    """Return a name that was read, or raise if it is not text.

    Raises:
      TypeError: it is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"something is named {name!r}")
    return name
