"""Tests of the contract of engines: one suite for every engine."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock
from trio_tasks import BackendError, DuplicateTaskError, QueueMetrics
from trio_tasks._backends.durable.encoding import decode_error, decode_history, encode_options
from trio_tasks._backends.durable.engine import (
    ClaimKey,
    ClaimRequest,
    Engine,
    Exchange,
    KilledRow,
    KillReason,
    Part,
    Query,
    SettlementKind,
    State,
    StoredRow,
    WorkerRow,
)
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.sqlite.driver import connect
from trio_tasks._backends.sqlite.engine import SqliteEngine
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._clock import use_wall_clock
from trio_tasks._contracts.states import COUNTERS
from trio_tasks._tasks.task import Terms

from tests.storages._rows import QUEUE, claim, claim_all, contents, ids, listed, new, push, settle, settled

HOUR = 3600.0

ATTEMPTS_AFTER = {
    verdict: int(verdict not in (SettlementKind.RELEASED, SettlementKind.SUSPENDED)) for verdict in SettlementKind
}
"""How many attempts count when the first one has ended so. An interruption or a suspension does not, whatever becomes
of the row."""

FOREIGN = "another"
"""A queue that is not the one of the tests."""


def make(kind: str, path: Path) -> Engine:
    if kind == "file":
        return FileEngine(path / "tasks.journal", synchronous="NORMAL")
    driver: Any = kind
    return SqliteEngine(path / "tasks.db", driver, Opening("OFF"))


KINDS = [
    "sqlite3",
    pytest.param("apsw", marks=pytest.mark.skipif(find_spec("apsw") is None, reason="apsw is not installed")),
    "file",
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@asynccontextmanager
async def opened(kind: str, path: Path) -> AsyncIterator[Engine]:
    engine = make(kind, path)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture
async def engine(kind: str, tmp_path: Path, mock_clock: MockClock) -> AsyncIterator[Engine]:
    """Open, under a clock that only moves when told to."""
    async with opened(kind, tmp_path) as engine:
        yield engine


async def found(engine: Engine, task_id: str, queue: str = QUEUE) -> StoredRow:
    stored = await engine.find(queue, task_id)
    assert stored is not None
    return stored


async def states(engine: Engine, *task_ids: str) -> list[State]:
    return [(await found(engine, task_id)).state for task_id in task_ids]


async def check_counts(engine: Engine, queue: str = QUEUE, /, **expected: int) -> None:
    """These, and zero for all others."""
    counts: Any = await engine.metrics(queue)
    assert set(counts) == set(QueueMetrics.__annotations__)
    balance = await engine.audit(queue)
    assert balance, balance
    shown = {name: counts[name] for name in COUNTERS if counts[name]}
    waiting, running = counts["waiting"] + counts["delayed"], counts["running"]
    assert shown | ({"waiting": waiting} if waiting else {}) | ({"running": running} if running else {}) == expected


async def line(engine: Engine) -> list[str]:
    """Who waits, in order; they are claimed by that."""
    return ids(await claim(engine, 1000))


# Exchanges


async def test_an_exchange_settles_then_pushes_then_enters_what_is_due_and_then_claims(
    engine: Engine, mock_clock: MockClock
) -> None:
    await push(engine, new("first", unique="key"), new("later", delay=1.0, priority=9))
    [first] = await claim(engine)
    mock_clock.jump(2)
    done = settled(first, SettlementKind.SUCCEEDED)
    answer = await engine.exchange(
        Exchange([done], [new("second", unique="key", on_conflict="raise")], [ClaimRequest(QUEUE, 3, 30.0, "w")])
    )
    assert answer.settled == [True]
    assert answer.pushed == ["second"]  # the key was free by then
    assert ids(answer.claimed[0]) == ["later", "second"]
    assert answer.live == [2]


async def test_an_empty_exchange_does_nothing(engine: Engine) -> None:
    answer = await engine.exchange(Exchange())
    assert (answer.settled, answer.pushed, answer.claimed, answer.killed) == ([], [], [], [])


async def test_what_was_pushed_is_claimed_as_it_was(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a", b"\x00payload", options=b"\xffhead", priority=-3))
    [row] = await claim(engine)
    assert (row.id, row.payload, row.options, row.attempt, row.history) == ("a", b"\x00payload", b"\xffhead", 1, None)
    stored = await found(engine, "a")
    assert stored.state is State.RUNNING
    assert stored.due == pytest.approx(engine.now() + 30.0)
    assert (stored.attempt, stored.payload, stored.options, stored.worker) == (1, b"\x00payload", b"\xffhead", "w")
    assert (stored.result, stored.history, stored.progress) == (None, None, None)


async def test_each_row_of_a_claim_is_for_the_worker_that_the_claim_says(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *map(new, "abcd"), new("e", expires_in=1.0, priority=9))
    mock_clock.jump(2)  # a row that has expired takes nobody's place
    two = ClaimRequest(QUEUE, 6, 10.0, "one", ["one", "two", "one", "two", "three", "one"])
    answer = await engine.exchange(Exchange(claims=[two]))
    assert ids(answer.claimed[0]) == [*"abcd"]
    assert [(await found(engine, each)).worker for each in "abcd"] == ["one", "two", "one", "two"]
    assert (await engine.exchange(Exchange([settled(answer.claimed[0][1])]))).settled == [True]
    assert (await found(engine, "b")).worker == "two"
    mock_clock.jump(11)
    again = await claim(engine, 9)
    losses = {row.id: [each.worker for each in decode_history(row.history)] for row in again}
    assert losses == {"a": ["one"], "c": ["one"], "d": ["two"]}


async def test_rows_that_a_claim_leaves_out_stay_in_their_place(engine: Engine) -> None:
    await push(engine, *map(new, "abcd"))
    a, b = await claim(engine, 2)
    assert await settle(engine, settled(a, SettlementKind.RELEASED), settled(b, SettlementKind.RELEASED)) == [
        True,
        True,
    ]
    answer = await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 1, 30.0, "w", left_out={a.id, b.id})]))
    assert ids(answer.claimed[0]) == ["c"]
    assert answer.live == [-1]
    answer = await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 3, 30.0, "w", left_out={b.id})]))
    assert ids(answer.claimed[0]) == ["a", "d"]
    assert answer.live == [4]
    assert ids(await claim(engine, 3)) == ["b"]


async def test_several_queues_are_claimed_in_one_exchange_each_with_its_own_answer(engine: Engine) -> None:
    await push(engine, new("a"), new("b"), new("c", queue=FOREIGN), new("d", queue=FOREIGN, delay=HOUR))
    claims = [
        ClaimRequest(QUEUE, 1, 30.0, "w"),
        ClaimRequest(FOREIGN, 5, 30.0, "w"),
        ClaimRequest("empty", 1, 30.0, "w"),
    ]
    answer = await engine.exchange(Exchange(claims=claims))
    assert [ids(rows) for rows in answer.claimed] == [["a"], ["c"], []]
    assert answer.live == [-1, 2, 0]
    assert answer.next_due[0] is None
    assert answer.next_due[2] is None
    assert answer.next_due[1] == pytest.approx(engine.now() + 30.0)  # the lease of what was just claimed


async def test_no_two_claims_have_the_same_token(engine: Engine) -> None:
    await push(engine, *map(new, "abc"))
    tokens = set()
    for _ in range(20):
        rows = await claim(engine, 1) + await claim(engine, 2)
        assert len(rows) == 3
        for row in rows:
            assert (row.key, row.token) not in tokens
            tokens.add((row.key, row.token))
        assert await settle(engine, *[settled(row, SettlementKind.RELEASED) for row in rows]) == [True] * 3


# The line


async def test_the_higher_priority_goes_first_then_the_longest_wait(engine: Engine, mock_clock: MockClock) -> None:
    for id, priority in [("low", -1), ("a", 0), ("high", 5), ("b", 0), ("highest", 2**62), ("lowest", -(2**62))]:
        await push(engine, new(id, priority=priority))
    await push(engine, new("c"), new("d"))
    assert await line(engine) == ["highest", "high", "a", "b", "c", "d", "low", "lowest"]


async def test_a_delayed_row_waits_from_when_it_is_due(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("due at 2", delay=2.0), new("due at 4", delay=4.0))
    mock_clock.jump(3)
    await push(engine, new("pushed at 3"))
    mock_clock.jump(2)
    await push(engine, new("pushed at 5"))
    assert await line(engine) == ["due at 2", "pushed at 3", "due at 4", "pushed at 5"]


async def test_a_released_row_is_in_front_and_a_retried_one_behind(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *map(new, "abcd"))
    a, b, _ = await claim(engine, 3)
    mock_clock.jump(1)
    await push(engine, new("e"))
    await settle(engine, settled(a, SettlementKind.RETRIED), settled(b, SettlementKind.RELEASED))
    mock_clock.jump(1)
    await push(engine, new("f"))
    assert await line(engine) == ["b", "d", "e", "a", "f"]


async def test_a_task_retried_at_once_is_behind_one_pushed_in_the_same_instant(engine: Engine) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await push(engine, *map(new, "bcd"))
    await settle(engine, settled(a, SettlementKind.RETRIED))
    assert await line(engine) == ["b", "c", "d", "a"]


async def test_an_orphan_waits_from_when_it_first_did(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"))
    await claim(engine, lease=10.0)
    mock_clock.jump(5)
    await push(engine, new("b"))
    mock_clock.jump(6)
    assert await line(engine) == ["a", "b"]


async def test_no_more_than_the_limit_is_claimed_and_short_claims_say_so(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *map(new, "abc"), new("later", delay=HOUR))
    answer = await claim_all(engine, 2)
    assert ids(answer.claimed[0]) == ["a", "b"]
    assert (answer.next_due, answer.live) == ([None], [-1])
    answer = await claim_all(engine, 2, lease=2 * HOUR)
    assert ids(answer.claimed[0]) == ["c"]
    assert answer.live == [4]
    assert answer.next_due == [pytest.approx(engine.now() + 30.0)]  # the first lease
    answer = await claim_all(engine, 0)
    assert answer.claimed == [[]]


async def test_next_due_is_the_earliest_delay_lease_or_expiry(engine: Engine, mock_clock: MockClock) -> None:
    now = engine.now()
    await push(engine, new("delayed", delay=50.0), new("unstarted", priority=-1, expires_in=40.0), new("claimed"))
    await claim(engine, 1, lease=30.0)
    for expected, elapsed in [(30.0, 31), (50.0, 20)]:
        answer = await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 0, 30.0, "w")]))
        if answer.next_due != [None]:  # a claim of nothing need not be short
            assert answer.next_due == [pytest.approx(now + expected)]
        mock_clock.jump(elapsed)
    answer = await claim_all(engine, lease=HOUR)
    assert ids(answer.claimed[0]) == ["claimed", "delayed"]  # the orphan, and the one which was due
    assert answer.killed == [KilledRow(QUEUE, "unstarted", KillReason.EXPIRED)]
    assert answer.next_due == [pytest.approx(engine.now() + HOUR)]


# Verdicts


@pytest.mark.parametrize(
    ("verdict", "state", "counter"),
    [
        (SettlementKind.SUCCEEDED, State.DONE, "succeeded"),
        (SettlementKind.FAILED, State.FAILED, "failed"),
        (SettlementKind.KILLED, State.KILLED, "killed"),
    ],
)
async def test_a_finished_row_keeps_its_result_and_history(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind, state: State, counter: str
) -> None:
    history = None if verdict is SettlementKind.SUCCEEDED else b"\x80"
    await push(engine, new("a", options=b"h"), new("b"))
    a, b = await claim(engine, 2)
    assert await settle(engine, settled(a, verdict, result=b"r", history=history), settled(b, verdict)) == [True, True]
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.payload, stored.options) == (state, 1, b"args", b"h")
    assert (stored.result, stored.history, stored.due, stored.worker) == (b"r", history, None, "w")
    assert (await found(engine, "b")).result is None
    await check_counts(engine, **{"pushed": 2, counter: 2})
    assert (await claim_all(engine)).live == [0]


async def test_the_history_of_a_success_is_replaced_too(engine: Engine) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await settle(engine, settled(a, history=b"\x80"))
    assert (await found(engine, "a")).history == b"\x80"


async def test_a_retried_row_waits_for_its_time_one_attempt_further(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.RETRIED, after=10.0, result=b"error", history=b"\x81\x01"))
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.result, stored.history) == (State.DELAYED, 1, b"error", b"\x81\x01")
    assert stored.due == pytest.approx(engine.now() + 10.0)
    await check_counts(engine, pushed=1, retried=1, waiting=1)
    mock_clock.jump(9)
    answer = await claim_all(engine)
    assert answer.claimed == [[]]
    assert answer.live == [1]
    assert answer.next_due == [pytest.approx(engine.now() + 1.0)]
    mock_clock.jump(1.5)
    [again] = await claim(engine)
    assert (again.attempt, again.history) == (2, b"\x81\x01")
    await settle(engine, settled(again, SettlementKind.RETRIED, history=None))
    [again] = await claim(engine)
    assert (again.attempt, again.history) == (3, b"\x81\x01")  # None has left it
    await check_counts(engine, pushed=1, retried=2, running=1)


async def test_a_release_costs_no_attempt_and_leaves_no_trace(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.RELEASED))
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.result, stored.history, stored.due) == (
        State.WAITING,
        0,
        None,
        None,
        None,
    )
    await check_counts(engine, pushed=1, released=1, waiting=1)
    assert (await claim(engine))[0].attempt == 1


async def test_a_suspended_row_waits_for_its_time_and_its_attempt_does_not_count(
    engine: Engine, mock_clock: MockClock
) -> None:
    await push(engine, new("a"))
    for number in range(1, 4):
        [a] = await claim(engine)
        assert a.attempt == 1
        await settle(engine, settled(a, SettlementKind.SUSPENDED, after=10.0))
        stored = await found(engine, "a")
        assert (stored.state, stored.attempt, stored.result, stored.history) == (State.DELAYED, 0, None, None)
        assert stored.due == pytest.approx(engine.now() + 10.0)
        await check_counts(engine, pushed=1, suspended=number, waiting=1)
        answer = await claim_all(engine)
        assert answer.claimed == [[]]
        assert answer.live == [1]
        assert answer.next_due == [pytest.approx(engine.now() + 10.0)]
        mock_clock.jump(10.5)


async def test_a_suspension_leaves_the_error_and_the_history_as_they_were(engine: Engine) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.RETRIED, result=b"error", history=b"\x81\x01"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.SUSPENDED))
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.result, stored.history) == (State.WAITING, 1, b"error", b"\x81\x01")
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.SUSPENDED, after=5.0, history=b"\x81\x02"))
    assert (await found(engine, "a")).history == b"\x81\x02"


async def test_a_suspension_without_end_is_ended_by_rescheduling(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as engine:
        await push(engine, new("a"))
        [a] = await claim(engine)
        await settle(engine, settled(a, SettlementKind.SUSPENDED, after=math.inf))
        assert (await found(engine, "a")).due == math.inf
        answer = await claim_all(engine)
        assert answer.claimed == [[]]
        assert answer.next_due == [None]
        assert answer.live == [1]
    async with opened(kind, tmp_path) as engine:
        await push(engine, new("b", delay=HOUR))
        assert ids((await engine.search(QUEUE, Query([State.DELAYED], limit=9))).rows) == ["b", "a"]
        assert await engine.reschedule(QUEUE, "a", 0.0)
        assert [(row.id, row.attempt) for row in await claim(engine, 9)] == [("a", 1)]


async def test_a_settlement_may_name_one_of_several_that_claimed(engine: Engine) -> None:
    await push(engine, *map(new, "abcdef"))
    a, b, c, d, e, f = await claim(engine, 6)
    verdicts = [
        SettlementKind.SUCCEEDED,
        SettlementKind.SUCCEEDED,
        SettlementKind.SUCCEEDED,
        SettlementKind.FAILED,
        SettlementKind.RETRIED,
    ]
    await settle(
        engine,
        *(settled(row, each, worker="one") for row, each in zip((a, b, c, d, e), verdicts, strict=True)),
        settled(f),
    )
    assert [(await found(engine, each)).worker for each in "abcdef"] == ["one"] * 5 + ["w"]


# Keeping


@pytest.mark.parametrize("verdict", [SettlementKind.SUCCEEDED, SettlementKind.FAILED, SettlementKind.KILLED])
async def test_keep_says_for_how_long_a_finished_row_is_remembered(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind
) -> None:
    await push(engine, *map(new, "abc"))
    a, b, c = await claim(engine, 3)
    keep = [settled(a, verdict, keep=0.0), settled(b, verdict, keep=60.0), settled(c, verdict, keep=math.inf)]
    assert await settle(engine, *keep) == [True] * 3
    assert await engine.find(QUEUE, "a") is None
    assert (await found(engine, "b")).due == pytest.approx(engine.now() + 60.0)
    mock_clock.jump(59)
    await claim(engine)
    assert await engine.find(QUEUE, "b") is not None
    mock_clock.jump(2)
    await claim(engine)  # by which what falls due is entered
    assert await engine.find(QUEUE, "b") is None
    mock_clock.jump(100 * HOUR)
    await claim(engine)
    assert await engine.find(QUEUE, "c") is not None
    assert await push(engine, new("a"), new("b")) == ["a", "b"]  # their ids are free again


async def test_thousands_that_are_to_be_forgotten_are_within_a_few_exchanges(
    engine: Engine, mock_clock: MockClock
) -> None:
    await push(engine, *[new(f"{number:04}") for number in range(1500)])
    rows = await claim(engine, 1500)
    await settle(engine, *[settled(row, keep=10.0) for row in rows])
    mock_clock.jump(11)
    for _ in range(4):
        await claim(engine)
    assert not (await engine.search(QUEUE, Query([State.DONE], limit=10))).rows


# Fencing


async def test_a_settlement_counts_only_under_the_token_of_the_last_claim(
    engine: Engine, mock_clock: MockClock
) -> None:
    await push(engine, new("a"))
    [first] = await claim(engine, lease=10.0)
    before = await contents(engine)
    for verdict in SettlementKind:
        assert await settle(engine, settled(first._replace(token=first.token + 1), verdict)) == [False]
    assert await contents(engine) == before
    mock_clock.jump(11)
    [second] = await claim(engine, lease=10.0)
    assert second.attempt == 2
    before = await contents(engine)
    for verdict in SettlementKind:
        assert await settle(engine, settled(first, verdict, result=b"stale", keep=0.0)) == [False]
    assert await contents(engine) == before
    assert await settle(engine, settled(second)) == [True]
    before = await contents(engine)
    for verdict in SettlementKind:
        assert await settle(engine, settled(second, verdict)) == [False]
    assert await contents(engine) == before


@pytest.mark.parametrize("second", list(SettlementKind))
@pytest.mark.parametrize("first", list(SettlementKind))
async def test_of_two_settlements_in_one_exchange_the_first_counts(
    engine: Engine, first: SettlementKind, second: SettlementKind
) -> None:
    await push(engine, *map(new, "abcd"))
    a, b, c, d = await claim(engine, 4)
    both = [settled(a, first, result=b"1"), settled(a, second, result=b"2")]
    assert await settle(engine, settled(b), *both, settled(c), settled(d)) == [True, True, False, True, True]
    expected = {
        SettlementKind.SUCCEEDED: State.DONE,
        SettlementKind.FAILED: State.FAILED,
        SettlementKind.KILLED: State.KILLED,
    }
    assert await states(engine, *"abcd") == [expected.get(first, State.WAITING), *[State.DONE] * 3]


async def test_a_released_row_cannot_be_settled_under_its_old_token(engine: Engine) -> None:
    await push(engine, new("a"))
    [first] = await claim(engine)
    await settle(engine, settled(first, SettlementKind.RELEASED))
    assert await settle(engine, settled(first)) == [False]
    [second] = await claim(engine)
    assert await settle(engine, settled(first)) == [False]
    assert await settle(engine, settled(second)) == [True]


async def test_lost_leases_do_not_harm_the_others_of_an_exchange(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(f"{number:02}") for number in range(20)])
    rows = await claim(engine, 20)
    stale = [row._replace(token=row.token + 1) if number % 3 == 0 else row for number, row in enumerate(rows)]
    answer = await engine.exchange(
        Exchange([settled(row, result=b"r") for row in stale], [new("more")], [ClaimRequest(QUEUE, 9, 30.0, "w")])
    )
    assert answer.settled == [number % 3 != 0 for number in range(20)]
    assert answer.pushed == ["more"]
    assert ids(answer.claimed[0]) == ["more"]
    await check_counts(engine, pushed=21, succeeded=13, running=8)


# Ids and unique keys


async def test_an_id_is_let_in_once_and_the_others_of_the_exchange_are_not_harmed(engine: Engine) -> None:
    await push(engine, new("a", b"first"))
    [row] = await claim(engine)
    answer = await engine.exchange(
        Exchange([settled(row, result=b"r")], [new("b"), new("a"), new("c"), new("b", b"twin"), new("d", unique="k")])
    )
    assert answer.settled == [True]
    b, a, c, twin, d = answer.pushed
    assert (b, c, d) == ("b", "c", "d")
    assert isinstance(a, DuplicateTaskError)
    assert isinstance(twin, DuplicateTaskError)
    assert (await found(engine, "a")).payload == b"first"  # finished, and remembered
    assert (await found(engine, "b")).payload == b"args"
    await check_counts(engine, pushed=4, succeeded=1, waiting=3)


async def test_a_unique_key_that_is_taken_skips_or_raises(engine: Engine) -> None:
    assert await push(engine, new("a", unique="key")) == ["a"]
    skipped, refused, free = await push(
        engine,
        new("b", unique="key", on_conflict="skip"),
        new("c", unique="key", on_conflict="raise"),
        new("d", unique="other", on_conflict="raise"),
    )
    assert (skipped, free) == ("a", "d")
    assert isinstance(refused, DuplicateTaskError)
    assert await engine.find(QUEUE, "b") is None
    assert await engine.find(QUEUE, "c") is None
    await check_counts(engine, pushed=2, waiting=2)


@pytest.mark.parametrize("delay", [0.0, 5.0])
async def test_a_waiting_row_is_replaced_under_its_key(engine: Engine, delay: float) -> None:
    await push(engine, new("a", unique="key", delay=delay))
    answer = await engine.exchange(Exchange(pushed=[new("b", unique="key", on_conflict="replace")]))
    assert answer.pushed == ["b"]
    assert answer.killed == [KilledRow(QUEUE, "a", KillReason.REPLACED, "b")]
    old = await found(engine, "a")
    assert (old.state, old.due, old.attempt) == (State.KILLED, None, 0)
    assert "b" in str(decode_error(old.result))
    await check_counts(engine, pushed=2, killed=1, waiting=1)
    assert await line(engine) == ["b"]


async def test_a_key_is_free_once_its_row_is_finished_and_held_through_retries(engine: Engine) -> None:
    await push(engine, new("a", unique="key"))
    for verdict in (SettlementKind.RETRIED, SettlementKind.RELEASED, SettlementKind.SUSPENDED):
        [a] = await claim(engine)
        assert await push(engine, new("b", unique="key")) == ["a"]
        await settle(engine, settled(a, verdict))
        assert await push(engine, new("b", unique="key")) == ["a"]
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.FAILED))
    assert await push(engine, new("b", unique="key", on_conflict="raise")) == ["b"]


@pytest.mark.parametrize("verdict", [SettlementKind.RETRIED, SettlementKind.RELEASED, SettlementKind.SUSPENDED])
async def test_a_running_row_that_was_replaced_does_not_come_back(engine: Engine, verdict: SettlementKind) -> None:
    await push(engine, new("a", unique="key"))
    [a] = await claim(engine)
    answer = await engine.exchange(Exchange(pushed=[new("b", unique="key", on_conflict="replace")]))
    assert (answer.pushed, answer.killed) == (["b"], [])
    assert await states(engine, "a", "b") == [State.RUNNING, State.WAITING]
    assert await push(engine, new("c", unique="key")) == ["b"]
    answer = await engine.exchange(Exchange([settled(a, verdict, result=b"e", keep=0.0)]))
    assert answer.settled == [True]
    assert answer.killed == [KilledRow(QUEUE, "a", KillReason.REPLACED, "b")]
    old = await found(engine, "a")
    assert old.state is State.KILLED
    assert old.attempt == ATTEMPTS_AFTER[verdict]
    assert "b" in str(decode_error(old.result))
    await check_counts(engine, pushed=2, killed=1, waiting=1)


@pytest.mark.parametrize("verdict", [SettlementKind.RETRIED, SettlementKind.RELEASED, SettlementKind.SUSPENDED, None])
async def test_a_row_that_was_replaced_does_not_come_back_though_its_successor_is_done(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind | None
) -> None:
    await push(engine, new("a", options=encode_options(Terms(unique="key"), {}), unique="key"))
    [a] = await claim(engine, lease=10.0)
    await push(engine, new("b", unique="key", on_conflict="replace"))
    [b] = await claim(engine, lease=HOUR)
    await settle(engine, settled(b))
    if verdict is None:
        mock_clock.jump(11)
    else:
        assert await settle(engine, settled(a, verdict, result=b"e")) == [True]
    assert await claim(engine) == []
    old = await found(engine, "a")
    assert (old.state, str(decode_error(old.result))) == (State.KILLED, "replaced by task b")
    await check_counts(engine, pushed=2, killed=1, succeeded=1)
    assert await engine.resume(QUEUE, "a")  # its key is free again
    assert await push(engine, new("c", unique="key")) == ["a"]
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.RETRIED))
    assert await states(engine, "a") == [State.WAITING]  # it is a new life


@pytest.mark.parametrize("verdict", [SettlementKind.FAILED, SettlementKind.KILLED])
async def test_a_dead_row_that_was_replaced_is_resumed_only_when_its_key_is_free(
    engine: Engine, verdict: SettlementKind
) -> None:
    await push(engine, new("a", options=encode_options(Terms(unique="key"), {}), unique="key"))
    [a] = await claim(engine)
    await push(engine, new("b", unique="key", on_conflict="replace"))
    await settle(engine, settled(a, verdict, result=b"e"))
    with pytest.raises(DuplicateTaskError):
        await engine.resume(QUEUE, "a")
    [b] = await claim(engine)
    await settle(engine, settled(b))
    assert await engine.resume(QUEUE, "a")
    assert await push(engine, new("c", unique="key")) == ["a"]


async def test_a_task_that_is_aborted_and_replaced_was_aborted(engine: Engine) -> None:
    await push(engine, new("a", unique="first"), new("b", unique="second"))
    a, b = await claim(engine, 2)
    await engine.abort(QUEUE, "a")
    await push(engine, new("c", unique="first", on_conflict="replace"))
    await push(engine, new("d", unique="second", on_conflict="replace"))
    await engine.abort(QUEUE, "b")
    await settle(engine, settled(a, SettlementKind.RETRIED), settled(b, SettlementKind.RETRIED))
    for task_id in "ab":
        assert "aborted" in str(decode_error((await found(engine, task_id)).result))


async def test_a_running_row_that_was_replaced_may_still_succeed(engine: Engine) -> None:
    await push(engine, new("a", unique="key"), new("x", unique="other"))
    a, x = await claim(engine, 2)
    await push(engine, *[new(id, unique="key", on_conflict="replace") for id in ("b", "c")])
    await push(engine, new("y", unique="other", on_conflict="replace"))
    assert await states(engine, *"abc") == [State.RUNNING, State.KILLED, State.WAITING]
    assert await settle(engine, settled(a, result=b"r"), settled(x, SettlementKind.FAILED, result=b"e")) == [True, True]
    assert await states(engine, *"ax") == [State.DONE, State.FAILED]
    await check_counts(engine, pushed=5, succeeded=1, failed=1, killed=1, waiting=2)


async def test_a_running_row_that_was_replaced_is_killed_as_an_orphan(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a", unique="key"))
    await claim(engine, lease=10.0)
    await push(engine, new("b", unique="key", on_conflict="replace"))
    mock_clock.jump(11)
    answer = await claim_all(engine)
    assert (ids(answer.claimed[0]), answer.killed) == (["b"], [KilledRow(QUEUE, "a", KillReason.REPLACED, "b")])
    await check_counts(engine, pushed=2, killed=1, running=1)


async def test_a_successor_may_have_any_id(engine: Engine) -> None:
    await push(engine, new("a", unique="key"))
    [a] = await claim(engine)
    await push(engine, new("abort", unique="key", on_conflict="replace"))
    assert not (await engine.renew([ClaimKey(a.key, a.token)], 30.0)).aborted  # nobody wants that
    await settle(engine, settled(a, SettlementKind.RELEASED))
    assert "replaced" in str(decode_error((await found(engine, "a")).result))


# Rows that the engine kills itself


async def test_what_other_methods_kill_is_told_once(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"), new("b"), *[new(id, expires_in=5.0) for id in "cde"], new("f"), new("g"))
    assert [*engine.take_killed()] == []
    assert await engine.cancel(QUEUE, "a", b"e")
    assert (await engine.forget(QUEUE, "b")).number == 1
    cancelled = [KilledRow(QUEUE, id, KillReason.CANCELLED) for id in "ab"]
    assert [*engine.take_killed()] == cancelled
    assert [*engine.take_killed()] == []
    assert (await engine.forget(QUEUE, "a")).number == 1  # it is finished
    assert not await engine.cancel(QUEUE, "b", b"e")
    assert [*engine.take_killed()] == []
    mock_clock.jump(6)
    assert not await engine.cancel(QUEUE, "c", b"e")  # it has expired
    changed = await engine.change(QUEUE, "cancel", Query([State.WAITING], limit=9))
    assert [*changed.ids] == ["f", "g"]
    killed = [*engine.take_killed()]
    assert killed[0] == KilledRow(QUEUE, "c", KillReason.EXPIRED)
    assert sorted(killed[1:3]) == [KilledRow(QUEUE, id, KillReason.EXPIRED) for id in "de"]
    assert killed[3:] == [KilledRow(QUEUE, id, KillReason.CANCELLED) for id in "fg"]


async def test_a_cancelled_row_is_not_told_again_by_the_next_exchange(engine: Engine) -> None:
    await push(engine, new("a", unique="key"), new("b"))
    assert await engine.cancel(QUEUE, "a", b"e")
    assert len(engine.take_killed()) == 1
    answer = await engine.exchange(Exchange(pushed=[new("c", unique="key", on_conflict="replace")]))
    assert answer.killed == []


# Expiry


async def test_a_task_that_is_not_started_in_time_is_killed(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a", expires_in=10.0), new("b", expires_in=20.0), new("c", expires_in=5.0, delay=8.0))
    mock_clock.jump(11)
    answer = await claim_all(engine, lease=5.0)
    assert ids(answer.claimed[0]) == ["b"]
    assert sorted(answer.killed) == [KilledRow(QUEUE, each, KillReason.EXPIRED) for each in ("a", "c")]
    assert await states(engine, *"ac") == [State.KILLED, State.KILLED]
    assert type(decode_error((await found(engine, "a")).result)).__name__ == "TaskExpiredError"
    await check_counts(engine, pushed=3, killed=2, running=1)


@pytest.mark.parametrize("delay", [0.0, 5.0, HOUR])
@pytest.mark.parametrize("on_conflict", ["skip", "replace", "raise"])
async def test_what_has_expired_gives_up_its_key_in_the_step_of_the_push(
    engine: Engine, mock_clock: MockClock, on_conflict: Any, delay: float
) -> None:
    await push(engine, new("a", unique="key", expires_in=10.0, delay=delay))
    mock_clock.jump(9)
    assert await push(engine, new("b", unique="key")) == ["a"]
    mock_clock.jump(1.5)
    answer = await engine.exchange(Exchange(pushed=[new("c", unique="key", on_conflict=on_conflict)]))
    assert (answer.pushed, answer.killed) == (["c"], [KilledRow(QUEUE, "a", KillReason.EXPIRED)])
    assert await states(engine, "a", "c") == [State.KILLED, State.WAITING]
    assert type(decode_error((await found(engine, "a")).result)).__name__ == "TaskExpiredError"
    await check_counts(engine, pushed=2, killed=1, waiting=1)


@pytest.mark.parametrize("delay", [0.0, 5.0, HOUR])
async def test_a_look_up_shows_expired_tasks(kind: str, tmp_path: Path, mock_clock: MockClock, delay: float) -> None:
    """The look-up shows them although no exchange has entered the expiry; the next change of the row enters it."""
    looks: dict[str, tuple[Any, Any]] = {
        "cancel": (lambda engine: engine.cancel(QUEUE, "a", b"e"), False),
        "reschedule": (lambda engine: engine.reschedule(QUEUE, "a", 1.0), False),
        "update": (lambda engine: engine.update(QUEUE, "a", b"new", None, None), False),
        "resume": (lambda engine: engine.resume(QUEUE, "a"), True),
        "forget": (lambda engine: engine.forget(QUEUE, "a"), (1, False)),
        "forget all": (lambda engine: engine.forget(QUEUE, None), (1, False)),
    }
    for name, (look, expected) in looks.items():
        (tmp_path / name).mkdir()
        async with opened(kind, tmp_path / name) as engine:
            await push(engine, new("a", expires_in=10.0, delay=delay), new("b", delay=HOUR, expires_in=2 * HOUR))
            a = await found(engine, "a")
            assert a.expires == pytest.approx(engine.now() + 10.0)
            assert a.due == (pytest.approx(engine.now() + delay) if delay else a.due)
            mock_clock.jump(10.5)
            a = await found(engine, "a")
            assert (a.state, a.due, a.attempt, a.expires) == (State.KILLED, None, 0, None)
            assert type(decode_error(a.result)).__name__ == "TaskExpiredError"
            assert ids((await engine.search(QUEUE, Query([State.WAITING, State.DELAYED], limit=9))).rows) == ["b"]
            assert ids((await engine.search(QUEUE, Query([State.KILLED], limit=9))).rows) == ["a"]
            await check_counts(engine, pushed=2, killed=1, waiting=1)
            assert await look(engine) == expected, name
            if expected is False:
                assert await states(engine, "a", "b") == [State.KILLED, State.DELAYED]
                await check_counts(engine, pushed=2, killed=1, waiting=1)
            assert ids((await claim_all(engine)).claimed[0]) == (["a"] if name == "resume" else [])


async def test_what_is_kept_no_longer_is_not_there(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(kind, tmp_path) as engine:
        await push(engine, *map(new, "abcd"))
        a, b, c, d = await claim(engine, 4)
        verdicts = SettlementKind.SUCCEEDED, SettlementKind.FAILED, SettlementKind.KILLED
        await settle(engine, *(settled(row, each, keep=10.0) for row, each in zip((a, b, c), verdicts, strict=True)))
        mock_clock.jump(9)
        assert await states(engine, *"abc") == [State.DONE, State.FAILED, State.KILLED]
        mock_clock.jump(1.5)
        assert [await engine.find(QUEUE, each) for each in "abc"] == [None] * 3
        assert ids((await engine.search(QUEUE, Query(list(State), limit=9))).rows) == ["d"]
        assert not await engine.resume(QUEUE, "b")
        assert await engine.forget(QUEUE, "c") == (0, False)
        assert await push(engine, new("a")) == ["a"]
        assert await engine.forget(QUEUE, None) == (0, False)
        assert await settle(engine, settled(a), settled(d)) == [False, True]


async def test_a_delayed_row_may_expire_after_it_is_ready(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a", delay=5.0, expires_in=10.0), new("b", delay=5.0, expires_in=10.0))
    mock_clock.jump(6)
    assert ids(await claim(engine)) == ["a"]
    mock_clock.jump(5)
    answer = await claim_all(engine)
    assert (answer.claimed, answer.killed) == ([[]], [KilledRow(QUEUE, "b", KillReason.EXPIRED)])


async def test_a_task_that_was_claimed_once_does_not_expire_any_more(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(id, expires_in=10.0) for id in "abcd"])
    a, b, c, _ = await claim(engine, 4, lease=5.0)
    await settle(engine, settled(a, SettlementKind.RELEASED), settled(b, SettlementKind.RETRIED, after=1.0))
    await settle(engine, settled(c, SettlementKind.SUSPENDED, after=1.0))
    mock_clock.jump(HOUR)
    assert sorted(await line(engine)) == ["a", "b", "c", "d"]


async def test_however_many_have_expired_none_of_them_is_claimed(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(f"{number:04}", expires_in=1.0) for number in range(1200)])
    mock_clock.jump(2)
    for _ in range(4):
        assert await claim(engine, 1000) == []
    await check_counts(engine, pushed=1200, killed=1200)


# Orphans and leases


async def test_orphans_come_back_with_the_lost_attempt_in_their_history(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"))
    await claim(engine, lease=10.0)
    mock_clock.jump(11)
    lost_at = engine.now()
    [again] = await claim(engine, lease=10.0)
    assert again.attempt == 2
    [loss] = decode_history(again.history)
    assert (loss.attempt, loss.became, loss.worker) == (1, "lost", "w")
    assert loss.ended_at == pytest.approx(lost_at)
    await check_counts(engine, pushed=1, running=1)
    mock_clock.jump(11)
    [again] = await claim(engine)
    assert [each.attempt for each in decode_history(again.history)] == [1, 2]


async def test_any_claim_enters_what_is_due_however_many_rows_that_are(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(f"{number:04}") for number in range(1200)])
    assert len(await claim(engine, 1200, lease=10.0)) == 1200
    mock_clock.jump(11)
    back = [row for _ in range(5) for row in await claim(engine, 1000)]
    assert len(back) == 1200
    assert {row.attempt for row in back} == {2}


async def test_renewed_leases_hold(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *map(new, "ab"))
    a, b = await claim(engine, 2, lease=10.0)
    mock_clock.jump(8)
    renewal = await engine.renew([ClaimKey(a.key, a.token)], 10.0)
    assert (renewal.lost, renewal.aborted) == ([], [])
    mock_clock.jump(8)
    [again] = await claim(engine, 2, lease=10.0)
    assert again.id == "b"
    renewal = await engine.renew(
        [ClaimKey(a.key, a.token), ClaimKey(b.key, b.token), ClaimKey(again.key, again.token)], 10.0
    )
    assert renewal.lost == [ClaimKey(b.key, b.token)]
    assert await settle(engine, settled(a), settled(b), settled(again)) == [True, False, True]
    renewal = await engine.renew([ClaimKey(a.key, a.token)], 10.0)
    assert renewal.lost == [ClaimKey(a.key, a.token)]  # settled by now
    assert (await found(engine, "a")).state is State.DONE


async def test_a_lease_that_has_run_out_may_be_renewed_until_the_row_is_taken_back(
    engine: Engine, mock_clock: MockClock
) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine, lease=10.0)
    mock_clock.jump(11)
    renewal = await engine.renew([ClaimKey(a.key, a.token)], 10.0)
    if renewal.lost:
        assert await settle(engine, settled(a)) == [False]
    else:
        assert await claim(engine) == []
        assert await settle(engine, settled(a)) == [True]


async def test_abandoned_rows_are_resumed_and_counted_and_others_are_not(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *map(new, "abcd"), new("x", queue=FOREIGN))
    await claim(engine, 2, lease=10.0)
    await claim(engine, 1, lease=HOUR)
    await claim(engine, 1, lease=10.0, queue=FOREIGN)
    assert await engine.resume_abandoned(QUEUE) == (0, False)
    mock_clock.jump(11)
    assert await engine.resume_abandoned(QUEUE) == (2, False)
    assert await states(engine, *"abcd") == [State.WAITING] * 2 + [State.RUNNING, State.WAITING]
    await check_counts(engine, pushed=4, waiting=3, running=1)


async def parts_of(step: Callable[[], Awaitable[Part]]) -> list[int]:
    """What each transaction was about, until there was no more to do."""
    numbers: list[int] = []
    is_more = True
    while is_more:
        number, is_more = await step()
        numbers.append(number)
    return numbers


async def test_all_abandoned_rows_are_resumed_a_part_at_a_time(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(f"{number:04}") for number in range(2500)])
    await claim(engine, 2500, lease=10.0)
    mock_clock.jump(11)
    parts = await parts_of(lambda: engine.resume_abandoned(QUEUE))
    assert sum(parts) == 2500
    assert max(parts) <= 2000
    await check_counts(engine, pushed=2500, waiting=2500)


async def test_all_finished_rows_are_forgotten_a_part_at_a_time(engine: Engine) -> None:
    await push(engine, *[new(f"{number:04}") for number in range(2500)])
    await settle(engine, *[settled(row, SettlementKind.KILLED) for row in await claim(engine, 2400)])
    parts = await parts_of(lambda: engine.forget(QUEUE, None))
    assert sum(parts) == 2400
    assert max(parts) <= 2000
    await check_counts(engine, pushed=2500, killed=2400, waiting=100)


# Aborting


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (SettlementKind.SUCCEEDED, State.DONE),
        (SettlementKind.FAILED, State.FAILED),
        (SettlementKind.KILLED, State.KILLED),
        (SettlementKind.RETRIED, State.KILLED),
        (SettlementKind.RELEASED, State.KILLED),
        (SettlementKind.SUSPENDED, State.KILLED),
    ],
)
async def test_a_task_that_is_to_be_aborted_may_succeed_but_not_come_back(
    engine: Engine, verdict: SettlementKind, state: State
) -> None:
    await push(engine, *map(new, "ab"))
    a, b = await claim(engine, 2)
    held = [ClaimKey(a.key, a.token), ClaimKey(b.key, b.token)]
    assert await engine.abort(QUEUE, "a") == held[0]
    assert await engine.abort(QUEUE, "a") == held[0]  # again does no harm
    assert (await engine.renew(held, 30.0)).aborted == [held[0]]
    assert (await engine.renew([], 0.0)).aborted == [held[0]]  # it only looks
    assert await settle(engine, settled(a, verdict, result=b"r")) == [True]
    assert (await engine.renew([], 0.0)).aborted == []
    stored = await found(engine, "a")
    assert stored.state is state
    assert stored.attempt == ATTEMPTS_AFTER[verdict]
    if verdict in (SettlementKind.RETRIED, SettlementKind.RELEASED, SettlementKind.SUSPENDED):
        assert "aborted" in str(decode_error(stored.result))


async def test_only_running_rows_are_aborted(engine: Engine) -> None:
    await push(engine, new("a"), new("b", delay=HOUR))
    for task_id in ("a", "b", "nobody"):
        assert not await engine.abort(QUEUE, task_id)
    [a] = await claim(engine)
    assert not await engine.abort(FOREIGN, "a")
    await settle(engine, settled(a))
    assert not await engine.abort(QUEUE, "a")
    assert (await engine.renew([], 0.0)).aborted == []


async def test_an_orphan_that_is_to_be_aborted_is_killed(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("a"))
    await claim(engine, lease=10.0)
    await engine.abort(QUEUE, "a")
    mock_clock.jump(11)
    answer = await claim_all(engine)
    assert (answer.claimed, answer.killed) == ([[]], [KilledRow(QUEUE, "a", KillReason.NOT_AGAIN)])
    assert await states(engine, "a") == [State.KILLED]
    await check_counts(engine, pushed=1, killed=1)


async def test_a_running_row_that_was_replaced_can_be_aborted(engine: Engine) -> None:
    await push(engine, new("a", unique="key"))
    [a] = await claim(engine)
    await push(engine, new("b", unique="key", on_conflict="replace"))
    assert await engine.abort(QUEUE, "a")
    assert (await engine.renew([ClaimKey(a.key, a.token)], 30.0)).aborted == [ClaimKey(a.key, a.token)]


async def test_two_claims_on_one_row_are_told_apart(engine: Engine, mock_clock: MockClock) -> None:
    """A worker lost a lease, and claimed the same row again before it noticed: only the old claim is lost."""
    await push(engine, new("a"))
    [old] = await claim(engine, lease=10.0)
    mock_clock.jump(11)
    [current] = await claim(engine, lease=10.0)
    assert (old.key, current.attempt) == (current.key, 2)
    lost, kept = [ClaimKey(each.key, each.token) for each in (old, current)]
    for held in ([lost, kept], [kept, lost]):
        mock_clock.jump(6)
        assert (await engine.renew(held, 10.0)).lost == [lost]
    assert await engine.abort(QUEUE, "a") == kept
    assert (await engine.renew([lost, kept], 10.0)).aborted == [kept]


# Changing what waits


async def test_waiting_rows_are_cancelled(engine: Engine) -> None:
    await push(engine, new("running"), new("a", unique="key"), new("b", delay=HOUR))
    [running] = await claim(engine)
    for task_id in "ab":
        assert await engine.cancel(QUEUE, task_id, b"error")
        assert not await engine.cancel(QUEUE, task_id, b"again")
    for task_id in ("running", "nobody"):
        assert not await engine.cancel(QUEUE, task_id, b"error")
    assert not await engine.cancel(FOREIGN, "running", b"error")
    stored = await found(engine, "b")
    assert (stored.state, stored.result, stored.due) == (State.KILLED, b"error", None)
    assert await push(engine, new("c", unique="key", on_conflict="raise")) == ["c"]
    assert await settle(engine, settled(running)) == [True]
    await check_counts(engine, pushed=4, killed=2, succeeded=1, waiting=1)


async def test_waiting_rows_are_rescheduled(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, new("running"), new("sooner", delay=HOUR), new("later"), new("other"))
    await claim(engine)
    assert await engine.reschedule(QUEUE, "sooner", 0.0)
    assert await engine.reschedule(QUEUE, "later", 10.0)
    for task_id in ("running", "nobody"):
        assert not await engine.reschedule(QUEUE, task_id, 1.0)
    assert (await found(engine, "later")).due == pytest.approx(engine.now() + 10.0)
    await check_counts(engine, pushed=4, waiting=3, running=1)
    assert sorted(await line(engine)) == ["other", "sooner"]
    mock_clock.jump(11)
    assert await line(engine) == ["later"]
    assert not await engine.reschedule(QUEUE, "later", 1.0)


async def test_a_row_that_was_rescheduled_still_expires(engine: Engine, mock_clock: MockClock) -> None:
    await push(engine, *[new(id, expires_in=10.0, delay=delay) for id, delay in (("a", 0.0), ("b", HOUR), ("c", 0.0))])
    await engine.reschedule(QUEUE, "a", 5.0)
    await engine.reschedule(QUEUE, "b", 0.0)
    await engine.reschedule(QUEUE, "c", 20.0)
    mock_clock.jump(6)
    assert (await found(engine, "c")).state is State.DELAYED
    assert ids(await claim(engine, 1)) == ["b"]
    mock_clock.jump(5)
    assert await line(engine) == []
    mock_clock.jump(10)
    assert await line(engine) == []
    assert await states(engine, *"ac") == [State.KILLED] * 2


async def test_what_a_waiting_row_holds_is_replaced(engine: Engine) -> None:
    await push(engine, new("running"), new("a", options=b"h"), new("b", delay=HOUR))
    await claim(engine)
    assert not await engine.update(QUEUE, "a", b"lost", None, None), "its options were not these"
    assert not await engine.update(QUEUE, "b", b"lost", None, b"h"), "it had none"
    assert await engine.update(QUEUE, "a", b"new", None, b"h")
    assert await engine.update(QUEUE, "b", b"new", b"options", None)
    for task_id in ("running", "nobody"):
        assert not await engine.update(QUEUE, task_id, b"new", None, None)
    assert (await found(engine, "running")).payload == b"args"
    [a] = await claim(engine)
    assert (a.payload, a.options) == (b"new", None)
    assert ((await found(engine, "b")).payload, (await found(engine, "b")).options) == (b"new", b"options")


# Dead letters


@pytest.mark.parametrize("verdict", [SettlementKind.FAILED, SettlementKind.KILLED])
async def test_a_dead_row_is_resumed_with_all_its_attempts(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind
) -> None:
    await push(engine, new("a", expires_in=100.0), new("b"))
    [a] = await claim(engine)
    await engine.abort(QUEUE, "a")
    history = b"\x80"
    await settle(engine, settled(a, verdict, result=b"e", history=history, keep=HOUR))
    mock_clock.jump(1)
    assert await engine.resume(QUEUE, "a")
    assert not await engine.resume(QUEUE, "a")
    assert not await engine.resume(QUEUE, "nobody")
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.history, stored.due) == (State.WAITING, 0, history, None)
    mock_clock.jump(2 * HOUR)
    b, again = await claim(engine, 9)
    assert (b.id, again.id, again.attempt, again.history) == ("b", "a", 1, history)
    assert (await engine.renew([], 0.0)).aborted == []
    assert await settle(engine, settled(again, SettlementKind.RETRIED), settled(b)) == [True, True]
    counts = await engine.metrics(QUEUE)
    assert (counts["waiting"], counts["running"]) == (1, 0)


async def test_a_done_row_is_resumed_without_its_result(engine: Engine) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.SUCCEEDED, result=b"r", history=b"\x80"))
    assert await engine.resume(QUEUE, "a")
    stored = await found(engine, "a")
    assert (stored.state, stored.attempt, stored.result, stored.history) == (State.WAITING, 0, None, b"\x80")
    [again] = await claim(engine)
    assert (again.attempt, again.token != a.token) == (1, True)
    await check_counts(engine, pushed=1, resumed=1, succeeded=1, running=1)


async def test_a_dead_row_whose_key_is_taken_cannot_be_resumed(engine: Engine) -> None:
    await push(engine, new("a", unique="key"))
    [a] = await claim(engine)
    await settle(engine, settled(a, SettlementKind.FAILED))
    await push(engine, new("b", unique="key"))
    before = await contents(engine)
    with pytest.raises(DuplicateTaskError):
        await engine.resume(QUEUE, "a")
    assert await contents(engine) == before
    [b] = await claim(engine)
    await settle(engine, settled(b))
    assert await engine.resume(QUEUE, "a")
    assert await push(engine, new("c", unique="key")) == ["a"]


async def test_finished_rows_are_forgotten_by_id_or_all(engine: Engine) -> None:
    await push(engine, *map(new, "abcde"), new("x", queue=FOREIGN))
    rows = await claim(engine, 4)
    [x] = await claim(engine, queue=FOREIGN)
    verdicts = [SettlementKind.SUCCEEDED, SettlementKind.FAILED, SettlementKind.KILLED]
    await settle(engine, *[settled(row, verdict) for row, verdict in zip(rows, verdicts, strict=False)])
    await settle(engine, settled(x, queue=FOREIGN))
    for task_id in ("d", "nobody"):
        assert await engine.forget(QUEUE, task_id) == (0, False)  # it runs, or is not there
    assert await engine.forget(QUEUE, "b") == (1, False)
    assert await engine.find(QUEUE, "b") is None
    assert await engine.forget(QUEUE, None) == (2, False)
    assert await engine.forget(QUEUE, None) == (0, False)
    assert await states(engine, *"de") == [State.RUNNING, State.WAITING]
    assert await engine.find(FOREIGN, "x") is not None
    await check_counts(engine, pushed=5, succeeded=1, failed=1, killed=1, waiting=1, running=1)
    assert await engine.forget(QUEUE, "e") == (1, False)
    assert await engine.forget(QUEUE, "e") == (0, False)
    await check_counts(engine, pushed=5, succeeded=1, failed=1, killed=2, running=1)


# Looking


async def test_rows_are_listed_by_state_each_in_its_order(engine: Engine, mock_clock: MockClock) -> None:
    for id, priority, delay in [("r2", 9, 0), ("r1", 8, 0), ("w2", 0, 0), ("w1", 1, 0), ("d2", 0, 60), ("d1", 0, 30)]:
        await push(engine, new(id, priority=priority, delay=delay))
    await claim(engine, 1, lease=20.0)
    await claim(engine, 1, lease=10.0)
    assert ids((await engine.search(QUEUE, Query([State.WAITING], limit=9))).rows) == ["w1", "w2"]
    assert ids((await engine.search(QUEUE, Query([State.DELAYED], limit=9))).rows) == ["d1", "d2"]
    assert ids((await engine.search(QUEUE, Query([State.RUNNING], limit=9))).rows) == ["r2", "r1"]
    assert ids((await engine.search(QUEUE, Query([State.RUNNING, State.WAITING], limit=3))).rows) == ["w1", "w2", "r2"]
    assert ids((await engine.search(QUEUE, Query([State.WAITING, State.RUNNING], limit=1))).rows) == ["w1"]
    assert (await engine.search(QUEUE, Query([State.DONE, State.FAILED, State.KILLED], limit=9))).rows == []
    assert (await engine.search(QUEUE, Query([], limit=9))).rows == []
    assert (await engine.search(FOREIGN, Query(list(State), limit=9))).rows == []
    assert len((await engine.search(QUEUE, Query(list(State), limit=100))).rows) == 6


FINAL = [
    (SettlementKind.SUCCEEDED, State.DONE),
    (SettlementKind.FAILED, State.FAILED),
    (SettlementKind.KILLED, State.KILLED),
]


@pytest.mark.parametrize(("verdict", "state"), FINAL)
async def test_what_is_kept_for_good_is_listed_as_it_was_finished(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind, state: State
) -> None:
    await check_order_of_finished(engine, mock_clock, verdict, state, math.inf)


@pytest.mark.parametrize(("verdict", "state"), FINAL)
async def test_what_is_kept_for_a_while_is_listed_as_it_was_finished(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind, state: State
) -> None:
    await check_order_of_finished(engine, mock_clock, verdict, state, HOUR)


async def check_order_of_finished(
    engine: Engine, mock_clock: MockClock, verdict: SettlementKind, state: State, keep: float
) -> None:
    await push(engine, *map(new, "abc"))
    rows = {row.id: row for row in await claim(engine, 3)}
    for task_id in "bca":
        await settle(engine, settled(rows[task_id], verdict, keep=keep))
        mock_clock.jump(1)
    assert ids((await engine.search(QUEUE, Query([state], limit=9))).rows) == ["b", "c", "a"]


async def test_queues_have_nothing_to_do_with_one_another(engine: Engine) -> None:
    await push(
        engine,
        new("a", b"here", unique="key"),
        new("a", b"there", queue=FOREIGN, unique="key", on_conflict="raise"),
    )
    assert (await found(engine, "a")).payload == b"here"
    assert (await found(engine, "a", FOREIGN)).payload == b"there"
    [there] = await claim(engine, 9, queue=FOREIGN)
    assert await engine.cancel(QUEUE, "a", b"error")
    assert await settle(engine, settled(there, queue=FOREIGN)) == [True]
    await check_counts(engine, pushed=1, killed=1)
    await check_counts(engine, FOREIGN, pushed=1, succeeded=1)
    assert sorted(await engine.queues()) == sorted([QUEUE, FOREIGN])


async def test_a_queue_that_was_only_looked_at_is_none(engine: Engine) -> None:
    assert await engine.find("nowhere", "a") is None
    assert await claim(engine, queue="nowhere") == []
    await engine.register("nowhere", [worker_row("w", "nowhere")])
    await check_counts(engine, "nowhere")
    await push(engine, new("a"))
    assert await engine.queues() == [QUEUE]


def worker_row(name: str, queue: str = QUEUE, *, number: int = 1, state: bytes = b"idle") -> WorkerRow:
    return WorkerRow(queue, number, name, state)


async def test_a_worker_is_listed_until_it_is_unregistered(engine: Engine) -> None:
    assert list(await engine.workers(QUEUE)) == []
    await engine.register(QUEUE, [worker_row("ann"), worker_row("bob", number=2)])
    await engine.register(FOREIGN, [worker_row("cid", FOREIGN)])
    await engine.register(QUEUE, [worker_row("bob", number=2), worker_row("dan", number=3)])
    assert sorted(each.name for each in await engine.workers(QUEUE)) == ["bob", "dan"]
    assert [each.name for each in await engine.workers(FOREIGN)] == ["cid"]
    await engine.register(QUEUE, [])
    assert list(await engine.workers(QUEUE)) == []


async def test_what_a_worker_tells_is_kept_with_its_time(engine: Engine, mock_clock: MockClock) -> None:
    await engine.register(QUEUE, [worker_row("ann"), worker_row("bob", number=2)])
    mock_clock.jump(5)
    began = engine.now()
    await engine.renew([], 0.0, [worker_row("ann", state=b"busy")])
    ann, bob = sorted(await engine.workers(QUEUE))
    assert (ann.name, bob.name, bob.number, bob.state) == ("ann", "bob", 2, b"idle")
    assert ann.is_alive and ann.is_own and bob.is_alive and bob.is_own
    assert ann.last_beat >= ann.told_at >= began - 0.01
    await engine.ask_workers(QUEUE)


async def test_progress_is_kept_of_a_running_row_under_its_token(engine: Engine) -> None:
    await push(engine, new("a"))
    [a] = await claim(engine)
    assert await engine.report(ClaimKey(a.key, a.token), b"1")
    assert await engine.report(ClaimKey(a.key, a.token), b"2")
    assert not await engine.report(ClaimKey(a.key, a.token + 1), b"3")
    assert (await found(engine, "a")).progress == b"2"
    await settle(engine, settled(a))
    assert not await engine.report(ClaimKey(a.key, a.token), b"4")
    assert (await found(engine, "a")).progress == b"2"


async def test_counts_are_exact_after_a_long_mixture(engine: Engine, mock_clock: MockClock) -> None:
    pushed = dict.fromkeys(("pushed", "succeeded", "retried", "failed", "killed", "released", "suspended"), 0)
    verdicts = list(SettlementKind)
    for turn in range(30):
        rows = [
            new(f"{turn}-{each}", delay=5.0 * (each % 2), expires_in=8.0 if each == 3 else None) for each in range(4)
        ]
        await push(engine, *rows, new(f"{turn - 1}-0"))  # a duplicate, most times
        pushed["pushed"] += 4 if turn else 5
        claimed = await claim(engine, 3, lease=7.0)
        chosen = [verdicts[(turn + number) % 5] for number in range(len(claimed))]
        answers = await settle(
            engine, *[settled(row, verdict) for row, verdict in zip(claimed[1:], chosen[1:], strict=True)]
        )
        for answer, verdict in zip(answers, chosen[1:], strict=True):
            assert answer is True
            pushed[verdict.name.lower()] += 1
        mock_clock.jump(3)
    counts: Any = await engine.metrics(QUEUE)
    expired = len(await listed(engine, QUEUE, [State.KILLED])) - pushed["killed"]
    assert {**pushed, "killed": pushed["killed"] + expired} == {name: counts[name] for name in pushed}
    assert counts["running"] == len(await listed(engine, QUEUE, [State.RUNNING]))
    unfinished = await listed(engine, QUEUE, [State.WAITING, State.DELAYED])
    assert counts["waiting"] + counts["delayed"] == len(unfinished)
    balance = await engine.audit(QUEUE)
    assert balance, balance
    assert expired > 0


# Time, and opening again


async def test_the_clock_never_goes_back(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    wall = [2_000_000_000.0]
    with use_wall_clock(lambda: wall[0]):
        async with opened(kind, tmp_path) as engine:
            first = engine.now()
            mock_clock.jump(100)
            assert engine.now() == pytest.approx(first + 100)
            wall[0] -= HOUR
            assert engine.now() == pytest.approx(first + 100)
            await push(engine, new("a", delay=50.0))
        async with opened(kind, tmp_path) as engine:
            again = engine.now()
            assert again >= first + 100 - 1e-6
            mock_clock.jump(51)
            assert ids(await claim(engine)) == ["a"]
        wall[0] += 10 * HOUR
        async with opened(kind, tmp_path) as engine:
            assert engine.now() >= again + 51 - 1e-6


async def test_all_is_there_when_it_is_opened_again(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(kind, tmp_path) as engine:
        await push(engine, new("running"), *map(new, "abc"), new("later", delay=HOUR), new("x", queue=FOREIGN))
        _, a, b = await claim(engine, 3)
        await settle(engine, settled(a, result=b"r"), settled(b, SettlementKind.FAILED, result=b"e", history=b"\x80"))
        before = await contents(engine, QUEUE, FOREIGN)
    async with opened(kind, tmp_path) as engine:
        after = await contents(engine, QUEUE, FOREIGN)
        if kind == "file":  # nobody else can have what ran
            assert await states(engine, "a", "b", "later") == [State.DONE, State.FAILED, State.DELAYED]
        else:
            assert after == before
        assert await push(engine, new("a")) != ["a"]


async def test_an_engine_that_is_not_open_says_so(kind: str, tmp_path: Path) -> None:
    engine = make(kind, tmp_path)
    await engine.open()
    await engine.aclose()
    with pytest.raises(BackendError):
        await push(engine, new("a"))


# Writing together with a settlement

SQLITE = [kind for kind in KINDS if kind != "file"]


@pytest.fixture
def notes(kind: str, tmp_path: Path) -> Callable[[], list[int]]:
    """What others see of a table of the user's; by the same SQLite, as two in a process undo each other's locks."""
    driver: Any = kind

    def read() -> list[int]:
        connection = connect(driver, str(tmp_path / "tasks.db"))
        try:
            return [number for (number,) in connection.execute("SELECT number FROM notes ORDER BY number")]
        finally:
            connection.close()

    return read


def note(*numbers: int) -> Callable[[Any], object]:
    return lambda writer: writer.executemany("INSERT INTO notes VALUES (?)", [(number,) for number in numbers])


@pytest.fixture
async def with_notes(engine: Engine) -> Engine:
    await push(engine, new("setup"))
    [row] = await claim(engine)
    [done] = await settle(
        engine,
        settled(row, keep=0.0, write=lambda writer: writer.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY)")),
    )
    assert done is True
    return engine


@pytest.mark.parametrize("kind", SQLITE, indirect=True)
@pytest.mark.parametrize("keep", [0.0, HOUR])
async def test_what_is_written_commits_with_the_settlement(
    with_notes: Engine, notes: Callable[[], list[int]], keep: float
) -> None:
    engine = with_notes
    await push(engine, *map(new, "ab"))
    a, b = await claim(engine, 2)
    assert await settle(engine, settled(a, write=note(1, 2), keep=keep), settled(b, write=note(3))) == [True, True]
    assert notes() == [1, 2, 3]
    stale = a._replace(token=a.token - 1)
    assert await settle(engine, settled(stale, write=note(4)), settled(a, write=note(5))) == [False, False]
    assert notes() == [1, 2, 3]


def raises_value_error(writer: Any) -> None:
    note(1)(writer)
    raise ValueError("no")


def exits(writer: Any) -> None:
    note(1)(writer)
    raise SystemExit(3)


def violates(writer: Any) -> None:
    note(1)(writer)
    note(1)(writer)


def rolls_back_by_conflict(writer: Any) -> None:
    note(1)(writer)
    writer.execute("INSERT OR ROLLBACK INTO notes VALUES (1)")


def says(sql: str) -> Callable[[Any], object]:
    def write(writer: Any) -> None:
        note(1)(writer)
        writer.execute(sql)

    return write


FORBIDDEN = [
    "COMMIT",
    "  commit",
    "/* now */ END",
    "-- now\nROLLBACK",
    "RELEASE trio_tasks_write",
    "SAVEPOINT mine",
    "BEGIN",
    "PRAGMA journal_mode = DELETE",
    "ATTACH ':memory:' AS other",
    "VACUUM",
]
WRITES = [
    pytest.param(raises_value_error, id="raises"),
    pytest.param(exits, id="exits"),
    pytest.param(violates, id="violates"),
    *[pytest.param(says(sql), id=sql.strip()[:14].replace("\n", " ")) for sql in FORBIDDEN],
]


async def check_harmless(engine: Engine, notes: Callable[[], list[int]], write: Callable[[Any], object]) -> None:
    await push(engine, *map(new, "abcd"))
    a, b, c, d = await claim(engine, 4)
    settlements = [settled(a), settled(b, write=note(7)), settled(c, write=write), settled(d, SettlementKind.RELEASED)]
    answer = await engine.exchange(Exchange(settlements, [new("e")], [ClaimRequest(QUEUE, 1, 30.0, "w")]))
    first, second, third, fourth = answer.settled
    assert (first, second, fourth) == (True, True, True)
    assert isinstance(third, BaseException)
    assert ids(answer.claimed[0]) == ["d"]
    assert notes() == [7]
    assert await states(engine, *"abc") == [State.DONE, State.DONE, State.RUNNING]
    assert await settle(engine, settled(c, write=note(8))) == [True]
    assert notes() == [7, 8]


@pytest.mark.parametrize("kind", SQLITE, indirect=True)
@pytest.mark.parametrize("write", WRITES)
async def test_a_row_that_cannot_be_written_changes_nothing_and_fails_alone(
    with_notes: Engine, notes: Callable[[], list[int]], write: Callable[[Any], object]
) -> None:
    await check_harmless(with_notes, notes, write)


@pytest.mark.parametrize("kind", SQLITE, indirect=True)
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(rolls_back_by_conflict, id="or rollback"),
        pytest.param(says("; COMMIT"), id="semicolon"),
        pytest.param(says("\ufeffCOMMIT"), id="byte order mark"),
    ],
)
async def test_a_statement_that_ends_the_transaction_changes_nothing_and_fails_alone(
    with_notes: Engine, notes: Callable[[], list[int]], write: Callable[[Any], object]
) -> None:
    await check_harmless(with_notes, notes, write)


@pytest.mark.parametrize("kind", SQLITE, indirect=True)
@pytest.mark.parametrize("sql", ["SELECT 1; COMMIT", "SELECT 1; -- and\n ; ROLLBACK"])
async def test_a_second_statement_is_not_run(with_notes: Engine, notes: Callable[[], list[int]], sql: str) -> None:
    await check_harmless(with_notes, notes, says(sql))
