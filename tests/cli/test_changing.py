"""Transcripts of the commands that change tasks and queues."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_tasks import Task, Worker, open_url

from tests._scale import scaled
from tests.cli._command import KINDS, WILD, call, call_process, filled, url_of

everywhere = pytest.mark.parametrize("kind", KINDS)


def statuses(url: str) -> dict[str, str]:
    return {each["id"]: each["status"] for each in call("ls", "--url", url).records}


@everywhere
def test_what_ls_writes_is_what_retry_reads(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    listed = call("ls", "--url", url, "-s", "Killed").out + call("ls", "--url", url, "-s", "Failed").out
    ended = call("retry", "--url", url, "-", stdin=listed)
    assert (ended.status, ended.err) == (0, "")
    assert ended.records == [
        {"queue": "emails", "id": "email-2", "retried": True, "reason": None},
        {"queue": "emails", "id": "email-1", "retried": True, "reason": None},
    ]
    assert statuses(url)["email-1"] == statuses(url)["email-2"] == "Pending"


@everywhere
def test_what_was_not_changed_is_told(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("retry", "--url", url, "--no-json", "-", "sms-1", stdin="email-1\n\n  nothing\nemail-1\n")
    assert ended.status == 1
    assert ended.out.splitlines() == [
        "email-1 retried",
        "nothing not retried: no such task is known",
        "sms-1 not retried: it waits",
    ]
    assert call("retry", "--url", url, "nothing").status == 3
    assert call("retry", "--url", url, "-q", "sms", "email-1").status == 3


@everywhere
def test_cancel_discard_and_abort(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    assert call("cancel", "--url", url, "--no-json", WILD, "email-4").out.splitlines() == [
        "evil\\n\\x1b[31mid\\u202e cancelled",
        "email-4 cancelled",
    ]
    assert call("discard", "--url", url, "email-4", "sms-1").records == [
        {"queue": "emails", "id": "email-4", "discarded": True, "reason": None},
        {"queue": "sms", "id": "sms-1", "discarded": True, "reason": None},
    ]
    ended = call("abort", "--url", url, "email-0", "--no-json")
    assert (ended.status, ended.out) == (1, "email-0 not aborted: it is done\n")
    assert statuses(url) == {WILD: "Killed", "email-0": "Done", "email-1": "Failed", "email-2": "Killed"}


async def test_a_running_task_is_aborted_from_another_process(tmp_path: Path) -> None:
    async def wait(task: Task[str]) -> None:
        begin.send_nowait(None)
        await trio.sleep_forever()

    begin, began = trio.open_memory_channel[None](2)
    url = url_of("sqlite", tmp_path)
    async with open_url(url, queue="emails") as storage, trio.open_nursery() as nursery:
        worker = Worker("ann", storage, wait, log=None)
        context = await nursery.start(worker.run)
        for verb in (["abort"], ["cancel", "--running"]):
            task_id = await storage.push("a")
            await began.receive()
            ended = await trio.to_thread.run_sync(partial(call_process, *verb, "--url", url, task_id))
            assert ended.status == 0, ended.err
            assert (await storage.wait_for(task_id)).status.name == "Killed"
        context.stop()


@everywhere
def test_a_key_that_is_taken_keeps_a_task_from_being_retried(kind: str, tmp_path: Path) -> None:
    async def push() -> None:
        async with open_url(url, queue="emails") as storage:
            await storage.push(1, id="a", unique="key")
            await storage.cancel("a")
            await storage.push(1, id="b", unique="key")

    url = url_of(kind, tmp_path)
    trio.run(push)
    ended = call("retry", "--url", url, "--no-json", "a")
    assert (ended.status, ended.err) == (1, "")
    assert ended.out == "a not retried: its unique key is taken by b\n"


def test_ids_that_several_queues_have_need_a_queue(tmp_path: Path) -> None:
    async def push() -> None:
        async with open_url(url, queue="x") as storage:
            for name in ("x", "y"):
                await storage.share(queue=name).push(1, id="a")

    url = url_of("sqlite", tmp_path)
    trio.run(push)
    ended = call("cancel", "--url", url, "a")
    assert (ended.status, ended.out) == (2, "")
    assert "several queues have a task a: x, y; choose one by --queue" in ended.err
    assert call("cancel", "--url", url, "a", "-q", "y").status == 0
    assert call("cancel", "--url", f"{url}?queue=x", "a").status == 0
    line = '{"id": "a", "queue": "y"}'
    assert call("discard", "--url", url, "-", stdin=line).status == 0
    assert call("discard", "--url", url, "-q", "x", "-", stdin=line).status == 2


@pytest.mark.nightly
@everywhere
def test_ten_thousand_ids_take_seconds(kind: str, tmp_path: Path) -> None:
    async def push() -> None:
        async with open_url(url, queue="many") as storage:
            await storage.push_bulk(range(number))
            await storage.cancel_all()

    number = scaled(10_000)
    url = url_of(kind, tmp_path)
    trio.run(push)
    listed = call("ls", "--url", url).out
    began = os.times()
    ended = call("retry", "--url", url, "-", stdin=listed)
    used = os.times()
    assert (ended.status, ended.err) == (0, "")
    assert len(ended.records) == number and all(each["retried"] for each in ended.records)
    assert used.user + used.system - began.user - began.system < 5.0


@everywhere
def test_purge(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    for answer in ("", "n\n", "what\n"):
        ended = call("purge", "--url", url, stdin=answer)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith("Forget 3 tasks (finished) on emails, sms? [y/N] ")
    ended = call("purge", "--url", url, "--older", "7d", "-s", "failed", stdin="y\ny\ny\n")
    assert ended.err == "Forget of 1 task, those finished 7 d ago or earlier (Failed) on emails, sms? [y/N] "
    assert [each["purged"] for each in ended.records] == [0, 0]
    assert call("purge", "--url", url, "-s", "Killed", "--yes", "--no-json").out == (
        "emails: 1 task forgotten\nsms: 0 tasks forgotten\n"
    )
    assert call("purge", "--url", url, "--yes").records[0]["purged"] == 2
    assert set(statuses(url).values()) == {"Pending"}


@everywhere
def test_pause_and_resume(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    assert call("pause", "--url", url, "emails", "--no-json").out == "emails paused\n"
    assert [each["is_paused"] for each in call("queues", "--url", url).records] == [True, False]
    assert "paused" in call("queues", "--url", url, "--no-json").out
    assert call("resume", "--url", url, "emails").records == [{"queue": "emails", "is_paused": False}]
    assert call("pause", "--url", url, "email").status == 3
    assert call("pause", "--url", url).status == 2


def test_the_rows_of_a_table_are_no_ids(tmp_path: Path) -> None:
    table = "queue   id       status\nemails  email-1  Failed\n"
    ended = call("retry", "--url", filled("sqlite", tmp_path), "-", stdin=table)
    assert (ended.status, ended.out) == (2, "")
    assert "line 1 of standard input is a row of a table, and no id" in ended.err
