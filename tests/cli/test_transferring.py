"""Transcripts of ``export`` and ``import``: a storage is written as lines, and made of them again, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Failed, Limits, Rate, Schedules, Succeeded, Task, TaskBuilder, every, open_url
from trio_tasks._cli import dump as dump_format, transferring
from trio_tasks.abc import ScheduleChange, StoredSchedule

from tests._scale import scaled
from tests.cli._command import KINDS, WILD, Ended, call, command, environment, filled, url_of

BOTH = [(source, target) for source in KINDS for target in KINDS]
each_pair = pytest.mark.parametrize(("source", "target"), BOTH)
everywhere = pytest.mark.parametrize("kind", KINDS)


async def add_what_is_rare(url: str) -> None:
    """Add a running task, a paused queue, and schedules."""
    async with open_url(url, queue="emails") as storage:
        await storage.push({"to": "h"}, id="held", priority=100, unique="held")
        await storage.receive()
        await storage.share(queue="sms").pause()
        await storage.set_limits(Limits(concurrency=5, per_key=2, rate=Rate(9, per=0.5), rate_per_key=Rate(7, per=60)))
        await storage.set_limits(Limits(per_key=1, weight=0.5), key=WILD)
        await storage.set_limits(Limits(), key="a")
        await storage.share(queue="sms").set_limits(Limits(weight=3))
        task = TaskBuilder({"to": "é"}).attempts(3).unique("a", until="start").metadata({"b": b"\0"}).build()
        template = storage.make_template(task)
        times = StoredSchedule("every(days=1)", "emails", template, 10**15, within=60.5, jitter=2.0, is_dynamic=True)
        plain = StoredSchedule("every(days=2)", "sms", storage.make_template(TaskBuilder(None).build()), 0, 5)
        await storage.set_schedules([ScheduleChange("z", 0, times), ScheduleChange("a", 0, plain)])


def exported(url: str, *options: str) -> str:
    ended = call("export", "--url", url, *options)
    assert (ended.status, ended.err) == (0, ""), ended
    return ended.out


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def below(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@each_pair
def test_a_dump_gives_the_same_dump(source: str, target: str, tmp_path: Path) -> None:
    url = filled(source, tmp_path)
    trio.run(add_what_is_rare, url)
    dump = exported(url)
    assert exported(url) == dump
    (tmp_path / "dump").write_text(dump, "utf-8")
    other = url_of(target, below(tmp_path, "other"))
    ended = call("import", "--url", other, str(tmp_path / "dump"))
    numbers = {"imported": 7, "present": 0, "forgotten": 0, "refused": 0}
    assert ended.status == 0, ended
    assert ended.records == [{**numbers, "schedules": {"imported": 2, "present": 0, "refused": 0}}]
    assert exported(other) == dump
    assert call("doctor", "--url", other).status == 0
    for queue in ("emails", "sms"):
        lists = [call("ls", "--url", each, "-q", queue, "--json").records for each in (url, other)]
        assert lists[0] == lists[1]
    back = url_of(source, below(tmp_path, "back"))
    assert call("import", "--url", back, "-", stdin=exported(other)).status == 0
    assert exported(back) == dump
    again = call("import", "--url", other, "-", "--no-json", stdin=dump)
    told = "0 tasks imported, 7 there already; 0 schedules imported, 2 there already\n"
    assert (again.status, again.out, again.err) == (0, told, "")


def test_all_fields_of_a_schedule_are_carried_over() -> None:
    assert {each.name for each in fields(StoredSchedule)} == {*dump_format.SCHEDULE_RULES, "template"}


def test_the_lines_of_a_dump(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    trio.run(add_what_is_rare, url)
    dump = exported(url)
    lines = records(dump)
    assert lines[0] == {"kind": "header", "format": "trio_tasks dump", "version": 1}
    assert lines[-1] == {"kind": "end", "tasks": 7, "schedules": 2}
    kinds = ["limits"] * 3 + ["task"] * 6 + ["queue", "limits", "task"] + ["schedule"] * 2
    assert [each["kind"] for each in lines[1:-1]] == kinds
    assert lines[1] == {
        "kind": "limits",
        "queue": "emails",
        "concurrency": 5,
        "per_key": 2,
        "rate": {"n": 9, "per": 0.5},
        "rate_per_key": {"n": 7, "per": 60.0},
    }
    assert lines[2:4] == [
        {"kind": "limits", "queue": "emails", "key": "a"},
        {"kind": "limits", "queue": "emails", "key": WILD, "per_key": 1, "weight": 0.5},
    ]
    assert {"kind": "queue", "queue": "sms", "is_paused": True} in lines
    by_id = {each["id"]: each for each in lines if each["kind"] == "task"}
    assert by_id["email-0"]["payload"] == {"cbor": {"to": "a"}}
    assert by_id["email-1"]["history"]["cbor"][0][3] == "retried"
    assert by_id[WILD]["payload"].keys() == {"base64"}, "NaN has no terms in JSON"
    assert by_id["held"]["state"] == "running"
    assert "\u202e" not in dump and "\x1b" not in dump
    assert '{"to": "é"}' in dump
    assert records(exported(url, "-q", "sms"))[-1] == {"kind": "end", "tasks": 1, "schedules": 1}
    assert exported(url, "-q", "sms", "-q", "emails", "-q", "sms") == dump
    ended = call("export", "--url", url, "-q", "nothing")
    assert (ended.status, ended.out) == (3, "")


@everywhere
def test_imported_tasks_and_schedules_are_of_use(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    trio.run(add_what_is_rare, url)
    other = url_of(kind, below(tmp_path, "other"))
    assert call("import", "--url", other, "-", stdin=exported(url)).status == 0

    async def use() -> None:
        async with open_url(other, queue="emails") as storage:
            held = await storage.receive()
            assert (held.parts.id, held.parts.attempt, held.parts.is_orphan) == ("held", 2, True)
            await storage.settle(held, Succeeded(None))
            assert await storage.share(queue="sms").is_paused()
            found = await Schedules(storage, storage.share(queue="sms")).list()
            assert [(each.name, each.spec, each.queue) for each in found] == [
                ("a", str(every(days=2)), "sms"),
                ("z", str(every(days=1)), "emails"),
            ]

    trio.run(use)
    assert call("retry", "--url", other, "email-1").status == 0


# Many tasks


async def push_many(url: str, number: int) -> None:
    """Push so many tasks: one in ten is done, one has failed, and one is delayed."""
    async with open_url(url, keep_results=1e9, synchronous="NORMAL") as storage:
        for start in range(0, number, 1000):
            rest = min(1000, number - start)
            await storage.push_bulk([{"to": f"{start + each}@example.com", "n": each} for each in range(rest)])
            for each in range(rest // 10):
                task = await storage.receive()
                await storage.settle(task, Succeeded({"n": each}) if each % 2 else Failed(ConnectionError(str(each))))
            await storage.push(None, delay=3600.0, metadata={"start": start})


@pytest.mark.nightly
def test_many_tasks_come_back_byte_for_byte(tmp_path: Path) -> None:
    number = scaled(100_000)
    urls = [url_of(kind, below(tmp_path, name)) for name, kind in (("a", "sqlite"), ("b", "file"), ("c", "sqlite"))]
    trio.run(push_many, urls[0], number)
    dump = exported(urls[0])
    assert records(dump.splitlines()[-1])[0]["tasks"] >= number
    for url in urls[1:]:
        ended = call("import", "--url", url, "-", stdin=dump)
        assert (ended.status, ended.err) == (0, "")
        dump_again = exported(url)
        assert dump_again == dump
        dump = dump_again
        assert call("doctor", "--url", url).status == 0


def number_of_tasks(url: str) -> int:
    ended = call("queues", "--url", url)
    return sum(each["waiting"] for each in ended.records) if ended.status == 0 else 0


@everywhere
def test_an_import_that_was_killed_is_repeated(kind: str, tmp_path: Path) -> None:
    url, other = url_of("sqlite", tmp_path), url_of(kind, below(tmp_path, "other"))
    trio.run(push_many, url, 3000)
    dump = exported(url)
    lines = dump.encode().splitlines(keepends=True)
    line = command("import", "--url", other, "-")
    with subprocess.Popen(line, stdin=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(lines[:2000]) + lines[2000][:50])
        process.stdin.flush()
        while not number_of_tasks(other):  # as long as the machine needs for it
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert 0 < number_of_tasks(other) < 3000
    ended = call("import", "--url", other, "-", stdin=dump)
    assert ended.status == 0, ended
    [numbers] = ended.records
    assert numbers["present"] in (500, 1000, 1500), "each transaction is there as a whole, or not at all"
    assert numbers["imported"] + numbers["present"] == len(lines) - 2
    assert exported(other) == dump
    assert call("doctor", "--url", other).status == 0


# Bad input

TASK = {"kind": "task", "queue": "q", "id": "x", "state": "waiting", "since": 1.0, "payload": {"cbor": 1}}
HEADER = {"kind": "header", "format": "trio_tasks dump", "version": 1}
END = {"kind": "end", "tasks": 1, "schedules": 0}
SCHEDULE = {"kind": "schedule", "name": "s", "times": "every(days=1)", "queue": "q", "done": 0, "payload": {"cbor": 1}}


def text(*lines: object) -> bytes:
    """Return the lines: texts as they are, and others as JSON."""
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)


WHAT_IT_IS = "A dump is what `trio-tasks export` writes: lines of JSON, of which the first is {"
WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the file is empty, and no dump, which is what `trio-tasks export` writes"),
    "no header": (text(TASK), f"line 1: it must be the header of a dump, and is not. {WHAT_IT_IS}"),
    "text": (b"id,queue\n", WHAT_IT_IS),
    "a store": (b"SQLite format 3\0\xff\n", WHAT_IT_IS),
    "another format": (text({**HEADER, "format": "x"}), "line 1: it must be the header of a dump, and is not."),
    "a newer version": (
        text({**HEADER, "version": 2}),
        "line 1: its version is 2, and this trio_tasks reads 1; import",
    ),
    "no version": (text({"kind": "header", "format": "trio_tasks dump"}), "line 1: its version is null"),
    "binary": (b"\xff\xfe\0", "line 1: it must be text in UTF-8, and is not"),
    "long": (b"{" * 10_000, "line 1: it must be an object of JSON, and is not"),
}
IN_LINE_3: dict[str, tuple[object, str]] = {
    "cut off": (b'{"kind": "task", "que', "it must be an object of JSON, and is not: Unterminated string"),
    "NaN": (b'{"kind": "task", "queue": "q", "id": "a", "since": NaN}\n', "NaN is no number of JSON"),
    "infinity": (b'{"kind": "task", "queue": "q", "id": "a", "since": 1e999}\n', "1e999 is too large for a number"),
    "deep": (b'{"a":' * 100_000 + b"\n", "it must be an object of JSON, and is not"),
    "digits": (b'{"kind": "task", "attempt": ' + b"9" * 5000 + b"}\n", "it "),
    "empty": (b"\n", "it must be an object of JSON, and is not"),
    "list": ([], "it must be an object of JSON, and is []"),
    "kind": ({"kind": "job"}, 'its "kind" must be one of header, queue, limits, task, schedule, end, not "job"'),
    "no kind": ({"id": "a"}, 'its "kind" must be one of'),
    "second header": (HEADER, "it is a header, which stands in the first line alone"),
    "no queue": ({**TASK, "queue": ""}, "queue must be a text that is not empty"),
    "no id": ({"kind": "task", "queue": "q", "state": "waiting", "payload": {"cbor": 1}}, "it has no id"),
    "wrong id": ({**TASK, "id": 7}, "id must be a string, not 7"),
    "half an id": ({**TASK, "id": "\ud800"}, "id must be encodable as UTF-8"),
    "unknown field": ({**TASK, "prio": 7}, 'it has a field "prio", which this version does not know'),
    "state": ({**TASK, "state": "dead"}, "state must be one of waiting, delayed, running, done, failed, killed"),
    "since": ({**TASK, "since": "never"}, "since must be a time in seconds"),
    "attempt": ({**TASK, "attempt": 1.5}, "attempt must be a whole number"),
    "payload": ({**TASK, "payload": "text"}, 'payload must be {"base64": text} or {"cbor": value}, not "text"'),
    "base64": ({**TASK, "payload": {"base64": "%"}}, 'payload must be {"base64": text}'),
    "both": ({**TASK, "payload": {"base64": "", "cbor": 1}}, 'payload must be {"base64": text}'),
    "bytes": ({**TASK, "payload": {"cbor": {"$bytes": 7}}}, 'payload must be {"base64": text}'),
    "limits of nothing": ({"kind": "limits", "per_key": 1}, "it has no queue"),
    "a limit": ({"kind": "limits", "queue": "q", "per_key": "1"}, "per_key must be a whole number"),
    "a rate": (
        {"kind": "limits", "queue": "q", "rate": [1, 2]},
        'rate must be {"n": number, "per": seconds}, not [1',
    ),
    "n of a rate": ({"kind": "limits", "queue": "q", "rate": {"n": 0, "per": 1}}, "n must be 1 or more"),
    "a limit that is none": ({"kind": "limits", "queue": "q", "most": 1}, 'it has a field "most"'),
    "a limit of a queue": ({"kind": "limits", "queue": "q", "key": "a", "concurrency": 1}, "limits of a whole queue"),
    "a key of limits": ({"kind": "limits", "queue": "q", "key": ""}, "key must be a text"),
    "paused": ({"kind": "queue", "queue": "q", "is_paused": 1}, "is_paused must be true or false"),
    "number of tasks": (
        {**END, "tasks": 7},
        "it says that there are 7 tasks and 0 schedules, and before it are 1 and 0",
    ),
    "times": ({**SCHEDULE, "times": 5}, "times must be a text, not 5"),
    "missed": ({**SCHEDULE, "missed": "never"}, "missed must be latest, skip or all"),
    "option": ({**SCHEDULE, "options": {"attempts": 0}}, "attempts must be 1 or more"),
    "unknown option": ({**SCHEDULE, "options": {"x": 0}}, "options has no x; it may have attempts"),
    "metadata": ({**SCHEDULE, "metadata": {"cbor": [1]}}, "options and metadata must be objects"),
}


def refused(ended: Ended, told: str) -> None:
    assert ended.status == 2, ended
    assert ended.out == ""
    assert told in ended.err
    assert "Traceback" not in ended.err and len(ended.err) < 700


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_dump_makes_no_store(name: str, tmp_path: Path) -> None:
    given, told = WRONG[name]
    refused(call("import", "--url", url_of("sqlite", tmp_path), "-", stdin=given), told)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that is made once, since a wrong line does not change it."""
    url = url_of("sqlite", tmp_path_factory.mktemp("store"))
    assert call("migrate", "--url", url).status == 0
    return url


@pytest.mark.parametrize("name", IN_LINE_3)
def test_a_wrong_line_is_told_with_its_number(name: str, store: str) -> None:
    wrong, told = IN_LINE_3[name]
    refused(call("import", "--url", store, "-", stdin=text(HEADER, TASK, wrong)), "line 3: ")
    ended = call("import", "--url", store, "-", stdin=text(HEADER, TASK, wrong))
    assert told in ended.err
    found = call("ls", "--url", store).records
    assert {each["id"] for each in found} <= {"x"}, "what is before a line of another kind is a transaction of its own"


@everywhere
def test_nothing_of_the_transaction_of_a_wrong_line_is_stored(kind: str, tmp_path: Path) -> None:
    url = url_of(kind, tmp_path)
    many = [{**TASK, "id": str(number)} for number in range(1200)]
    ended = call("import", "--url", url, "-", stdin=text(HEADER, *many, b"{\n"))
    assert ended.status == 2
    assert ended.err.startswith("trio-tasks: before that, 1000 tasks imported; the import can be repeated\n")
    assert "line 1202: " in ended.err
    assert number_of_tasks(url) == 1000
    ended = call("import", "--url", url, "-", "--no-json", stdin=text(HEADER, *many, {**END, "tasks": 1200}))
    assert (ended.status, ended.out) == (0, "200 tasks imported, 1000 there already\n")


def test_a_dump_without_its_end_was_cut_off(tmp_path: Path) -> None:
    url = url_of("sqlite", tmp_path)
    ended = call("import", "--url", url, "-", stdin=text(HEADER, TASK))
    assert ended.status == 2
    assert "the dump ends after line 2 without its last line: it was cut off" in ended.err
    ended = call("import", "--url", url, "-", stdin=text(HEADER, TASK, END, TASK))
    assert "line 4: it stands after the last line of the dump" in ended.err


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transferring, "_LONGEST_LINE", 1000)
    given = text(HEADER, {**TASK, "payload": {"cbor": "x" * 1000}}, END)
    refused(
        call("import", "--url", url_of("sqlite", tmp_path), "-", stdin=given), "line 2: it must have 1,000 bytes at"
    )


@everywhere
def test_tasks_that_are_there_are_not_overwritten(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    dump = exported(url)
    lines = records(dump)
    for each in lines:
        if each.get("id") == "email-0":
            each["payload"] = {"cbor": "another"}
    lines.insert(-1, {**TASK, "queue": "emails", "id": "new", "unique": "e", "options": _options_of(lines)})
    lines.insert(-1, {**TASK, "queue": "sms", "id": "new"})
    lines[-1]["tasks"] += 2
    ended = call("import", "--url", url, "-", "--no-json", stdin=text(*lines))
    assert ended.status == 1
    assert ended.out == "1 task imported, 5 there already, 2 refused\n"
    assert ended.err.splitlines() == [
        "trio-tasks: line 2: task email-0 was not imported: another task of this id is there",
        "trio-tasks: line 8: task new was not imported: its unique key 'e' is held by task email-4",
    ]
    assert call("show", "--url", url, "email-0").records[0]["args"] == {"to": "a"}


def _options_of(lines: list[dict[str, Any]]) -> Any:
    return next(each["options"] for each in lines if each.get("unique") == "e")


def test_a_schedule_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    url, end = url_of("sqlite", tmp_path), {"kind": "end", "tasks": 0, "schedules": 1}
    assert call("import", "--url", url, "-", stdin=text(HEADER, SCHEDULE, end)).status == 0
    other = {**SCHEDULE, "times": "every(days=2)"}
    ended = call("import", "--url", url, "-", stdin=text(HEADER, other, end))
    assert (ended.status, ended.records[0]["schedules"]["refused"]) == (1, 1)
    assert ended.err == "trio-tasks: line 2: schedule s is there already, and another one\n"
    assert records(exported(url))[1]["times"] == "every(days=1)"


@everywhere
def test_a_queue_with_tasks_or_other_limits_keeps_its_own(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    given = call("limits", "--url", url, "emails", "--per-key", "2").records
    call("limits", "--url", url, "emails", "--key", "a", "--per-key", "3")
    dump = exported(url)
    call("limits", "--url", url, "emails", "--per-key", "4")
    call("limits", "--url", url, "emails", "--key", "a", "--none")
    ended = call("import", "--url", url, "-", stdin=dump)
    assert ended.err.splitlines() == [
        "trio-tasks: queue emails: it has other limits already: it stays so",
        "trio-tasks: queue emails, key a: it has tasks already, and no such limits: it stays so",
    ]
    assert ended.status == 0
    assert call("limits", "--url", url, "emails").records[0]["per_key"] == 4
    assert call("limits", "--url", url, "emails", "--key", "a").records[0]["per_key"] is None
    call("limits", "--url", url, "emails", "--per-key", "2")
    call("limits", "--url", url, "emails", "--key", "a", "--per-key", "3")
    again = call("import", "--url", url, "-", stdin=dump)
    assert (again.status, again.err) == (0, "")
    of_queue, of_key = call("limits", "--url", url, "emails").records
    assert ([of_queue], of_key["key"], of_key["per_key"]) == (given, "a", 3)


@everywhere
def test_imported_limits_hold_for_the_imported_tasks(kind: str, tmp_path: Path) -> None:
    url, other = url_of(kind, below(tmp_path, "one")), url_of(kind, below(tmp_path, "two"))

    async def fill() -> None:
        async with open_url(url, queue="emails", limits=Limits(per_key=1)) as storage:
            for number in range(4):
                await storage.push_task(TaskBuilder(number).key("a").build() if number < 3 else Task(number))

    async def use() -> None:
        async with open_url(other, queue="emails") as storage:
            assert (await storage.metrics())["held_now"] == 2
            received = [await storage.receive(), await storage.receive()]
            assert {task.parts.key for task in received} == {"a", None}
            with pytest.raises(trio.WouldBlock):
                storage.receive_nowait()
            assert await storage.audit()

    trio.run(fill)
    assert call("import", "--url", other, "-", stdin=exported(url)).status == 0
    trio.run(use)


@everywhere
def test_a_queue_with_tasks_is_not_paused(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    call("pause", "--url", url, "sms")
    dump = exported(url)
    call("resume", "--url", url, "sms")
    ended = call("import", "--url", url, "-", stdin=dump)
    assert (ended.status, ended.err) == (0, "trio-tasks: queue sms has tasks already, and is not paused: it stays so\n")
    other = url_of(kind, below(tmp_path, "other"))
    call("import", "--url", other, "-", stdin=dump)
    assert [each["is_paused"] for each in call("queues", "--url", other).records] == [False, True]


# Files and pipes


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "none"), "\0", "x" * 5000):
        ended = call("import", "--url", url_of("sqlite", tmp_path), name)
        assert ended.status == 2
        assert "cannot be read" in ended.err or "null" in ended.err
    assert not list(tmp_path.iterdir())


def test_an_old_store_is_not_migrated_by_an_import(tmp_path: Path) -> None:
    from tests.cli.test_checking import old_store

    url = old_store(tmp_path)
    ended = call("import", "--url", url, "-", stdin=text(HEADER, TASK, END))
    assert ended.status == 4
    assert ended.err.endswith("; `trio-tasks migrate` does that\n")


def test_a_pipe_that_is_closed_and_a_disk_that_is_full(tmp_path: Path) -> None:
    url = url_of("sqlite", tmp_path)
    trio.run(push_many, url, 1500)
    with subprocess.Popen(command("export", "--url", url), stdout=-1, stderr=-1, env=environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == json.dumps(HEADER).encode() + b"\n"
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (1, b"")
    if os.path.exists("/dev/full"):  # noqa: PTH110  it is no file
        with open("/dev/full", "wb") as full:  # noqa: PTH123  the same
            done = subprocess.run(
                command("export", "--url", url), stdout=full, stderr=-1, env=environment(), timeout=60, check=False
            )
        assert done.returncode == 1
        assert (
            done.stderr
            == b"trio-tasks: standard output cannot be written: No space left on device; the dump is cut off\n"
        )


@pytest.mark.parametrize("kind", ["pipe", "fifo"])
def test_an_import_that_waits_for_lines_can_be_interrupted(kind: str, tmp_path: Path) -> None:
    url, fifo = url_of("sqlite", below(tmp_path, "store")), tmp_path / "fifo"
    os.mkfifo(fifo)
    line = command("import", "--url", url, "-" if kind == "pipe" else str(fifo))
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None and process.stderr is not None
        with process.stdin if kind == "pipe" else fifo.open("wb") as given:
            given.write(text(HEADER, *[{**TASK, "id": str(number)} for number in range(600)]))
            given.flush()
            while number_of_tasks(url) < 500:  # as long as the machine needs for it
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            told = "trio-tasks: before that, 500 tasks imported; the import can be repeated"
            assert process.stderr.read().decode().strip() == told


ODD_BYTES = [
    b"",
    b"\x18\x01",
    b"\xf9\x7e\x00",
    b"\xfb\x80\0\0\0\0\0\0\0",
    b"\x01\x02",
    b"\xa2\x61a\x01\x61a\x02",
    b"\x9f\xff",
]
ODD_BYTES += [
    b"\xc0\x74" + b"2026-11-28T09:30:00Z",
    b"\xc2\x42\x01\x00",
    b"\xd8\x1c\x80",
    b"\x81" * 500 + b"\x80",
    b'{"a": 1}',
]
ODD_BYTES += [
    b"\xa1\x01\x02",
    b"\xa1\x66$bytes\x41\x00",
    b"\x41\x00",
    b"\x81\x44\x00\xff\n\r",
    b"\x61\xff",
    bytes(range(256)),
]


@pytest.mark.parametrize("data", ODD_BYTES, ids=lambda data: data[:8].hex())
def test_bytes_come_back_whatever_they_are(data: bytes) -> None:
    """As a value they stand there only if that gives the same bytes again."""
    line = dump_format.line({"payload": dump_format.shown_bytes(data)})
    assert dump_format.read_bytes("payload", json.loads(line)["payload"]) == data
