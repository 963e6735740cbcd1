"""Whose turn it is in an SQLite file: the tags of rows, the virtual time of each priority, and the turns of each key.

See :mod:`trio_tasks._contracts.fairness`. What is read is kept until the end of the transaction, and stored then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from ..._contracts.fairness import FIRST_TAG, NO_KEY
from .places import ABOVE_ALL, for_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .driver import Connection
    from .rules import RulesTable

_MOST_IDLE = 256
"""Turns that are stored between two looks for those that are over,"""
_LOOKED_AT = 512
"""and the number of those that are looked at."""
_REWEIGHED = 2_000
"""Ready rows that one transaction looks at to find those of a key whose weight was changed."""
_BELOW_ALL = -(2**63)
TURNS = """
SELECT priority, key, finish <= (
    SELECT passed FROM trio_tasks_virtual_time AS time WHERE time.queue = turn.queue AND time.priority = turn.priority)
FROM trio_tasks_turn AS turn WHERE queue = ? AND (priority, key) > (?, ?) ORDER BY priority, key LIMIT ?
"""
TURN_ENDS = """
WITH asked (key) AS (VALUES {})
SELECT asked.key, finish, gone_from, gone_to, same_from FROM asked CROSS JOIN trio_tasks_turn AS turn
ON turn.queue = ? AND turn.priority = ? AND turn.key = asked.key
"""
_SET_TURN = """
INSERT OR REPLACE INTO trio_tasks_turn (queue, priority, key, finish, gone_from, gone_to, same_from)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
NEXT_LEVEL = "SELECT max(priority) FROM trio_tasks_task WHERE queue = ? AND state = 0 AND priority < ?"
_READY = """
SELECT order_key, seq, key FROM trio_tasks_task WHERE queue = ? AND state = 0 AND priority = ? AND order_key < 0
AND (order_key, seq) {} (?, ?) ORDER BY order_key {}, seq {} LIMIT ?
"""
READY_AFTER = _READY.format(">", "ASC", "ASC")
READY_BEFORE = _READY.format("<", "DESC", "DESC")
_RETAG = "UPDATE trio_tasks_task SET order_key = ? WHERE seq = ?"
DROP_TURNS = """
DELETE FROM trio_tasks_turn WHERE queue = ? AND (priority, key) IN (
    SELECT priority, key FROM trio_tasks_turn WHERE queue = ? LIMIT ?)
"""
_OTHER_COST = """
UPDATE trio_tasks_turn SET same_from = finish, gone_from = NULL, gone_to = NULL WHERE queue = ?
"""
END_TURNS = "UPDATE trio_tasks_virtual_time SET passed = finish WHERE queue = ? AND passed < finish"


@final
class _Time:
    """The virtual time of a priority: the tag of the row that was claimed last; and the latest end of a turn."""

    __slots__ = ("finish", "is_new", "passed")

    def __init__(self, passed: int, finish: int) -> None:
        self.passed = passed
        self.finish = finish
        self.is_new = False


class Reweighing(NamedTuple):
    """How far the ready rows of a key have been given tags by its new weight."""

    key: str
    was: int
    """The length of a turn before,"""
    cost: int
    """and from now on."""
    priority: int = ABOVE_ALL
    """The priority that was looked at last,"""
    at: tuple[int, int] | None = None
    """and the row in it; None: all."""
    base: int = FIRST_TAG
    """If turns are shorter now, the end of the latest one; else the tag from which on they are longer."""


@final
class TurnTable:
    """The turns, as one connection sees them.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      rules: the rules of the queues, which have the weights of keys.
    """

    def __init__(self, connection: Connection, rules: RulesTable) -> None:
        self._connection = connection
        self._rules = rules
        self._times: dict[tuple[int, int], _Time] = {}  # by queue and priority
        self._finish: dict[tuple[int, int, str], int] = {}  # new ends of turns, by queue, priority and key
        self._ends: dict[tuple[int, int, str], int] = {}  # those that were read
        self._gone: dict[tuple[int, int, str], tuple[int, int]] = {}  # by turn: tags between which all rows have left
        self._same_from: dict[
            tuple[int, int, str], int
        ] = {}  # by turn: the first tag from which on turns have one length
        self._stored: dict[int, int] = {}  # turns that were stored since those were looked for that are over
        self._last: dict[int, tuple[int, str]] = {}  # the last one that was looked at

    def store(self) -> list[int]:
        """Store virtual times and turns; return the queues of which many turns were stored, and some dropped."""
        times = [(*level, time.passed, time.finish) for level, time in self._times.items() if time.is_new]
        if times:
            sql = "INSERT OR REPLACE INTO trio_tasks_virtual_time (queue, priority, passed, finish) VALUES (?, ?, ?, ?)"
            self._connection.executemany(sql, times)
        if not self._finish:
            return []
        none, same_from = (None, None), self._same_from
        turns = [(*turn, end, *self._gone.get(turn, none), same_from.get(turn)) for turn, end in self._finish.items()]
        self._connection.executemany(_SET_TURN, turns)
        return [queue for queue in {turn[0] for turn in self._finish} if self._drop_idle(queue)]

    def forget(self) -> None:
        """Forget what was read or noted in a transaction."""
        for kept in (self._times, self._finish, self._ends, self._gone, self._same_from):
            kept.clear()

    def next_tag(self, queue: int, priority: int, key: str, *, is_last: bool = False) -> int:
        """Return the tag of a row that becomes ready, and count its turn.

        Of rows with the same tag, the one that was pushed first goes first; with ``is_last``, this one goes last.
        """
        turn = queue, priority, key
        finish = self._turn_end(turn)
        time = self._time(queue, priority)
        tag = max(time.passed + is_last, finish)
        finish = self._finish[turn] = tag + self._rules.finder(queue)(key).cost
        if finish > time.finish:
            time.finish, time.is_new = finish, True
        return tag

    def give_back(self, queue: int, priority: int, key: str, tag: int) -> None:
        """Let a key have the turn of a row again that is going to leave without having been claimed.

        1. It is the last one: the next row of the key gets its tag.
        2. Rows come after it, and those that become ready later must not go before these. The tags of rows that left
           one after the other are remembered, and are free once the rows after them have left, too.
        3. The weight was changed after it became ready: it is not known where its turn ends.
        """
        turn = queue, priority, key
        finish, end = self._turn_end(turn), tag + self._rules.of_key(queue, key).cost
        if end > finish or tag < self._same_from.get(turn, FIRST_TAG):
            return
        gone = self._gone.get(turn)
        if end == finish:
            finish = tag
            if gone is not None and gone[1] == tag:
                finish = self._gone.pop(turn)[0]
        elif gone is not None and tag == gone[1]:
            self._gone[turn] = gone[0], end
        elif gone is not None and end == gone[0]:
            self._gone[turn] = tag, gone[1]
        else:
            self._gone[turn] = tag, end
        self._finish[turn] = finish

    def _turn_end(self, turn: tuple[int, int, str]) -> int:
        """Return the end of the latest turn of a key in a priority."""
        finish = self._finish.get(turn)
        if finish is None:
            finish = self._ends.get(turn)
        if finish is None:
            queue, priority, key = turn
            self._read_turns(queue, priority, [key])
            finish = self._ends[turn]
        return finish

    def _read_turns(self, queue: int, priority: int, keys: Sequence[str]) -> None:
        """Read the ends of the latest turns of keys in a priority."""
        self._ends.update(((queue, priority, key), FIRST_TAG) for key in keys)
        found = for_keys(self._connection, TURN_ENDS, keys, queue, priority)
        for key, finish, first, last, same_from in found:
            turn = queue, priority, key
            self._ends[turn] = finish
            if first is not None:
                self._gone[turn] = first, last
            if same_from is not None:
                self._same_from[turn] = same_from

    def _time(self, queue: int, priority: int) -> _Time:
        """Return the virtual time of a priority."""
        level = queue, priority
        time = self._times.get(level)
        if time is None:
            sql = "SELECT passed, finish FROM trio_tasks_virtual_time WHERE queue = ? AND priority = ?"
            rows = self._connection.execute(sql, level)
            time = self._times[level] = _Time(*rows[0]) if rows else _Time(FIRST_TAG, FIRST_TAG)
        return time

    def pass_to(self, queue: int, priority: int, tag: int) -> None:
        """Note that a row with this tag was claimed."""
        time = self._time(queue, priority)
        if time.passed < tag:
            time.passed, time.is_new = tag, True

    def end_all(self, queue: int) -> None:
        """Note that no row is ready: all turns are over, whoever had them."""
        self._connection.execute(END_TURNS, (queue,))
        for level, time in self._times.items():
            if level[0] == queue:
                time.passed = time.finish

    def expect(self, queue: int, turns: Iterable[tuple[int, str]]) -> None:
        """Read the ends of these turns at once."""
        by_priority: dict[int, list[str]] = {}
        for priority, key in turns:
            if (queue, priority, key) not in self._ends:
                by_priority.setdefault(priority, []).append(key)
        for priority, keys in by_priority.items():
            self._read_turns(queue, priority, keys)

    # Changed weights

    def note_other_cost(self, queue: int) -> None:
        """Note that turns of rows that wait have another length than those that are given from now on."""
        self._connection.execute(_OTHER_COST, (queue,))

    def reweigh(self, queue: int, left: Reweighing) -> Reweighing | None:
        """Give new tags to some ready rows of a key whose weight was changed; return what is left to do.

        The rows keep their order, and rows that become ready meanwhile come after them:

        1. If turns are shorter now, rows go to the front, the first one first, and the end of the last turn follows
           when all of a priority have. Until then new rows come behind the last one, and are given new tags after it.
        2. If turns are longer, rows go back, the last one first; the end of the last turn has gone before.
        """
        most = _REWEIGHED
        if self._rules.of_key(queue, left.key).cost != left.cost:  # it was changed again
            return None
        while most > 0:
            if left.at is None:
                [(priority,)] = self._connection.execute(NEXT_LEVEL, (queue, left.priority))
                if priority is None:
                    return None
                left = self._begin_level(queue, left._replace(priority=priority))
            sql = READY_AFTER if left.cost < left.was else READY_BEFORE
            rows = self._connection.execute(sql, (queue, left.priority, *(left.at or ()), most))
            left = self._retag(queue, left, [(tag, seq) for tag, seq, key in rows if key == left.key])
            if len(rows) == most and self._has_more(queue, left, rows[-1][0]):
                return left._replace(at=tuple(rows[-1][:2]))
            most -= len(rows)
            left = self._end_level(queue, left)
        return left

    def _has_more(self, queue: int, left: Reweighing, tag: int) -> bool:
        """Return True if there may be rows of the key beyond this tag that have to be given new ones."""
        if left.cost < left.was:
            return tag < self._turn_end((queue, left.priority, left.key))
        return tag > left.base

    def _begin_level(self, queue: int, left: Reweighing) -> Reweighing:
        turn, time = (queue, left.priority, left.key), self._time(queue, left.priority)
        was = finish = self._turn_end(turn)
        if left.cost > left.was and finish > time.passed:
            finish = time.passed + (finish - time.passed) * left.cost // left.was
        if finish > time.finish:
            time.finish, time.is_new = finish, True
        self._gone.pop(turn, None)
        self._finish[turn] = self._same_from[turn] = finish
        if left.cost < left.was:
            return left._replace(at=(_BELOW_ALL, 0), base=FIRST_TAG)
        return left._replace(at=(was, 0), base=time.passed)

    def _retag(self, queue: int, left: Reweighing, rows: Sequence[tuple[int, int]]) -> Reweighing:
        """Give new tags to rows, each of which comes with its tag."""
        passed, base = self._time(queue, left.priority).passed, left.base
        tags: list[tuple[int, int]] = []
        for tag, seq in rows:
            if left.cost < left.was:
                new = min(tag, max(passed, base))
                base = new + left.cost
            else:
                new = tag if tag <= base else base + (tag - base) * left.cost // left.was
            tags.append((new, seq))
        self._connection.executemany(_RETAG, tags)
        return left._replace(base=base)

    def _end_level(self, queue: int, left: Reweighing) -> Reweighing:
        turn = queue, left.priority, left.key
        finish = self._turn_end(turn)
        if FIRST_TAG < left.base < finish and left.cost < left.was:
            finish = left.base
        self._finish[turn] = finish
        self._same_from.pop(turn, None)
        return left._replace(at=None)

    def drop(self, queue: int) -> bool:
        """Drop turns of a queue that has no rows; return True if none is left."""
        return self._connection.changed(DROP_TURNS, (queue, queue, _LOOKED_AT)) < _LOOKED_AT

    def _drop_idle(self, queue: int) -> bool:
        """Drop some of the turns that are over, if many were stored: without them, all is the same."""
        self._stored[queue] = self._stored.get(queue, 0) + sum(turn[0] == queue for turn in self._finish)
        if self._stored[queue] < _MOST_IDLE:
            return False
        self._stored[queue] = 0
        turns = self._connection.execute(TURNS, (queue, *self._last.get(queue, (_BELOW_ALL, NO_KEY)), _LOOKED_AT))
        over = [(queue, priority, key) for priority, key, is_over in turns if is_over]
        sql = "DELETE FROM trio_tasks_turn WHERE queue = ? AND priority = ? AND key = ?"
        self._connection.executemany(sql, over)
        self._last[queue] = turns[-1][:2] if len(turns) == _LOOKED_AT else (_BELOW_ALL, NO_KEY)
        return True
