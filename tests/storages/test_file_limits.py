"""Keys and limits in a journal: over restarts, torn ends, compactions and failed transactions."""

from __future__ import annotations

import math
import random
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
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.file.rows import RUNNING, WAITING, Row
from trio_tasks._clock import use_wall_clock
from trio_tasks._contracts.fairness import NO_KEY
from trio_tasks._contracts.listing import Selection
from trio_tasks._tasks.limits import Limits, Rate
from trio_tasks._tasks.task import Terms

from tests._scale import seeds
from tests.storages._rows import QUEUE, contents, ids, new, settled
from tests.storages.test_file_engine import crashed, opened, size
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
        if groups is None:
            assert all(row.group is None for row in queue.ids.values() if row.state <= RUNNING)
            continue
        waiting: defaultdict[str, set[int]] = defaultdict(set)
        running: Counter[str] = Counter()
        for row in queue.ids.values():
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
