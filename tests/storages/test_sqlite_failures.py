"""Tests of SqliteStorage on damaged, foreign and unreachable files, under locks, and with a wall clock that jumps.

What is wrong with a file is a BackendError, at once or when it is come upon. Not an error of the driver, and not a
shorter list of tasks than there was before. SQLite has no checksums: a flipped bit in the content of a row shows only
if what it says is impossible then; and a file that was cut off at its very beginning is an empty one, which is new.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, SqliteStorage, Status, Task, Worker, _clock
from trio_tasks._backends.sqlite import session as _sqlite_session
from trio_tasks.testing import use_wall_clock, virtual_clock

from tests._progress import until

pytestmark = pytest.mark.once

HOUR = 3600.0
TASKS = 200


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def assert_whole(path: Path) -> None:
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def fill(path: Path) -> list[str]:
    """A file with tasks in it, a few of which are finished or delayed; the ids of them all."""
    async with SqliteStorage[int](path, int) as storage:
        ids = [*await storage.push_bulk(range(TASKS - 20)), *await storage.push_bulk(range(20), delay=60)]
        async with trio.open_nursery() as nursery:

            async def handler(task: Task[int]) -> int:
                if task.args == 30:
                    context.stop()
                return task.args

            context = await nursery.start(Worker("filler", storage, handler, concurrency=1).run)
    return list(ids)


async def use(path: Path) -> list[str]:
    """Do a bit of everything; the ids of all tasks that were there at first."""
    async with SqliteStorage[int](path, int) as storage:
        ids = [task.parts.id for task in await storage.list_tasks(limit=10 * TASKS)]
        await storage.metrics()
        for task_id in ids[:3]:
            await storage.fetch_by_id(task_id)
        await storage.push(1)
        with trio.move_on_after(0.05):
            task = await storage.receive()
            await storage.report_progress(task, 1)
        await storage.vacuum()
    return list(ids)


# Strange files


@pytest.mark.parametrize("size", [2, 15, 100, 512, 5000, 100_000])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "tasks.db"
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    with pytest.raises(BackendError, match="SQLite file"):
        await use(path)
    assert path.read_bytes() == content


async def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch()
    assert await use(path) == []


async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE orders (n INTEGER)")
        connection.execute("INSERT INTO orders VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(BackendError, match=r"not ours.*orders.*join_existing"):
        await use(path)
    assert path.read_bytes() == before


async def test_a_database_of_another_program_may_be_joined(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE orders (n INTEGER)")
        connection.execute("INSERT INTO orders VALUES (1)")
    async with SqliteStorage[int](path, int, join_existing=True) as storage:
        await storage.push(1)
    assert len(await use(path)) == 1, "once joined, it need not be said again"
    with closing(connect(path)) as connection:
        assert connection.execute("SELECT n FROM orders").fetchall() == [(1,)]


async def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ids = await fill(path)
    with closing(connect(path)) as connection:
        [(version,)] = connection.execute("SELECT value FROM trio_tasks_meta WHERE name = 'version'")
        connection.execute("UPDATE trio_tasks_meta SET value = value + 1 WHERE name = 'version'")
    with pytest.raises(BackendError, match=rf"newer.*version {version + 1}"):
        await use(path)
    with closing(connect(path)) as connection:
        connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = 'version'", (version,))
    assert sorted(await use(path)) == sorted(ids)


async def test_a_file_without_a_version_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    await fill(path)
    with closing(connect(path)) as connection:
        connection.execute("DELETE FROM trio_tasks_meta WHERE name = 'version'")
    with pytest.raises(BackendError, match="damaged"):
        await use(path)


# Damaged files


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
async def test_a_file_that_was_cut_off_is_refused_and_left_alone(tmp_path: Path, part: float) -> None:
    path = tmp_path / "tasks.db"
    await fill(path)
    content = path.read_bytes()
    content = content[: int(len(content) * part)]
    path.write_bytes(content)
    with pytest.raises(BackendError, match="SQLite file"):
        await use(path)
    assert path.read_bytes() == content


def copy_with_part_of_the_log(path: Path, copy: Path, part: float) -> None:
    """While the file is open, as it would be found after a crash."""
    shutil.copy(path, copy)
    log = Path(f"{path}-wal").read_bytes()
    Path(f"{copy}-wal").write_bytes(log[: int(len(log) * part)])


def damaged(template: Path, rng: random.Random) -> bytes:
    """The content of the file, with a flipped bit or several."""
    content = bytearray(template.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.999])
async def test_a_log_that_was_cut_off_gives_back_whole_transactions(tmp_path: Path, part: float) -> None:
    """This happens at a power failure, with a disk that does not sync. Only the latest transactions are lost, and each
    of them whole.
    """
    path, copy = tmp_path / "tasks.db", tmp_path / "copy.db"
    async with SqliteStorage[int](path, int) as storage:
        ids = [await storage.push(n) for n in range(40)]
        copy_with_part_of_the_log(path, copy, part)
    try:
        found = await use(copy)
    except BackendError:
        assert part < 0.5, "nothing was wrong with the file itself"
    else:
        assert found == ids[: len(found)]
        assert_whole(copy)


@pytest.mark.parametrize("seed", range(150))
async def test_a_flipped_bit_is_an_error_or_does_no_harm(tmp_path: Path, seed: int, template: Path) -> None:
    """SQLite checks its own structures, and we check for values that we would not have written."""
    rng = random.Random(seed)
    path = tmp_path / "tasks.db"
    path.write_bytes(damaged(template, rng))
    try:
        found = await use(path)
    except BackendError:
        return
    assert len(found) == TASKS


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with tasks in it, to be damaged."""
    path = tmp_path_factory.mktemp("template") / "tasks.db"
    trio.run(fill, path)
    return path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("state", 17),
        ("state", "text"),
        ("attempt", -3),
        ("attempt", "many"),
        ("payload", "text"),
        ("payload", b"\xff\xff"),
        ("options", b"\xff\xff"),
        ("options", 5),
        ("options", b"\x01"),
        ("history", b"\xff"),
        ("history", b"\x01"),
        ("priority", "high"),
        ("due", "tomorrow"),
        ("order_key", None),
        ("id", b"\xff"),
        ("id", 17),
        ("id", ""),
        ("worker", b"\xff"),
        ("progress", b"\xff"),
    ],
)
async def test_what_cannot_be_in_a_row_is_an_error_or_that_tasks_failure(
    tmp_path: Path, column: str, value: object
) -> None:
    """SQLite accepts the value, but we would not have written it."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        ids = [await storage.push(n) for n in range(3)]
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        try:
            connection.execute(f"UPDATE trio_tasks_task SET {column} = ? WHERE id = ?", (value, ids[0]))
        except sqlite3.IntegrityError:
            return  # the table itself refuses it
    try:
        assert len(await use(path)) == 3
    except BackendError:
        return


# Out of reach


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="directory"):
        await use(tmp_path / "nowhere" / "tasks.db")


async def test_a_path_that_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="directory"):
        await use(tmp_path)


async def test_an_error_at_opening_leaves_nothing_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(BackendError):
            await use(tmp_path / "nowhere" / "tasks.db")
    await until(lambda: threading.active_count() <= before + 1)


async def test_a_cancelled_block_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with trio.CancelScope() as scope:
        async with SqliteStorage[int](path, int) as storage:
            await storage.push(1)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert len(await use(path)) == 1


# Locked


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@contextmanager
def lock(path: Path) -> Generator[Callable[[], None], None, None]:
    """Another process, of the user's own, writes to the file; the value lets go of it."""
    command = [sys.executable, "-c", LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def let_go() -> None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)

        try:
            assert process.stdout.readline().strip() == b"locked"
            yield let_go
            let_go()
        finally:
            process.kill()


async def test_a_lock_for_a_while_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        with lock(path) as let_go:
            before = trio.current_time()
            threading.Timer(1.0, let_go).start()
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(storage.push, n)
            assert trio.current_time() - before > 0.9
        assert (await storage.metrics())["waiting"] == 5


async def test_a_reader_does_not_wait_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 150.0)
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        task_id = await storage.push(5)
        with lock(path), trio.fail_after(60):
            found = await storage.fetch_by_id(task_id)
            assert found is not None
            assert found.args == 5
            assert [task.args for task in await storage.list_tasks()] == [5]
            assert (await storage.metrics())["waiting"] == 1
            assert await storage.list_workers() == []
            assert await storage.list_queues() == ["default"]


async def test_a_lock_for_too_long_fails_the_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 0.2)
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        with lock(path):
            with pytest.raises(BackendError, match="locked"):
                await storage.push(1)
        await storage.push(2)
        assert [task.args for task in await storage.list_tasks()] == [2]


async def test_a_lock_at_opening_for_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 0.2)
    path = tmp_path / "tasks.db"
    await fill(path)
    with lock(path), pytest.raises(BackendError, match="locked"):
        await use(path)
    assert len(await use(path)) == TASKS


async def test_a_short_outage_does_not_end_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's settlement is tried again, and so are its heartbeats."""
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 0.05)
    path = tmp_path / "tasks.db"

    async def handler(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    async with SqliteStorage[float](path, float, lease=2.0) as storage, trio.open_nursery() as nursery:
        context = await nursery.start(Worker("tough", storage, handler).run)
        brief, long = await storage.push(0.3), await storage.push(1.5)
        await trio.sleep(0.1)
        with lock(path):
            await trio.sleep(1.0)  # so that both a settlement and a heartbeat have failed
        with trio.fail_after(60):
            for task_id in (brief, long):
                assert (await storage.wait_for(task_id)).result == "slept"
            another = await storage.push(0.0)
            assert (await storage.wait_for(another)).status is Status.Done
        context.stop()


# Clocks


def ahead(seconds: float) -> Any:
    """A wall clock that is so much ahead, or behind."""
    return lambda: time.time() + seconds


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_the_wall_clock_is_set_while_a_file_is_in_use(tmp_path: Path, jump: float) -> None:
    """Delays and leases do not change."""

    async def main() -> None:
        async with SqliteStorage[str](tmp_path / "tasks.db", str, lease=60.0) as storage:
            await storage.push("leased")
            leased = await storage.receive()
            await storage.push("soon", delay=30.0)
            late = await storage.push("late", delay=0.9 * HOUR)
            with use_wall_clock(lambda: clock.current_time() + jump):
                soon = await storage.receive()
                assert soon.args == "soon"
                assert trio.current_time() == pytest.approx(30.0, abs=0.1)
                await storage.settle(soon, succeeded())
                orphan = await storage.receive()
            assert (orphan.args, orphan.parts.attempt) == ("leased", 2)
            assert trio.current_time() == pytest.approx(60.0, abs=0.1)
            assert orphan.parts.id == leased.parts.id
            found = await storage.fetch_by_id(late)
            assert found is not None
            assert found.parts.status is Status.Pending

    with virtual_clock() as clock, use_wall_clock(clock.current_time):
        trio.run(main, clock=clock)


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
@pytest.mark.parametrize("rebooted", [False, True])
def test_the_wall_clock_is_set_between_two_openings(
    tmp_path: Path, jump: float, rebooted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the machine is up, the file's clock does not change. After a restart of the machine it continues from its
    latest time, or from the wall clock if that is ahead; it does not go back.
    """
    path = tmp_path / "tasks.db"

    async def before() -> None:
        async with SqliteStorage[str](path, str, lease=0.6) as storage:
            await storage.push("leased")
            await storage.receive()
            await storage.push("soon", delay=0.3)
            await storage.push("late", delay=0.9 * HOUR)

    async def after(number: int) -> list[str]:
        found: list[str] = []
        async with SqliteStorage[str](path, str, lease=600.0) as storage:
            with trio.fail_after(60):
                while len(found) < number:
                    found.append((await storage.receive()).args)
            with trio.move_on_after(0.3):  # nothing more is due
                found.append((await storage.receive()).args)
        return found

    trio.run(before)
    if rebooted:
        monkeypatch.setattr(_clock, "_machine", lambda: ("another boot", 5.0 + time.monotonic() % 5))
    expected = ["leased", "late", "soon"] if rebooted and jump > 0 else ["leased", "soon"]
    with use_wall_clock(ahead(jump)):
        assert sorted(trio.run(after, len(expected))) == sorted(expected)


def succeeded() -> Any:
    from trio_tasks import Succeeded

    return Succeeded(None)


async def test_a_due_time_by_another_hand_does_not_end_the_storage(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    done: list[int] = []

    async def handler(n: int) -> None:
        done.append(n)

    async with SqliteStorage[int](path, int) as storage:
        task_id = await storage.push(1, delay=60)
        with closing(connect(path)) as connection:
            connection.execute("UPDATE trio_tasks_task SET due = ? WHERE id = ?", (b"soon", task_id))
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, handler).run)
            await trio.sleep(0.1)  # it has looked, and found nothing but that
            await storage.wait_for(await storage.push(2))
            context.stop()
        shown = {task.parts.id: task.parts.status for task in await storage.list_tasks()}
        assert shown[task_id] is Status.Pending  # its own time is kept beside what was corrupted
    assert done == [2]


# By another hand


async def test_a_session_that_another_program_wrote_does_no_harm_to_a_push(tmp_path: Path) -> None:
    """The push returns normally, since wake-ups are sent after the commit."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        with closing(connect(path)) as connection:
            for number, (address, key) in enumerate([("9", None), ("9", "text"), ("99999", b"k"), ("-1", b"k")], 100):
                connection.execute(
                    "INSERT INTO trio_tasks_session (num, address, key, expires) VALUES (?, ?, ?, 9e12)",
                    (number, address, key),
                )
        task_id = await storage.push(1, delay=60)
        assert await storage.reschedule(task_id, delay=30)
        assert [task.parts.id for task in await storage.list_tasks()] == [task_id]


def as_meta(name: str, value: object) -> str:
    return f"UPDATE trio_tasks_meta SET value = {value} WHERE name = '{name}'"


@pytest.mark.parametrize(
    "statement",
    [
        *[as_meta("latest", value) for value in ("'late'", "9e999", "1e300")],
        *[as_meta("anchor", value) for value in ("NULL", "x'ff'", "-9e999")],
        *[as_meta("sessions", value) for value in ("'x'", "-5", "0.5", 2**62)],
        *[f"DELETE FROM trio_tasks_meta WHERE name = '{name}'" for name in ("latest", "boot", "anchor", "sessions")],
        "DELETE FROM trio_tasks_meta",
        "DROP TABLE trio_tasks_session",
    ],
)
async def test_what_a_file_says_of_itself_by_another_hand_is_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "tasks.db"
    await fill(path)
    with closing(connect(path)) as connection:
        connection.execute(statement)
    with pytest.raises(BackendError, match=r"damaged|no such table"):
        async with SqliteStorage[int](path, int):
            raise AssertionError("it has opened")


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE trio_tasks_queue SET pushed = 'many'", SqliteStorage.metrics),
        ("UPDATE trio_tasks_queue SET live = 9e999", SqliteStorage.metrics),
        ("INSERT INTO trio_tasks_queue (name, pushed) VALUES (x'ff', 1)", SqliteStorage.list_queues),
        ("UPDATE trio_tasks_task SET id = x'ff'", SqliteStorage.list_tasks),
        ("UPDATE trio_tasks_task SET attempt = 'many'", SqliteStorage.list_tasks),
        ("UPDATE trio_tasks_task SET start_by = 'never'", SqliteStorage.receive),
        ("UPDATE trio_tasks_task SET id = x'ff'", SqliteStorage.receive),
        ("UPDATE trio_tasks_task SET attempt = -2", SqliteStorage.receive),
        ("UPDATE trio_tasks_queue SET live = 'many'", SqliteStorage.receive),
    ],
)
async def test_what_is_written_by_another_hand_meanwhile_is_an_error_of_ours(
    tmp_path: Path, statement: str, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The next read raises a BackendError, and the log names no unforeseen error."""
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        if "queue" not in statement:
            await storage.push(1)
        else:
            await storage.settle(await pushed(storage), succeeded())
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = 1")
            connection.execute(statement)
        with trio.fail_after(60), pytest.raises(BackendError, match="damaged"):
            await ask(storage)
    assert "unforeseen" not in caplog.text


async def pushed(storage: SqliteStorage[int]) -> Task[int]:
    await storage.push(1)
    return await storage.receive()


async def test_a_count_below_nothing_does_not_keep_a_worker_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        await storage.push(1)
        with closing(connect(path)) as connection:
            connection.execute("UPDATE trio_tasks_queue SET live = -5")
        storage.close()
        with trio.fail_after(60):
            report = await Worker("w", storage, nothing).run()
        assert (report.succeeded, report.failed) == (1, 0)


async def nothing(n: int) -> None:
    """Does nothing."""


async def test_numbers_beyond_all_bounds_are_none_of_sqlites_business(tmp_path: Path) -> None:
    async with SqliteStorage[int](tmp_path / "tasks.db", int) as storage:
        task_id = await storage.push(1, delay=1.7e308)
        assert [task.parts.id for task in await storage.list_tasks(limit=2**70)] == [task_id]
