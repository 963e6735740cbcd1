"""A model of a queue with leases: one dictionary of rows, and a number for the time.

An expiry, and the end of the time that a result is kept, count from their very moment on. A lease that ran out may be
entered late, but never early, and at the latest when somebody receives. So here such a row is *overdue*, and
:meth:`Model.see` lets the storage say whether it has entered it. In all else there is one right answer.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from trio_tasks import Cancelled, DeadlinePassed, Expired, Limits, Pushed, Rate, Replaced, StorageEvent, TaskId

CLOSE = 3 / 32
"""Seconds: what begins within a step may have begun this much earlier, or later."""
LIVE = ("waiting", "delayed", "running")
STATUS = {
    "waiting": "Pending",
    "delayed": "Pending",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "killed": "Killed",
}
TOTALS = ("pushed", "resumed", "succeeded", "retried", "failed", "killed", "released", "suspended")
LATE = "its deadline was over while it waited"
ENDS = {"succeeded": "done", "failed": "failed", "killed": "killed"}


@dataclass
class Traits:
    """The properties in which storages may differ."""

    lease: float  # infinite in memory: there nobody can die alone
    keep_results: float
    is_stored: bool
    waits_from_due: bool
    """Of ready ones, who waits longest goes first: a delayed one waits from when it was due. In memory those that tie
    keep an order, and one that was released goes to the very front."""
    is_exact: bool = True
    """It tells at once which tasks are held back by a limit, and lists the ready ones of a key in their order."""


@dataclass
class Row:
    id: str
    args: Any
    priority: int
    unique: str | None
    expires: float
    place: str = "waiting"
    line: tuple[float, float] = (0.0, 0.0)  # where it stands; the second is the same for those that tie
    due: float = math.inf
    attempt: int = 0
    claim: int = 0
    aborted: bool = False
    withdrawn: bool = False  # its call was cancelled while it ran
    is_suspended: bool = False  # it is delayed by a suspension
    replaced: str = ""  # by whom, while it ran or, if it still held its key, when it was finished
    until: str = "end"  # the end of the time for which it holds its key,
    seconds: float | None = None  # or that time
    key: str | None = None
    has_begun: bool = False  # since it was pushed or resumed
    metadata: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, str]] = field(default_factory=list)
    error: str | None = None
    result: Any = None
    progress: Any = None
    pushed: float = 0.0
    started: float | None = None
    finished: float | None = None
    deadline: float = math.inf

    @property
    def end(self) -> float:
        """The time at which it is killed, if it waits then."""
        return min(self.expires, self.deadline)

    @property
    def is_live(self) -> bool:
        return self.place in LIVE

    @property
    def waits(self) -> bool:
        return self.place in ("waiting", "delayed")


class Refused(Exception):
    """The error for a duplicate."""


class Model:
    def __init__(self, traits: Traits) -> None:
        self.traits = traits
        self.now = 0.0
        self.rows: dict[str, Row] = {}
        self.timed: dict[str, tuple[Row, float]] = {}  # by the key that it holds for a time, a row, and the end of it
        self.counts = dict.fromkeys(TOTALS, 0)
        self.attempts = dict.fromkeys(TOTALS[2:], 0)
        """The attempts that were settled, by what the storage was told."""
        self.claims = 0
        self.schedules: dict[str, tuple[int, Any]] = {}
        """By name, the number of its last change, and the schedule; None if it was removed."""
        self.is_paused = False
        self.limits: dict[str | None, Limits] = {}
        """Of each key that has some of its own; under None, those of the queue."""
        self.begun: list[tuple[float, str | None]] = []
        """When each attempt began, and its key."""
        self.given_back: list[tuple[float, str | None]] = []
        """Claims that were given back before their attempt began: they may count for a rate, or not."""
        self.rated_since: dict[str | None, float] = {}
        """When the rate of a key, or of the queue, was set: those that had begun before may count, or not."""
        self.order = 0
        self.events: list[StorageEvent] = []  # of the latest step
        self.expired: Counter[StorageEvent] = Counter()
        """Events that are not told yet: a storage tells of the end of a late task when it enters that."""

    # Coming in

    def push(self, row: Row, delay: float = 0.0, on_conflict: str = "skip") -> str:
        if row.id in self.rows:
            raise Refused("id")
        owner = self.owner(row.unique)
        if owner is not None:
            if on_conflict == "raise":
                raise Refused("unique")
            if on_conflict == "skip" or self.rows.get(owner.id) is not owner or not owner.is_live:
                return owner.id  # it stays as it is, too, if it was discarded, and its key is held for a time
            if on_conflict == "update":
                if owner.waits:
                    self.update_by_push(owner, row, delay)
                return owner.id
            if owner.waits:
                self.finish(owner, "killed", f"replaced by task {row.id}")
            owner.replaced = row.id
        self.rows[row.id] = row
        self.hold(row)
        row.pushed = self.now
        self.counts["pushed"] += 1
        self.events.append(Pushed(TaskId(row.id), True))
        self.wait(row, delay)
        return row.id

    def update_by_push(self, row: Row, new: Row, delay: float) -> None:
        """Make a row that waits like another one, but for its id, its attempts, and its place if it stays ready among
        the rows of its key and priority."""
        is_same = (row.priority, row.key) == (new.priority, new.key)
        stays = self.is_ready(row) and not delay and is_same
        row.args, row.priority, row.metadata = new.args, new.priority, new.metadata
        row.expires, row.deadline = new.expires, new.deadline
        row.until, row.seconds, row.key = new.until, new.seconds, new.key
        self.hold(row)
        if not stays:
            self.wait(row, delay)
        else:
            self.enter_delayed()

    def owner(self, key: str | None) -> Row | None:
        if key is None:
            return None
        owners = [row for row in self.rows.values() if row.unique == key and self.has_key(row)]
        timed, end = self.timed.get(key, (None, 0.0))
        if timed is not None and end > self.now:
            owners.append(timed)
        assert len(owners) <= 1
        return owners[0] if owners else None

    def has_key(self, row: Row) -> bool:
        """Return True if a row holds its key by its own state."""
        if row.replaced or row.seconds is not None:
            return False
        return {"start": row.waits and not row.has_begun, "end": row.is_live, "forgotten": True}[row.until]

    def hold(self, row: Row) -> None:
        """Note from when on a row holds its key, if that is for a time."""
        if row.unique is not None and row.seconds is not None:
            self.timed[row.unique] = row, self.now + row.seconds
        elif row.unique is not None:
            self.timed.pop(row.unique, None)

    def wait(self, row: Row, delay: float) -> None:
        if not self.traits.waits_from_due:
            self.enter_delayed()
        self._wait(row, delay)

    def _wait(self, row: Row, delay: float) -> None:
        self.order += 1
        row.is_suspended = False
        if delay > 0:
            row.place, row.due, row.line = "delayed", self.now + delay, (self.now + delay, 0.0)
        else:
            row.place, row.due = "waiting", math.inf
            row.line = (self.now, self.order) if self.traits.waits_from_due else (0.0, self.order)

    # Going out

    def ready(self) -> list[Row]:
        """Return the tasks that may be received now: of the highest priority, the first ones of each key, whichever has
        its turn.
        """
        self.enter_due()
        if self.is_paused or self.free_in_all() <= 0:
            return []
        waiting = [row for row in self.rows.values() if row.place == "waiting" and row.end > self.now]
        free = [row for row in waiting if self.free(row.key) > 0]
        top = [row for row in free if row.priority == max(each.priority for each in free)]
        first = {key: min(row.line for row in top if row.key == key) for key in {row.key for row in top}}
        return [row for row in top if row.line == first[row.key]]

    def free_in_all(self) -> float:
        """Return the number of attempts that may begin in the queue."""
        limits = self.limits.get(None)
        if limits is None:
            return math.inf
        places = math.inf if limits.concurrency is None else limits.concurrency - self.running()
        return min(places, self.tokens(None)[0])

    def free(self, key: str | None) -> float:
        """Return the number of attempts of a key that may begin; negative if a limit was lowered."""
        limits = self.limits.get(key, self.limits.get(None))
        if key is None or limits is None:
            return math.inf
        places = math.inf if limits.per_key is None else limits.per_key - self.running(key)
        return min(places, self.tokens(key)[0])

    def rate(self, key: str | None) -> Rate | None:
        """Return the rate of the queue, or of a key in it."""
        limits = self.limits.get(key, self.limits.get(None))
        return None if limits is None else limits.rate if key is None else limits.rate_per_key

    def tokens(self, key: str | None) -> tuple[float, float]:
        """Return how many attempts a rate lets begin: at most, and at least. A place may come back a little later."""
        rate = self.rate(key)
        if rate is None:
            return math.inf, math.inf
        since = max(self.now - rate.per + CLOSE, self.rated_since.get(key, 0.0))
        sure = sum(moment >= since and key in (None, each) for moment, each in self.begun)
        late = self.now - 1.01 * rate.per - CLOSE
        perhaps = sum(moment > late and key in (None, each) for moment, each in [*self.begun, *self.given_back])
        return rate.n - sure, rate.n - perhaps

    def is_unsure(self) -> bool:
        """Return True if it is not known how many attempts a rate lets begin at this moment."""
        return any(most != least for most, least in map(self.tokens, (None, "odd")))

    def running(self, key: str | None = None) -> int:
        return sum(row.place == "running" and key in (None, row.key) for row in self.rows.values())

    def held_back(self) -> int:
        """Return the number of ready tasks for which their key has no place."""
        ready = Counter(row.key for row in self.rows.values() if self.is_ready(row))
        return sum(int(max(0, number - max(0, self.free(key)))) for key, number in ready.items())

    def explanation(self, row: Row) -> str:
        """Return the kind of the explanation of a task, where no worker is registered."""
        if not row.waits:
            return "running" if row.place == "running" else "finished"
        if row.place == "delayed" and row.due > self.now:
            return "suspended" if row.is_suspended else "delayed"
        return "paused" if self.is_paused else "no_worker"

    def ahead_of(self, row: Row) -> tuple[int, int]:
        """Return how many ready tasks go before this one, without those that tie with it, and with them."""

        def turn(each: Row) -> tuple[int, tuple[float, float]]:
            return -each.priority, each.line

        ready = [each for each in self.rows.values() if self.explanation(each) in ("paused", "no_worker")]
        others = [each for each in ready if each is not row and each.end > self.now]
        return sum(turn(each) < turn(row) for each in others), sum(turn(each) <= turn(row) for each in others)

    def is_ready(self, row: Row) -> bool:
        """Return True if a row may be received, whether that was entered or not."""
        return row.place == "waiting" or (row.place == "delayed" and row.due <= self.now)

    def enter_due(self) -> None:
        """Enter all that is due, as a receive does."""
        for row in sorted(self.rows.values(), key=lambda row: (row.due, row.line)):
            if row.place == "running" and self.is_overdue(row):
                self.lapse(row)
        self.enter_delayed()

    def enter_delayed(self) -> None:
        """Make ready the delayed rows whose time has come."""
        for row in sorted(self.rows.values(), key=lambda row: (row.due, row.line)):
            if row.place == "delayed" and row.due <= self.now:
                due = row.due
                self._wait(row, 0.0)
                if self.traits.waits_from_due:
                    row.line = (due, 0.0)

    def take(self, row: Row) -> int:
        self.claims += 1
        row.place, row.claim, row.due, row.expires = "running", self.claims, self.now + self.traits.lease, math.inf
        row.attempt += 1
        row.started = self.now
        self.begun.append((self.now, row.key))
        row.has_begun = True
        return row.claim

    # Coming back

    def holds(self, task_id: str, claim: int) -> bool:
        row = self.rows.get(task_id)
        return row is not None and row.place == "running" and row.claim == claim

    def settle(
        self, task_id: str, verdict: str, *, after: float = 0.0, error: str | None = None, result: Any = None
    ) -> None:
        row = self.rows[task_id]
        self.attempts[verdict] += 1
        if verdict in ("retried", "failed", "killed"):
            row.history.append((row.attempt, verdict))
        if verdict in ENDS:
            self.finish(row, ENDS[verdict], error, result)
        elif verdict == "retried":
            row.error = error
            self.come_back(row, verdict, after)
        else:
            row.attempt -= 1
            self.come_back(row, verdict, after if verdict == "suspended" else None)

    def come_back(self, row: Row, verdict: str | None, after: float | None) -> None:
        """Make a task wait again: for so many seconds, or in its old place."""
        row.due = math.inf
        if row.withdrawn and not row.aborted:
            self.counts["killed"] += 1
            del self.rows[row.id]
            return
        if row.replaced or row.aborted:
            self.finish(row, "killed", "aborted while it ran" if row.aborted else f"replaced by task {row.replaced}")
            return
        if verdict is not None:
            self.counts[verdict] += 1
        if after is not None:
            self.wait(row, after)
            row.is_suspended = verdict == "suspended"
        else:
            row.place = "waiting"
            if not self.traits.waits_from_due:
                self.order += 1
                row.line = (0.0, -self.order)
        self.expire(row)

    def finish(self, row: Row, place: str, error: str | None = None, result: Any = None) -> None:
        was_late = row.waits and row.end <= self.now
        row.place, row.error, row.result = place, error, result
        row.due = self.now + self.traits.keep_results if place == "done" else math.inf
        row.finished, row.expires = row.end if was_late else self.now, math.inf
        self.counts["succeeded" if place == "done" else place] += 1
        if error is not None and error.startswith("replaced by task "):
            self.events.append(Replaced(TaskId(row.id), TaskId(error.removeprefix("replaced by task "))))
        elif error == "cancelled while it waited":
            self.events.append(Cancelled(TaskId(row.id)))
        elif was_late:
            self.expired[DeadlinePassed(TaskId(row.id)) if error == LATE else Expired(TaskId(row.id))] += 1

    # What happens by itself

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for row in [*self.rows.values()]:
            if row.waits:
                self.expire(row)
            elif not row.is_live and row.due <= self.now:
                del self.rows[row.id]

    def expire(self, row: Row) -> None:
        """Kill a row that waits, if it was not started in time, or its deadline is over."""
        if row.end <= self.now:
            self.finish(row, "killed", LATE if row.deadline <= row.expires else "not started within")

    def is_overdue(self, row: Row) -> bool:
        return row.place == "running" and row.due <= self.now

    def lapse(self, row: Row) -> None:
        """Enter that a lease has run out."""
        row.history.append((row.attempt, "lost"))
        self.come_back(row, None, None)

    def lose_all(self) -> None:
        """Lose all claims, as when the only process has died or closed the store."""
        for row in self.rows.values():
            if row.place == "running":
                self.lapse(row)

    def see(self, task_id: str, seen: Any) -> None:
        """Return a row as a storage shows it; enter changes that the storage must have entered to show that."""
        row = self.rows.get(task_id)
        if row is not None and self.is_overdue(row) and seen != self.shown(row):
            self.lapse(row)

    # Looking

    def shown(self, row: Row) -> tuple[Any, ...]:
        return STATUS[row.place], row.attempt

    def metrics(self) -> dict[str, int]:
        """What is counted; a delayed one whose time has come counts as waiting, entered or not."""
        rows = self.rows.values()
        places = Counter("waiting" if row.place == "delayed" and row.due <= self.now else row.place for row in rows)
        held = self.held_back()
        return {
            **self.counts,
            **{place: places[place] for place in LIVE},
            **{f"kept_{place}": places[place] for place in ENDS.values()},
            "waiting": places["waiting"] - held,
            "delayed": places["delayed"] + held,
            "held_now": held,
            "suspended_now": sum(row.place == "delayed" and row.due > self.now and row.is_suspended for row in rows),
            "orphans": sum(self.is_overdue(row) for row in rows),
        }

    def is_empty(self) -> bool:
        return not any(row.is_live for row in self.rows.values())

    # Schedules

    def revision(self, name: str) -> int:
        """Return the number that a change of a schedule must name; 0 if there is none."""
        revision, schedule = self.schedules.get(name, (0, None))
        return revision if schedule is not None else 0

    # Interventions

    def waiting(self, task_id: str) -> Row | None:
        row = self.rows.get(task_id)
        return row if row is not None and row.waits else None

    def resume(self, task_id: str) -> bool:
        row = self.rows.get(task_id)
        if row is None or row.is_live:
            return False
        if (owner := self.owner(row.unique)) is not None and owner is not row:
            raise Refused("unique")
        row.has_begun = False
        row.attempt, row.expires, row.aborted, row.withdrawn, row.replaced = 0, math.inf, False, False, ""
        row.deadline = math.inf
        row.result = None
        self.counts["resumed"] += 1
        row.finished = None
        self.wait(row, 0.0)
        return True

    def change(self, task_id: str, verb: str) -> str | None:
        """Change one of several tasks; return why it cannot be changed, or None."""
        row = self.rows.get(task_id)
        if row is None:
            return "no such task is known"
        if row.place == "running":
            return "it runs"
        if verb == "resume_by_id":
            try:
                return None if self.resume(task_id) else "it waits"
            except Refused:
                owner = self.owner(row.unique)
                return f"its unique key is taken by {owner and owner.id}"
        if verb == "discard":
            self.discard(row)
        elif not row.waits:
            return {"done": "it is done", "failed": "it has failed", "killed": "it was killed"}[row.place]
        elif verb == "cancel":
            self.finish(row, "killed", "cancelled while it waited")
        else:
            self.wait(row, 5 + 1 / 64)
        return None

    def withdraw(self, row: Row) -> bool:
        """Forget a row whose call was cancelled, or note that; return True if its attempt is to be cancelled."""
        if row.waits:
            self.discard(row)
        row.withdrawn = row.place == "running"
        return row.withdrawn and not row.aborted

    def discard(self, row: Row) -> None:
        """Forget a row that does not run; one that waits counts as killed."""
        self.counts["killed"] += row.waits
        self.events += [Cancelled(TaskId(row.id))] if row.waits else []
        del self.rows[row.id]
