"""A claim from a million rows of many keys, most of them of one that is at its limit, costs little more than from rows
without keys.

``python -m tests.storages.test_a_million_keyed_rows [ROWS]`` prints steps, times and plans.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import Limits
from trio_tasks._backends.durable.engine import ClaimRequest, Exchange, NewRow, Settlement, SettlementKind
from trio_tasks._backends.sqlite.exchange import READY, READY_FAIR
from trio_tasks._backends.sqlite.groups import COUNT_OF_KEY, FIRST_HELD
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.operations import Operations
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket

from tests._scale import scaled

pytestmark = [pytest.mark.once, pytest.mark.nightly]

ROWS = 1_000_000
ROUNDS = 20
SIZES = (1, 10, 100)
Key = Callable[[int], str | None]


def no_key(number: int) -> str | None:
    return None


def keys_of(rows: int) -> Key:
    """Return the key of each row: 99 of 100 have one and the same, and the others as many keys as there are rows."""
    few = [f"k{number}" for number in range(max(1, rows // 100))]
    random.Random(1).shuffle(few)
    return lambda number: "big" if number < rows - len(few) else few[number - rows]


@contextmanager
def filled(path: Path, rows: int, key_of: Key) -> Generator[tuple[Session, float], None, None]:
    session = Session(str(path), "sqlite3", Opening("OFF"), WakeupSocket())
    now, _ = session.open()
    session.write(Operations.set_limits, "q", "big", Limits(per_key=1), False, now)
    for start in range(0, rows, 5_000):
        numbers = range(start, min(start + 5_000, rows))
        new = [NewRow("q", f"{each:08}", b"x", None, 0, 0.0, None, "skip", None, key=key_of(each)) for each in numbers]
        session.exchange(Exchange(pushed=new), now)
    claim(session, now, 1)  # the one that blocks the key
    try:
        yield session, now
    finally:
        session.close(now)


def claim(session: Session, now: float, size: int) -> list[Any]:
    return session.exchange(Exchange(claims=[ClaimRequest("q", size, 30.0, "w")]), now).claimed[0]


def measure(session: Session, now: float, size: int) -> tuple[int, float]:
    """Return the steps of SQLite's virtual machine, and the seconds, of a claim of so many rows."""
    steps, counted, seconds = 0, list[int](), list[float]()

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection: Any = vars(vars(session)["_connection"])["_connection"]
    for _ in range(ROUNDS):
        steps = 0
        connection.set_progress_handler(count, 1)
        rows = claim(session, now, size)
        connection.set_progress_handler(None, 0)
        counted.append(steps)
        began = time.perf_counter()
        rows += claim(session, now, size)
        seconds.append(time.perf_counter() - began)
        assert len(rows) == 2 * size
        ends = [Settlement("q", row.key, row.token, SettlementKind.SUCCEEDED, 0.0, None, None, 60.0) for row in rows]
        session.exchange(Exchange(settled=ends), now)
    return int(statistics.median(counted)), min(seconds)


def test_a_claim_by_keys_takes_few_more_steps(tmp_path: Path) -> None:
    rows, found = scaled(ROWS), list[int]()
    for name, key_of in (("without", no_key), ("with", keys_of(rows))):
        with filled(tmp_path / name, rows, key_of) as (session, now):
            found.append(measure(session, now, min(10, rows // 5_000))[0])
    assert found[1] <= 1.5 * found[0]


def show(rows: int) -> None:
    """Print steps, times and plans, without keys and with them."""
    results: dict[str, list[tuple[int, float]]] = {}
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, key_of in (("without keys", no_key), ("with keys", keys_of(rows))):
        with tempfile.TemporaryDirectory() as directory, filled(Path(directory, "tasks.db"), rows, key_of) as file:
            results[name] = [measure(*file, size) for size in SIZES]
            connection = vars(file[0])["_connection"]
            plans = {
                "rows to claim, without keys": (READY, (1, 1, 10)),
                "rows to claim, with keys": (READY_FAIR, (1, 1, 10)),
                "attempts of a key": (COUNT_OF_KEY, (1, "big", 2, 1)),
                "the first held row of a key": (FIRST_HELD, (1, "big", 1)),
            }
            found = {
                what: connection.execute(f"EXPLAIN QUERY PLAN {sql}", given) for what, (sql, given) in plans.items()
            }
    for size, (plain, fair) in zip(SIZES, zip(*results.values(), strict=True), strict=True):
        steps, seconds = fair[0] / plain[0], fair[1] / plain[1]
        print(f"claim of {size:3}: {plain[0]:6} and {fair[0]:6} steps ({steps:.2f}), ", end="")
        print(f"{plain[1] * 1e6:5.0f} and {fair[1] * 1e6:5.0f} µs ({seconds:.2f})")
    for what, plan in found.items():
        print(f"{what}: {'; '.join(str(step[3]) for step in plan)}")


if __name__ == "__main__":
    show(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
