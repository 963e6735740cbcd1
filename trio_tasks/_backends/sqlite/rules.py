"""The rules of the queues in an SQLite file: whether keys take turns, and the limits of queues and of keys.

A queue has none before its first row with a key, and before its first limit. Then nothing is read for them: their
number, which each change raises, is read with the number of the queue, and checked when its counters are stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from ..._contracts.fairness import NO_KEY, cost_of
from ..._tasks.limits import Limits
from .counters import text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import EllipsisType

    from .counters import QueueCounters
    from .driver import Connection

_MOST_KEYS = 1_000
"""Keys whose own limits are all read at once; if there are more, they are looked up one by one."""
_NO_LIMITS = Limits()
_NO_KEYS: Mapping[str, Limits] = {}
_RULES = "SELECT is_fair, is_untagged, promote_after, is_guarded FROM trio_tasks_rules WHERE queue = ?"
_SET_RULES = """
INSERT OR REPLACE INTO trio_tasks_rules (queue, is_fair, is_untagged, promote_after, is_guarded) VALUES (?, ?, ?, ?, ?)
"""
_ALL_LIMITS = "SELECT key, body FROM trio_tasks_limit WHERE queue = ? ORDER BY key LIMIT ?"
LIMITS_OF = "SELECT body FROM trio_tasks_limit WHERE queue = ? AND key = ?"


class KeyLimits(NamedTuple):
    """The limits of one key that hold."""

    limits: Limits
    is_limited: bool
    """True if the key has a limit, or a rate."""
    cost: int
    """The length of a turn."""

    @classmethod
    def of(cls, limits: Limits) -> KeyLimits:
        """Return what limits say of a key."""
        return cls(limits, limits.per_key is not None or limits.rate_per_key is not None, cost_of(limits.weight))


@final
class Rules:
    """The rules of a queue.

    Args:
      number: the number of their latest change.
      is_fair: True once a row had a key.
      is_untagged: True while rows are ready that have no tag.
      promote_after: a key after which held rows may have places; None: there are none.
      is_guarded: True while more rows of a key may have a place than its limit allows, as limits were changed: claims
        have to count them.
      limits: those of the queue.
      own: the limits that keys have of their own.
      is_complete: True if these are all.
    """

    __slots__ = (
        "can_end",
        "has_rates",
        "is_complete",
        "is_fair",
        "is_guarded",
        "is_plain",
        "is_untagged",
        "keys",
        "limits",
        "limits_keys",
        "number",
        "of_others",
        "promote_after",
    )

    def __init__(
        self,
        number: int = 0,
        is_fair: bool = False,
        is_untagged: bool = False,
        promote_after: str | None = None,
        is_guarded: bool = False,
        limits: Limits = _NO_LIMITS,
        own: Mapping[str, Limits] = _NO_KEYS,
        is_complete: bool = True,
    ) -> None:
        self.number = number
        self.is_fair = is_fair
        self.is_untagged = is_untagged
        self.promote_after = promote_after
        self.is_guarded = is_guarded
        self.limits = limits
        self.is_complete = is_complete
        self.is_plain = not is_fair and limits.concurrency is None and limits.rate is None
        """True if claims go by priority and time alone."""
        self.of_others = KeyLimits.of(limits)
        """Those of keys that have none of their own."""
        self.can_end = is_fair and not own and is_complete and limits == _NO_LIMITS
        """True if the queue could be plain again, if it has no rows."""
        self.limits_keys = is_fair and (bool(own) or not is_complete or self.of_others.is_limited)
        """True if keys may have limits."""
        rates = (each.rate_per_key for each in (limits, *own.values()))
        self.has_rates = not is_complete or any(rate is not None for rate in rates)
        """True if keys may have rates."""
        self.keys = {key: KeyLimits.of(each) for key, each in own.items()}
        self.keys[NO_KEY] = self.of_others._replace(is_limited=False)

    def find(self, key: str) -> KeyLimits:
        """Return the limits that hold for a key, if all are here."""
        return self.keys.get(key, self.of_others)


_NONE = Rules()


@final
class RulesTable:
    """The rules, as one connection sees them.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      counters: the numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters) -> None:
        self._connection = connection
        self._counters = counters
        self._known: dict[int, Rules] = {}

    def of(self, queue: int) -> Rules:
        """Return the rules of a queue."""
        number = self._counters.rules.get(queue, 0)
        if number <= 0:
            return _NONE
        known = self._known.get(queue)
        if known is None or known.number != number:
            known = self._known[queue] = self._read(queue, number)
        return known

    def _read(self, queue: int, number: int) -> Rules:
        for fair, untagged, promote_after, guarded in self._connection.execute(_RULES, (queue,)):
            stored = self._connection.execute(_ALL_LIMITS, (queue, _MOST_KEYS + 1))
            own = {text(key): _decoded(body) for key, body in stored}
            is_complete = len(stored) <= _MOST_KEYS
            limits = own.pop(NO_KEY, _NO_LIMITS)  # it is the first one
            return Rules(number, bool(fair), bool(untagged), promote_after, bool(guarded), limits, own, is_complete)
        return Rules(number)

    def finder(self, queue: int) -> Callable[[str], KeyLimits]:
        """Return the function that returns the limits of a key, to be called for many."""
        rules = self.of(queue)
        return rules.find if rules.is_complete else partial(self.of_key, queue)

    def of_key(self, queue: int, key: str) -> KeyLimits:
        """Return the limits that hold for a key; rows without one have no limits, and the weight of the queue."""
        rules = self.of(queue)
        known = rules.keys.get(key)
        if known is None:
            if rules.is_complete:
                return rules.of_others
            own = self.get(queue, key)
            if len(rules.keys) >= 2 * _MOST_KEYS:
                rules.keys.clear()
                rules.keys[NO_KEY] = rules.of_others._replace(is_limited=False)
            known = rules.keys[key] = rules.of_others if own is None else KeyLimits.of(own)
        return known

    def get(self, queue: int, key: str) -> Limits | None:
        """Return the limits that are stored for a key, or, with the empty key, for the queue."""
        rows = self._connection.execute(LIMITS_OF, (queue, key))
        return _decoded(rows[0][0]) if rows else None

    def all(self, queue: int) -> Iterator[tuple[str, Limits]]:
        """Return the limits that are stored for the queue, under the empty key, and for each key, in order."""
        return ((text(key), _decoded(body)) for key, body in self._connection.execute(_ALL_LIMITS, (queue, -1)))

    def set(self, queue: int, key: str, limits: Limits | None, *, is_guarded: bool) -> None:
        """Store the limits of a key, or of the queue; with ``is_guarded``, claims count places from then on."""
        if limits is None:
            self._connection.execute("DELETE FROM trio_tasks_limit WHERE queue = ? AND key = ?", (queue, key))
        else:
            sql = "INSERT OR REPLACE INTO trio_tasks_limit (queue, key, body) VALUES (?, ?, ?)"
            self._connection.execute(sql, (queue, key, json.dumps(limits.to_plain())))
        self.change(queue, is_guarded=is_guarded or None)

    def change(
        self,
        queue: int,
        *,
        is_fair: bool | None = None,
        is_untagged: bool | None = None,
        promote_after: str | EllipsisType | None = ...,
        is_guarded: bool | None = None,
    ) -> None:
        """Change those rules that are given, and raise the number of the latest change.

        Raises:
          FastPathFailed: another session has changed the rules.
        """
        rules = self.of(queue)
        fair = rules.is_fair if is_fair is None else is_fair
        untagged = rules.is_untagged if is_untagged is None else is_untagged
        after = rules.promote_after if promote_after is ... else promote_after
        guarded = rules.is_guarded if is_guarded is None else is_guarded
        self._connection.execute(_SET_RULES, (queue, int(fair), int(untagged), after, int(guarded)))
        self._counters.change_rules(queue)

    def end(self, queue: int) -> None:
        """Let a queue have no rules any more.

        Raises:
          FastPathFailed: another session has changed them.
        """
        self._connection.execute("DELETE FROM trio_tasks_rules WHERE queue = ?", (queue,))
        self._counters.change_rules(queue, ends=True)

    def roll_back(self) -> None:
        """Forget what was read in a transaction that was rolled back."""
        self._known.clear()


def _decoded(body: object) -> Limits:
    """Return limits as they were stored.

    Raises:
      TypeError, ValueError: they were not stored by us.
    """
    if not isinstance(body, str):
        raise TypeError(f"limits are stored as {body!r:.50}")
    return Limits.from_plain(json.loads(body))
