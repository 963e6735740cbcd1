"""Transcripts of the commands that look at a storage."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_tasks import JsonCodec, PastAttempt, RetryPolicy, SqliteStorage, Task, Worker, constant, open_url
from trio_tasks._cli.looking import _watched_shown
from trio_tasks._cli.output import plain
from trio_tasks._cli.records import attempt_record, history_shown

from tests.cli._command import KINDS, WILD, call, call_process, filled, handle, url_of

everywhere = pytest.mark.parametrize("kind", KINDS)
SHOWN = "evil\\n\\x1b[31mid\\u202e"
IDS = ["email-4", WILD, "email-0", "email-1", "email-2"]


def without_times(text: str) -> str:
    """The text without what differs from run to run."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text)
    text = re.sub(r'File ".*", line \d+', 'File "FILE", line N', text)
    return re.sub(r" +\d+(\.\d)? (s|min|h|d)\b", " TIME", text)


@everywhere
def test_queues(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("queues", "--url", url)
    assert (ended.status, ended.err) == (0, "")
    [emails, sms] = ended.records
    assert emails["queue"] == "emails" and sms["queue"] == "sms"
    assert {emails[name] for name in ("waiting", "delayed", "succeeded", "failed", "killed")} == {1}
    assert emails["workers"] == (0 if kind == "sqlite" else None)
    table = call("queues", "--url", url, "--no-json", "-q", "emails")
    assert table.err == "succeeded, retried, failed, killed: totals since the queue was made\n"
    head, row = without_times(table.out).splitlines()
    assert head.split()[:2] == ["queue", *(["workers"] if kind == "sqlite" else ["waiting"])]
    assert row.split()[0] == "emails"


@everywhere
def test_ls(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("ls", "--url", url)
    assert (ended.status, ended.err) == (0, "")
    assert [each["id"] for each in ended.records] == [*IDS, "sms-1"]
    failed = next(each for each in ended.records if each["id"] == "email-1")
    assert failed["status"] == "Failed"
    assert failed["error"] == "ConnectionError: 421 too many"
    assert failed["metadata"] == {"tenant": "acme", "n": 1}
    newest = call("ls", "--url", url, "-q", "emails", "--newest-first", "--limit", "2").records
    assert [each["id"] for each in newest] == [IDS[-1], IDS[-2]]
    table = call("ls", "--url", url, "--no-json").out
    assert SHOWN in table and "\x1b" not in table and "\u202e" not in table
    assert [line.split()[0] for line in table.splitlines()] == ["queue", *["emails"] * 5, "sms"]
    assert table.splitlines()[0].split()[-1] == "details"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["-s", "killed"], ["email-2"]),
        (["--status", "Done"], ["email-0"]),
        (["--worker", "ann"], ["email-0", "email-1", "email-2"]),
        (["--unique", "e"], ["email-4"]),
        (["--metadata", "tenant=acme", "--metadata", "n=2"], ["email-2"]),
        (["--delayed"], [WILD]),
        (["--ready"], ["email-4", "sms-1"]),
        (["--pushed-after", "1h", "-q", "sms"], ["sms-1"]),
        (["--pushed-before", "2020-01-01T00:00:00Z"], []),
        (["--name", "nothing"], []),
        (["--key", "acme"], ["email-4"]),
    ],
)
def test_ls_with_filters(options: list[str], found: list[str], tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    ended = call("ls", "--url", url, *options)
    assert (ended.status, ended.err) == (0, "")
    assert [each["id"] for each in ended.records] == found


def test_ls_goes_through_all_pages(tmp_path: Path) -> None:
    async def push() -> None:
        async with open_url(url, queue="many") as storage:
            await storage.push_bulk(range(1201))

    url = url_of("file", tmp_path)
    trio.run(push)
    assert len(call("ls", "--url", url).records) == 1201


@everywhere
def test_show(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("show", "--url", url, "email-1", WILD)
    assert (ended.status, ended.err) == (0, "")
    failed, wild = ended.records
    assert failed["args"] == {"to": "b", "fail": "421 too many"}
    assert [(each["attempt"], each["became"], each["worker"]) for each in failed["history"]] == [
        (1, "retried", "ann"),
        (2, "failed", "ann"),
    ]
    assert 'raise ConnectionError(args["fail"])' in failed["history"][0]["traceback"]
    assert wild["args"] == {"n": "nan", "b": {"base64": "ABs="}, "7": ["inf"]}
    text = without_times(call("show", "--url", url, "--no-json", "email-1").out)
    assert text.splitlines()[:12] == [
        "id        email-1",
        "queue     emails",
        "status    Failed, attempt 2 of 2",
        "pushed    DATE UTC, TIME ago",
        "started   DATE UTC, TIME ago",
        "finished  DATE UTC, TIME ago",
        "worker    ann",
        'args      {"to": "b", "fail": "421 too many"}',
        'metadata  {"tenant": "acme", "n": 1}',
        "error     ConnectionError: 421 too many",
        "attempt 1, worker 'ann', failed TIME ago after running TIME; retried",
        "          Traceback (most recent call last):",
    ]
    assert text.splitlines()[-4:] == [
        '              raise ConnectionError(args["fail"])',
        "          ConnectionError: 421 too many",
        "attempt 2, worker 'ann', failed TIME ago after running TIME; not retried",
        "          the same error and traceback as before",
    ]
    killed = without_times(call("show", "--url", url, "--no-json", "email-2").out)
    assert "\nattempt 1, worker 'ann', was killed TIME ago after running TIME\n" in killed
    done = call("show", "--url", url, "email-0", "--no-json").out
    assert 'result    {"sent": "a"}' in done.splitlines()


def test_attempts_of_several_rounds_are_shown_apart(tmp_path: Path) -> None:
    async def again() -> None:
        async with open_url(url, queue="emails") as storage:
            retry = RetryPolicy(attempts=2, backoff=constant(0))
            await Worker("bob", storage, handle, retry=retry, log=None).run_until_idle()

    url = filled("sqlite", tmp_path)
    call("retry", "email-1", "--url", url)
    trio.run(again)
    lines = without_times(call("show", "--url", url, "--no-json", "email-1").out).splitlines()[10:]
    shown = [line for line in lines if not line.startswith("   ") or "same" in line]
    told = "failed TIME ago after running TIME"
    same = "          the same error and traceback as before"
    assert shown == [
        "",
        "round 1 of 2",
        f"attempt 1, worker 'ann', {told}; retried",
        f"attempt 2, worker 'ann', {told}; not retried",
        same,
        "",
        "round 2 of 2, after it was made to wait again",
        f"attempt 1, worker 'bob', {told}; retried",
        same,
        f"attempt 2, worker 'bob', {told}; not retried",
        same,
    ]
    assert sum("Traceback" in line for line in lines) == 1


def test_an_attempt_without_a_traceback_is_shown_with_its_error() -> None:
    past = PastAttempt(1, 0.0, None, "lost", "LeaseLostError: gone")
    told = ["attempt 1, was lost with its worker or its lease TIME ago", "          LeaseLostError: gone"]
    lines = history_shown([attempt_record(past), attempt_record(replace(past, attempt=2))])
    assert [re.sub(r"\d+ d", "TIME", line) for line in lines] == [*told, told[0].replace("1", "2"), told[1]]


def test_show_tells_what_cannot_be_read(tmp_path: Path) -> None:
    async def push() -> None:
        async with SqliteStorage(tmp_path / "tasks.db", str, codec=JsonCodec) as storage:
            await storage.push("text", id="a")

    trio.run(push)
    url = url_of("sqlite", tmp_path)
    [record] = call("show", "--url", url, "a").records
    assert record["unreadable"] and record["args"] == {"base64": "InRleHQi"}
    [record] = call("show", "--url", f"{url}?codec=json", "a").records
    assert record["args"] == "text" and record["unreadable"] is None


@everywhere
def test_explain(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("explain", "--url", url, "--no-json", "sms-1", "email-0")
    assert (ended.status, ended.err) == (0, "")
    waits, done = without_times(ended.out).splitlines()
    assert done == "task email-0 is done in its attempt 1 by worker 'ann', TIME ago"
    unseen = "and goes next on queue 'sms', whose workers cannot be seen from here"
    assert waits == f"task sms-1 is ready, {'but no worker is alive on queue ' if kind == 'sqlite' else unseen}" + (
        "'sms'" if kind == "sqlite" else ""
    )
    [record] = call("explain", "--url", url, "email-1", "-q", "emails").records
    assert (record["kind"], record["status"]) == ("finished", "Failed")


@everywhere
@pytest.mark.parametrize("verb", ["show", "explain"])
def test_what_is_not_known_is_told(kind: str, verb: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    assert call(verb, "--url", url, "nothing").status == 3
    some = call(verb, "--url", url, "nothing", "email-0")
    assert some.status == 1
    assert [each["id"] for each in some.records] == ["email-0"]
    ended = call(verb, "--url", url, "nothing", "-q", "none")
    assert ended.status == 3
    assert ended.err == "trio-tasks: the storage has no queue 'none': the queues are emails, sms\n"


async def test_workers_are_told_of_while_they_run(tmp_path: Path) -> None:
    async def wait(task: Task[str]) -> None:
        began.set()
        await trio.sleep_forever()

    began = trio.Event()
    url = url_of("sqlite", tmp_path)
    async with open_url(url, queue="emails") as storage, trio.open_nursery() as nursery:
        await storage.push("a", id="a")
        await nursery.start(Worker("ann", storage, wait, concurrency=3, version="1.2").run)
        await began.wait()
        for options in ([], ["--fresh"]):
            ended = await trio.to_thread.run_sync(partial(call_process, "workers", "--url", url, *options))
            assert ended.err == "", "also where the SQLite has a fault: `doctor` and `run` tell of it"
            [record] = ended.records
            assert (record["name"], record["queue"], record["slots"], record["version"]) == ("ann", "emails", 3, "1.2")
            if options:
                assert record["busy"] == 1
                assert "sleep_forever" in record["running"][0]["line"]
        told = await trio.to_thread.run_sync(partial(call_process, "explain", "--url", url, "a", "--no-json"))
        assert "is running: its attempt 1 began" in told.out and "sleep_forever" in told.out
        nursery.cancel_scope.cancel()


def test_watch_ends_with_the_task(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    ended = call("watch", "--url", url, "email-0")
    assert (ended.status, ended.err) == (0, "")
    assert [(each["status"], each["result"]) for each in ended.records] == [("Done", {"sent": "a"})]
    ended = call("watch", "--url", url, "email-1", "--no-json")
    assert (ended.status, ended.out) == (1, "Failed, attempt 2, error: ConnectionError: 421 too many\n")
    assert call("watch", "--url", url, "nothing").status == 3


async def test_the_error_of_an_earlier_attempt_is_told_as_such(tmp_path: Path) -> None:
    async def fail_once(task: Task[str]) -> None:
        if task.parts.attempt == 1:
            raise ConnectionError("421 too many")
        began.set()
        await trio.sleep_forever()

    def shown(verb: str, *options: str) -> str:
        return without_times(call(verb, "--url", url, *options).out)

    began = trio.Event()
    url = url_of("sqlite", tmp_path)
    retry = RetryPolicy(attempts=2, backoff=constant(300))
    async with open_url(url, queue="emails") as storage, trio.open_nursery() as nursery:
        await storage.push("a", id="a")
        await Worker("ann", storage, fail_once, retry=retry, log=None).run_until_idle()
        listed = await trio.to_thread.run_sync(shown, "ls", "--no-json")
        assert listed.splitlines()[1].endswith(" ready in TIME; last error: ConnectionError: 421 too many")
        assert "\nerror     in attempt 1: ConnectionError: 421 too many\n" in await trio.to_thread.run_sync(
            shown, "show", "a", "--no-json"
        )
        await storage.reschedule("a", 0)
        await nursery.start(Worker("bob", storage, fail_once, log=None).run)
        await began.wait()
        listed = await trio.to_thread.run_sync(shown, "ls", "--no-json")
        assert listed.splitlines()[1].endswith(" by worker 'bob', began TIME ago")
        [running] = (await trio.to_thread.run_sync(call, "show", "--url", url, "a")).records
        assert _watched_shown(running) == "Running, attempt 2, last error (attempt 1): ConnectionError: 421 too many"
        nursery.cancel_scope.cancel()


def test_values_in_json() -> None:
    nested: list[object] = []
    nested.append(nested)
    assert "…" in repr(plain(nested))
    assert plain({1: {2, 3}, None: object}) == {"1": [2, 3], "None": "<class 'object'>"}
