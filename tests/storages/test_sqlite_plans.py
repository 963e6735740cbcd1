"""Tests of the query plans of all SQL statements: each uses the index made for it, however many rows there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from trio_tasks._backends.durable.engine import ClaimRequest, Exchange, NewRow, Settlement, SettlementKind
from trio_tasks._backends.sqlite import (
    exchange,
    groups,
    operations,
    places,
    rules,
    search,
    task_table,
    transfer,
    turns,
    unique_keys,
)
from trio_tasks._backends.sqlite.driver import Connection, connect
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket

pytestmark = pytest.mark.once

DRIVERS = [
    "sqlite3",
    pytest.param("apsw", marks=pytest.mark.skipif(find_spec("apsw") is None, reason="apsw is not installed")),
]

INDEX_OF = {0: "trio_tasks_held", 2: "trio_tasks_timed", 3: "trio_tasks_timed", 10: "trio_tasks_timed"}
"""The index of a section of a list, where it is none of ready or finished rows."""
SORTED_ANEW = ("list section 3",)
"""Statements that sort their rows: those that run are as many as there are slots."""
BY_KEY = "INTEGER PRIMARY KEY"
DAILY = {
    "ready": (exchange.READY, (1, 1, 10), {"trio_tasks_ready"}),
    "ready by tags": (exchange.READY_FAIR, (1, 1, 10), {"trio_tasks_ready"}),
    "rows of a key": (places.COUNT_OF_KEY, (1, "k", 2, 10), {"trio_tasks_keyed"}),
    "first held row": (places.FIRST_HELD, (1, "k", 10), {"trio_tasks_keyed"}),
    "last ready row": (places.LAST_READY, (1, "k"), {"trio_tasks_keyed"}),
    "rows with a place": (places.ALL_PLACED, (1, 10), {"trio_tasks_keyed"}),
    "places of keys": (places.asking(places.PLACED, 2), ("k", "l", 1, 10), {"trio_tasks_keyed"}),
    "room for keys": (places.asking(places.ROOM, 2), ("k", "l", 1, 10, 1), {"trio_tasks_keyed"}),
    "keys with held rows": (
        places.asking(places.STANDING, 2),
        ("k", "l", 1, 10, 1, 1),
        {"trio_tasks_keyed", BY_KEY},
    ),
    "turns of keys": (places.asking(turns.TURN_ENDS, 2), ("k", "l", 1, 0), {"PRIMARY KEY"}),
    "next key": (groups.NEXT_KEY, (1, "k"), {"trio_tasks_keyed"}),
    "running rows that are counted": (groups.COUNT_RUNNING, (1,), {"trio_tasks_timed"}),
    "ready after": (turns.READY_AFTER, (1, 0, -5, 1, 10), {"trio_tasks_ready"}),
    "ready before, from the last": (turns.READY_BEFORE, (1, 0, -5, 1, 10), {"trio_tasks_ready"}),
    "next priority": (turns.NEXT_LEVEL, (1, 0), {"trio_tasks_ready"}),
    "ready without a tag": (groups.UNTAGGED, (1, 0, 10), {"trio_tasks_ready"}),
    "keys of rows that have held ones": (groups.BLOCKED_KEYS, ("[]", 1), {BY_KEY, "trio_tasks_keyed"}),
    "turns": (turns.TURNS, (1, 0, "", 10), {"PRIMARY KEY"}),
    "drop turns": (turns.DROP_TURNS, (1, 1, 10), {"PRIMARY KEY"}),
    "end of turns": (turns.END_TURNS, (1,), {"PRIMARY KEY"}),
    "rates": (places.RATES, (0.0, 1, "", 10), {"PRIMARY KEY"}),
    "limits of a key": (rules.LIMITS_OF, (1, "k"), {"PRIMARY KEY"}),
    "oldest by tags": (operations.OLDEST_BY_TAG, (1, 0.0, 10), {"trio_tasks_ready"}),
    "claim": (exchange.CLAIM, (1, 0.0, "w", 0.0, "[]"), {BY_KEY}),
    "due": (exchange.DUE.format(""), (1, 0.0, 10), {"trio_tasks_timed"}),
    "due, without claims of others": (
        exchange.DUE.format(exchange.ONLY_OWN_CLAIMS),
        (1, 0.0, 1, 2, 10),
        {"trio_tasks_timed"},
    ),
    "next due": (exchange.NEXT_DUE, (1,), {"trio_tasks_timed"}),
    "next due, without orphans": (exchange.NEXT_DUE_BUT_ORPHANS, (1, 0.0), {"trio_tasks_timed"}),
    "expired": (task_table.EXPIRED, (1, 0.0, 0.0, 10), {"trio_tasks_timed"}),
    "due by the wall clock": (exchange.WALL_DUE, (1, 0.0, 10), {"trio_tasks_walled"}),
    "next by the wall clock": (exchange.NEXT_WALL, (1, 0.0), {"trio_tasks_walled"}),
    "holder of a key": (
        unique_keys.HOLDER,
        (1, "k", 1, "k", 0.0),
        {"trio_tasks_unique", "trio_tasks_key_held", "trio_tasks_by_id"},
    ),
    "free keys": (unique_keys.DROP_FREE, (1, 0.0, 10), {"trio_tasks_key_ends"}),
    "sweep": (task_table.SWEEP, (1, 3, 0.0, 10), {BY_KEY, "trio_tasks_finished"}),
    "succeed, without a place": (exchange.SUCCEED_FAIR, (0.0, 0, None, None, 1, 1), {BY_KEY}),
    "succeed": (exchange.SUCCEED, (0.0, 0, None, None, 1, 1), {BY_KEY}),
    "forget": (operations.FORGET, (1, 3, 10), {"trio_tasks_finished"}),
    "ready above": (operations.READY_ABOVE, (1, 0, 0.0, 10), {"trio_tasks_ready"}),
    "ready before": (operations.READY_BEFORE, (1, 0, 0, 0, 0.0, 10), {"trio_tasks_ready"}),
    "due delayed": (operations.DUE_DELAYED, (1, 0.0, 0.0, 0.0, 10), {"trio_tasks_timed"}),
    "oldest": (operations.OLDEST, (1, 1, 1000, 1, 0.0), {"trio_tasks_ready"}),
    "due now": (operations.DUE_NOW, (0.0, 1, 0.0, 0.0, 0.0), {"trio_tasks_timed"}),
    "kept no longer": (operations.KEPT_NO_LONGER, (1, 0.0), {"trio_tasks_finished"}),
    **{
        f"recount {number}": (sql, (1,), {f"trio_tasks_{index}"})
        for number, (sql, index) in enumerate(
            zip(operations.RECOUNTS, ("ready", "timed", "keyed", "timed", "timed", *["finished"] * 3), strict=True)
        )
    },
    "sizes of rows": (transfer.SIZES, (1, 0, 0.0, 10), {BY_KEY}),
    "whole rows": (transfer.WHOLE_ROWS, (1, 0, 10, 0.0), {BY_KEY}),
    "whole row": (transfer.WHOLE_ROW, (1, "a"), {"trio_tasks_by_id"}),
    "key held for a time": (transfer.TIMED_KEY, (1, "k", "a", 0.0, 0.0), {"trio_tasks_key_held"}),
    "drop": (task_table.DROP, (1, 1), {BY_KEY}),
    "rows by their keys": (search.ROWS.format(columns="id"), ("[1]",), {BY_KEY}),
    **{
        f"list section {number}{', newest first' * newest_first}{', on' * bool(key)}, {part}": (
            search.statement(section, tail),
            (1, *[0.0] * section.condition.count("?"), *parameters, 10),
            {"trio_tasks_ready" if section.state == 0 else INDEX_OF.get(number, "trio_tasks_finished")},
        )
        for number, section in enumerate(search.SECTIONS)
        for newest_first in (False, True)
        for key in ((), (1.0, 2.0, 3.0)[: len(section.columns)])
        for part, (tail, parameters) in enumerate(section.statements(key or None, newest_first=newest_first))
    },
}


_SMALL = {"SCAN level", "SCAN (subquery-1)", "SCAN SUBQUERY 1", "SCAN asked", "SCAN 2 CONSTANT ROWS", "SCAN placed"}
"""Tables that are as long as there are priorities, keys that are asked for, or places that a limit allows."""
SORTED = {"due now"}
"""Statements that sort what they find: few rows."""


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def session(driver: Any, tmp_path: Path) -> Iterator[Session]:
    session = Session(str(tmp_path / "tasks.db"), driver, Opening("OFF"), WakeupSocket())
    session.open()
    yield session
    session.close(0.0)


@pytest.mark.parametrize("name", DAILY)
def test_each_statement_goes_along_its_index(session: Session, driver: Any, tmp_path: Path, name: str) -> None:
    sql, parameters, indexes = DAILY[name]
    connection: Connection = connect(driver, str(tmp_path / "tasks.db"))
    plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    connection.close()
    assert not [step for step in plan if step.startswith("SCAN") and step not in _SMALL and "json_each" not in step], (
        plan
    )
    assert name in SORTED or name.startswith(SORTED_ANEW) or not [step for step in plan if "TEMP B-TREE" in step], plan
    assert {index for index in indexes if any(index in step for step in plan)} == indexes, plan


def test_an_exchange_takes_as_many_steps_among_many_rows_as_among_few(tmp_path: Path) -> None:
    """The test counts steps of SQLite's virtual machine, not seconds."""
    assert steps_of_an_exchange(tmp_path / "many.db", 100_000) < 1.5 * steps_of_an_exchange(tmp_path / "few.db", 1_000)


def steps_of_an_exchange(path: Path, waiting: int) -> int:
    session = Session(str(path), "sqlite3", Opening("OFF"), WakeupSocket())
    now, _ = session.open()
    for start in range(0, waiting, 5_000):
        rows = [
            NewRow("q", f"{number:08}", b"", None, number % 3, 60.0 * (number % 2), None, "skip", None)
            for number in range(start, min(start + 5_000, waiting))
        ]
        session.exchange(Exchange(pushed=rows), now)
    claim = ClaimRequest("q", 10, 30.0, "w")
    [claimed] = session.exchange(Exchange(claims=[claim]), now).claimed
    settled = [Settlement("q", row.key, row.token, SettlementKind.SUCCEEDED, 0.0, None, None, 60.0) for row in claimed]
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection: sqlite3.Connection = vars(vars(session)["_connection"])["_connection"]
    connection.set_progress_handler(count, 1)
    answer = session.exchange(Exchange(settled, (), [claim]), now)
    connection.set_progress_handler(None, 0)
    assert len(answer.claimed[0]) == 10
    assert answer.settled == [True] * 10
    session.close(now)
    return steps
