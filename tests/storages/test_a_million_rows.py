"""Looking at a queue, and changing many of its tasks, costs the same among a million rows as among few.

``python -m tests.storages.test_a_million_rows`` prints the times.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import SqliteStorage, Status

from tests._scale import scaled

pytestmark = [pytest.mark.once, pytest.mark.nightly]

ROWS = 1_000_000
_COPY = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
INSERT INTO trio_tasks_task
(queue, id, state, priority, order_key, due, payload, attempt, token, worker, name, pushed, started)
SELECT queue, printf('%s-%012d', ?, n), ?, 0, order_key + n, ?, payload, 0, 0, NULL, 'mail', pushed, pushed
FROM trio_tasks_task, number WHERE id = 'first'
"""


async def fill(path: Path, rows: int) -> None:
    """Make a file with so many rows: a third each are ready, delayed, and failed."""
    async with SqliteStorage(path, int) as storage:
        await storage.push(0, id="first")
    each = rows // 3
    with closing(sqlite3.connect(path)) as connection, connection:
        for prefix, state, due in (("ready", 0, None), ("delayed", 1, 9e9), ("failed", 4, None)):
            connection.execute(_COPY, (each, prefix, state, due))
        connection.execute(
            "UPDATE trio_tasks_queue SET pushed = pushed + ?, live = live + ?, delayed = delayed + ?, "
            "failed = failed + ?, kept_failed = kept_failed + ?",
            (3 * each, 2 * each, each, each, each),
        )


Look = Callable[[Any], Awaitable[Any]]


async def _second_page(storage: Any) -> Any:
    page = await storage.list_tasks(Status.Failed, newest_first=True, limit=50)
    return await storage.list_tasks(Status.Failed, newest_first=True, limit=50, after=page.next)


LOOKS: dict[str, Look] = {
    "list, failed, newest first": lambda storage: storage.list_tasks(Status.Failed, newest_first=True, limit=50),
    "list, the second page": _second_page,
    "list, ready": lambda storage: storage.list_tasks(Status.Pending, delayed=False, limit=50),
    "list, delayed": lambda storage: storage.list_tasks(Status.Pending, delayed=True, limit=50),
    "metrics": lambda storage: storage.metrics(),
    "throughput": lambda storage: storage.throughput(),
    "explain": lambda storage: storage.explain("ready-000000000400"),
}
"""Each looks at a bounded number of rows."""
MANY: dict[str, Look] = {
    "list by a name that no task has": lambda storage: storage.list_tasks(Status.Failed, name="none", limit=50),
    "discard_all of the failed": lambda storage: storage.discard_all(Status.Failed),
}
"""These look at more of them; their times are printed, and not compared."""


async def steps_and_seconds(storage: SqliteStorage[int], look: Look) -> tuple[int, float]:
    """Return the steps of SQLite's virtual machine, in hundreds, and the seconds that something takes."""
    connection: sqlite3.Connection = vars(storage._loop.engine)["_session"]._connection._connection
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 100)
    began = time.perf_counter()
    await look(storage)
    seconds = time.perf_counter() - began
    connection.set_progress_handler(None, 0)
    return steps, seconds


async def look_at(path: Path, rows: int, looks: dict[str, Look]) -> dict[str, tuple[int, float]]:
    """Fill a file, and return the steps and seconds of each of these."""
    await fill(path, rows)
    async with SqliteStorage(path, int) as storage:
        return {what: await steps_and_seconds(storage, look) for what, look in looks.items()}


async def test_looking_takes_as_many_steps_among_many_rows_as_among_few(tmp_path: Path) -> None:
    few = await look_at(tmp_path / "few.db", 6_000, LOOKS)
    many = await look_at(tmp_path / "many.db", scaled(ROWS), LOOKS)
    for what, (steps, _) in few.items():
        assert many[what][0] <= 1.5 * steps + 20, what


async def show() -> None:
    """Print the times of all, among few rows and among a million."""
    with tempfile.TemporaryDirectory() as directory:
        few = await look_at(Path(directory, "few.db"), 6_000, {**LOOKS, **MANY})
        many = await look_at(Path(directory, "many.db"), ROWS, {**LOOKS, **MANY})
    print(f"{'ms':32} {'6 000 rows':>12} {'1 000 000 rows':>16}")
    for what, (_, seconds) in few.items():
        print(f"{what:32} {seconds * 1e3:12.2f} {many[what][1] * 1e3:16.2f}")


if __name__ == "__main__":
    sys.exit(trio.run(show))
