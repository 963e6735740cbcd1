"""Workers as the storages tell of them: in this process, and in others, alive or dead."""

from __future__ import annotations

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
from trio_tasks import BackendError, FileStorage, MemoryStorage, SqliteStorage, Task, Worker, WorkerInfo
from trio_tasks._backends.durable.encoding import decode_worker
from trio_tasks._backends.durable.engine import StoredWorker
from trio_tasks._backends.sqlite.driver import connect
from trio_tasks._contracts.worker_info import MOST_RUNNING
from trio_tasks.layers import ConcurrencyLimit
from trio_tasks.testing import virtual_clock

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
        dead = await the_worker(storage)  # it does not answer, and its state says how old it is
        assert dead.intake == "paused"
        forget_sessions(path)
        assert await storage.list_workers() == []
        assert not (await the_worker(storage)).is_alive


def forget_sessions(path: Path) -> None:
    """Let a minute have passed since other processes gave a sign of life."""
    connection = connect("sqlite3", str(path), "mode=rw")
    connection.execute("UPDATE trio_tasks_session SET expires = 0, noted = 0 WHERE num != 1")
    connection.close()


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


@pytest.mark.parametrize(
    "state", [b"\xff", cbor2.dumps(5), cbor2.dumps([1, 2]), cbor2.dumps(["h", None, "open", 1, 1, 1, "x", []])]
)
def test_a_state_that_cannot_be_read_says_so(state: bytes) -> None:
    with pytest.raises(BackendError, match="cannot be read"):
        decode_worker(StoredWorker("w", 1, 1, state, 0.0, 0.0, True, False), "q")
