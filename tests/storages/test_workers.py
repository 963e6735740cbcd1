"""Workers as the storages tell of them: in this process, and in others, alive or dead."""

from __future__ import annotations

import math
import signal
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE
from textwrap import dedent
from typing import Any

import cbor2
import pytest
import trio
from trio.testing import MockClock
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage, Task, Worker, WorkerInfo
from trio_tasks._backends.durable.encoding import decode_worker
from trio_tasks._backends.durable.engine import StoredWorker
from trio_tasks._backends.sqlite.driver import connect
from trio_tasks._contracts.worker_info import MOST_RUNNING
from trio_tasks.layers import ConcurrencyLimit
from trio_tasks.testing import virtual_clock

from tests._progress import until

PROGRAM = """
    import sys
    import trio
    from trio_tasks import SqliteStorage, Worker

    async def wait_for_ever(n):
        await trio.sleep(3600)

    async def main():
        async with SqliteStorage(sys.argv[1]) as storage, trio.open_nursery() as nursery:
            context = await nursery.start(Worker("other", storage, wait_for_ever, concurrency=2, version="2.0").run)
            while not context.running_tasks:
                await trio.sleep(0.01)
            print("begun", flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)
            context.pause()
            print("paused", flush=True)

    trio.run(main)
"""


async def line_of(process: trio.Process) -> bytes:
    assert process.stdout is not None
    line = b""
    with trio.fail_after(60):
        while not line.endswith(b"\n"):
            received = await process.stdout.receive_some()
            assert received, "it has ended"
            line += received
    return line


async def the_worker(storage: Any, *, fresh: bool = True) -> WorkerInfo:
    [info] = await storage.workers(fresh=fresh)
    assert isinstance(info, WorkerInfo)
    return info


@pytest.mark.skipif(sys.platform == "win32", reason="it is killed by a signal")
async def test_a_worker_of_another_process_is_asked_by_a_wake_up_until_it_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path) as storage, AsyncExitStack() as stack:
        task_id = await storage.push(1)
        command = [sys.executable, "-c", dedent(PROGRAM), str(path)]
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
        stack.callback(process.kill)
        assert process.stdin is not None and process.stdout is not None
        await stack.enter_async_context(process.stdin)
        await stack.enter_async_context(process.stdout)
        assert await line_of(process) == b"begun\n"
        asked_at = storage._engine.now()
        info = await the_worker(storage)
        assert (info.name, info.pid, info.version, info.slots, info.busy) == ("other", process.pid, "2.0", 2, 1)
        assert (info.intake, info.is_alive) == ("open", True)
        [running] = info.running
        assert (running.id, running.attempt) == (task_id, 1)
        assert "wait_for_ever" in running.line
        assert info.as_of.timestamp() >= asked_at - 1
        await process.stdin.send_all(b"\n")
        assert await line_of(process) == b"paused\n"
        assert (await the_worker(storage)).intake == "paused"
        assert await storage.list_workers() == ["other"]
        process.send_signal(signal.SIGKILL)
        await process.wait()
        with trio.fail_after(60):  # at once on Linux; elsewhere the system may take a moment to refuse a datagram
            while await storage.list_workers():  # noqa: ASYNC110  it is told nowhere else
                await trio.sleep(0.01)
        dead = await the_worker(storage)  # it does not answer, and its state says how old it is
        assert (dead.intake, dead.is_alive) == ("paused", False)
        found = await storage.explain(task_id)
        assert (found.kind, found.worker, found.is_worker_alive, found.workers) == ("running", "other", False, ())
        assert "that worker is not alive any more" in str(found)
        assert (await storage.explain(await storage.push(2))).kind == "no_worker"
        change_sessions(path, "network = 'of another container', expires = 9e12")
        assert await storage.list_workers() == ["other"], "its socket cannot be seen from here"
        change_sessions(path, "expires = 0, noted = 0")
        assert await storage.list_workers() == []


def change_sessions(path: Path, change: str) -> None:
    """Change the sessions of other processes in the file."""
    execute(path, f"UPDATE trio_tasks_session SET {change} WHERE num != 1")


def execute(path: Path, sql: str, values: tuple[Any, ...] = ()) -> None:
    connection = connect("sqlite3", str(path), "mode=rw")
    connection.execute(sql, values)
    connection.close()


async def test_a_session_of_this_process_is_known_by_its_key(tmp_path: Path) -> None:
    """A session that has died may have had the port that another one has now."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path) as storage, SqliteStorage(path) as other, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", other, run_for_ever).run)
        assert (await the_worker(storage)).is_alive
        change_sessions(path, "key = zeroblob(16)")
        assert not (await the_worker(storage, fresh=False)).is_alive
        assert (await the_worker(other)).is_alive, "it knows that it runs"
        nursery.cancel_scope.cancel()


async def run_for_ever(n: int) -> None:
    await trio.sleep_forever()


async def test_a_worker_that_does_not_answer_is_not_waited_for_where_time_stands_still(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path) as storage, SqliteStorage(path) as other, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", other, run_for_ever, concurrency=1).run)
        for _ in range(2):  # each answer needs a wake-up of its own
            asked_at = other._loop.engine.now()
            mock_clock.jump(1)
            assert (await the_worker(storage)).as_of.timestamp() > asked_at
        running, waiting = await storage.push(1), await storage.push(2)
        await until(lambda: bool(other._queue.leased))
        change_sessions(path, "address = NULL")
        before = (await the_worker(storage, fresh=False)).as_of
        mock_clock.jump(1)
        assert (await the_worker(storage)).as_of == before
        assert (await storage.explain(running)).kind == "running"
        assert (await storage.explain(waiting)).kind == "waiting"
        nursery.cancel_scope.cancel()


def test_a_clock_of_another_kind_may_stand_still_as_well(tmp_path: Path) -> None:
    class Standing(trio.abc.Clock):
        def start_clock(self) -> None:
            """Begin."""

        def current_time(self) -> float:
            return 5.0

        def deadline_to_sleep_time(self, deadline: float) -> float:
            return math.inf if deadline > 5.0 else 0.0

    async def main() -> None:
        path = tmp_path / "tasks.db"
        async with SqliteStorage(path, poll_interval=1e6) as storage:
            execute(path, "INSERT INTO trio_tasks_session (num, expires) VALUES (9, 9e12)")
            execute(path, "INSERT INTO trio_tasks_worker (session, queue, name) VALUES (9, 'default', 'silent')")
            assert (await storage.explain(await storage.push(1))).workers == ("silent",)

    trio.run(main, clock=Standing())


async def test_many_tasks_are_changed_though_time_stands_still(tmp_path: Path, mock_clock: MockClock) -> None:
    async with SqliteStorage(tmp_path / "tasks.db") as storage:
        await storage.push_bulk(range(1100))
        assert await storage.cancel_all() == 1100
        assert await storage.vacuum() == 1100


@pytest.mark.parametrize(
    ("change", "log"),
    [
        ("state = 'text'", "a state of a worker"),
        ("state = x'ff'", "the state of a worker"),
        ("state = zeroblob(5000000)", ""),
        ("state = NULL, told = NULL", ""),
        ("told = 'yesterday', num = 7", ""),
        ("told = 9e300", ""),
        ("name = x'ff'", "is not listed"),
        ("num = 'one'", "is not listed"),
        ("session = 'x'", "is not listed"),
    ],
)
async def test_a_damaged_row_of_a_worker(
    tmp_path: Path, change: str, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path) as storage, SqliteStorage(path) as other, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", other, run_for_ever, concurrency=1).run)
        assert (await the_worker(storage)).is_alive  # from now on it tells nothing, unless it is asked
        execute(path, f"UPDATE trio_tasks_worker SET {change}")
        expected = ["w"] if log != "is not listed" else []
        for _ in range(2):
            assert [each.name for each in await storage.workers()] == expected
            assert (await storage.explain(await storage.push(1))).kind in ("waiting", "no_worker", "running")
            assert (await storage.metrics())["pushed"]
        assert await storage.list_workers() == expected
        nursery.cancel_scope.cancel()
    records = [each.getMessage() for each in caplog.records if each.name == "trio_tasks"]
    if log == "is not listed":
        assert all(log in each for each in records)
        assert records
    else:
        assert len(records) == bool(log), "it is logged once"
    caplog.clear()


def test_a_dead_worker_is_listed_for_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteStorage(tmp_path / "tasks.db", lease=30.0) as storage:
            await storage._engine._call(
                lambda: storage._engine._session._do(
                    lambda: storage._engine._session._connection.execute(
                        "INSERT INTO trio_tasks_worker (session, queue, name, num, told) "
                        "VALUES (99, 'default', ?, 1, ?)",
                        ("gone", storage._engine.now()),
                    )
                )
            )
            found = await the_worker(storage, fresh=False)
            assert (found.name, found.is_alive, found.host, found.intake) == ("gone", False, "", "unknown")
            for hours, number in ((0.5, 1), (1.0, 0)):
                await trio.sleep(hours * 3600)
                await storage.push(1)  # which renews the session
                assert len(await storage.workers()) == number

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


def test_heartbeats_tell_of_running_tasks_without_being_asked(tmp_path: Path) -> None:
    """And a worker with no task tells nothing, and costs nothing, under a virtual clock."""

    async def main() -> None:
        async def sleep(n: int) -> None:
            await trio.sleep(100)

        path = tmp_path / "tasks.db"
        async with (
            SqliteStorage(path, lease=30.0) as storage,
            SqliteStorage(path) as other,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(Worker("w", storage, sleep, concurrency=1).run)
            first = await the_worker(other, fresh=False)
            assert first.busy == 0
            await storage.push(1)
            await trio.sleep(25)
            second = await the_worker(other, fresh=False)
            assert second.busy == 1
            assert second.as_of - first.as_of >= timedelta(seconds=15)
            await trio.sleep(1000)
            assert (await the_worker(other)).busy == 0
            assert (await the_worker(storage, fresh=False)).busy == 0
            nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


async def test_an_idle_worker_tells_what_has_changed(tmp_path: Path) -> None:
    async with (
        SqliteStorage(tmp_path / "tasks.db", lease=0.3) as storage,
        SqliteStorage(tmp_path / "tasks.db") as other,
    ):

        async def nothing(n: int) -> None:
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, nothing, concurrency=1).run)
            context.pause()
            with trio.fail_after(60):
                while (await the_worker(other, fresh=False)).intake != "paused":  # noqa: ASYNC110  it is another session
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_the_gate_that_intake_waits_for_is_named() -> None:
    storage = MemoryStorage[int]()
    limit = ConcurrencyLimit(1)

    async def wait(n: int) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, wait, concurrency=2, layers=[limit]).run)
        await trio.testing.wait_all_tasks_blocked()
        assert (await the_worker(storage)).intake == "open"
        await storage.push(1)
        await trio.testing.wait_all_tasks_blocked()
        info = await the_worker(storage)
        assert (info.intake, info.busy) == ("ConcurrencyLimit: 1 of 1 permits are taken", 1)
        context.pause()
        await trio.testing.wait_all_tasks_blocked()
        assert (await the_worker(storage)).intake == "paused"
        context.stop()
        assert (await the_worker(storage)).intake == "closed"
        nursery.cancel_scope.cancel()


async def test_a_hundred_tasks_are_told_of_at_most() -> None:
    storage = MemoryStorage[int]()

    async def wait(n: int) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, wait, concurrency=MOST_RUNNING + 5).run)
        await storage.push_bulk(range(MOST_RUNNING + 5))
        await trio.testing.wait_all_tasks_blocked()
        info = await the_worker(storage)
        assert (info.busy, len(info.running)) == (MOST_RUNNING + 5, MOST_RUNNING)
        nursery.cancel_scope.cancel()


async def test_a_journal_tells_of_the_workers_of_its_process() -> None:
    async def look(task: Task[int]) -> None:
        [info] = await storage.workers()
        assert [each.id for each in info.running] == [task.parts.id]

    async with FileStorage.temporary() as storage:
        task_id = await storage.push(1, attempts=1)
        storage.close()
        report = await Worker("w", storage, look, log=None).run()
        assert report.succeeded == 1, await storage.wait_for(task_id)
        assert await storage.workers() == []


GOOD = ["h", "1.0", "paused", 1, 2, 3, 4.0, [["t", "kind", 1, 5.0, "line"]], ["kind"]]


def decoded(state: Any) -> tuple[WorkerInfo, str]:
    return decode_worker(StoredWorker("w", 1, 1, cbor2.dumps(state), 7.0, 8.0, True, False), "q")


def test_the_state_of_another_version_is_read_as_far_as_it_is_known() -> None:
    info, wrong = decoded(GOOD)
    assert (info.host, info.version, info.intake, info.pid, info.slots, info.busy) == ("h", "1.0", "paused", 1, 2, 3)
    assert (info.since.timestamp(), info.as_of.timestamp(), info.last_beat.timestamp()) == (4.0, 7.0, 8.0)
    assert ([each.id for each in info.running], info.names, wrong) == (["t"], ("kind",), "")
    newer, wrong = decoded([*GOOD, {"more": 5}])
    assert (newer, wrong) == (info, "")
    older, wrong = decoded(GOOD[:7])
    assert (older.busy, older.running, older.names, wrong) == (3, (), None, "")


@pytest.mark.parametrize("wrong", [None, 5, -1, 2**70, "text", "", b"\xff", [], [5], [["t"]], [[5] * 5], {}, 1e300])
@pytest.mark.parametrize("field", range(len(GOOD)))
def test_a_field_that_cannot_be_read_leaves_the_others(field: int, wrong: Any) -> None:
    info, words = decoded([*GOOD[:field], wrong, *GOOD[field + 1 :]])
    assert (info.name, info.is_alive, info.as_of.timestamp()) == ("w", True, 7.0)
    if field:
        assert info.host == "h"
    if field != 3:
        assert info.pid == 1
    if field != 7:
        assert [each.id for each in info.running] == ["t"]
    assert isinstance(repr(info), str)
    assert words == "" or ": " in words


NO_STATES: list[Any] = [5, "text", None, {}, [[[]]]]


@pytest.mark.parametrize("state", NO_STATES)
def test_a_state_that_cannot_be_read_leaves_the_name(state: Any) -> None:
    info, _ = decoded(state)
    assert (info.name, info.intake, info.running) == ("w", "unknown", ())
    cut = decode_worker(StoredWorker("w", 1, 1, b"\x9f" * 5000, 7.0, 8.0, True, False), "q")
    assert cut[0].intake == "unknown"
    assert cut[1]
