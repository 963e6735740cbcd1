"""The groups of rows with one key in an SQLite file: their turns, their limits, and the rows that these hold back.

1. A queue is *plain* until its first row with a key, and again when it has had no rows and no limits for a while. Its
   order keys are times, and nothing of this module is used.
2. From then on a row that becomes ready gets a *tag* as its order key, by start-time fair queueing (see
   :mod:`trio_tasks._contracts.fairness`); the time since when it is ready stands beside it. The rows that were ready
   before belong to the group without a key. They get their tags from the front, some before each claim; until all have
   one, new rows without a key come without, so that they stay in order.
3. A row whose key is at its limit does not become ready, but is *held*: it is delayed, without a time of its own. When
   a place is free, the first held row of the key gets it. So claims never look at rows that they may not take.
4. If only the rate of its key is in the way, the first held row is due at the moment of the next place.

What is read of virtual times and rates is kept until the end of the transaction, and stored then.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, final

from ..._contracts.fairness import NO_KEY
from ..durable.engine import State
from .places import ABOVE_ALL, PlaceTable
from .rules import RulesTable
from .turns import NEXT_LEVEL, Reweighing, TurnTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._tasks.limits import Limits
    from .counters import QueueCounters
    from .driver import Connection, Row

MOST_MOVED = 500
"""Held rows that one transaction makes ready, and ready ones that one claim holds back, at most."""

NEXT_KEY = "SELECT min(key) FROM trio_tasks_task WHERE queue = ? AND held = 1 AND key > ?"
UNTAGGED = """
SELECT seq, order_key FROM trio_tasks_task
WHERE queue = ? AND state = 0 AND priority = ? AND order_key >= 0 ORDER BY order_key LIMIT ?
"""
BLOCKED_KEYS = """
SELECT key FROM trio_tasks_task AS row WHERE seq IN (SELECT value FROM json_each(?)) AND key IS NOT NULL
AND EXISTS (SELECT 1 FROM trio_tasks_task WHERE queue = ? AND held = 1 AND key = row.key)
"""
_TAG = "UPDATE trio_tasks_task SET order_key = ?, since = ?, held = NULL WHERE seq = ?"
_HOLD = """
UPDATE trio_tasks_task SET state = 1, held = 1, order_key = ?, since = ?, due = start_by WHERE seq = ?
"""
ADMIT = "UPDATE trio_tasks_task SET state = 0, held = 0, order_key = ?, due = start_by WHERE seq = ?"
_WITHOUT_KEYS_FOR = 60.0
"""Seconds without a key after which a queue without rows and limits is plain again."""
COUNT_RUNNING = """
UPDATE trio_tasks_task SET held = 0 WHERE queue = ? AND due IS NOT NULL AND state < 3 AND +state = 2
AND key IS NOT NULL AND held IS NULL
"""
_COUNT_CLAIMED = "UPDATE trio_tasks_task SET held = 0 WHERE seq IN (SELECT value FROM json_each(?))"


@final
class GroupTable:
    """The groups, as one connection sees them.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      counters: the numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters) -> None:
        self._connection = connection
        self._counters = counters
        self.rules = RulesTable(connection, counters)
        self.places = PlaceTable(connection, counters, self.rules)
        self.turns = TurnTable(connection, self.rules)
        self._touched: dict[tuple[int, str], None] = {}  # keys that may have places for held rows
        self.is_used = False
        """True if something has to be stored, or forgotten, before the end of the transaction."""
        self._free: dict[tuple[int, str], int] = {}  # places of keys, for new rows that are not inserted yet
        self._without_keys_since: dict[int, float] = {}  # by queue; only where it was found without rows
        self.has_promoted = False
        """True if held rows became ready since this was last set to False."""

    # Transactions

    def store(self, now: float) -> None:
        """Give free places to held rows, and store virtual times and rates; called before the end of a transaction."""
        self.promote(now)
        self.places.store()
        for queue in self.turns.store():
            self.places.drop_idle(queue, now)
        self._forget()

    def roll_back(self) -> None:
        """Forget what was read in a transaction that was rolled back."""
        self._forget()
        self.rules.roll_back()
        self.has_promoted = False

    def _forget(self) -> None:
        self._touched.clear()
        self._free.clear()
        self.turns.forget()
        self.places.forget()
        self.is_used = False

    def note_drained(self, queue: int) -> None:
        """Note that no row is ready, unless the queue is paused: all turns are over, whoever had them."""
        if self._counters.is_paused(queue):
            return
        self.turns.end_all(queue)
        if self.rules.of(queue).is_guarded and self.places.are_within_limits(queue):
            self.rules.change(queue, is_guarded=False)

    # Rows that become ready, and rows that are ready no more

    def make_fair(self, queue: int) -> None:
        """Let the keys of a queue take turns from now on."""
        self._without_keys_since.pop(queue, None)
        rules = self.rules.of(queue)
        if rules.is_fair:
            return
        sql = "SELECT 1 FROM trio_tasks_task WHERE queue = ? AND state = 0 LIMIT 1"
        is_untagged = bool(self._connection.execute(sql, (queue,)))
        self.rules.change(queue, is_fair=True, is_untagged=is_untagged)

    def make_plain(self, queue: int, now: float) -> None:
        """Let a queue that has no rows go by priority and time alone again, if it has no limits, and no key was seen
        here for a while: each change of this kind costs all sessions a transaction that is made again.
        """
        if not self.rules.of(queue).can_end:
            return
        without_keys_since = self._without_keys_since.setdefault(queue, now)
        if now >= without_keys_since + _WITHOUT_KEYS_FOR and self.turns.drop(queue):
            self.rules.end(queue)
            del self._without_keys_since[queue]

    def expect(self, queue: int, rows: Iterable[tuple[int, str | None]]) -> None:
        """Read at once what has to be known of the keys of new rows, each of which comes with its priority."""
        self.is_used = True
        turns = dict.fromkeys((priority, key or NO_KEY) for priority, key in rows)
        self.turns.expect(queue, turns)
        if not self.rules.of(queue).limits_keys:
            return
        keys = dict.fromkeys(key for _, key in turns)
        limited = [key for key in keys if (queue, key) not in self._free and self._has_plain_limit(queue, key)]
        if limited:
            self._free.update(((queue, key), free) for key, free in self.places.free(queue, limited))

    def _has_plain_limit(self, queue: int, key: str) -> bool:
        """Return True if a key has a limit, and no rate."""
        limits, is_limited, _ = self.rules.of_key(queue, key)
        return is_limited and limits.rate_per_key is None

    def place(
        self, queue: int, key: str | None, priority: int, order_key: int, now: float
    ) -> tuple[int, int, Any, Any]:
        """Return the state, the order key, and the columns ``since`` and ``held`` of a new row that would be ready.

        Args:
          order_key: what it would have in a plain queue.
        """
        held = None
        self.is_used = True
        if key is None:
            if self.rules.of(queue).is_untagged:
                return State.WAITING.value, order_key, None, None
        elif self.rules.of_key(queue, key).is_limited:
            held = 0
            if not self._takes_place(queue, key, now):
                self._counters.count(queue, delayed=1, held_now=1)
                return State.DELAYED.value, order_key, order_key, 1
        return State.WAITING.value, self.turns.next_tag(queue, priority, key or NO_KEY), order_key, held

    def _takes_place(self, queue: int, key: str, now: float) -> bool:
        """Take a place of a key for a new row; return False if none is free, or others wait for it."""
        group = queue, key
        if group in self._touched:
            return False
        free = self._free.get(group)
        if free is None:
            self.is_used = True
            free = self.places.free_of(queue, key, now)[0]
            if free > 0 and self.places.first_held(queue, key, 1):
                free = 0
        self._free[group] = free - 1
        if free <= 0:
            self.is_used = True
            self._touched[group] = None  # the new row may have a higher priority than one that is ready
        return free > 0

    def arrange(self, queue: int, seq: int, *, is_last: bool = False) -> None:
        """Give a row its place in the order: it has just become ready, with an order key as in a plain queue.

        Args:
          is_last: True if it comes after all that would begin at the same time, though it was pushed before.
        """
        self.is_used = True
        sql = "SELECT key, priority, order_key FROM trio_tasks_task WHERE seq = ?"
        for key, priority, order_key in self._connection.execute(sql, (seq,)):
            if key is not None and self.rules.of_key(queue, key).is_limited:
                self._hold(queue, key, [(seq, order_key)])
            elif key is not None or not self.rules.of(queue).is_untagged:
                tag = self.turns.next_tag(queue, priority, NO_KEY if key is None else key, is_last=is_last)
                self._connection.execute(_TAG, (tag, order_key, seq))

    def arrange_returned(self, queue: int, seq: int) -> None:
        """Do the same for a row that was claimed, and keeps its place, unless it has none in this order."""
        if self._connection.execute("SELECT 1 FROM trio_tasks_task WHERE seq = ? AND order_key >= 0", (seq,)):
            self.arrange(queue, seq)

    def leave(self, queue: int, seq: int) -> bool:
        """Note that a row that waits is going to be ready no more; return True if it was held.

        It is held no more then; the caller changes its state, and counts that.
        """
        self.is_used = True
        sql = "SELECT key, held, priority, order_key, state FROM trio_tasks_task WHERE seq = ?"
        for key, held, priority, tag, state in self._connection.execute(sql, (seq,)):
            if state == State.WAITING and tag < 0:
                self.turns.give_back(queue, priority, key or NO_KEY, tag)
            if key is None:
                continue
            self.touch(queue, key)
            if held is not None:
                self._connection.execute("UPDATE trio_tasks_task SET held = NULL WHERE seq = ?", (seq,))
            if held:
                self._counters.count(queue, held_now=-1)
                return True
        return False

    def compare(self, seq: int, key: str | None) -> tuple[bool, bool]:
        """Return True if a row has this key; and True if it is ready, and has its place in the order."""
        sql = "SELECT key IS ?, state = 0 FROM trio_tasks_task WHERE seq = ?"
        [(is_same, is_ready)] = self._connection.execute(sql, (key, seq))
        return bool(is_same), bool(is_ready)

    def set_limits(self, queue: int, key: str, limits: Limits | None, now: float) -> Reweighing | None:
        """Store the limits of a key, or, with the empty key, of a queue, and make held rows ready that they allow.

        Returns:
          what is left to do, if the weight of a key was changed.
        """
        was = self.rules.of_key(queue, key).cost
        self._counters.enter_counts()
        self.rules.set(queue, key, limits, is_guarded=self._counters.present(queue)[0] > 0)
        if self.rules.of(queue).limits_keys:
            self._connection.execute(COUNT_RUNNING, (queue,))
        if key == NO_KEY or self._promote(queue, key, now, MOST_MOVED)[1]:
            self.rules.change(queue, promote_after=NO_KEY)
        if self.rules.of(queue).promote_after is not None:
            self._promote_all(queue, NO_KEY, now)
        cost = self.rules.of_key(queue, key).cost
        if cost == was or not self.rules.of(queue).is_fair:
            return None
        if key == NO_KEY:
            self.turns.note_other_cost(queue)
            return None
        return self.reweigh(queue, Reweighing(key, was, cost))

    def reweigh(self, queue: int, left: Reweighing) -> Reweighing | None:
        """Give new tags to some ready rows of a key whose weight was changed; return what is left to do."""
        self.is_used = True
        return self.turns.reweigh(queue, left)

    def set_key(self, seq: int, key: str | None) -> None:
        """Store the key of a row."""
        self._connection.execute("UPDATE trio_tasks_task SET key = ? WHERE seq = ?", (key, seq))

    def is_held(self, seq: int) -> bool:
        """Return True if a row is held."""
        return bool(self._connection.execute("SELECT 1 FROM trio_tasks_task WHERE seq = ? AND held = 1", (seq,)))

    def ask_again(self, queue: int, seq: int) -> None:
        """Let a held row have the place for which it was due."""
        sql = "UPDATE trio_tasks_task SET due = start_by WHERE seq = ? AND held = 1"
        self._connection.execute(sql, (seq,))
        [(key,)] = self._connection.execute("SELECT key FROM trio_tasks_task WHERE seq = ?", (seq,))
        self.touch(queue, key)

    def touch(self, queue: int, key: str) -> None:
        """Note that a key may have places for held rows."""
        if self.rules.of_key(queue, key).is_limited:
            self.is_used = True
            self._touched[queue, key] = None
            self._free.pop((queue, key), None)

    def touch_rows(self, queue: int, rows: Sequence[Any]) -> None:
        """Do the same for the keys of running rows that are about to be settled; nothing is pushed in the same
        transaction before.
        """
        found = self._connection.execute(BLOCKED_KEYS, (str([*rows]), queue))
        if found:
            self.is_used = True
            self._touched.update(((queue, key), None) for (key,) in found)

    # Limits of keys

    def promote(self, now: float) -> None:
        """Give free places to held rows of the keys that may have some."""
        while self._touched:
            touched, self._touched = self._touched, {}
            by_queue: dict[int, list[str]] = {}
            for queue, key in touched:
                by_queue.setdefault(queue, []).append(key)
            for queue, keys in by_queue.items():
                self._promote_each(queue, keys, now)

    def _promote_each(self, queue: int, keys: Sequence[str], now: float) -> None:
        """Give free places of these keys to held rows: as a rule each has one, for one row."""
        admitted: list[tuple[str, int, int]] = []
        find = self.rules.finder(queue)
        for key, seq, priority, is_due, placed, lowest in self.places.standing(queue, keys):
            limits = find(key).limits
            most = limits.per_key
            is_in_order = lowest is None or lowest >= priority
            if most is None or limits.rate_per_key is not None or is_due or not is_in_order or most > placed + 1:
                self._promote(queue, key, now, MOST_MOVED)
            elif most > placed:
                admitted.append((key, seq, priority))
        if admitted:
            self.turns.expect(queue, [(priority, key) for key, _, priority in admitted])
            self._admit_each(queue, admitted)

    def _promote(self, queue: int, key: str, now: float, most: int) -> tuple[int, bool]:
        """Make held rows of a key ready while it has places; return their number, and True if there may be more of
        both.

        1. The first ones, in their order, have the places that are free.
        2. If there are none, a row may have the place of one that is ready and has a lower priority.
        3. If it is the rate that is in the way, the first one is due when that has a place.
        """
        self.is_used = True
        free, due = self.places.free_of(queue, key, now)
        wanted = min(max(free, 0), most)
        held = self.places.first_held(queue, key, wanted + 1)
        self._admit_each(queue, [(key, seq, priority) for seq, priority, *_ in held[:wanted]])
        moved, held = len(held[:wanted]), held[wanted:]
        if not held or free > wanted:
            return moved, bool(held)
        while held and (last := self.places.last_ready_below(queue, key, held[0][1])):
            seq, lowest, since, tag = last
            self.turns.give_back(queue, lowest, key, tag)
            self._hold(queue, key, [(seq, since)], touches=False)
            self._admit_each(queue, [(key, *held[0][:2])])
            held = self.places.first_held(queue, key, 1)
        if held:
            self._set_due(held[0], due)
        return moved, False

    def _admit_each(self, queue: int, rows: Sequence[tuple[str, int, int]]) -> None:
        """Make held rows ready; each comes with its key, its number and its priority."""
        if rows:
            tags = [(self.turns.next_tag(queue, priority, key), seq) for key, seq, priority in rows]
            self._connection.executemany(ADMIT, tags)
            self._counters.count(queue, delayed=-len(rows), held_now=-len(rows))
            self.has_promoted = True

    def _hold(self, queue: int, key: str, rows: Sequence[tuple[int, int]], *, touches: bool = True) -> None:
        """Hold rows that are ready; each comes with the time since when it is."""
        self._connection.executemany(_HOLD, [(since, since, seq) for seq, since in rows])
        self._counters.count(queue, delayed=len(rows), held_now=len(rows))
        if touches:
            self.touch(queue, key)

    def _set_due(self, row: Row, due: float | None) -> None:
        """Set the time at which a held row asks again."""
        seq, _, _, start_by, was = row
        first = min((each for each in (start_by, due) if each is not None and each < math.inf), default=None)
        if was != first:
            self._connection.execute("UPDATE trio_tasks_task SET due = ? WHERE seq = ?", (first, seq))

    # Claims

    def prepare_claim(self, queue: int, limit: int, now: float) -> bool:
        """Give tags to rows that are ready without one, and free places to held rows; return True if there is more."""
        self.is_used = True  # what is read of places is forgotten at the end
        self.promote(now)
        rules = self.rules.of(queue)
        is_more = False
        if rules.is_untagged:
            is_more = self._tag_ready(queue, max(limit, MOST_MOVED))
        if rules.promote_after is not None:
            is_more = self._promote_all(queue, rules.promote_after, now) or is_more
        return is_more

    def _tag_ready(self, queue: int, limit: int) -> bool:
        """Give tags to the first rows of the group without a key that have none; return True if some are left."""
        level = ABOVE_ALL
        while limit > 0:
            [(level,)] = self._connection.execute(NEXT_LEVEL, (queue, level))
            if level is None:
                self.rules.change(queue, is_untagged=False)
                return False
            rows = self._connection.execute(UNTAGGED, (queue, level, limit))
            tags = [(self.turns.next_tag(queue, level, NO_KEY), since, seq) for seq, since in rows]
            self._connection.executemany(_TAG, tags)
            limit -= len(rows)
        return True

    def _promote_all(self, queue: int, after: str, now: float) -> bool:
        """Give free places to held rows of all keys after this one, some in each transaction; return True if there are
        more keys.
        """
        at: str | None = after
        left = MOST_MOVED
        while left > 0 and at is not None:
            [(key,)] = self._connection.execute(NEXT_KEY, (queue, at))
            if key is not None:
                moved, is_more = self._promote(queue, key, now, left)
                if is_more:
                    break
                left -= 1 + moved
            at = key
        self.rules.change(queue, promote_after=at)
        return at is not None

    def room(self, queue: int, limit: int, now: float) -> int:
        """Return the number of rows up to a limit that the queue's own limits allow to be claimed."""
        limits = self.rules.of(queue).limits
        if limits.concurrency is not None:
            self._counters.enter_counts()
            limit = min(limit, max(0, limits.concurrency - self._counters.present(queue)[1]))
        if limits.rate is not None:
            limit = min(limit, max(0, self.places.window(queue, NO_KEY).free(limits.rate, now)))
        return limit

    def rate_moments(self, queue: int, now: float) -> list[float]:
        """Return the moment from which on the queue's rate allows a row to be claimed, after those of this claim were
        counted; nothing if it does now.
        """
        rate = self.rules.of(queue).limits.rate
        if rate is None:
            return []
        window = self.places.window(queue, NO_KEY)
        return [] if window.free(rate, now) > 0 else [window.free_at(rate)]

    def is_at_limit(self, queue: int, running: int) -> bool:
        """Return True if the queue's own limit of running attempts allows no more."""
        most = self.rules.of(queue).limits.concurrency
        return most is not None and running >= most

    def hold_excess(self, queue: int, rows: Sequence[Row], now: float) -> int:
        """Hold those of these ready rows that must not begin, whatever was known when they became ready; return how
        many there are.
        """
        rules = self.rules.of(queue)
        if not rules.limits_keys:
            return 0
        find = self.rules.finder(queue)
        if not (rules.is_guarded or rules.has_rates):
            if all(row[15] == 0 or row[13] is None or not find(row[13]).is_limited for row in rows):
                return 0
            self.rules.change(queue, is_guarded=True)  # limits have come after a row that was ready
        limits_of: dict[str, int] = {}
        doubtful: dict[str, None] = {}  # their rows have to be counted by their states, or there is a rate
        for row in rows:
            key = row[13]
            if key is None:
                continue
            limits, is_limited, _ = find(key)
            if not is_limited:
                continue
            if limits.rate_per_key is not None or row[15] is None or limits.per_key is None:
                doubtful[key] = None
            else:
                limits_of[key] = limits.per_key
        doubtful.update(dict.fromkeys(self.places.exceeding(queue, limits_of)))
        held = 0
        for key in doubtful:
            excess = [row for row in rows if row[13] == key][max(0, self.places.may_begin(queue, key, now)) :]
            for row in excess:
                self.turns.give_back(queue, row[14], key, row[12])
            if excess:
                self._hold(queue, key, [(row[0], row[10]) for row in excess])
                held += len(excess)
        return held

    def note_claimed(self, queue: int, rows: Sequence[Row], now: float) -> None:
        """Note that rows were claimed: virtual time goes on to their tags, and rates count their attempts."""
        rules = self.rules.of(queue)
        if rules.limits.rate is not None:
            self.places.begin(queue, NO_KEY, rules.limits.rate, now, len(rows))
        if not rules.is_fair:
            return
        if any(row[13] is not None for row in rows):
            self._without_keys_since.pop(queue, None)
        for priority, tag in {row[14]: row[12] for row in rows}.items():  # of each priority, the last row
            if tag < 0:
                self.turns.pass_to(queue, priority, tag)
        if not rules.limits_keys:
            return
        find = self.rules.finder(queue)
        uncounted = [row[0] for row in rows if row[15] is None and row[13] is not None and find(row[13]).is_limited]
        if uncounted:  # they became ready before their key had limits
            self._connection.execute(_COUNT_CLAIMED, (str(uncounted),))
        if rules.has_rates:
            for key, number in Counter(row[13] for row in rows if row[13] is not None).items():
                rate = find(key).limits.rate_per_key
                if rate is not None:
                    self.places.begin(queue, key, rate, now, number)
                    self.touch(queue, key)  # the first held row can be told when it is due
