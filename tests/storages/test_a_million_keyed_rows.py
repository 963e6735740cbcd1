"""A claim from a million rows of many keys, most of them of one that is at its limit, costs little more than from rows
without keys, though all keys have limits; and so do the claim and the settlement together.

``python -m tests.storages.test_a_million_keyed_rows [ROWS]`` prints steps, processor times and plans.
"""

from __future__ import annotations

import math
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from trio_tasks import Limits
from trio_tasks._backends.durable.engine import ClaimedRow, ClaimRequest, Exchange, NewRow, Settlement, SettlementKind
from trio_tasks._backends.sqlite import exchange, groups
from trio_tasks._backends.sqlite.exchange import READY, READY_FAIR
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.operations import Operations
from trio_tasks._backends.sqlite.places import STANDING, asking
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket

from tests._scale import scaled

pytestmark = [pytest.mark.once, pytest.mark.nightly]

ROWS = 1_000_000
COUNTED = 3
"""Rounds whose steps are counted,"""
ROUNDS = 20
"""and those whose time is measured. The rounds of all files alternate."""
SIZES = (1, 10, 100)
MOST = 1.5
Key = Callable[[int], str | None]


def no_keys(rows: int) -> Key:
    return lambda number: None


def few_keys(rows: int) -> list[str]:
    few = [f"k{number}" for number in range(max(1, rows // 100))]
    random.Random(1).shuffle(few)
    return few


def most_of_one(rows: int) -> Key:
    """Return the key of each row: 99 of 100 have one and the same, and the others as many keys as there are rows."""
    few = few_keys(rows)
    return lambda number: "big" if number < rows - len(few) else few[number - rows]


def in_turns(rows: int) -> Key:
    """Return the key of each row: a hundred rows for each key."""
    few = few_keys(rows)
    return lambda number: few[number % len(few)]


class Case(NamedTuple):
    """A file: the keys of its rows, and the limits of its queue and of the key with the most rows."""

    keys: Callable[[int], Key]
    limits: Limits | None = None
    of_one: Limits | None = None


ONE = Limits(per_key=1)
PLAIN, ONE_LIMIT, ALL_LIMITS, ALL_HELD = "without keys", "one limit", "all limits", "all limits, each row held once"
CASES = {
    PLAIN: Case(no_keys),
    ONE_LIMIT: Case(most_of_one, None, ONE),
    ALL_LIMITS: Case(most_of_one, ONE),
    ALL_HELD: Case(in_turns, ONE),
}


@contextmanager
def filled(path: Path, rows: int, case: Case) -> Generator[tuple[Session, float], None, None]:
    session = Session(str(path), "sqlite3", Opening("OFF"), WakeupSocket())
    now, _ = session.open()
    key_of = case.keys(rows)
    for key, limits in ((None, case.limits), ("big", case.of_one)):
        if limits is not None:
            session.write(Operations.set_limits, "q", key, limits, False, now)
    for start in range(0, rows, 5_000):
        numbers = range(start, min(start + 5_000, rows))
        new = [NewRow("q", f"{each:08}", b"x", None, 0, 0.0, None, "skip", None, key=key_of(each)) for each in numbers]
        session.exchange(Exchange(pushed=new), now)
    claim(session, now, 1)  # the one that blocks the key
    try:
        yield session, now
    finally:
        session.close(now)


def claim(session: Session, now: float, size: int) -> list[ClaimedRow]:
    return session.exchange(Exchange(claims=[ClaimRequest("q", size, 30.0, "w")]), now).claimed[0]


def settle(session: Session, now: float, rows: list[ClaimedRow]) -> None:
    ends = [Settlement("q", row.key, row.token, SettlementKind.SUCCEEDED, 0.0, None, None, 60.0) for row in rows]
    session.exchange(Exchange(settled=ends), now)


def steps_of(session: Session, act: Callable[[], Any]) -> int:
    """Return the steps of SQLite's virtual machine that something takes."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = cast("sqlite3.Connection", vars(vars(session)["_connection"])["_connection"])
    connection.set_progress_handler(count, 1)
    act()
    connection.set_progress_handler(None, 0)
    return steps


def seconds_of(_: Session, act: Callable[[], Any]) -> float:
    """Return the time of the processor that something takes in this thread."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


class Cost(NamedTuple):
    """What the claim of some rows takes, and the claim and their settlement together."""

    claim: float
    both: float


def one_round(session: Session, now: float, size: int, measure: Callable[[Session, Callable[[], Any]], float]) -> Cost:
    rows: list[ClaimedRow] = []
    of_claim = measure(session, lambda: rows.extend(claim(session, now, size)))
    assert len(rows) == size
    return Cost(of_claim, of_claim + measure(session, lambda: settle(session, now, rows)))


def medians(costs: list[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


@pytest.mark.parametrize("name", [ONE_LIMIT, ALL_LIMITS])
def test_a_claim_by_keys_takes_few_more_steps(tmp_path: Path, name: str) -> None:
    rows, found = scaled(ROWS), list[Cost]()
    for each in (PLAIN, name):
        with filled(tmp_path / each, rows, CASES[each]) as (session, now):
            size = min(10, rows // 5_000)
            found.append(medians([one_round(session, now, size, steps_of) for _ in range(COUNTED)]))
    assert found[1].claim <= MOST * found[0].claim
    assert found[1].both <= MOST * found[0].both


def changes_alone(
    session: Session, now: float, size: int, measure: Callable[[Session, Callable[[], Any]], float]
) -> float:
    """Return what the changes of rows alone take: claim them, settle them, and make the next one of each key ready.

    No row is looked for, nothing is counted, no turn is given.
    """
    connection = vars(session)["_connection"]
    ready = connection.execute(READY_FAIR, (1, 1, size))
    seqs = str([row[0] for row in ready])
    held = connection.execute(asking(STANDING, size), (*[row[13] for row in ready], 1, 1, 1, 1))
    tags = [(ready[-1][12] + 2**40, row[1]) for row in held]
    assert len(tags) == size

    def change() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(exchange.CLAIM, (1, now, "w", now, seqs))
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(exchange.SUCCEED_ALL_FAIR, (now, int(now * 1e6), seqs, 1))
        connection.executemany(groups.ADMIT, tags)
        connection.execute("COMMIT")

    return measure(session, change)


def show(rows: int) -> None:
    """Print steps, times of the processor and plans, without keys and with them."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = {name: stack.enter_context(filled(directory / name, rows, case)) for name, case in CASES.items()}
        print("steps of a claim, of claim and settlement; microseconds of both (and each as times those without keys)")
        for size in SIZES:
            found = compare(files, size)
            plain = found[PLAIN]
            for name, costs in found.items():
                told = [
                    "" if math.isnan(cost) else f"{cost:.0f} ({cost / base:.2f})"
                    for cost, base in zip(costs, plain, strict=True)
                ]
                print(f"{size:3} rows, {name:31}: {', '.join(f'{each:>13}' for each in told)}")
        for what, plan in plans(files[ALL_LIMITS][0]).items():
            print(f"{what}: {'; '.join(plan)}")


Costs = tuple[float, ...]
"""Steps of a claim, steps of claim and settlement, and microseconds of both."""


def compare(files: dict[str, tuple[Session, float]], size: int) -> dict[str, Costs]:
    """Return the costs of so many rows in each file, and those of the changes of rows alone where each was held."""
    steps: dict[str, list[Cost]] = {name: [] for name in files}
    seconds: dict[str, list[Cost]] = {name: [] for name in files}
    alone: tuple[list[float], list[float]] = [], []
    for number in range(COUNTED + ROUNDS):
        costs, measure, floors = (steps, steps_of, alone[0]) if number < COUNTED else (seconds, seconds_of, alone[1])
        for name, file in files.items():
            costs[name].append(one_round(*file, size, measure))
        floors.append(changes_alone(*files[ALL_HELD], size, measure))
    found = {name: (*medians(steps[name]), *(each * 1e6 for each in medians(seconds[name]))) for name in files}
    floor = [statistics.median(each) for each in alone]
    found["its changes of rows alone"] = (math.nan, floor[0], math.nan, floor[1] * 1e6)
    return found


def plans(session: Session) -> dict[str, list[str]]:
    """Return the plans of the statements of claims and settlements."""
    connection = vars(session)["_connection"]
    statements = {
        "rows to claim, without keys": (READY, (1, 1, 10)),
        "rows to claim, with keys": (READY_FAIR, (1, 1, 10)),
        "keys of settled rows that have held ones": (groups.BLOCKED_KEYS, ("[1]", 1)),
        "first held rows of keys": (asking(STANDING, 1), ("big", 1, 1, 1, 1)),
    }
    found: dict[str, list[str]] = {}
    for what, (sql, given) in statements.items():
        found[what] = [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given)]
    return found


if __name__ == "__main__":
    show(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
