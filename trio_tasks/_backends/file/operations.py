"""What else can be done with the rows of a journal: each a change of the books, to be kept or undone by the caller."""

from __future__ import annotations

import math
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from ..._tasks.errors import not_again
from ..durable.encoding import expired_error
from ..durable.engine import Held, Part, Renewal, State, Stored
from .rows import COUNTS, DELAYED, FAILED, KILLED, LIVE, PUSHED, RUNNING, WAITING, Row
from .state import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .state import Books


def _row(books: Books, queue: str, task_id: str) -> Row | None:
    shelf = books.shelves.get(queue)
    return shelf.ids.get(task_id) if shelf is not None else None


def _waiting(books: Books, queue: str, task_id: str, now: float) -> Row | None:
    row = books.known(queue, task_id, now)
    return row if row is not None and row.state <= DELAYED else None


def _held(books: Books, held: Held) -> Row | None:
    row = books.rows.get(held.key)
    return row if row is not None and row.state == RUNNING and row.token == held.token else None


# What leaves no record


def renew(books: Books, held: Sequence[Held], until: float) -> list[Held]:
    """Have these leases run out then; those that were lost."""
    lost: list[Held] = []
    for each in held:
        row = _held(books, each)
        if row is None:
            lost.append(each)
        else:
            row.due = until
            row.shelf.no_lease_ends_before = min(row.shelf.no_lease_ends_before, until)
            books.look_at(until)
    return lost


def find(books: Books, queue: str, task_id: str, now: float) -> Stored | None:
    """The row of this id."""
    row = _row(books, queue, task_id)
    return None if row is None or row.is_kept_no_longer(now) else _stored(row, now)


def list_rows(books: Books, queue: str, states: Sequence[State], limit: int, now: float) -> list[Stored]:
    """At most so many rows in these states."""
    found: list[Stored] = []
    shelf = books.shelves.get(queue)
    if shelf is None:
        return found
    expired = [row for row in shelf.ids.values() if row.has_expired(now)] if shelf.next_due <= now else []
    for state in states:
        rows: Iterable[Row] = shelf.running.values() if state == RUNNING else shelf.ids.values()
        if state > RUNNING:
            rows = shelf.finished.values()
        there = (row for row in rows if row.state == state and not _is_over(row, now))
        first = nsmallest(limit - len(found), there, key=_place)
        if state == KILLED:
            first += expired[: limit - len(found) - len(first)]
        found += [_stored(row, now) for row in first]
    return found


def _is_over(row: Row, now: float) -> bool:
    """Return True if it is in this state no longer, though nobody has entered it yet."""
    return row.has_expired(now) or row.is_kept_no_longer(now)


def _place(row: Row) -> tuple[float, ...]:
    """Orders rows of one state: as they would be claimed, fall due, or were finished."""
    if row.state == WAITING:
        return -row.priority, row.since, row.key
    if row.state <= RUNNING:
        assert row.due is not None
        return row.due if row.expires is None else min(row.due, row.expires), row.key
    return row.since, row.key


def _stored(row: Row, now: float) -> Stored:
    has_expired = row.has_expired(now)
    return Stored(
        row.id,
        State.KILLED if has_expired else State(row.state),
        row.attempt,
        row.payload,
        row.head,
        None if has_expired else row.due,
        expired_error() if has_expired else row.result,
        row.history,
        row.progress,
        row.worker,
        None if has_expired or row.state > DELAYED else row.expires,
        row.run_at,
    )


def counts(books: Books, queue: str, now: float) -> dict[str, int]:
    """What there was, and is, on a queue."""
    shelf = books.shelves.get(queue)
    numbers, running = (shelf.counts, len(shelf.running)) if shelf is not None else ([0] * COUNTS, 0)
    names = ("pushed", "succeeded", "retried", "failed", "killed", "released", "suspended")
    found = {**dict(zip(names, numbers, strict=False)), "waiting": numbers[LIVE] - running, "running": running}
    if shelf is not None and shelf.next_due <= now:
        expired = sum(row.has_expired(now) for row in shelf.ids.values())
        found["waiting"] -= expired
        found["killed"] += expired
    return found


def names(books: Books) -> list[str]:
    """The queues that there ever were a task in."""
    return [shelf.name for shelf in books.shelves.values() if shelf.counts[PUSHED]]


# What does


def report(books: Books, held: Held, progress: bytes) -> bool:
    """Keep the progress of a row that runs."""
    row = _held(books, held)
    if row is not None:
        books.touch(row)
        row.progress = progress
    return row is not None


def cancel(books: Books, queue: str, task_id: str, error: bytes, now: float) -> bool:
    """Kill the row if it waits."""
    row = _waiting(books, queue, task_id, now)
    if row is not None:
        books.kill(row, error)
    return row is not None


def abort(books: Books, queue: str, task_id: str) -> Held | None:
    """Note that the row, if it runs, is to be aborted."""
    row = _row(books, queue, task_id)
    if row is None or row.state != RUNNING:
        return None
    books.touch(row)
    row.wish = True
    return Held(row.key, row.token)


def aborted(books: Books) -> list[Held]:
    """Those rows that run, and are to be aborted."""
    running = (row for shelf in books.shelves.values() for row in shelf.running.values())
    return [Held(row.key, row.token) for row in running if row.wish is True]


def look(books: Books, held: Sequence[Held], until: float) -> Renewal:
    """Renew these leases, and look for what is to be aborted."""
    return Renewal(renew(books, held, until), aborted(books))


def reschedule(books: Books, queue: str, task_id: str, delay: float, run_at: int | None, now: float) -> bool:
    """Have the row be ready in so many seconds, if it waits."""
    row = _waiting(books, queue, task_id, now)
    if row is not None and (delay > 0 or row.state == DELAYED):  # what is ready stays where it stands
        books.touch(row)
        row.run_at, row.by_wall = run_at if delay > 0 else None, False
        books.wait(row, delay, now)
    return row is not None


def update(books: Books, queue: str, task_id: str, payload: bytes, head: bytes | None, now: float) -> bool:
    """Replace what the row holds, if it waits."""
    row = _waiting(books, queue, task_id, now)
    if row is not None:
        books.touch_in_full(row)
        books.weight -= weight_of(row)
        row.payload, row.head = payload, head
        books.weight += weight_of(row)
    return row is not None


def resume(books: Books, queue: str, task_id: str, now: float) -> bool:
    """Have the row wait again, if it is dead.

    Raises:
      DuplicateTaskError: its unique key is taken.
    """
    row = books.known(queue, task_id, now)
    if row is None or row.state not in (FAILED, KILLED):
        return False
    if row.unique is not None:
        books.holder(row.shelf, row.unique, now)
    if row.unique is not None and (holder := books.hold(row)) is not None:
        raise not_again(task_id, holder.id)
    books.touch(row)
    row.shelf.finished.pop(row.key)
    row.attempt, row.expires, row.wish = 0, None, False
    books.count(row.shelf, LIVE)
    books.wait(row, 0.0, now)
    return True


def resume_abandoned(books: Books, queue: str, now: float, limit: int) -> Part:
    """Have up to so many rows that run, and whose lease has run out, wait again."""
    shelf = books.shelves.get(queue)
    lapsed = shelf.lapsed(now) if shelf is not None else []
    for row in lapsed[:limit]:
        books.lose(row, now)
    if shelf is not None and len(lapsed) > limit:
        shelf.no_lease_ends_before = now  # the others are still to be found
    return Part(min(len(lapsed), limit), is_more=len(lapsed) > limit)


def forget(books: Books, queue: str, task_id: str | None, limit: int, now: float) -> Part:
    """Forget the finished row of this id, or up to so many finished ones."""
    shelf = books.shelves.get(queue)
    if shelf is None:
        return Part(0, is_more=False)
    if task_id is None:
        books.enter_due(now, -math.inf)  # but no lease that has run out: what it was for may be at work here
    rows = list(islice(shelf.finished.values(), limit))
    if task_id is not None:
        row = books.known(queue, task_id, now)
        rows = [row] if row is not None and row.key in shelf.finished else []
    for row in rows:
        books.touch(row)
        books.forget(row)
    return Part(len(rows), is_more=len(rows) == limit)
