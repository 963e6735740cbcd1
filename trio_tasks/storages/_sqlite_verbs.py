"""What else can be done with an SQLite file's rows: each a function of its books, inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import DuplicateTaskError
from ._port import Answer, Held, State, Stored
from ._record import decode_head
from ._sqlite_queues import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._sqlite_books import Books
    from ._sqlite_driver import Connection
    from ._sqlite_queues import Queues

_ALL = 2**63 - 1
"""Rows, more than any file has."""
_COLUMNS = "id, state, attempt, payload, head, due, result, history, progress, worker"

LISTED = {
    State.WAITING: "queue = ? AND state = 0 ORDER BY priority DESC, turn",
    State.DELAYED: "queue = ? AND state = 1 AND due IS NOT NULL AND state < 3 ORDER BY due",
    State.RUNNING: "queue = ? AND state = 2 AND due IS NOT NULL AND state < 3 ORDER BY due",
    State.DONE: "queue = ? AND state = 3 AND +state > 2 ORDER BY due, turn",
    State.FAILED: "queue = ? AND state = 4 AND +state > 2 ORDER BY due, turn",
    State.KILLED: "queue = ? AND state = 5 AND +state > 2 ORDER BY due, turn",
}
"""How each state is listed: along the index that holds it. Each repeats the condition of that index, so that SQLite
sees that it may be used; the ``+`` keeps the finished ones from being looked up by it instead of by their state."""


def find(connection: Connection, _: Books, queues: Queues, queue: str, task_id: str) -> Stored | None:
    """The row of this id."""
    sql = f"SELECT {_COLUMNS} FROM trio_tasks_task WHERE queue = ? AND id = ?"
    rows = connection.execute(sql, (queues.known(queue), task_id))
    return _stored(rows[0]) if rows else None


def list_rows(
    connection: Connection, _: Books, queues: Queues, queue: str, states: Sequence[State], limit: int
) -> list[Stored]:
    """At most so many rows in these states."""
    number = queues.known(queue)
    found: list[Stored] = []
    for state in states:
        sql = f"SELECT {_COLUMNS} FROM trio_tasks_task WHERE {LISTED[state]} LIMIT ?"
        found += map(_stored, connection.execute(sql, (number, min(limit - len(found), _ALL))))
    return found


def _stored(row: Any) -> Stored:
    return Stored._make((text(row[0]), State(row[1]), int(row[2]), *row[3:]))


def _row_that_waits(connection: Connection, number: int, task_id: str) -> int | None:
    sql = "SELECT seq FROM trio_tasks_task WHERE queue = ? AND id = ? AND state IN (0, 1)"
    rows = connection.execute(sql, (number, task_id))
    return rows[0][0] if rows else None


def cancel(
    connection: Connection, books: Books, queues: Queues, queue: str, task_id: str, error: bytes, now: float
) -> bool:
    """Kill the row if it waits."""
    number = queues.known(queue)
    seq = _row_that_waits(connection, number, task_id)
    if seq is not None:
        books.rows.kill(number, seq, error, now)
    return seq is not None


def abort(connection: Connection, _: Books, queues: Queues, queue: str, task_id: str) -> Held | None:
    """Say that who runs the row is to stop."""
    sql = "SELECT seq, token FROM trio_tasks_task WHERE queue = ? AND id = ? AND state = 2"
    rows = connection.execute(sql, (queues.known(queue), task_id))
    if not rows:
        return None
    held = Held._make(rows[0])
    connection.execute("UPDATE trio_tasks_task SET wish = 'abort' WHERE seq = ?", (held.key,))
    return held


def reschedule(
    connection: Connection, books: Books, queues: Queues, queue: str, task_id: str, delay: float, now: float
) -> bool:
    """Have the row be ready then, if it waits."""
    seq = _row_that_waits(connection, queues.known(queue), task_id)
    if seq is None:
        return False
    if delay > 0:
        connection.execute(
            "UPDATE trio_tasks_task SET state = 1, due = ?, turn = ? WHERE seq = ?",
            (now + delay, books.rows.turn(now + delay, now), seq),
        )
    else:
        connection.execute(
            "UPDATE trio_tasks_task SET state = 0, due = start_by, turn = ? WHERE seq = ?",
            (books.rows.turn(None, now), seq),
        )
    return True


def update(
    connection: Connection, _: Books, queues: Queues, queue: str, task_id: str, payload: bytes, head: bytes | None
) -> bool:
    """Replace what the row holds, if it waits."""
    seq = _row_that_waits(connection, queues.known(queue), task_id)
    if seq is not None:
        connection.execute("UPDATE trio_tasks_task SET payload = ?, head = ? WHERE seq = ?", (payload, head, seq))
    return seq is not None


def resume(connection: Connection, books: Books, queues: Queues, queue: str, task_id: str, now: float) -> bool:
    """Have the dead row wait again.

    Raises:
      DuplicateTaskError: its unique key is taken.
    """
    number = queues.known(queue)
    rows = connection.execute(
        "SELECT seq, uniq, head FROM trio_tasks_task WHERE queue = ? AND id = ? AND state IN (4, 5)", (number, task_id)
    )
    if not rows:
        return False
    [(seq, unique, head)] = rows
    if unique is None:  # perhaps because it was replaced while it ran
        unique = decode_head(head)[0].unique
    holder = connection.execute(
        "SELECT id FROM trio_tasks_task WHERE queue = ? AND uniq = ? AND uniq IS NOT NULL AND state < 3",
        (number, unique),
    )
    if holder:
        raise DuplicateTaskError(f"task {task_id} cannot wait again: task {holder[0][0]} has its unique key")
    connection.execute(
        "UPDATE trio_tasks_task SET state = 0, due = NULL, start_by = NULL, attempt = 0, turn = ?, wish = NULL, "
        "uniq = ? WHERE seq = ?",
        (books.rows.turn(None, now), unique, seq),
    )
    queues.count(number, live=1)
    return True


def resume_abandoned(_: Connection, books: Books, queues: Queues, queue: str, now: float) -> int:
    """Have orphans wait again."""
    resumed, is_more = 0, True
    while is_more:
        orphans, is_more = books.enter_due(queue, queues.known(queue), now, Answer())
        resumed += orphans
    return resumed


def forget(connection: Connection, _: Books, queues: Queues, queue: str, task_id: str | None) -> int:
    """Forget one finished row, or all."""
    number = queues.known(queue)
    if task_id is not None:
        sql = "DELETE FROM trio_tasks_task WHERE queue = ? AND id = ? AND state >= 3"
        return connection.changed(sql, (number, task_id))
    return connection.changed("DELETE FROM trio_tasks_task WHERE queue = ? AND state >= 3", (number,))


def counts(_: Connection, __: Books, queues: Queues, queue: str) -> dict[str, int]:
    """All counts of the queue."""
    return queues.counts(queues.known(queue))


def names(_: Connection, __: Books, queues: Queues) -> list[str]:
    """All queues."""
    return queues.names()


def register(connection: Connection, _: Books, __: Queues, session: int, queue: str, workers: Sequence[str]) -> None:
    """These are the workers of this session on the queue."""
    connection.execute("DELETE FROM trio_tasks_worker WHERE session = ? AND queue = ?", (session, queue))
    rows = [(session, queue, name) for name in workers]
    connection.executemany("INSERT INTO trio_tasks_worker VALUES (?, ?, ?)", rows)


def workers(connection: Connection, _: Books, __: Queues, queue: str, now: float) -> list[str]:
    """Who runs on the queue, in sessions that are alive."""
    sql = (
        "SELECT name FROM trio_tasks_worker JOIN trio_tasks_session ON num = session "
        "WHERE queue = ? AND expires > ? ORDER BY name"
    )
    return [text(name) for (name,) in connection.execute(sql, (queue, now))]


def report(connection: Connection, _: Books, __: Queues, held: Held, progress: bytes) -> bool:
    """Keep the progress of a row in hand."""
    sql = "UPDATE trio_tasks_task SET progress = ? WHERE seq = ? AND token = ? AND state = 2"
    return connection.changed(sql, (progress, held.key, held.token)) > 0
