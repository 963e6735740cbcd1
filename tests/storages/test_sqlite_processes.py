"""Tests of SqliteStorage in several real processes on one file: wake-ups, crashes and suspensions."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio_tasks import BackendError, SqliteStorage, Status, Task, Worker

if sys.platform == "win32":
    pytest.skip("Windows has no such signals and limits", allow_module_level=True)

from trio_tasks._backends.sqlite.driver import Driver, is_installed

from tests.storages import _child as programs
from tests.storages._child import INTERRUPTED, LEASE, NEVER, child, open_storage

DRIVERS: list[Driver] = ["sqlite3", "apsw"] if is_installed("apsw") else ["sqlite3"]
pytestmark = pytest.mark.real

SOON = 60.0
"""Seconds: well under NEVER, and patient with a busy machine."""


def assert_whole(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# They wake one another


async def test_a_push_here_starts_a_task_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker:
        async with open_storage(path, poll_interval=NEVER) as storage:
            assert await worker.hear_of("works")
            await trio.sleep(0.5)  # so that it has looked, and found nothing
            with trio.fail_after(SOON):
                task_id = await storage.push(0.0)
                assert await worker.hear_of("begins") == f"begins {task_id}"
                result = await storage.wait_for(task_id)
                assert (result.status, result.result) == (Status.Done, "slept")


async def test_progress_there_is_read_here_and_an_abort_from_here_ends_the_attempt_there(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker:
        async with open_storage(path, poll_interval=NEVER) as storage:
            task_id = await storage.push(60.0)
            assert await worker.hear_of("reported")
            with trio.fail_after(SOON):
                assert await storage.progress_of(task_id) == {"half": True}
                assert await storage.abort(task_id)
                assert (await storage.wait_for(task_id)).status is Status.Killed


async def test_a_delayed_task_is_started_in_time_there(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker:
        async with open_storage(path, poll_interval=NEVER) as storage:
            await storage.push(0.0)
            assert await worker.hear_of("begins")
            with trio.fail_after(SOON):
                await storage.push(0.0, delay=0.3)
                assert await worker.hear_of("begins")


# They tell one another which of them runs a task


async def test_one_worker_of_several_is_named_there_and_when_it_has_died(tmp_path: Path) -> None:
    """One claim serves all waiting slots of a queue. Each row of it names the worker that it is for."""
    path = tmp_path / "tasks.db"
    made_by: dict[str, str] = {}
    async with open_storage(path) as storage:
        async with child(programs.work_by_two, path) as workers:
            assert await workers.hear_of("works")
            short = await storage.push_bulk([0.0] * 20)
            long = await storage.push_bulk([60.0] * 4)
            while len(made_by) < len(short) + len(long):
                _, task_id, name = (await workers.hear_of("begins")).split()
                made_by[task_id] = name
            seen = {task_id: await worker_of(storage, task_id) for task_id in [*short, *long]}
            assert seen == made_by
            assert Counter(made_by[each] for each in long) == {"one": 2, "two": 2}
            workers.process.kill()
            await workers.process.wait()
        lost: dict[str, list[str | None]] = {}
        with trio.fail_after(LEASE + SOON):
            for _ in long:
                task = await storage.receive()
                lost[task.parts.id] = [past.worker for past in task.parts.context.history]
    assert lost == {task_id: [made_by[task_id]] for task_id in long}


async def worker_of(storage: SqliteStorage[float], task_id: str) -> str | None:
    found = await storage.fetch_by_id(task_id)
    assert found is not None
    name: str | None = found.parts.context.worker
    return name


# They leave one another their locks


async def count_from_elsewhere(path: Path) -> int:
    """How many tasks another process finds in the file, while it is open here."""
    script = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM trio_tasks_task'))"
    found = await trio.run_process([sys.executable, "-c", script, str(path)], capture_stdout=True)
    return int(found.stdout.decode().strip("(),\n"))


async def come_and_go(path: Path, driver: Driver | None) -> None:
    """Another process opens the file, and closes it; if it took itself for the last one, the log would be gone."""
    async with child(programs.push_once, path, driver or "") as other:
        await other.hear_all()
        assert other.process.returncode == 0


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_second_storage_of_this_process_does_not_undo_the_locks_of_the_first(
    tmp_path: Path, driver: Driver
) -> None:
    """When a process closes one descriptor of a file, it loses all its locks on that file."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage[float](path, float, driver=driver) as storage:
        async with SqliteStorage[float](path, float, driver=driver):
            pass
        await come_and_go(path, driver)
        await storage.push_bulk([0.0] * 10)
        assert await count_from_elsewhere(path) == 11


@pytest.mark.parametrize("driver", [None, "sqlite3"])
async def test_a_connection_of_the_users_own_does_not_undo_the_locks(tmp_path: Path, driver: Driver | None) -> None:
    """Two copies of SQLite in one process do not see each other's locks."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage[float](path, float, driver=driver) as storage:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT count(*) FROM trio_tasks_task").fetchall()
        await come_and_go(path, driver)
        await storage.push_bulk([0.0] * 10)
        assert await count_from_elsewhere(path) == 11


# Killed, stopped, interrupted


async def test_an_orphan_is_taken_up_when_its_lease_has_run_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_storage(path) as storage:
        task_id = await storage.push(60.0)
        async with child(programs.work, path) as worker:
            started_at = trio.current_time()
            assert await worker.hear_of("begins") == f"begins {task_id} 1"
            worker.process.kill()
            await worker.process.wait()
        with trio.fail_after(LEASE + SOON):
            task = await storage.receive()
        assert (task.parts.id, task.parts.attempt) == (task_id, 2)
        assert trio.current_time() - started_at > LEASE
        assert [entry.became for entry in task.parts.context.history] == ["lost"]


LOOK = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"


async def stop_at_rest(process: programs.Child, path: Path) -> None:
    """Have it stand still; but not in a transaction, for then nobody could write to the file until it goes on."""
    assert process.process.pid is not None
    while True:
        await trio.sleep(0.05)
        os.kill(process.process.pid, signal.SIGSTOP)
        looked = await trio.run_process([sys.executable, "-c", LOOK, str(path)], check=False, capture_stderr=True)
        if not looked.returncode:
            return
        os.kill(process.process.pid, signal.SIGCONT)


async def test_a_process_that_was_stopped_for_longer_than_its_lease_cannot_settle(tmp_path: Path) -> None:
    """Another process has run the task meanwhile. The attempt that goes on is cancelled, and released."""
    path = tmp_path / "tasks.db"
    async with open_storage(path) as storage:
        task_id = await storage.push(3.0)
        async with child(programs.work, path) as stopped:
            assert await stopped.hear_of("begins") == f"begins {task_id} 1"
            await stop_at_rest(stopped, path)
            attempts: list[int] = []

            async def finish(task: Task[float]) -> str:
                attempts.append(task.parts.attempt)
                return "here"

            async with trio.open_nursery() as nursery:
                context = await nursery.start(Worker("healthy", storage, finish).run)
                with trio.fail_after(LEASE + SOON):
                    assert (await storage.wait_for(task_id)).result == "here"
                context.stop()
            os.kill(stopped.process.pid, signal.SIGCONT)
            assert await stopped.hear_of("cancelled") == f"cancelled {task_id}"
            assert await stopped.hear_of("release") == f"release {task_id} its lease was lost"
            await stopped.tell("stop")
            await stopped.hear_all()
            assert stopped.process.returncode == 0
        assert attempts == [2]
        assert (await storage.wait_for(task_id)).result == "here"
        assert (await storage.metrics())["succeeded"] == 1


async def test_a_stopped_process_whose_attempt_ends_before_it_learns_of_the_loss_is_refused(tmp_path: Path) -> None:
    """The attempt ends as soon as the process continues, before a heartbeat cancels it. Its settlement is refused."""
    path = tmp_path / "tasks.db"
    async with open_storage(path) as storage:
        task_id = await storage.push(2 * LEASE)
        async with child(programs.work, path) as stopped:
            assert await stopped.hear_of("begins") == f"begins {task_id} 1"
            begun_at = trio.current_time()
            await stop_at_rest(stopped, path)
            with trio.fail_after(LEASE + SOON):
                task = await storage.receive()
            assert task.parts.attempt == 2
            await trio.sleep_until(begun_at + 2 * LEASE)
            os.kill(stopped.process.pid, signal.SIGCONT)
            assert await stopped.hear_of("release") == f"release {task_id} its lease was lost"
            found = await storage.fetch_by_id(task_id)
            assert found is not None
            assert found.parts.status is Status.Running


async def test_a_keyboard_interrupt_releases(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_storage(path) as storage:
        task_id = await storage.push(60.0)
        async with child(programs.work, path) as worker:
            await worker.hear_of("begins")
            worker.process.send_signal(signal.SIGINT)
            await worker.hear_all()
            assert worker.process.returncode == INTERRUPTED
        await assert_waits_untouched(storage, task_id)


async def test_a_keyboard_interrupt_at_any_moment_gets_through(tmp_path: Path) -> None:
    """At whatever line it is raised, it ends the process, and all tasks are in the store. A task that was handed to a
    slot and not begun is still running there. It comes back with its lease, as after any other death.
    """
    rng = random.Random(0)
    for n in range(8):
        path = tmp_path / f"{n}.db"
        async with child(programs.be_busy, path) as worker:
            assert await worker.hear() == "busy"
            await trio.sleep(rng.random() * 0.2)
            worker.process.send_signal(signal.SIGINT)
            await worker.hear_all()
            assert worker.process.returncode == INTERRUPTED
        async with open_storage(path) as storage:
            metrics = await storage.metrics()
        assert metrics["running"] <= 1
        assert metrics["pushed"] == metrics["succeeded"] + metrics["waiting"] + metrics["running"]


async def test_a_sigterm_under_a_monitor_releases(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_storage(path) as storage:
        task_id = await storage.push(60.0)
        async with child(programs.work_in_monitor, path) as worker:
            await worker.hear_of("begins")
            worker.process.send_signal(signal.SIGTERM)
            assert await worker.hear_of("release") == f"release {task_id} cancelled"
            await worker.hear_all()
            assert worker.process.returncode == 0
        await assert_waits_untouched(storage, task_id)


async def assert_waits_untouched(storage: SqliteStorage[float], task_id: str) -> None:
    """It is there at once, and it has cost no attempt."""
    found = await storage.fetch_by_id(task_id)
    assert found is not None
    assert (found.parts.status, found.parts.attempt) == (Status.Pending, 0)
    assert not found.parts.context.history


async def test_a_forked_process_is_told_that_the_storage_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.fork, path) as parent:
        lines = await parent.hear_all()
    assert lines[0].startswith("refused"), lines
    assert lines[1:] == ["child 0", "books 2"]
    assert_whole(path)


# Rights and room


@pytest.fixture
def open_directory() -> Generator[Path, None, None]:
    """A directory that everybody may look into, since a test by root has to become somebody else."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def set_rights(path: Path, *, file: int, directory: int) -> None:
    if path.exists():
        path.chmod(file)
    path.parent.chmod(directory)


async def test_a_read_only_file_is_refused(open_directory: Path) -> None:
    path = open_directory / "tasks.db"
    async with open_storage(path) as storage:
        await storage.push(0.0)
    set_rights(path, file=0o444, directory=0o777)
    async with child(programs.unprivileged, path) as poor:
        [line] = await poor.hear_all()
    assert line.startswith("refused")
    assert "read-only" in line
    async with open_storage(path) as storage:
        assert (await storage.metrics())["waiting"] == 1


@pytest.mark.parametrize("there", [True, False])
async def test_a_read_only_directory_is_refused(open_directory: Path, there: bool) -> None:
    path = open_directory / "tasks.db"
    if there:
        async with open_storage(path) as storage:
            await storage.push(0.0)
    set_rights(path, file=0o666, directory=0o555)
    async with child(programs.unprivileged, path) as poor:
        [line] = await poor.hear_all()
    assert line.startswith("refused")
    assert "directory" in line


async def test_a_full_disk_fails_pushes_and_work_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.run_out_of_room, path) as worker:
        lines = await worker.hear_all()
        assert worker.process.returncode == 0, lines
    refused = [line for line in lines if line.startswith("refused")]
    assert len(refused) == 10, lines
    assert all("the disk" in line for line in refused), refused
    assert lines.count("ended Done") == 2
    assert lines[-1] == "books 32 32 0"  # 20, and one running, and ten refused, and one more
    assert_whole(path)


async def test_a_tmpfs_without_room(tmp_path: Path) -> None:
    """This is the same test with a real file system that is full, where one can be mounted."""
    path = tmp_path / "small" / "tasks.db"
    path.parent.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or mount is None:
        pytest.skip("only root may mount a file system")
    mounted = await trio.run_process([mount, "-t", "tmpfs", "-o", "size=1m", "none", str(path.parent)], check=False)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    ballast = path.parent / "ballast"
    try:
        async with SqliteStorage[bytes](path, bytes) as storage:
            pushed = [await storage.push(bytes(1000))]
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
                while True:
                    file.write(bytes(4096))
            for _ in range(3):
                with pytest.raises(BackendError, match="disk"):
                    await storage.push(bytes(50_000))
            assert [task.parts.id for task in await storage.list_tasks()] == pushed
            ballast.unlink()
            pushed.append(await storage.push(bytes(50_000)))
            assert [task.parts.id for task in await storage.list_tasks()] == pushed
        assert_whole(path)
    finally:
        with trio.CancelScope(shield=True):
            await trio.run_process(["umount", "-l", str(path.parent)], check=False)
