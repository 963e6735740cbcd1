"""Tests of leases and clocks: suspended processes, slow disks, clocks that are set, machines that sleep."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Event,
    FileStorage,
    LeaseLostError,
    Outcome,
    Release,
    SqliteStorage,
    Status,
    Succeeded,
    Success,
    Worker,
    WorkerContext,
    _clock,
)
from trio_tasks._backends.durable import engine as _durable_engine
from trio_tasks._backends.durable.engine import Offset, Reading, StoreClock
from trio_tasks._backends.file import engine as _file_engine
from trio_tasks._backends.sqlite import engine as _sqlite_engine
from trio_tasks._clock import use_machine_clock, use_wall_clock
from trio_tasks.testing import run_seeded, virtual_clock

from tests._progress import until

pytestmark = pytest.mark.once

HOUR = 3600.0
KINDS = ["sqlite", "file"]
Kind = Literal["sqlite", "file"]


def open_one(kind: str, directory: Path, **options: Any) -> SqliteStorage[int] | FileStorage[int]:
    if kind == "sqlite":
        return SqliteStorage(directory / "tasks.db", int, **options)
    return FileStorage(directory / "tasks.journal", int, **options)


class Watched:
    """A handler that waits until it may end, and counts how often each number began, and how many run at once."""

    def __init__(self, nap: float = 0.0) -> None:
        self.begun: Counter[int] = Counter()
        self.at_work: Counter[int] = Counter()
        self.at_once = 0
        self.done: list[int] = []
        self.released: list[str] = []
        self.may_end = trio.Event()
        self._nap = nap

    async def handle(self, n: int) -> None:
        self.begun[n] += 1
        self.at_work[n] += 1
        self.at_once = max(self.at_once, self.at_work[n])
        try:
            await self.may_end.wait()
            await trio.sleep(self._nap)
        finally:
            self.at_work[n] -= 1

    def hear(self, _: object, event: Event) -> None:
        if isinstance(event, Success):
            self.done.append(event.task.args)
        elif isinstance(event, Release):
            self.released.append(event.reason)


def hold_the_loop(seconds: float) -> None:
    """As a handler does that never awaits."""
    time.sleep(seconds)


# Leases of one's own process


@pytest.mark.parametrize("kind", KINDS)
def test_a_vacuum_takes_no_running_task(kind: str, tmp_path: Path) -> None:
    """A lease has run out, and no heartbeat has renewed it yet. A vacuum does not make the task an orphan."""
    clock = MockClock()

    async def main() -> None:
        async with open_one(kind, tmp_path, lease=10.0) as storage:
            task_id = await storage.push(1)
            task = await storage.receive()
            clock.jump(12.0)
            await storage.vacuum()
            found = await storage.fetch_by_id(task_id)
            assert found is not None
            assert found.parts.status is Status.Running
            await storage.settle(task, Succeeded(None))

    run_seeded(main, seed=1, clock=clock)


class Stuck:
    """A handler that does not end when it is told to."""

    worker = "w"
    will_take_more = False
    was_told = False

    def revoke(self, outcome: Outcome) -> bool:
        self.was_told = True
        return True

    def current_line(self) -> str:
        return "nowhere"


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_attempt_that_still_runs_here_keeps_no_other_task_waiting(kind: str, tmp_path: Path) -> None:
    """The lost task is forgotten meanwhile, so the next task may get the same key in the store."""
    clock = MockClock()

    async def main() -> None:
        async with open_one(kind, tmp_path, lease=10.0) as storage:
            lost = await storage.push(1)
            task = await storage.receive()
            task.parts.holder = Stuck()
            clock.jump(12.0)
            assert (await storage._loop.engine.resume_abandoned(storage.queue)).number == 1
            context = WorkerContext("w")
            context.running_tasks = {task: None}
            await storage.beat(context)
            assert await storage.cancel(lost)
            assert await storage.discard(lost)
            await storage.push_bulk([2, 3])
            assert (await storage.receive()).args == 2

    run_seeded(main, seed=1, clock=clock)


def test_a_task_whose_lost_attempt_still_runs_here_is_left_out_and_others_go_on(tmp_path: Path) -> None:
    """This process begins the task only when the lost attempt has ended. Until then other processes may claim it, and
    nothing spins.
    """
    clock = MockClock()

    async def main() -> None:
        async with open_one("sqlite", tmp_path, lease=10.0) as a, open_one("sqlite", tmp_path, lease=10.0) as b:
            await a.push(1)
            task = await a.receive()
            task.parts.holder = Stuck()
            clock.jump(12.0)
            assert await b.resume_abandoned() == 1
            await b.receive()
            clock.jump(12.0)
            context = WorkerContext("w")
            context.running_tasks = {task: None}
            await a.beat(context)
            received: list[int] = []
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    while len(received) < 2:
                        received.append((await a.receive()).args)

                nursery.start_soon(receive)
                await wait_all_tasks_blocked()
                assert [each.parts.status for each in await b.list_tasks()] == [Status.Pending]
                await b.push(2)
                await wait_all_tasks_blocked()
                assert received == [2]
                rounds = a._queue.changes
                for _ in range(200):
                    await trio.lowlevel.checkpoint()
                assert a._queue.changes <= rounds + 1
                assert not a._queue.prefetched
                with pytest.raises(LeaseLostError):
                    await a.settle(task, Succeeded(None))
                await wait_all_tasks_blocked()
                assert received == [2, 1]

    run_seeded(main, seed=1, clock=clock)


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_resume_abandoned_has_renewed_is_renewed_here_too(is_lost: bool, tmp_path: Path) -> None:
    clock = MockClock()

    async def main() -> None:
        async with open_one("sqlite", tmp_path, lease=10.0) as a, open_one("sqlite", tmp_path, lease=10.0) as b:
            await a.push(1)
            task = await a.receive()
            task.parts.holder = stuck = Stuck()
            clock.jump(12.0)
            if is_lost:
                assert await b.resume_abandoned() == 1
                await b.receive()
            assert await a.resume_abandoned() == 0
            assert stuck.was_told is is_lost
            assert a._loop.late_leases(a._loop.engine.now()) == []
            assert is_lost or task.parts.context.until > a._loop.engine.now() + 9.0

    run_seeded(main, seed=1, clock=clock)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_loop_that_is_held_does_not_take_its_own_tasks(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop is held twice, for two and a half leases each. No task begins again, though slots are free; and the log
    names the delay.
    """
    watched = Watched()
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        async with open_one(kind, tmp_path, lease=0.4) as storage, trio.open_nursery() as nursery:
            worker = Worker("w", storage, watched.handle, concurrency=10, on_event=watched.hear)
            await nursery.start(worker.run)
            await storage.push_bulk(range(5))
            await until(lambda: len(watched.begun) == 5)
            for _ in range(2):
                hold_the_loop(2.5 * 0.4)
                await trio.sleep(0.3)
            watched.may_end.set()
            await until(lambda: len(watched.done) == 5)
            nursery.cancel_scope.cancel()
    assert watched.begun == Counter(range(5))
    assert not watched.released
    assert any("a heartbeat was" in record.getMessage() for record in caplog.records)


CHILD = """
import json, sys, time, trio
from contextlib import ExitStack
from pathlib import Path
from trio_tasks import Attempt, FileStorage, SqliteStorage, Worker
from trio_tasks._clock import use_machine_clock, use_wall_clock

orders = json.loads(sys.argv[1])
path = orders["path"]

async def main():
    storage = (SqliteStorage if orders["kind"] == "sqlite" else FileStorage)(path, int, lease=orders["lease"])
    async def handler(n: int, attempt: Attempt) -> None:
        print("begin", n, int(attempt), flush=True)
        while not Path(path + ".end").exists():
            await trio.sleep(0.02)
        print("end", n, int(attempt), flush=True)
    async with storage:
        await storage.push_bulk(range(orders["push"]))
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, handler, concurrency=20).run)
            print("up", file=sys.stderr, flush=True)
            storage.close()

with ExitStack() as stack:
    if "machine" in orders:
        stack.enter_context(use_machine_clock(lambda: (orders["machine"], time.monotonic() + orders["ahead"])))
    stack.enter_context(use_wall_clock(lambda: time.time() + orders.get("wall", 0.0)))
    trio.run(main)
"""


@contextmanager
def child(path: Path, **orders: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that works on the tasks of this file, until there is a file beside it."""
    command = [
        sys.executable,
        "-c",
        CHILD,
        json.dumps({"path": str(path), "kind": "sqlite", "push": 0, "lease": 0.6, **orders}),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def end(path: Path) -> None:
    Path(f"{path}.end").touch()


def said(process: subprocess.Popen[str], lines: int | None = None) -> list[str]:
    """So many lines that it says, or all that are left."""
    assert process.stdout is not None
    return [line.strip() for line in (islice(process.stdout, lines) if lines is not None else process.stdout)]


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_is_stopped_does_not_take_its_own_tasks(kind: str, tmp_path: Path) -> None:
    """SIGSTOP for two and a half leases, then SIGCONT, three times: each task is attempted once."""
    path = tmp_path / "tasks"
    with child(path, kind=kind, push=3) as process:
        lines = said(process, 3)
        for _ in range(3):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.3)
        end(path)
        lines += said(process)
    assert sorted(lines) == sorted(f"{what} {n} 1" for what in ("begin", "end") for n in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_slow_lets_the_work_be_done(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction takes a third of a lease, and tasks more than two leases."""
    slow_down(kind, monkeypatch, 20.0)
    watched = Watched(nap=140.0)

    async def main() -> None:
        watched.may_end.set()
        async with open_one(kind, tmp_path, lease=60.0) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, watched.handle, concurrency=8, on_event=watched.hear).run)
            for n in range(3):
                await storage.push(n)
            storage.close()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert (watched.begun, sorted(watched.done)) == (Counter(range(3)), [0, 1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_an_exchange_that_takes_longer_than_a_lease_lets_the_work_be_done(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that it claims have lost their leases when they arrive. So the next claim asks for longer leases."""
    slow_down(kind, monkeypatch, 150.0)
    watched = Watched(nap=140.0)

    async def main() -> None:
        watched.may_end.set()
        async with open_one(kind, tmp_path, lease=60.0) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, watched.handle, concurrency=8, on_event=watched.hear).run)
            for n in range(3):
                await storage.push(n)
            storage.close()
            nursery.cancel_scope.deadline = trio.current_time() + HOUR

    with caplog.at_level(logging.WARNING, "trio_tasks"), virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert (watched.begun, sorted(watched.done)) == (Counter(range(3)), [0, 1, 2])
    assert "longer than the lease" in caplog.text


def slow_down(kind: str, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have what is durable take so long."""
    engine: Any = _sqlite_engine.SqliteEngine if kind == "sqlite" else _file_engine.FileEngine
    for name in ("exchange", "renew") if kind == "sqlite" else ("exchange",):
        do = getattr(engine, name)

        async def slowly(self: Any, *args: Any, do: Any = do) -> Any:
            with trio.CancelScope(shield=True):
                result = await do(self, *args)
                await trio.sleep(seconds)
            return result

        monkeypatch.setattr(engine, name, slowly)


def test_a_heartbeat_is_one_transaction(tmp_path: Path) -> None:
    watched, calls = Watched(), list[str]()

    async def main() -> None:
        async with (
            SqliteStorage[int](tmp_path / "tasks.db", int, lease=30.0) as storage,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(Worker("w", storage, watched.handle).run)
            await storage.push(1)
            await trio.sleep(1.0)
            assert watched.begun
            engine: Any = storage._loop.engine
            do = engine._session._do

            def note(fn: Any) -> Any:
                calls.append(fn.__qualname__)
                return do(fn)

            engine._session._do = note
            await trio.sleep(45.0)
            assert sum("renew" in call for call in calls) == 4
            assert not [call for call in calls if "renew" not in call and "exchange" not in call]
            nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


# One clock


async def seconds_off(kind: str, directory: Path) -> float:
    """How wrong the time of a file is that is opened while the loop is busy for 0.7 seconds."""

    async def load_a_model() -> None:
        await trio.lowlevel.checkpoint()
        hold_the_loop(0.7)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_a_model)
        async with open_one(kind, directory) as late:
            return abs(late._loop.engine.now() - time.time())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_that_is_opened_while_the_loop_is_busy_has_the_right_time(kind: str, tmp_path: Path) -> None:
    """The clocks are read at one instant, however late the event loop continues."""
    off: list[float] = []
    while len(off) < 10 and min(off, default=1.0) >= 0.3:  # a machine may stand still between any two lines; not always
        (tmp_path / str(len(off))).mkdir()
        off.append(await seconds_off(kind, tmp_path / str(len(off))))
    assert min(off) < 0.3, "its time was wrong each time"


@pytest.mark.real
@pytest.mark.parametrize(("wall", "lease"), [(-HOUR, 2.0), (HOUR, 4.0)])
@pytest.mark.parametrize(
    ("first", "second"),
    [(("", 0.0), ("", 0.0)), (("boot time:[1]", 0.0), ("boot time:[2]", 1e6)), (("", 0.0), ("", -1e5))],
    ids=["without a boot id", "in a time namespace", "in a sandbox"],
)
def test_setting_the_wall_clock_takes_nothing_from_a_living_process(
    first: tuple[str, float], second: tuple[str, float], wall: float, lease: float, tmp_path: Path
) -> None:
    """The wall clocks of two processes differ by an hour. Both have free slots, and run for more than a lease. Each
    keeps its tasks.
    """
    path = tmp_path / "tasks"
    with child(path, push=9, lease=lease, machine=first[0], ahead=first[1]) as before:
        lines = said(before, 9)
        with child(path, push=3, lease=lease, machine=second[0], ahead=second[1], wall=wall) as after:
            assert after.stderr is not None
            while after.stderr.readline() != "up\n":
                assert after.poll() is None
            since = latest_note(path)
            while latest_note(path) < since + 1.5 * lease:
                time.sleep(0.05)
            end(path)
            lines += [*said(before), *said(after)]
    numbers = [*range(9), *range(3)]
    assert sorted(lines) == sorted(f"{what} {n} 1" for what in ("begin", "end") for n in numbers)


def latest_note(path: Path) -> float:
    """How far the processes have come that have this file open, as their heartbeats tell."""
    with closing(sqlite3.connect(path)) as connection:
        [(latest,)] = connection.execute("SELECT max(noted) FROM trio_tasks_session")
    assert isinstance(latest, float)
    return latest


@pytest.mark.parametrize("lease", [0.6, 4.0, 10.0])
@pytest.mark.parametrize(("wall", "idle"), [(HOUR, 0.0), (-HOUR, 8.0)])
@pytest.mark.parametrize("is_claimed_before", [True, False], ids=["claimed before", "claimed after"])
def test_a_claim_is_kept_whose_session_has_not_beaten_since(
    lease: float, wall: float, idle: float, is_claimed_before: bool, tmp_path: Path
) -> None:
    """The first process sends no heartbeat between its claims and the looks of the second. The clock of the second is
    ahead, since it had to estimate the time.
    """
    first, second = Watched(), Watched()
    shift = [0.0, 0.0]

    async def main() -> None:
        async with (
            SqliteStorage[int](tmp_path / "tasks.db", int, lease=lease) as storage,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(Worker("w", storage, first.handle, concurrency=8, on_event=first.hear).run)
            await trio.sleep(idle)
            if is_claimed_before:
                await storage.push_bulk(range(5))
            as_another_process()
            shift[:] = -1e5, wall
            async with SqliteStorage[int](tmp_path / "tasks.db", int, lease=lease) as other:
                if not is_claimed_before:
                    await storage.push_bulk(range(5))
                await trio.sleep(lease / 10)
                assert first.begun == Counter(range(5))
                second.may_end.set()
                await nursery.start(Worker("v", other, second.handle, concurrency=8).run)  # noqa: ASYNC111  cancelled before
                await trio.sleep(25.0)
                first.may_end.set()
                await trio.sleep(1.0)
                nursery.cancel_scope.cancel()

    with (
        virtual_clock() as clock,
        use_machine_clock(lambda: ("", clock.current_time() + shift[0])),
        use_wall_clock(lambda: 1.8e9 + clock.current_time() + shift[1]),
        fresh_offsets() as as_another_process,
    ):
        trio.run(main, clock=clock)
    assert (first.begun, second.begun) == (Counter(range(5)), Counter())
    assert sorted(first.done) == [*range(5)]


def test_a_lease_that_is_not_renewed_ends_though_the_clocks_differ(tmp_path: Path) -> None:
    """A process dies. Its tasks begin again long before its session counts as ended."""
    lease, shift, second = 4.0, [0.0], Watched()

    async def main() -> None:
        async with SqliteStorage[int](tmp_path / "tasks.db", int, lease=lease) as storage:
            await storage.push_bulk(range(5))
            for _ in range(5):
                await storage.receive()
            await trio.sleep(1.0)
            as_another_process()
            shift[0] = -1e5
            async with SqliteStorage[int](tmp_path / "tasks.db", int, lease=lease) as other:
                second.may_end.set()
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    await nursery.start(Worker("v", other, second.handle, concurrency=8, on_event=second.hear).run)
                    while len(second.done) < 5:  # noqa: ASYNC110  it has no event
                        await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()
                assert trio.current_time() <= began + 10 * lease

    with (
        virtual_clock() as clock,
        use_machine_clock(lambda: ("", clock.current_time() + shift[0])),
        fresh_offsets() as as_another_process,
    ):
        trio.run(main, clock=clock)
    assert second.begun == Counter(range(5))


def test_a_claim_is_kept_whose_session_has_not_followed_a_jump(tmp_path: Path) -> None:
    """Two processes share the machine's clock. One of them has followed a third process whose clock was ahead."""
    first, second = Watched(), Watched()

    async def main() -> None:
        path = tmp_path / "tasks.db"
        async with SqliteStorage[int](path, int, lease=4.0) as storage, trio.open_nursery() as nursery:
            await storage.push(0)
            await nursery.start(Worker("v", storage, second.handle, concurrency=1).run)
            as_another_process()
            async with SqliteStorage[int](path, int, lease=4.0) as behind:
                note: dict[str, str | float] = {
                    "num": 999,
                    "noted": storage._loop.engine.now() + 18.0,
                    "wall": 0.0,
                    "beats": 2.0,
                }
                note |= {"expires": 9e12, "asleep": 0.0, "machine": "", "anchor": 0.0}
                with closing(sqlite3.connect(path)) as connection, connection:
                    marks = ", ".join("?" * len(note))
                    connection.execute(
                        f"INSERT INTO trio_tasks_session ({', '.join(note)}) VALUES ({marks})", [*note.values()]
                    )
                await trio.sleep(10.0)
                assert storage._loop.engine.now() > behind._loop.engine.now() + 6.0
                await behind.push_bulk(range(1, 6))
                await nursery.start(Worker("w", behind, first.handle, concurrency=8, on_event=first.hear).run)  # noqa: ASYNC111  cancelled before
                await trio.sleep(0.1)
                assert first.begun == Counter(range(1, 6))
                await nursery.start(Worker("x", storage, second.handle, concurrency=8).run)
                await trio.sleep(15.0)
                first.may_end.set()
                await trio.sleep(1.0)
                nursery.cancel_scope.cancel()

    with (
        virtual_clock() as clock,
        use_machine_clock(lambda: ("boot", clock.current_time())),
        fresh_offsets() as as_another_process,
    ):
        trio.run(main, clock=clock)
    assert (first.begun, second.begun) == (Counter(range(1, 6)), Counter([0]))
    assert sorted(first.done) == [*range(1, 6)]


@contextmanager
def fresh_offsets() -> Iterator[Callable[[], None]]:
    """A function after which a storage is opened as in another process: those of one run share a clock."""
    before = _durable_engine._OFFSETS

    def as_another_process() -> None:
        _durable_engine._OFFSETS = trio.lowlevel.RunVar("other clocks")

    try:
        yield as_another_process
    finally:
        _durable_engine._OFFSETS = before


async def test_a_process_that_died_without_a_boot_id_is_given_up_after_a_minute(tmp_path: Path) -> None:
    """Without a boot id, a process cannot tell if the machine was restarted. So it waits for heartbeats of the
    sessions; after a minute it uses the wall clock.
    """
    seconds = [1000.0]
    crashed = tmp_path / "crashed.db"
    with use_machine_clock(lambda: ("", seconds[0])):
        async with SqliteStorage[int](tmp_path / "tasks.db", int) as storage:
            await storage.push(1, delay=HOUR)
            source, target = sqlite3.connect(tmp_path / "tasks.db"), sqlite3.connect(crashed)
            source.backup(target)
            source.close()
            target.close()
        with use_wall_clock(lambda: time.time() + 2 * HOUR):
            seconds[0] = 10.0  # it was started anew
            async with SqliteStorage[int](crashed, int) as again:
                engine = again._loop.engine
                assert engine.now() < time.time() + 60
                seconds[0] += 61
                await again.push(2)
                assert engine.now() > time.time() + HOUR
                assert {(await again.receive()).args for _ in range(2)} == {1, 2}


def test_after_a_sleep_the_living_may_renew_before_anything_is_taken(tmp_path: Path) -> None:
    """The machine's clock jumps ahead by an hour, since it counts the time asleep. trio's clock does not jump."""
    asleep = [0.0]
    watched, others = Watched(), Watched()

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  it has no event
            await trio.sleep(0.01)

    async def main() -> None:
        others.may_end.set()
        async with SqliteStorage[int](tmp_path / "tasks.db", int, lease=0.6) as storage:
            as_another_process()
            async with SqliteStorage[int](tmp_path / "tasks.db", int, lease=0.6) as other:
                async with trio.open_nursery() as nursery:
                    worker = Worker("w", storage, watched.handle, concurrency=8, on_event=watched.hear)
                    await nursery.start(worker.run)
                    await storage.push_bulk(range(8))
                    await until(lambda: len(watched.begun) == 8)
                    another = Worker("v", other, others.handle, concurrency=20, on_event=others.hear)
                    await nursery.start(another.run)
                    late = await storage.push(100, delay=0.9 * HOUR)
                    asleep[0] = HOUR
                    other._loop.on_wakeup()  # it is the first to wake up
                    await until(lambda: others.done == [100])
                    await trio.sleep(1.0)
                    watched.may_end.set()
                    await until(lambda: len(watched.done) == 8)
                    found = await storage.fetch_by_id(late)
                    assert found is not None
                    assert found.parts.status is Status.Done
                    nursery.cancel_scope.cancel()

    with (
        virtual_clock() as clock,
        use_machine_clock(lambda: ("boot", clock.current_time() + asleep[0])),
        fresh_offsets() as as_another_process,
    ):
        trio.run(main, clock=clock)
    assert watched.begun == Counter(range(8))
    assert others.begun == Counter([100])
    assert not watched.released


def test_the_machine_clock_has_a_name_here() -> None:
    name, seconds = _clock.machine_now()
    assert seconds > 0
    if sys.platform == "linux":
        assert len(name.split()) == 2
        assert name.split()[1].startswith("time:[")


def test_a_store_clock_never_goes_back() -> None:
    machine, own = [100.0], [5.0]
    with use_machine_clock(lambda: ("boot", machine[0])):
        clock = StoreClock(lambda: own[0], Offset())
        clock.start(1000.0, Reading("boot", 100.0, 5.0))
        assert clock.now() == 1000.0
        machine[0], own[0] = 90.0, 6.0
        assert clock.tick() == 0.0
        assert clock.now() == 1001.0
        machine[0], own[0] = 200.0, 7.0
        assert clock.tick() == 98.0
        assert clock.now() == 1100.0


@pytest.mark.parametrize("kind", KINDS)
async def test_under_a_mock_clock_real_time_does_not_count(
    kind: str, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The result does not depend on how slow the machine is."""
    async with open_one(kind, tmp_path) as storage:
        engine = storage._loop.engine
        before = engine.now()
        hold_the_loop(0.2)
        await storage.push(1)
        await storage.receive()
        assert engine.now() == before
        mock_clock.jump(5)
        assert engine.now() == before + 5
