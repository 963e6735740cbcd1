"""Transcripts of the command ``schedules``."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio_tasks import Schedules, cron, every, open_url

from tests.cli._command import KINDS, call, url_of

everywhere = pytest.mark.parametrize("kind", KINDS)


def scheduled(kind: str, folder: Path) -> str:
    async def put() -> None:
        async with open_url(url, queue="reports") as storage:
            schedules = Schedules(storage, storage.share(queue="polls"))
            await schedules.put("monday", {"n": 1}, cron("0 9 * * MON", zone="UTC"))
            await schedules.put("poll", {"n": 2}, every(minutes=5), queue="polls")

    url = url_of(kind, folder)
    trio.run(put)
    return url


@everywhere
def test_schedules_are_listed(kind: str, tmp_path: Path) -> None:
    url = scheduled(kind, tmp_path)
    ended = call("schedules", "--url", url)
    assert (ended.status, ended.err) == (0, "")
    assert [(each["name"], each["queue"], each["is_paused"], each["is_dynamic"]) for each in ended.records] == [
        ("monday", "reports", False, True),
        ("poll", "polls", False, True),
    ]
    table = call("schedules", "--url", url, "--no-json").out.splitlines()
    assert table[0].split() == ["name", "times", "queue", "next", "defined"]
    assert " ".join(table[1].split()).startswith("monday cron('0 9 * * MON', zone='UTC') reports in ")


@everywhere
def test_a_schedule_is_paused_run_and_removed(kind: str, tmp_path: Path) -> None:
    url = scheduled(kind, tmp_path)
    assert call("schedules", "pause", "monday", "--url", url, "--no-json").out == "monday paused\n"
    assert [each["is_paused"] for each in call("schedules", "--url", url).records] == [True, False]
    assert "paused" in call("schedules", "--url", url, "--no-json").out
    assert call("schedules", "resume", "monday", "--url", url).records == [{"name": "monday", "resumed": True}]
    [ran] = call("schedules", "run", "monday", "--url", url).records
    assert call("show", ran["id"], "--url", url).records[0]["args"] == {"n": 1}
    assert call("schedules", "remove", "monday", "--url", url, "--no-json").out == "monday removed\n"
    assert [each["name"] for each in call("schedules", "--url", url).records] == ["poll"]


@pytest.mark.parametrize("verb", ["pause", "resume", "remove", "run"])
def test_a_schedule_that_is_not_there_is_told(verb: str, tmp_path: Path) -> None:
    url = scheduled("sqlite", tmp_path)
    ended = call("schedules", verb, "nothing", "--url", url)
    assert (ended.status, ended.out) == (3, "")
    assert ended.err == "trio-tasks: the storage has no schedule 'nothing': the schedules are monday, poll\n"
    call("migrate", "--url", empty := url_of("file", tmp_path))
    ended = call("schedules", verb, "nothing", "--url", empty)
    assert (ended.status, ended.out) == (3, "")
    assert ended.err.endswith(": it has none yet; `trio-tasks run` stores those that stand in the code\n")
    assert call("schedules", verb, "--url", url).status == 2
    assert call("schedules", verb, "x", "--url", url_of("file", tmp_path)).status == 3


@everywhere
def test_schedules_that_have_gone_from_the_code_are_told_and_pruned(kind: str, tmp_path: Path) -> None:
    async def run(*names: str) -> None:
        async with open_url(url, queue="reports") as storage, trio.open_nursery() as nursery:
            schedules = Schedules(storage)
            for name in names:
                schedules.declare(name, {}, every(hours=1))
            await nursery.start(schedules.run)
            while len([each for each in await Schedules(storage).list() if not each.is_orphaned]) > len(names) + 1:
                await storage.wait_for_schedules()
            nursery.cancel_scope.cancel()

    url = scheduled(kind, tmp_path)
    assert call("schedules", "remove", "poll", "--url", url).status == 0
    trio.run(run, "new", "old")
    assert call("schedules", "prune", "--url", url) == (0, "", "no schedule is orphaned\n")
    trio.run(run, "new")
    found = {each["name"]: each["is_orphaned"] for each in call("schedules", "--url", url).records}
    assert found == {"monday": False, "new": False, "old": True}
    [row] = [line for line in call("schedules", "--url", url, "--no-json").out.splitlines() if line.startswith("old")]
    assert row.split()[-2:] == ["never", "orphaned"]
    assert call("schedules", "prune", "--url", url).records == [{"name": "old", "pruned": True}]
    assert [each["name"] for each in call("schedules", "--url", url).records] == ["monday", "new"]


def test_a_storage_without_schedules(tmp_path: Path) -> None:
    url = url_of("sqlite", tmp_path)
    call("migrate", "--url", url)
    assert call("schedules", "--url", url) == (0, "", "")
    assert call("schedules", "--url", url, "--no-json") == (0, "", "the storage has no schedules\n")
