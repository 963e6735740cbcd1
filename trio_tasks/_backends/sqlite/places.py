"""The places of keys in an SQLite file: how many rows of a key are ready or run, and how many more its limits allow.

A row has a *place* (its column ``held`` is 0) from when it becomes ready, or is claimed, until it is settled, put off
or taken away; only rows of keys with limits have one. The index by keys has these rows and the held ones. Nothing in it
tells those that are ready from those that run: so a claim leaves the index as it is.

What has to be known of many keys is read by one statement, whatever their number.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, final

from ..._contracts.fairness import NO_KEY, RateWindow
from ..._contracts.groups import LimitReached
from ..durable.engine import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._tasks.limits import Limits, Rate
    from .counters import QueueCounters
    from .driver import Connection, Row
    from .rules import RulesTable

ABOVE_ALL = 2**63 - 1
_LOOKED_AT = 512
"""Rates that are looked at in one go, since they may say nothing any more."""
_MOST_ASKED = 256
"""Keys that one statement asks for; with more of them there are more statements."""
_ASKED = "WITH asked (key) AS (VALUES {})"
_PLACED = """
(SELECT count(*) FROM (
    SELECT 1 FROM trio_tasks_task WHERE queue = ? AND held = 0 AND key = asked.key LIMIT ?) AS placed)
"""
PLACED = f"{_ASKED} SELECT key, {_PLACED} FROM asked WHERE key NOTNULL"
ROOM = f"""
{_ASKED} SELECT key, {_PLACED}, EXISTS (
    SELECT 1 FROM trio_tasks_task WHERE queue = ? AND key = asked.key AND held = 1)
FROM asked WHERE key NOTNULL
"""
STANDING = f"""
{_ASKED} SELECT asked.key, row.seq, row.priority, row.due IS NOT row.start_by, {_PLACED}, (
    SELECT priority FROM trio_tasks_task WHERE queue = ? AND key = asked.key AND held = 0 ORDER BY priority LIMIT 1)
FROM asked CROSS JOIN trio_tasks_task AS row ON row.seq = (
    SELECT seq FROM trio_tasks_task WHERE queue = ? AND key = asked.key AND held = 1
    ORDER BY priority DESC, order_key LIMIT 1)
"""
ALL_PLACED = "SELECT key FROM trio_tasks_task WHERE queue = ? AND held = 0 LIMIT ?"
RATES = "SELECT key, until <= ? FROM trio_tasks_rate WHERE queue = ? AND key > ? ORDER BY key LIMIT ?"
COUNT_OF_KEY = """
SELECT count(*) FROM (SELECT 1 FROM trio_tasks_task WHERE queue = ? AND key = ? AND held = 0 AND +state = ? LIMIT ?)
"""
FIRST_HELD = """
SELECT seq, priority, order_key, start_by, due FROM trio_tasks_task
WHERE queue = ? AND key = ? AND held = 1 ORDER BY priority DESC, order_key LIMIT ?
"""
LAST_READY = """
SELECT seq, priority, since, order_key FROM trio_tasks_task
WHERE queue = ? AND key = ? AND held = 0 AND +state = 0 ORDER BY priority, order_key DESC LIMIT 1
"""


def for_keys(connection: Connection, sql: str, keys: Sequence[str], *parameters: object) -> list[Row]:
    """Run a statement that asks for keys, and return its rows."""
    found: list[Row] = []
    for start in range(0, len(keys), _MOST_ASKED):
        part = keys[start : start + _MOST_ASKED]
        size = 1 << (len(part) - 1).bit_length()  # so there are few statements
        found += connection.execute(asking(sql, size), (*part, *[None] * (size - len(part)), *parameters))
    return found


@cache
def asking(sql: str, number: int) -> str:
    """Return a statement that asks for so many keys."""
    return sql.format(", ".join(["(?)"] * number))


@final
class PlaceTable:
    """The places of keys, and the attempts that count for rates, as one connection sees them.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      counters: the numbers and counts of the queues.
      rules: the rules of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters, rules: RulesTable) -> None:
        self._connection = connection
        self._counters = counters
        self._rules = rules
        self._windows: dict[tuple[int, str], RateWindow] = {}
        self._new_windows: dict[tuple[int, str], Rate] = {}
        self._last_rate: dict[int, tuple[str]] = {}  # the last one that was looked at

    def forget(self) -> None:
        """Forget what was read in a transaction."""
        self._windows.clear()
        self._new_windows.clear()

    # Many keys

    def standing(self, queue: int, keys: Sequence[str]) -> list[tuple[str, int, int, bool, int, int | None]]:
        """Return the states of those of these keys that have held rows.

        Returns:
          for each, the key; of its first held row the number, the priority, and True if it is due before it expires;
          the number of rows that have a place, and the lowest priority of these.
        """
        return for_keys(self._connection, STANDING, keys, queue, self._most(queue, keys), queue, queue)

    def free(self, queue: int, keys: Sequence[str]) -> Iterable[tuple[str, int]]:
        """Return the number of places that are free for new rows of these keys, which have no rates."""
        for key, placed, has_held in for_keys(self._connection, ROOM, keys, queue, self._most(queue, keys), queue):
            most = self._rules.of_key(queue, key).limits.per_key
            yield key, 0 if has_held or most is None else most - placed

    def exceeding(self, queue: int, limits: dict[str, int]) -> list[str]:
        """Return those of these keys of which more rows have a place than these limits say."""
        if not limits:
            return []
        keys, most = [*limits], min(max(limits.values()), ABOVE_ALL - 1)
        found = for_keys(self._connection, PLACED, keys, queue, most + 1)
        return [key for key, placed in found if placed > limits[key]]

    def are_within_limits(self, queue: int) -> bool:
        """Return True if no more rows of any key have a place than its limit allows; False if they are too many."""
        found = self._connection.execute(ALL_PLACED, (queue, _MOST_ASKED + 1))
        find = self._rules.finder(queue)
        placed = Counter(key for (key,) in found)
        return len(found) <= _MOST_ASKED and all(
            (most := find(key).limits.per_key) is None or number <= most for key, number in placed.items()
        )

    def _most(self, queue: int, keys: Sequence[str]) -> int:
        """Return the highest limit of these keys."""
        find = self._rules.finder(queue)
        return min(max(find(key).limits.per_key or 0 for key in keys), ABOVE_ALL - 1)

    # One key

    def free_of(self, queue: int, key: str, now: float) -> tuple[int, float | None]:
        """Return the number of rows of a key that may become ready now; and, if the rate alone allows none, the moment
        from which on it does.
        """
        limits, is_limited, _ = self._rules.of_key(queue, key)
        if not is_limited:
            return ABOVE_ALL, None
        rate = limits.rate_per_key
        if rate is None:
            most = limits.per_key or 0
            [(_, placed)] = self._connection.execute(asking(PLACED, 1), (key, queue, min(most, ABOVE_ALL)))
            return most - int(placed), None
        idle = self._idle(queue, key, limits)
        window = self.window(queue, key)
        allowed = window.free(rate, now)
        ready = self._count(queue, key, State.WAITING, min(max(0, idle), rate.n))
        is_late = ready < idle and ready >= allowed
        return min(idle, allowed) - ready, window.free_at(rate, ready + 1) if is_late else None

    def may_begin(self, queue: int, key: str, now: float) -> int:
        """Return the number of attempts of a key that may begin now."""
        limits = self._rules.of_key(queue, key).limits
        idle = self._idle(queue, key, limits)
        rate = limits.rate_per_key
        return idle if rate is None else min(idle, self.window(queue, key).free(rate, now))

    def _idle(self, queue: int, key: str, limits: Limits) -> int:
        """Return the number of rows of a key that may run beside those that do."""
        most = limits.per_key
        return ABOVE_ALL if most is None else most - self._count(queue, key, State.RUNNING, most)

    def _count(self, queue: int, key: str, state: State, most: int) -> int:
        """Return the number of rows of a key in a state, which are not counted beyond a number."""
        if not most:
            return 0
        [(number,)] = self._connection.execute(COUNT_OF_KEY, (queue, key, state.value, min(most, ABOVE_ALL)))
        return int(number)

    def first_held(self, queue: int, key: str, number: int) -> list[Row]:
        """Return the first held rows of a key."""
        return self._connection.execute(FIRST_HELD, (queue, key, number))

    def last_ready_below(self, queue: int, key: str, priority: int) -> tuple[int, int, int, int] | None:
        """Return the ready row of a key that would be claimed last, if its priority is lower; with its priority, its
        ``since`` and its tag.
        """
        for seq, lowest, since, tag in self._connection.execute(LAST_READY, (queue, key)):
            if lowest < priority:
                return seq, lowest, since, tag
        return None

    def limit_of(self, queue: int, key: str | None, now: float, *, is_held: bool) -> LimitReached | None:
        """Return the limit that holds a row back: one of its key, or else one of the queue; None if there is none."""
        rules = self._rules.of(queue)
        if key is not None and self._rules.of_key(queue, key).is_limited:
            limits = self._rules.of_key(queue, key).limits
            most, rate = limits.per_key, limits.rate_per_key
            running = 0 if most is None else self._count(queue, key, State.RUNNING, ABOVE_ALL)
            reached = None if rate is None else LimitReached.of_rate(key, rate, self._read_window(queue, key), now)
            if most is not None and (
                running >= most or (is_held and (reached is None or reached.number < reached.limit))
            ):
                return LimitReached("per_key", key, most, running)
            if reached is not None and (is_held or reached.number >= reached.limit):
                return reached
        running = self._counters.present(queue)[1]
        most, rate = rules.limits.concurrency, rules.limits.rate
        if most is not None and running >= most:
            return LimitReached("concurrency", None, most, running)
        reached = None if rate is None else LimitReached.of_rate(None, rate, self._read_window(queue, NO_KEY), now)
        return None if reached is None or reached.number < reached.limit else reached

    # Rates

    def begin(self, queue: int, key: str, rate: Rate, now: float, number: int) -> None:
        """Count attempts that begin, of a key or, with the empty key, of the queue."""
        self.window(queue, key).begin(rate, now, number)
        self._new_windows[queue, key] = rate

    def window(self, queue: int, key: str) -> RateWindow:
        """Return the attempts that have begun of a key, or, with the empty key, of the queue."""
        group = queue, key
        window = self._windows.get(group)
        if window is None:
            window = self._windows[group] = self._read_window(queue, key)
        return window

    def _read_window(self, queue: int, key: str) -> RateWindow:
        sql = "SELECT begun FROM trio_tasks_rate WHERE queue = ? AND key = ?"
        rows = self._connection.execute(sql, (queue, key))
        return RateWindow(json.loads(rows[0][0]) if rows else ())

    def store(self) -> None:
        """Store the attempts that have begun."""
        stored: list[tuple[Any, ...]] = []
        for (queue, key), rate in self._new_windows.items():
            window = self.window(queue, key)
            stored.append((queue, key, window.ends(rate), json.dumps(window.state())))
        if stored:
            sql = "INSERT OR REPLACE INTO trio_tasks_rate (queue, key, until, begun) VALUES (?, ?, ?, ?)"
            self._connection.executemany(sql, stored)

    def drop_idle(self, queue: int, now: float) -> None:
        """Drop some of the rates that are over: without them, all is the same."""
        rates = self._connection.execute(RATES, (now, queue, *self._last_rate.get(queue, (NO_KEY,)), _LOOKED_AT))
        passed = [(queue, key) for key, is_over in rates if is_over]
        self._connection.executemany("DELETE FROM trio_tasks_rate WHERE queue = ? AND key = ?", passed)
        self._last_rate[queue] = rates[-1][:1] if len(rates) == _LOOKED_AT else (NO_KEY,)
