"""Transcripts of the commands that check a storage, and bring it up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_tasks import Schedules, Worker, every, open_url

from tests.cli._command import KINDS, ROUTER, call, call_process, filled, handle, url_of

everywhere = pytest.mark.parametrize("kind", KINDS)


@everywhere
def test_migrate_makes_a_store(kind: str, tmp_path: Path) -> None:
    url = url_of(kind, tmp_path)
    dry = call("migrate", "--url", url, "--dry-run", "--no-json")
    assert (dry.status, dry.out) == (0, "the store is not there, and would be made\n")
    assert not list(tmp_path.iterdir())
    assert call("migrate", "--url", url, "--no-json").out == "the store was made\n"
    assert call("migrate", "--url", url).records == [{"was": "current", "is_changed": False}]
    assert call("queues", "--url", url, "--no-json").out == ""
    ended = call("health", "--url", url, "--no-json")
    assert (ended.status, ended.out) == (0, "ok  storage  it answers, and has no queue yet\n")


def test_an_old_store_is_migrated_by_migrate_alone(tmp_path: Path) -> None:
    url = old_store(tmp_path)
    for verb in (["queues"], ["retry", "a"], ["explain", "a"], ["health"], ["purge", "--yes"]):
        ended = call(*verb, "--url", url)
        assert (ended.status, ended.out) == (4, ""), verb
        assert ended.err.endswith("; `trio-tasks migrate` does that\n")
    assert "would be migrated" in call("migrate", "--url", url, "--dry-run", "--no-json").out
    assert call("queues", "--url", url).status == 4
    assert call("migrate", "--url", url).records == [{"was": "outdated", "is_changed": True}]
    assert call("queues", "--url", url).status == 0


def old_store(folder: Path) -> str:
    """Make an SQLite file of the first version."""
    from trio_tasks._backends.sqlite.schema import _VERSION_1

    with closing(sqlite3.connect(folder / "tasks.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in _VERSION_1:
            connection.execute(statement)
    return url_of("sqlite", folder)


def test_health_of_queues_without_a_worker(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    ended = call("health", "--url", url, "--no-json")
    assert ended.status == 4
    assert ended.out.splitlines() == [
        "FAIL  queue emails  1 task waiting, 1 delayed, no worker alive",
        "FAIL  queue sms     1 task waiting, no worker alive",
    ]
    for queue in ("emails", "sms"):
        call("pause", "--url", url, queue)
    ended = call("health", "--url", url, "-q", "sms", "--no-json")
    assert (ended.status, ended.out) == (0, "ok  queue sms  paused, 1 task waiting, 0 running\n")


def test_health_without_a_worker_when_only_later_work_is_there(tmp_path: Path) -> None:
    async def prepare() -> None:
        async with open_url(url, queue="emails") as storage:
            await storage.push({"to": "a"}, delay=3600)
            polls = storage.share(queue="polls")
            schedules = Schedules(polls)
            await schedules.put("poll", {"n": 1}, every(minutes=5))
            await schedules.put("other", {"n": 1}, every(minutes=5))

    url = url_of("sqlite", tmp_path)
    trio.run(prepare)
    ended = call("health", "--url", url, "--no-json")
    assert (ended.status, ended.out.splitlines()) == (
        4,
        [
            "FAIL  queue emails  0 tasks waiting, 1 delayed, no worker alive",
            "FAIL  queue polls   0 tasks waiting, 2 schedules, no worker alive",
        ],
    )
    assert call("schedules", "pause", "poll", "--url", url).status == 0
    ended = call("health", "--url", url, "--no-json", "-q", "polls")
    assert ended.out == "FAIL  queue polls  0 tasks waiting, 1 schedule, no worker alive\n"
    call("schedules", "pause", "other", "--url", url)
    call("pause", "emails", "--url", url)
    assert call("health", "--url", url).status == 0


def test_health_of_a_journal_is_about_the_time_that_tasks_wait(tmp_path: Path) -> None:
    url = filled("file", tmp_path)
    assert call("health", "--url", url).status == 0
    ended = call("health", "--url", url, "--oldest", "0")
    assert ended.status == 4
    assert [each["level"] for each in ended.records] == ["failure", "failure"]


async def test_health_while_a_worker_runs(tmp_path: Path) -> None:
    url = url_of("sqlite", tmp_path)
    async with open_url(url, queue="emails") as storage, trio.open_nursery() as nursery:
        await storage.pause()
        await storage.push({"to": "a"})
        context = await nursery.start(Worker("ann", storage, handle, log=None).run)
        ended = await trio.to_thread.run_sync(partial(call_process, "health", "--url", url))
        assert ended.status == 0
        context.stop()
        await storage.resume()


@everywhere
def test_doctor(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("doctor", "--url", url)
    assert ended.status == 0, ended
    found = [(each["level"], each["about"]) for each in ended.records if "very rarely" not in each["text"]]
    name = "tasks.db" if kind == "sqlite" else "tasks.journal"
    level = "warning" if kind == "sqlite" else "ok"
    assert found == [("ok", name), (level, "queue emails"), (level, "queue sms")]
    text = call("doctor", "--url", url, "--no-json", "-q", "sms").out
    assert text.splitlines()[0].split()[:2] == ["ok", name]
    assert ("SQLite " if kind == "sqlite" else "journal, format 1, ") in text
    call("pause", "--url", url, "sms")
    texts = [each["text"] for each in call("doctor", "--url", url, "-q", "sms").records]
    assert texts[-2:] == ["paused, 1 task waiting, 0 running", "paused, 1 task waiting"]


def test_doctor_finds_counters_that_are_wrong_and_tasks_that_cannot_be_read(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as connection:
        connection.execute("UPDATE trio_tasks_queue SET kept_done = 7 WHERE name = 'emails'")
        connection.execute("UPDATE trio_tasks_task SET payload = x'ff' WHERE id = 'sms-1'")
    ended = call("doctor", "--url", url)
    assert ended.status == 4
    assert [each["about"] for each in ended.records if each["level"] == "failure"] == ["queue emails"]
    assert "kept_done is 7, not 1" in str(ended.records)
    assert "1 task of the first 100 cannot be read here" in str(ended.records)


def test_doctor_finds_damage(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'trio_tasks_ready'")
        [(length,)] = connection.execute("PRAGMA page_size")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "tasks.db").open("r+b") as file:
        file.seek((page - 1) * length + 3)
        file.write(b"\0\0")  # the index has no entries any more
    ended = call("doctor", "--url", url)
    assert ended.status in (4, 5), ended
    assert "is damaged" in ended.err or '"failure"' in ended.out


def test_doctor_finds_tasks_of_names_that_a_router_does_not_know(tmp_path: Path) -> None:
    url = url_of("sqlite", tmp_path)
    call("migrate", "--url", url)
    call("push", ROUTER, "double", "n=1", "--url", url)
    call("push", ROUTER, "describe", "path=x", "day=2026-11-28", "--url", url)
    ended = call("doctor", ROUTER, "--url", url)
    assert ended.status == 0, ended
    other = ROUTER.replace("tasks", "others")
    ended = call("doctor", other, "--url", url)
    assert ended.status == 4
    failures = [(each["about"], each["text"]) for each in ended.records if each["level"] == "failure"]
    assert failures == [("queue numbers", f"1 task of name 'double', which {other} does not know")], (
        "files is not its own"
    )
    assert call("doctor", other, ROUTER, "--url", url).status == 0
    assert call("doctor", "tests.cli._router:double", "--url", url).status == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    ended = call("completion", shell)
    assert ended.status == 0
    assert "_TRIO_TASKS_COMPLETE" in ended.out
