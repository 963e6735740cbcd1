"""Keys and limits in a journal: over restarts, torn ends, compactions and failed transactions."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import BackendError, DuplicateTaskError
from trio_tasks._backends.durable.encoding import encode_options
from trio_tasks._backends.durable.engine import (
    ClaimedRow,
    ClaimRequest,
    Exchange,
    NewRow,
    Query,
    SettlementKind,
    State,
)
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.file.rows import RUNNING, WAITING, Row
from trio_tasks._clock import use_wall_clock
from trio_tasks._contracts.fairness import NO_KEY
from trio_tasks._contracts.listing import Selection
from trio_tasks._tasks.limits import Limits, Rate
from trio_tasks._tasks.task import Terms

from tests._scale import seeds
from tests.storages._rows import QUEUE, claim, contents, ids, new, push, settle, settled
from tests.storages.test_file_engine import crashed, opened, read, size
from tests.storages.test_journal import no_file_longer_than

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.journal"


def keyed(id: str, key: str | None, **fields: Any) -> NewRow:
    return new(id, key=key, **fields)


def check_groups(engine: FileEngine) -> None:
    """Check that the ready rows by key, and the attempts that run, are those of the rows."""
    state = engine._open_transaction_log().state
    for queue in state.queues.values():
        groups: Any = queue.groups
        rows: list[Any] = [*queue.ids.values()]
        if groups is None:
            assert all(row.group is None for row in rows if row.state <= RUNNING)
            continue
        waiting: defaultdict[str, set[int]] = defaultdict(set)
        running: Counter[str] = Counter()
        for row in rows:
            if row.state == WAITING:
                waiting[row.group or NO_KEY].add(row.key)
            elif row.state == RUNNING:
                running[row.group or NO_KEY] += 1
        there = {key: {*group.waiting} for key, group in groups._groups.items() if group.waiting}
        others = {row.key for level in queue._ready.values() for since, _, row in level if _waits_since(row, since)}
        if others:
            there[NO_KEY] = there.get(NO_KEY, set()) | others
        assert there == waiting
        assert +Counter({key: group.running for key, group in groups._groups.items()}) == running
        for group in groups._groups.values():
            for priority, line in group.lines.items():
                rows = [*line.rows()]
                assert all(entry.row.priority == priority for entry in rows)
                assert not rows or line.place or line in group.parked
        assert len(groups) == sum(len(group.waiting) for group in groups._groups.values())


def _waits_since(row: Row, since: float) -> bool:
    return row.state == WAITING and row.since == since and row.group is None


# A random program


KEYS = (None, "a", "b", "c")
LIMITS = (
    None,
    Limits(per_key=1),
    Limits(per_key=2, weight=3.0),
    Limits(concurrency=3, per_key=2),
    Limits(rate=Rate(4, per=10), rate_per_key=Rate(2, per=10)),
    Limits(weight=0.5),
)


def _exchange(rng: random.Random, held: list[ClaimedRow]) -> Exchange:
    settlements = []
    for row in rng.sample(held, min(len(held), rng.randrange(4))):
        verdict = rng.choice(list(SettlementKind))
        times = {"after": rng.choice([0.0, 5.0]), "keep": rng.choice([0.0, 9.0, math.inf])}
        settlements.append(settled(row, verdict, result=b"r", **times))
    pushed = []
    for _ in range(rng.randrange(5)):
        key = rng.choice(KEYS)
        terms: dict[str, Any] = {"priority": rng.randrange(3), "delay": rng.choice([0.0, 0.0, 3.0]), "key": key}
        unique: dict[str, Any] = {
            "unique": rng.choice([None, "u", "v"]),
            "on_conflict": rng.choice(["skip", "replace", "update"]),
        }
        more: dict[str, Any] = {"expires_in": rng.choice([None, 4.0]), "unique_until": rng.choice(["start", "end"])}
        pushed.append(new(f"{rng.randrange(60)}", options=_options(key), **terms, **unique, **more))
    left_out = {f"{rng.randrange(60)}" for _ in range(rng.choice([0, 0, 20]))}
    claims = [ClaimRequest(QUEUE, rng.randrange(1, 5), 7.0, "w", None, left_out)] if rng.random() < 0.7 else []
    return Exchange(settlements, pushed, claims)


def _options(key: str | None) -> bytes | None:
    return None if key is None else encode_options(Terms(key=key), {})


async def _act(engine: FileEngine, rng: random.Random, held: list[ClaimedRow]) -> None:
    """Do something at random; what it does depends on the state of the generator alone."""
    what = rng.choice(["exchange"] * 12 + ["cancel", "abort", "reschedule", "update", "resume", "forget", "limits"])
    task_id = f"{rng.randrange(60)}"
    if what == "exchange":
        exchange = _exchange(rng, held)
        answer = await engine.exchange(exchange)
        tokens = {settlement.token for settlement in exchange.settled}
        held[:] = [row for row in held if row.token not in tokens] + [row for rows in answer.claimed for row in rows]
    elif what == "limits":
        key = rng.choice(KEYS)
        limits = rng.choice(LIMITS)
        await engine.set_limits(QUEUE, key, limits if key is None or limits is None else _of_key(limits))
    elif what == "update":
        stored = await engine.find(QUEUE, task_id)
        await engine.update(QUEUE, task_id, b"new", _options(rng.choice(KEYS)), stored and stored.options)
    elif what == "resume":
        with suppress(DuplicateTaskError):
            await engine.resume(QUEUE, task_id)
    else:
        more: dict[str, tuple[Any, ...]] = {"cancel": (b"e",), "reschedule": (rng.choice([0.0, 3.0]),)}
        await getattr(engine, what)(QUEUE, task_id, *more.get(what, ()))


def _of_key(limits: Limits) -> Limits:
    return replace(limits, concurrency=None, rate=None)


async def _waiting(engine: FileEngine, delayed: bool) -> list[str]:
    states = [State.WAITING, State.DELAYED]
    return ids((await engine.search(QUEUE, Query(states, Selection(delayed=delayed), limit=1000))).rows)


def _windows(engine: FileEngine) -> dict[Any, Any]:
    queue = engine._open_transaction_log().state.queues[QUEUE]
    return {key: window.state() for key, window in queue.windows(engine.now())}


@pytest.mark.parametrize("seed", seeds(100))
async def test_keys_and_limits_are_right_after_anything(path: Path, autojump_clock: MockClock, seed: int) -> None:
    rng = random.Random(seed)
    held: list[ClaimedRow] = []
    async with opened(path, compact_above=rng.choice([500, 10**9])) as engine:
        for step in range(200):
            if rng.random() < 0.15:
                await _fails(engine, path, rng, [*held])
            await _act(engine, rng, held)
            check_groups(engine)
            await trio.sleep(rng.choice([0.0, 0.5, 3.0]))
            balance = await engine.audit(QUEUE)
            assert balance, str(balance)
            [held_back, others] = [await _waiting(engine, delayed) for delayed in (True, False)]
            metrics = await engine.metrics(QUEUE)
            assert (len(held_back), len(others)) == (metrics["delayed"], metrics["waiting"])
            if step % 40 == 39:
                with use_wall_clock(lambda: engine.now()):
                    await _check_restart(engine, path, step)


async def _fails(engine: FileEngine, path: Path, rng: random.Random, held: list[ClaimedRow]) -> None:
    """Check that nothing changes if the record cannot be written."""
    await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 0, 1.0, "w")]))  # what is due is entered
    before, state = await contents(engine), rng.getstate()
    limits = [await engine.get_limits(QUEUE, key) for key in KEYS]
    failed = False
    try:
        with no_file_longer_than(size(path)):
            await _act(engine, rng, held)
    except BackendError:
        failed = True
    if failed:
        assert await contents(engine) == before
        assert [await engine.get_limits(QUEUE, key) for key in KEYS] == limits
    check_groups(engine)
    rng.setstate(state)  # it is done again


async def _check_restart(engine: FileEngine, path: Path, step: int) -> None:
    await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 0, 1.0, "w")]))
    async with opened(crashed(path, f"at-{step}")) as copy:
        check_groups(copy)
        assert [await copy.get_limits(QUEUE, key) for key in KEYS] == [
            await engine.get_limits(QUEUE, key) for key in KEYS
        ]
        there = _windows(copy)
        for key, window in _windows(engine).items():
            assert sum(number for _, number in there[key]) <= sum(number for _, number in window)


# Over restarts


def _check_rate(begun: list[float], rate: Rate) -> None:
    """Check that no more attempts began than the rate allows, wherever its time begins."""
    begun = sorted(begun)
    for first, later in zip(begun, begun[rate.n :], strict=False):
        assert later - first >= rate.per


async def test_a_rate_holds_over_restarts_and_compactions(path: Path, autojump_clock: MockClock) -> None:
    rng, rate, rate_of_key = random.Random(1), Rate(7, per=60), Rate(3, per=60)
    begun: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    wall = 1e9
    for restart in range(12):
        with use_wall_clock(lambda wall=wall: wall):  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
            async with opened(path, compact_above=1000) as engine:
                if not restart:
                    await engine.set_limits(QUEUE, None, Limits(rate=rate, rate_per_key=rate_of_key))
                for step in range(25):
                    name = f"{restart}-{step}"
                    await push(engine, *(keyed(f"{name}-{key}", key) for key in begun))
                    rows = await claim(engine, rng.randrange(1, 9))
                    for row in rows:
                        begun[row.id[-1]].append(row.started or 0.0)
                    await settle(engine, *(settled(row, keep=0.0) for row in rows[1:]))
                    await trio.sleep(rng.choice([0.1, 1.0, 5.0]))
                wall = engine.now()
        path = crashed(path, f"{restart}")  # the rows that ran are begun again, which counts
    _check_rate([moment for moments in begun.values() for moment in moments], rate)
    for moments in begun.values():
        assert moments, "no attempt began"
        _check_rate(moments, rate_of_key)


_CHILD = """
import sys, trio
from trio_tasks._backends.durable.engine import ClaimRequest, Exchange
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.file.engine import FileEngine
from tests.storages._rows import QUEUE, claim, contents, ids, new, push, settle, settled

async def main():
    engine = FileEngine(sys.argv[1])
    await engine.open()
    while True:
        for row in await claim(engine, 5):
            print(row.id, row.started, flush=True)
            await settle(engine, settled(row))

trio.run(main)
"""


async def test_a_rate_holds_over_processes_that_are_killed(path: Path) -> None:
    rate, begun = Rate(6, per=2.5), list[float]()  # longer than a process takes to start
    async with opened(path) as engine:
        await engine.set_limits(QUEUE, None, Limits(per_key=2, rate=rate))
        await push(engine, *(keyed(f"{key}{number}", key) for number in range(100) for key in "ab"))
    for _ in range(3):
        child = await trio.lowlevel.open_process(
            [sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert child.stdout is not None
        told = b""
        with trio.fail_after(60):
            while told.count(b"\n") < 6:
                told += await child.stdout.receive_some()
            child.kill()
            async for more in child.stdout:
                told += more
            await child.wait()
        begun += [float(line.split()[1]) for line in told.decode().splitlines()]
    assert len(begun) >= 18
    _check_rate(begun, rate)


async def test_a_torn_record_counts_whole_or_not_at_all(path: Path, autojump_clock: MockClock) -> None:
    async with opened(path) as engine:
        await push(engine, *(keyed(f"{number}", "a") for number in range(6)))
        await engine.set_limits(QUEUE, None, Limits(rate_per_key=Rate(4, per=60.1)))
        whole = size_of_records(path)
        await claim(engine, 2)
        after_claim = size_of_records(path)
        await engine.set_limits(QUEUE, "a", Limits(rate_per_key=Rate(5, per=60.1)))
        wall = engine.now()
    content = read(path)
    for end in range(whole, size_of_records(path) + 1, 3):
        copy = path.with_name(f"torn-{end}.journal")
        _write(copy, content[:end])
        with use_wall_clock(lambda: wall):
            async with opened(copy) as engine:
                check_groups(engine)
                begun, is_raised = 2 * (end >= after_claim), await engine.get_limits(QUEUE, "a") is not None
                assert is_raised == (end == size_of_records(path))
                assert len(await claim(engine, 10)) == 4 + is_raised - begun


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def size_of_records(path: Path) -> int:
    """The size of a journal without the space that is reserved at its end, if no record ends with a zero."""
    return len(read(path).rstrip(b"\0"))


async def test_a_longer_journal_is_compacted_with_its_limits(path: Path, autojump_clock: MockClock) -> None:
    async with opened(path, compact_above=2000) as engine:
        await engine.set_limits(QUEUE, None, Limits(concurrency=9, rate=Rate(5, per=1e6)))
        await engine.set_limits(QUEUE, "a", Limits(per_key=3, rate_per_key=Rate(4, per=1e6), weight=2.0))
        await push(engine, *(keyed(f"{number}", "a", payload=b"x" * 100) for number in range(9)))
        await settle(engine, *(settled(row, keep=0.0) for row in await claim(engine, 3)))
        salt = read(path)[:20]
        number = 0
        while read(path)[:20] == salt:  # until it is replaced
            number += 1
            await push(engine, new(f"more-{number}", payload=b"x" * 200))
            await engine.forget(QUEUE, f"more-{number}")
        wall, copy = engine.now(), crashed(path)
    with use_wall_clock(lambda: wall):
        async with opened(copy) as engine:
            assert await engine.get_limits(QUEUE, None) == Limits(concurrency=9, rate=Rate(5, per=1e6))
            assert await engine.get_limits(QUEUE, "a") == Limits(per_key=3, rate_per_key=Rate(4, per=1e6), weight=2.0)
            assert len(await claim(engine, 9)) == 1  # of key "a", which has begun 3 of 4
            await push(engine, new("other"), new("another"))
            assert ids(await claim(engine, 9)) == ["other"]  # of the queue, which has begun 4 of 5


# Many keys, and many rows


async def test_keys_that_say_nothing_are_forgotten(autojump_clock: MockClock) -> None:
    async with opened(None) as engine:
        await engine.set_limits(QUEUE, None, Limits(per_key=1, rate_per_key=Rate(1, per=10)))
        for start in range(0, 10_000, 1000):
            await push(engine, *(keyed(f"{number}", f"{number}") for number in range(start, start + 1000)))
            for _ in range(10):
                await settle(engine, *(settled(row, keep=0.0) for row in await claim(engine, 100)))
            await trio.sleep(11)
        queue = engine._open_transaction_log().state.queues[QUEUE]
        assert queue.groups is not None
        assert len(queue.groups._groups) < 3000


async def test_a_claim_takes_as_many_steps_with_many_keys_held_back() -> None:
    assert await _steps_of_a_claim(5000) <= 1.5 * await _steps_of_a_claim(50)


async def _steps_of_a_claim(keys: int) -> int:
    """Count the calls in a claim, where each of so many keys has an attempt that runs, and nine rows held back."""
    async with opened(None) as engine:
        await engine.set_limits(QUEUE, None, Limits(per_key=1))
        for number in range(10):
            await push(engine, *(keyed(f"{key}-{number}", f"{key}") for key in range(keys)))
        assert len(await claim(engine, 10 * keys)) == keys
        assert await claim(engine) == []
        await push(engine, *(keyed(f"free-{number}", f"free-{number}") for number in range(10)))
        calls = 0

        def count(frame: object, event: str, arg: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            found = await claim(engine, 10)
        finally:
            sys.setprofile(None)
        assert len(found) == 10
        return calls


async def test_the_first_key_waits_for_one_of_the_rows_before_it() -> None:
    async with opened(None) as engine:
        await push(engine, *(new(f"{number:04}") for number in range(1000)))
        await push(engine, keyed("small-1", "small"), keyed("small-2", "small"), new("last"))
        queue = engine._open_transaction_log().state.queues[QUEUE]
        assert queue.groups is not None
        assert len(queue.groups) == 2  # the others were not moved all at once
        first = ids(await claim(engine, 5))
        assert sorted(first) == ["0000", "0001", "0002", "small-1", "small-2"]
        assert {"0000", "small-1"} == {*first[:2]}  # they take turns
        rest = ids(await claim(engine, 2000))
        assert rest == [*(f"{number:04}" for number in range(3, 1000)), "last"]
        check_groups(engine)


# After a power failure


def _kept_at_syncs(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[bytes]:
    """Return a list, to which the contents of the journal are added each time that it is synced."""
    kept: list[bytes] = []
    real = _journal._sync

    def watched(fd: int) -> None:
        real(fd)
        kept.append(read(path))

    monkeypatch.setattr(_journal, "_sync", watched)
    return kept


@pytest.mark.parametrize("limits", [Limits(rate=Rate(2, per=60)), Limits(rate_per_key=Rate(2, per=60))], ids=repr)
async def test_attempts_that_count_for_a_rate_are_on_the_disk_before_they_begin(
    path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    async with opened(path, synchronous="FULL") as engine:
        await engine.set_limits(QUEUE, None, limits)
        await push(engine, *(keyed(id, "a") for id in "abc"))
        kept = _kept_at_syncs(monkeypatch, path)
        assert len(await claim(engine)) == 1
        assert len(await claim(engine)) == 1
        assert len(kept) == 2
        after_power_failure = path.parent / "after" / path.name
        after_power_failure.parent.mkdir()
        after_power_failure.write_bytes(kept[-1])
        async with opened(after_power_failure) as later:
            assert await claim(later) == []
            assert (await later.metrics(QUEUE))["running"] == 0


@pytest.mark.parametrize("limits", [None, Limits(concurrency=5, per_key=2, weight=2.0)], ids=repr)
async def test_claims_wait_for_no_disk_where_there_is_no_rate(
    path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    async with opened(path, synchronous="FULL") as engine:
        await engine.set_limits(QUEUE, None, limits)
        await engine.set_limits("another", None, Limits(rate=Rate(2, per=60)))
        await push(engine, *(keyed(id, "a") for id in "abc"))
        kept = _kept_at_syncs(monkeypatch, path)
        assert len(await claim(engine)) == 1
        assert kept == []
