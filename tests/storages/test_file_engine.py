from __future__ import annotations

import errno
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from trio.testing import MockClock
from trio_tasks import BackendError, DuplicateTaskError
from trio_tasks._backends.durable.encoding import decode_error, decode_history
from trio_tasks._backends.durable.engine import (
    ClaimedRow,
    ClaimKey,
    ClaimRequest,
    Exchange,
    Query,
    SettlementKind,
    State,
)
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.file.journal import open_journal
from trio_tasks._backends.file.records import FRAME_SIZE, HEADER_SIZE, frame, header
from trio_tasks._backends.file.rows import QueueRows, Row
from trio_tasks._clock import use_wall_clock

from tests._progress import until
from tests.storages._rows import QUEUE, claim, claim_all, contents, ids, new, push, settle, settled, stored_counts
from tests.storages.test_journal import no_file_longer_than

pytestmark = pytest.mark.once

HOUR = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.journal"


@asynccontextmanager
async def opened(path: Path | None, **options: Any) -> AsyncIterator[FileEngine]:
    """An engine, without a thread unless it is asked for."""
    engine = FileEngine(path, **{"synchronous": "NORMAL", **options})
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


def crashed(path: Path, name: str = "crashed") -> Path:
    """The journal as it would be found if the process had been killed just now."""
    directory = path.parent / name
    directory.mkdir()
    return Path(shutil.copy(path, directory / path.name))


def size(path: Path) -> int:
    return path.stat().st_size


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes | bytearray) -> None:
    path.write_bytes(data)


def threads() -> int:
    """Number of threads, by the system's own count where it has one."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


# Keeping


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_what_was_pushed_and_settled_outlives_a_crash(path: Path, synchronous: str) -> None:
    async with opened(path, synchronous=synchronous) as engine:
        assert await push(engine, new("a", b"1"), new("b", b"2", options=b"h"), new("c", delay=HOUR)) == ["a", "b", "c"]
        [a, b] = await claim(engine, 2)
        assert (a.payload, b.options, b.attempt) == (b"1", b"h", 1)
        failed = settled(b, SettlementKind.FAILED, result=b"e", history=b"\x80", keep=HOUR)
        assert await settle(engine, settled(a, result=b"r", keep=math.inf), failed) == [True, True]
        before = await contents(engine)
        copy = crashed(path)
    async with opened(copy) as engine:
        assert await contents(engine) == before
        found = await engine.find(QUEUE, "b")
        assert found is not None
        assert (found.state, found.result, found.history, found.worker) == (State.FAILED, b"e", b"\x80", "w")
        assert await engine.find(QUEUE, "nobody") is None
        assert await engine.queues() == [QUEUE]


async def test_a_task_that_ran_when_the_process_died_waits_again_in_front(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, *map(new, "abc"))
        await claim(engine, 2)
        copy = crashed(path)
    rows: list[ClaimedRow] = []
    for _ in range(2):
        async with opened(copy) as engine:
            await push(engine, new("d"))
            rows = await claim(engine, 9)
            assert ids(rows)[:3] == ["a", "b", "c"]
            assert [len(decode_history(row.history)) for row in rows[:3]] == [rows[0].attempt - 1] * 2 + [
                rows[2].attempt - 1
            ]
            past = decode_history(rows[0].history)[-1]
            assert (past.attempt, past.became, past.worker) == (rows[0].attempt - 1, "lost", "w")
    assert rows[0].attempt == 3


async def test_each_row_tells_the_worker_that_ran_it_when_the_process_died(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, *map(new, "abcd"))
        await engine.exchange(Exchange(claims=[ClaimRequest(QUEUE, 3, 30.0, "one", ["one", "two", "one"])]))
        copy = crashed(path)
    async with opened(copy) as engine:
        rows = await claim(engine, 9)
    losses = {row.id: [each.worker for each in decode_history(row.history)] for row in rows}
    assert losses == {"a": ["one"], "b": ["two"], "c": ["one"], "d": []}


async def test_tokens_are_never_used_again(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"), new("b"))
        old = await claim(engine, 2)
        assert await settle(engine, settled(old[0], keep=0.0)) == [True]
    async with opened(path) as engine:
        await push(engine, new("a"))
        rows = await claim(engine, 2)
        assert not {(row.key, row.token) for row in rows} & {(row.key, row.token) for row in old}
        assert {row.token for row in rows}.isdisjoint(row.token for row in old)
        assert next(row.key for row in rows if row.id == "a") not in {row.key for row in old}
        assert await settle(engine, *map(settled, old)) == [False, False]


async def test_counts_queues_and_progress_outlive_a_restart(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"), new("b"), new("x", queue="other"))
        [a, b] = await claim(engine, 2)
        await settle(
            engine, settled(a, SettlementKind.RELEASED), settled(b, SettlementKind.RETRIED, after=HOUR, result=b"e")
        )
        await settle(engine, settled((await claim(engine))[0], SettlementKind.SUSPENDED))
        [a] = await claim(engine)
        assert await engine.report(ClaimKey(a.key, a.token), b"half")
        assert not await engine.report(ClaimKey(a.key, a.token - 1), b"all")
        copy = crashed(path)
    async with opened(copy) as engine:
        counts = {"pushed": 2, "succeeded": 0, "retried": 1, "failed": 0, "killed": 0, "released": 1, "suspended": 1}
        counts |= {"resumed": 0, "waiting": 1, "delayed": 1, "running": 0, "suspended_now": 0, "orphans": 0}
        counts |= {"held_now": 0}
        counts |= {"kept_done": 0, "kept_failed": 0, "kept_killed": 0, "is_paused": False}
        assert await stored_counts(engine, QUEUE) == counts
        assert await engine.queues() == [QUEUE, "other"]
        found = await engine.find(QUEUE, "a")
        assert found is not None and found.progress == b"half"


def _do_something(rng: random.Random, held: list[Any], names: list[str]) -> tuple[str, Any]:
    name = rng.choice(names)
    settlements = []
    for row in rng.sample(held, min(len(held), rng.randrange(4))):
        held.remove(row)
        verdict = rng.choice(list(SettlementKind))
        history = rng.choice([None, b"\x80"])
        times = {"after": rng.choice([0.0, 5.0]), "keep": rng.choice([0.0, 9.0, math.inf])}
        settlements.append(settled(row, verdict, result=b"r", history=history, **times))
    pushed = [
        new(
            f"{rng.randrange(60)}",
            rng.randbytes(rng.randrange(40)),
            queue=rng.choice(["q", "p"]),
            priority=rng.randrange(3),
            delay=rng.choice([0.0, 0.0, 3.0]),
            unique=rng.choice([None, "u", "v"]),
            on_conflict=rng.choice(["skip", "replace", "update", "raise"]),
            expires_in=rng.choice([None, 4.0]),
        )
        for _ in range(rng.randrange(5))
    ]
    claims = [ClaimRequest(queue, rng.randrange(1, 5), 7.0, "w") for queue in ("q", "p") if rng.random() < 0.7]
    exchange = Exchange(settlements, pushed, claims)
    return rng.choice(["exchange"] * 12 + ["cancel", "abort", "reschedule", "update", "resume", "forget", "wait"]), (
        exchange,
        name,
    )


async def _carry_out(engine: FileEngine, what: str, exchange: Exchange, task_id: str) -> list[Any]:
    if what == "exchange":
        answer = await engine.exchange(exchange)
        return [row for rows in answer.claimed for row in rows]
    if what == "wait":
        await trio.sleep(3)
    else:
        stored = await engine.find("q", task_id)
        update = b"new", b"head", stored and stored.options
        more: dict[str, tuple[Any, ...]] = {"cancel": (b"e",), "reschedule": (3.0,), "update": update}
        try:
            await getattr(engine, what)("q", task_id, *more.get(what, ()))
        except DuplicateTaskError:
            assert what == "resume"
    return []


async def _order(engine: FileEngine) -> list[Any]:
    return [[row._replace(token=0) for row in await claim(engine, 1000, queue=queue)] for queue in ("q", "p")]


@pytest.mark.parametrize("seed", range(20))
async def test_books_read_again_are_the_books_that_were(path: Path, autojump_clock: MockClock, seed: int) -> None:
    rng = random.Random(seed)
    names = [str(number) for number in range(60)]
    held: list[Any] = []
    async with opened(path, compact_above=rng.choice([500, 10**9])) as engine:
        for step in range(150):
            what, (exchange, name) = _do_something(rng, held, names)
            if rng.random() < 0.1:
                await _fails(engine, path, lambda w=what, e=exchange, n=name: _carry_out(engine, w, e, n))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
            held += await _carry_out(engine, what, exchange, name)
            if step % 50 == 49:
                with use_wall_clock(lambda: engine.now()):
                    async with opened(crashed(path, f"at-{step}")) as copy:
                        async with opened(crashed(copy.path or path, "again")) as again:
                            seen = await contents(copy, "q", "p")
                            assert await contents(again, "q", "p") == seen
                            await engine.exchange(Exchange(claims=[ClaimRequest("q", 0, 1.0, "w")]))
                            _compare(await contents(engine, "q", "p"), seen)
                            assert await _order(copy) == await _order(again)


def _compare(seen: dict[str, Any], again: dict[str, Any]) -> None:
    """Check that the rows are the same after reopening, except that running ones wait."""
    assert seen["queues"] == again["queues"]
    for queue in ("q", "p"):
        [counts, rows], [counts_again, rows_again] = seen[queue], again[queue]
        assert {name: counts[name] for name in ("pushed", "succeeded", "retried", "failed")} == {
            name: counts_again[name] for name in ("pushed", "succeeded", "retried", "failed")
        }
        still = [row for state in (State.DELAYED, State.DONE, State.FAILED) for row in rows[state]]
        still_again = [row for state in (State.DELAYED, State.DONE, State.FAILED) for row in rows_again[state]]
        assert still == still_again
        waiting = {row.id: row for state in (State.WAITING, State.KILLED) for row in rows_again[state]}
        for row in rows[State.WAITING] + rows[State.KILLED]:
            other = waiting.pop(row.id)
            assert (other.finished or 0.0) == pytest.approx(
                row.finished or 0.0, abs=0.001
            )  # entered by each for itself
            assert other._replace(finished=row.finished) == row
        for row in rows[State.RUNNING]:
            again_row = waiting.pop(row.id)
            assert again_row.attempt == row.attempt
            if again_row.state is State.WAITING:
                assert len(decode_history(again_row.history)) == len(decode_history(row.history)) + 1
        assert not waiting


async def _fails(engine: FileEngine, path: Path, act: Callable[[], Any]) -> None:
    """Check that nothing changes if the record cannot be written."""
    await engine.exchange(Exchange(claims=[ClaimRequest("q", 0, 1.0, "w")]))  # what is due is entered
    before = await contents(engine, "q", "p")
    length = size(path)
    with no_file_longer_than(length):
        try:
            await act()
        except BackendError as error:
            says = str(error)
        else:
            return  # there was nothing to write
    assert "could not be written" in says
    assert await contents(engine, "q", "p") == before
    assert size(path) == length


# Time


async def test_the_clock_goes_on_over_restarts_and_never_back(path: Path) -> None:
    with use_wall_clock(lambda: 1e9):
        async with opened(path) as engine:
            assert engine.now() == pytest.approx(1e9, abs=1)
            await push(engine, new("later", delay=100), new("done"))
            [done] = await claim(engine)
            await settle(engine, settled(done, keep=50))
            latest = engine.now()
    with use_wall_clock(lambda: 1e9 - HOUR):
        async with opened(path) as engine:
            assert latest - 1 < engine.now() < latest + 5  # what was not noted is forgotten
            answer = await claim_all(engine)
            assert answer.claimed == [[]]
            assert answer.next_due == [pytest.approx(latest + 100, abs=5)]
            assert await engine.find(QUEUE, "done") is not None
    with use_wall_clock(lambda: 1e9 + 60):
        async with opened(path) as engine:
            assert await engine.find(QUEUE, "done") is None
            assert await claim(engine) == []
    with use_wall_clock(lambda: 1e9 + 110):
        async with opened(path) as engine:
            assert ids(await claim(engine)) == ["later"]


async def test_a_month_passes_under_a_mock_clock(path: Path, autojump_clock: MockClock) -> None:
    async with opened(path) as engine:
        await push(engine, new("in a month", delay=30 * 24 * HOUR), new("for a while", expires_in=HOUR))
        answer = await claim_all(engine, 0)
        await trio.sleep(HOUR + 1)
        answer = await claim_all(engine)
        assert (answer.claimed, [row.id for row in answer.killed]) == ([[]], ["for a while"])
        expired = await engine.find(QUEUE, "for a while")
        assert expired is not None and "expires_in" in str(decode_error(expired.result))
        assert answer.next_due[0] is not None
        await trio.sleep(answer.next_due[0] - engine.now())
        assert ids(await claim(engine)) == ["in a month"]


async def test_a_lease_that_is_not_renewed_runs_out(path: Path, autojump_clock: MockClock) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"), new("b"))
        [a, b] = await claim(engine, 2, lease=10)
        await trio.sleep(8)
        assert (await engine.renew([ClaimKey(b.key, b.token)], 10)).lost == []
        await trio.sleep(4)
        answer = await claim_all(engine, 2, lease=9)
        [again] = answer.claimed[0]
        assert answer.next_due == [pytest.approx(engine.now() + 6, abs=0.1)]
        assert (again.id, again.attempt, again.key) == ("a", 2, a.key)
        assert decode_history(again.history)[0].became == "lost"
        assert await settle(engine, settled(a), settled(b)) == [False, True]
        assert (await engine.renew([ClaimKey(a.key, a.token)], 10)).lost == [ClaimKey(a.key, a.token)]
        await trio.sleep(11)
        assert await engine.resume_abandoned(QUEUE) == (1, False)
        assert await engine.resume_abandoned(QUEUE) == (0, False)


async def test_an_abort_is_honoured_even_if_the_process_dies(path: Path) -> None:
    news: list[None] = []
    async with opened(path) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.listen, lambda: news.append(None), lambda: None, lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        await push(engine, new("a"), new("b"))
        assert not await engine.abort(QUEUE, "a")
        [a, b] = await claim(engine, 2)
        assert await engine.abort(QUEUE, "a")
        assert news
        assert (await engine.renew([], 0.0)).aborted == [ClaimKey(a.key, a.token)]
        copy = crashed(path)
        await settle(engine, settled(a, SettlementKind.RETRIED), settled(b))
        found = await engine.find(QUEUE, "a")
        assert found is not None and found.state is State.KILLED
        nursery.cancel_scope.cancel()
    async with opened(copy) as engine:
        assert ids(await claim(engine, 9)) == ["b"]
        found = await engine.find(QUEUE, "a")
        assert found is not None and "aborted" in str(decode_error(found.result))


async def test_a_replaced_task_is_killed_even_if_the_process_dies(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a", unique="key"))
        await claim(engine)
        await push(engine, new("b", unique="key", on_conflict="replace"))
        [b] = await claim(engine)
        await settle(engine, settled(b))
    async with opened(path) as engine:  # what it reads now are changes, and from then on a snapshot
        assert await claim(engine) == []
        found = await engine.find(QUEUE, "a")
        assert found is not None and "replaced by task b" in str(decode_error(found.result))


async def test_a_replacement_that_could_not_be_written_has_never_been(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a", unique="key"))
        [a] = await claim(engine)
        with no_file_longer_than(size(path)), pytest.raises(BackendError):
            await push(engine, new("b", unique="key", on_conflict="replace"))
        assert await push(engine, new("c", unique="key")) == ["a"]
        await settle(engine, settled(a, SettlementKind.RETRIED))
        assert ids(await claim(engine)) == ["a"]


@pytest.mark.parametrize("aborted", [False, True])
async def test_a_journal_of_an_older_version_is_read(path: Path, aborted: bool) -> None:
    """For a running row it recorded only a requested abort, and not that the row was replaced."""
    async with opened(path) as engine:
        await push(engine, new("a", unique="key"))
        await claim(engine)
        assert engine._transaction_log is not None
        [row] = engine._transaction_log.state.rows.values()
        await push(engine, new("b", unique="key", on_conflict="replace"))
        row.requested_end = aborted
        await engine.report(ClaimKey(row.key, row.token), b"half")
    async with opened(path) as engine:
        assert ids(await claim(engine)) == ["b"]
        found = await engine.find(QUEUE, "a")
        assert found is not None and found.state is State.KILLED and found.progress == b"half"
        assert ("aborted" if aborted else "replaced by task b") in str(decode_error(found.result))


# One at a time


async def test_a_second_engine_in_this_process_is_refused(path: Path) -> None:
    async with opened(path) as engine:
        link = path.with_name("link")
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(BackendError, match="this process already"):
                await FileEngine(name, synchronous="NORMAL").open()
        await push(engine, new("a"))
    async with opened(link) as engine:
        assert ids(await claim(engine)) == ["a"]


_CHILD = """
import sys, trio
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.durable.engine import *
async def main():
    engine = FileEngine(sys.argv[1], synchronous=sys.argv[2], compact_above=int(sys.argv[3]))
    await engine.open()
    held, number = [], int(sys.argv[4])
    print("open", flush=True)
    while True:
        pushed = [NewRow("q", f"{number + i}", b"x" * 50, None, 0, 0.0, None, "skip", None) for i in range(3)]
        number += 3
        done = [
            Settlement("q", row.key, row.token, SettlementKind.SUCCEEDED, 0.0, b"r", None, float("inf")) for row in held
        ]
        answer = await engine.exchange(Exchange(done, pushed, [ClaimRequest("q", 2, 30.0, "w")]))
        print("pushed", *answer.pushed, flush=True)
        print("settled", *[row.id for row in held], flush=True)
        held = answer.claimed[0]
trio.run(main)
"""


def _child(path: Path, synchronous: str, compact_above: int = 10**9, number: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CHILD, str(path), synchronous, str(compact_above), str(number)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


async def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    with _child(path, "NORMAL") as child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        with pytest.raises(BackendError, match=f"the process {child.pid}: a journal is for one"):
            await FileEngine(path).open()
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
    async with opened(path):
        pass


@pytest.mark.parametrize(
    ("synchronous", "compact_above"), [("NORMAL", 10**9), ("NORMAL", 2000), ("FULL", 10**9), ("FULL", 2000)]
)
async def test_nothing_acknowledged_is_lost_to_kill_9(path: Path, synchronous: str, compact_above: int) -> None:
    rng = random.Random(7)
    pushed: set[str] = set()
    done: set[str] = set()
    for number in range(6):
        with _child(path, synchronous, compact_above, number * 10**6) as child:
            assert child.stdout is not None
            for _ in range(rng.randrange(20, 300)):
                _note(child.stdout.readline(), pushed, done)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout.read().splitlines(keepends=True):
                _note(line, pushed, done)
    async with opened(path) as engine:
        stored = {state: set(ids((await engine.search(QUEUE, Query([state], limit=10**6))).rows)) for state in State}
        assert done <= stored[State.DONE]
        assert pushed <= stored[State.DONE] | stored[State.WAITING]
        assert len(pushed) > 100
        assert len(stored[State.DONE] - done) <= 6 * 2  # one exchange in each life that nobody was told of
        assert not stored[State.RUNNING]


def _note(line: str, pushed: set[str], done: set[str]) -> None:
    if line.endswith("\n"):
        kind, *names = line.split()
        if kind != "open":
            (pushed if kind == "pushed" else done).update(names)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_forked_child_has_no_part_in_the_journal(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                engine.exchange(Exchange(pushed=[new("b")])).send(None)
            except BackendError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        assert b"in the parent of this process" in os.read(reading, 1000)
        await trio.to_thread.run_sync(os.waitpid, child, 0)
        os.close(reading)
        os.close(writing)
        with pytest.raises(BackendError, match="this process already"):
            await FileEngine(path).open()


# What can go wrong


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_on_a_full_disk_the_pusher_is_told_and_work_goes_on_later(path: Path, synchronous: str) -> None:
    async with opened(path, synchronous=synchronous) as engine:
        await push(engine, new("a"), new("b", unique="u"))
        [a, _] = await claim(engine, 2)
        before = await contents(engine)
        large = new("c", b"x" * 3_000_000, unique="u", on_conflict="replace")
        with no_file_longer_than(2_000_000):
            for _ in range(3):
                with pytest.raises(BackendError, match="too large") as caught:
                    await engine.exchange(Exchange([settled(a)], [large], [ClaimRequest(QUEUE, 5, 1.0, "w")]))
                assert not caught.value.is_final
                assert await contents(engine) == before
        assert await push(engine, new("d", unique="u")) == ["b"]
        answer = await engine.exchange(Exchange([settled(a)], [large], [ClaimRequest(QUEUE, 5, 1.0, "w")]))
        assert (answer.settled, answer.pushed, ids(answer.claimed[0])) == ([True], ["c"], ["c"])
        copy = crashed(path)
    async with opened(copy) as engine:
        assert engine.recovery is None
        assert ids(await claim(engine, 9)) == ["c"]


async def test_a_journal_that_cannot_be_synced_is_broken_for_good(path: Path) -> None:
    async with opened(path, synchronous="FULL") as engine:
        await push(engine, new("a"))
        assert engine._transaction_log is not None
        journal = engine._transaction_log._journal
        null = os.open(os.devnull, os.O_RDWR)  # can be written, and not synced
        own = os.dup(journal._fd)
        os.dup2(null, journal._fd)
        with pytest.raises(BackendError, match="could not be written") as caught:
            await push(engine, new("b"))
        assert caught.value.is_final
        os.dup2(own, journal._fd)
        for _ in range(2):
            with pytest.raises(BackendError, match="open it again"):
                await push(engine, new("b"))
        os.close(own)
        os.close(null)
    async with opened(path) as engine:
        assert ids(await claim(engine, 9)) == ["a"]


async def test_a_torn_tail_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"))
        await push(engine, new("b"))
    os.truncate(path, size(path) - 1)
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        async with opened(path) as engine:
            assert engine.recovery is not None and engine.recovery.is_torn_tail
            assert engine.recovery.kept_as.exists()
            assert ids(await claim(engine, 9)) == ["a"]
    assert str(engine.recovery) in caplog.text
    async with opened(path) as engine:
        assert engine.recovery is None


async def test_damage_in_the_middle_is_refused_and_may_be_repaired(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a"))
        middle = size(path)
        await push(engine, new("b", queue="other"))
        await push(engine, new("c"), new("d", queue="other"))
        [row] = await claim(engine)
        await settle(engine, settled(row))
    data = bytearray(read(path))
    data[middle + FRAME_SIZE + 3] ^= 1
    write(path, data)
    with pytest.raises(BackendError, match=r"1 record\(s\) cannot be read.*repair=True"):
        await FileEngine(path, synchronous="NORMAL").open()
    assert read(path) == data
    async with opened(path, repair=True) as engine:
        assert engine.recovery is not None and engine.recovery.records_dropped == 1
        assert engine.recovery.kept_as.name == "tasks.journal.damaged-1"
        assert engine.recovery.kept_as.read_bytes() == data
        assert ids(await claim(engine, 9)) == ["c"]
        assert ids(await claim(engine, 9, queue="other")) == ["d"]
        found = await engine.find(QUEUE, "a")
        assert found is not None and found.state is State.DONE
    async with opened(path) as engine:
        assert engine.recovery is None
        assert ids(await claim(engine, 9)) == ["c"]


async def test_a_flipped_bit_is_an_error_or_a_recovery(path: Path) -> None:
    async with opened(path) as engine:
        await push(engine, new("a", unique="u"))
        [a] = await claim(engine)
        await settle(engine, settled(a, SettlementKind.RETRIED, after=5.0))
    whole = read(path)
    for bit in range(0, len(whole) * 8, 11):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        for repair in (False, True):
            write(path, flipped)
            says = ""
            try:
                async with opened(path, repair=repair) as engine:
                    assert engine.recovery is not None
                    engine.recovery.kept_as.unlink()
            except BackendError as error:
                says = str(error)
            if says:
                assert not repair
                assert "damaged" in says
                assert read(path) == flipped


async def test_an_intact_record_that_makes_no_sense_is_a_clear_error(path: Path) -> None:
    for payload in (b"", b"\x80", b"\xff", b"\x88\x00\x01\x01\x81\x01\x80\x80\x80\x80"):
        write(path, header(b"saltsalt") + frame(b"saltsalt", 1, payload))
        with pytest.raises(BackendError, match="cannot be understood"):
            await FileEngine(path, synchronous="NORMAL").open()


async def test_what_cannot_be_written_down_changes_nothing(path: Path) -> None:
    async with opened(path) as engine:
        before = await contents(engine)
        with pytest.raises(BackendError, match="cannot be encoded for the journal"):
            await push(engine, new("fine"), new("half \ud800"))
        assert await contents(engine) == before
        assert await push(engine, new("fine")) == ["fine"]


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_place_that_is_none_is_a_clear_error(tmp_path: Path, synchronous: Any) -> None:
    await trio.to_thread.run_sync(int)  # `until` needs a thread of trio's, which is counted too
    before = threads()
    for place, says in (
        (tmp_path, r"cannot be opened: that is a directory"),
        (tmp_path / "nowhere" / "tasks.journal", "there is no directory"),
    ):
        engine = FileEngine(place, synchronous=synchronous)
        with pytest.raises(BackendError, match=says):
            await engine.open()
        with pytest.raises(BackendError, match="is not open"):
            await push(engine, new("a"))
        await engine.aclose()
    await until(lambda: threads() <= before)  # a thread takes a moment to end


_UNPRIVILEGED = """
import os, sys, trio
from trio_tasks._backends.file.engine import FileEngine
if not os.geteuid():
    os.setegid(65534), os.seteuid(65534)
try:
    trio.run(FileEngine(sys.argv[1]).open)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_may_only_be_read_is_a_clear_error(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own may be seen by one user only
        path, lock = Path(name, "tasks.journal"), Path(name, "tasks.journal.lock")
        open_journal(path, lambda _: None, repair=False, ahead=False)[0].close()
        if what == "file":
            lock.touch()
            lock.chmod(0o666)
        path.chmod(0o444 if what == "file" else 0o666)
        Path(name).chmod(0o777 if what == "file" else 0o555)
        command = [sys.executable, "-c", _UNPRIVILEGED, str(path)]
        run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        Path(name).chmod(0o777)
        assert run.stdout.startswith("BackendError") and "Permission denied" in run.stdout, run.stderr


# Staying short


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_journal_of_dead_weight_is_replaced_while_work_goes_on(path: Path, synchronous: str) -> None:
    async with opened(path, synchronous=synchronous, compact_above=20_000) as engine:
        await push(engine, *[new(f"old {number}", b"x" * 100, priority=-1) for number in range(100)])
        longest = 0
        for number in range(400):
            await push(engine, new(f"{number}", b"x" * 100))
            [row] = await claim(engine)
            await settle(engine, settled(row, keep=0.0))
            if number % 4 == 0:
                await push(engine, new(f"stays {number}", priority=-2))
                await engine.cancel(QUEUE, f"old {number // 4}", b"e")
            if number % 40 == 0:
                before = await contents(engine)
                async with opened(crashed(path, f"at-{number}")) as copy:
                    assert await contents(copy) == before
                    old, stay = ids(await claim(copy, 100 - number // 4 - 1)), ids(await claim(copy, 1000))
                    assert old == [f"old {each}" for each in range(number // 4 + 1, 100)]
                    assert stay == [f"stays {each}" for each in range(0, number + 1, 4)]
            assert engine._transaction_log is not None
            longest = max(longest, engine._transaction_log._journal.end)
        assert longest < 150_000
        before = await contents(engine)
    assert sorted(each.name for each in path.parent.iterdir() if each.is_file()) == [path.name, f"{path.name}.lock"]
    async with opened(path) as engine:
        assert await contents(engine) == before
        assert ids(await claim(engine, 1000)) == [f"stays {each}" for each in range(0, 400, 4)]


async def test_a_crash_in_the_middle_of_a_compaction_harms_nothing(path: Path) -> None:
    stages: set[int] = set()
    async with opened(path, compact_above=5_000) as engine:
        assert engine._transaction_log is not None
        await push(engine, *[new(f"old {number}", b"x" * 2000, priority=-1) for number in range(300)])
        for number in range(1500):
            await push(engine, new(f"{number}", b"x" * 2000))
            [row] = await claim(engine)
            await settle(engine, settled(row, keep=0.0))
            await push(engine, new(f"stays {number}", priority=-2))
            await engine.cancel(QUEUE, f"old {299 - number // 7}", b"e")
            new_one = path.with_name(f"{path.name}.new")
            stage = new_one.stat().st_size // 40_000 if new_one.exists() else -1
            if stage not in stages:
                stages.add(stage)
                before = await contents(engine)
                directory = path.parent / f"at-{number}"
                directory.mkdir()
                copy = Path(shutil.copy(path, directory))
                if new_one.exists():
                    shutil.copy(new_one, directory)
                async with opened(copy) as again:
                    assert await contents(again) == before
                    assert not list(directory.glob("*.new"))
        before = await contents(engine)
    assert len(stages) > 3
    async with opened(path) as engine:
        assert await contents(engine) == before


async def test_a_compaction_that_finds_no_room_is_given_up(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path, compact_above=5_000) as engine:
        await push(engine, new("old", b"x" * 100, priority=-1))

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(_journal, "make_file", refuse)
        for number in range(60):
            await push(engine, new(f"{number}", b"x" * 100))
            [row] = await claim(engine)
            assert await settle(engine, settled(row, keep=0.0)) == [True]
        assert "could not be compacted" in caplog.text
        monkeypatch.undo()
        for number in range(600):
            await push(engine, new(f"{number}", b"x" * 100))
            [row] = await claim(engine)
            await settle(engine, settled(row, keep=0.0))
    assert size(path) < 40_000
    async with opened(path) as engine:
        assert ids(await claim(engine, 9)) == ["old"]


# For a while


async def test_a_temporary_one_leaves_nothing(autojump_clock: MockClock) -> None:
    engine = FileEngine.temporary()
    await engine.open()
    path = engine.path
    assert path is not None and path.exists()
    await push(engine, new("a"))
    await engine.aclose()
    assert not path.parent.exists()
    await engine.open()
    assert await claim(engine) == []
    await engine.aclose()


async def test_closing_works_when_cancelled(path: Path) -> None:
    for synchronous in ("FULL", "NORMAL"):
        engine = FileEngine(path, synchronous=synchronous)
        await engine.open()
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.exchange(Exchange(pushed=[new(synchronous)]))
            await engine.aclose()
    async with opened(path) as engine:
        assert sorted(ids(await claim(engine, 9))) == ["FULL", "NORMAL"]


def test_a_header_has_a_fixed_length() -> None:
    assert (HEADER_SIZE, FRAME_SIZE) == (24, 24)


async def test_a_lease_that_is_over_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Otherwise a waiting worker would look again and again after the lease has run out."""
    async with opened(None) as engine:
        await push(engine, new("a"), new("b", delay=5.0))
        [first] = await claim(engine, lease=8.0)
        await settle(engine, settled(first))
        await trio.sleep(5)
        [second] = await claim(engine, lease=8.0)
        await trio.sleep(3)  # now the lease of the first one would have run out
        answer = await claim_all(engine)
        assert second.id == "b"
        assert answer.next_due == [pytest.approx(engine.now() + 5, abs=0.001)], "the lease of the second one"


def _record(**fields: Any) -> bytes:
    """Make a record with one queue and one waiting row, with these fields changed."""
    usual: dict[str, Any] = {
        "now": 1e9,
        "next_key": 2,
        "next_token": 1,
        "name": "q",
        "pushed": 1,
        "key": 1,
        "number": 0,
        "id": "a",
        "payload": b"args",
        "options": None,
        "priority": 0,
        "unique": None,
        "state": 0,
        "attempt": 0,
        "since": 1e9,
        "due": None,
        "token": 0,
        "expires": None,
        "result": None,
        "history": None,
        "worker": None,
        "progress": None,
        "aborted": False,
    }
    now, next_key, next_token, name, pushed, *row = {**usual, **fields}.values()
    return cbor2.dumps([now, next_key, next_token, [0, name, pushed, 0, 0, 0, 0, 0, 1], row, [], [], []])


def _journal_of(record: bytes) -> bytes:
    return header(b"saltsalt") + frame(b"saltsalt", 1, record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("now", each) for each in ("late", 1e300, math.inf)],
        *[("next_key", each) for each in (1, 2.5, None)],
        ("next_token", 1.5),
        *[("name", each) for each in (b"q", 5)],
        *[("pushed", each) for each in ("many", 0.5, None)],
        *[("key", each) for each in ("one", 5)],
        ("number", 7),
        *[("id", each) for each in (b"a", "", None)],
        *[("payload", each) for each in ("args", None)],
        *[("state", each) for each in (17, -1, "text", None, 1)],
        *[("attempt", each) for each in (-3, "many", None)],
        *[("since", each) for each in ("long", None, math.nan)],
        *[("due", each) for each in ("soon", math.inf)],
        *[(name, 5) for name in ("options", "unique", "result", "history", "worker", "progress", "aborted")],
        ("priority", "high"),
        ("expires", b"never"),
    ],
)
async def test_an_intact_record_that_says_what_cannot_be_is_a_clear_error(path: Path, field: str, value: Any) -> None:
    """Such a record is written by another program, since a damaged record is not intact. It is refused when the journal
    is opened, not when the row is used.
    """
    data = _journal_of(_record(**{field: value}))
    write(path, data)
    with pytest.raises(BackendError, match="cannot be understood"):
        async with opened(path):
            raise AssertionError("it has opened")
    assert read(path) == data


async def test_an_intact_record_by_another_hand_is_as_good_as_ours(path: Path) -> None:
    write(path, _journal_of(_record()))
    async with opened(path) as engine:
        [row] = await claim(engine)
        assert row.id == "a"


def test_the_condition_of_a_row_is_given_as_it_was_read() -> None:
    queue = QueueRows(0, QUEUE)
    row, other = (Row(key, queue, f"t{key}", b"", None, 0, None) for key in (1, 2))
    fixed = {
        "key",
        "queue",
        "id",
        "payload",
        "options",
        "priority",
        "unique",
        "unique_until",
        "name",
        "pushed",
        "group",
    }
    changing = sorted({*Row.__slots__} - fixed)
    for name in changing:
        setattr(row, name, name)

    other.condition = row.condition

    assert sorted(row.condition) == changing
    assert [getattr(other, name) for name in changing] == changing
