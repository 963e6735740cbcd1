"""The commands that call functions of a router: push, run, replay."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import trio
from trio_tasks import Task, open_url

from tests.cli._command import KINDS, call, command, environment, url_of

everywhere = pytest.mark.parametrize("kind", KINDS)
TASKS = "tests.cli._router:tasks"


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = url_of("sqlite", tmp_path)
    assert call("migrate", "--url", found).status == 0
    return found


@everywhere
def test_what_is_pushed_is_run(kind: str, tmp_path: Path) -> None:
    url = url_of(kind, tmp_path)
    call("migrate", "--url", url)
    pushed = call("push", TASKS, "double", "n=21", "--url", url, "--id", "a", "--metadata", "tenant=acme")
    assert (pushed.status, pushed.err) == (0, "")
    assert pushed.records == [{"queue": "numbers", "id": "a", "name": "double"}]
    files = ["path=/tmp/x", "day=2026-11-28", "title=12", "sizes=[1,2]"]
    ended = call("push", TASKS, "describe", *files, "--url", url, "--id", "b", "--no-json")
    assert (ended.status, ended.out) == (0, "b\n")
    ran = call("run", TASKS, "--url", url, "--until-idle", "--json")
    assert (ran.status, ran.records[0]["succeeded"]) == (0, 2)
    a, b = call("show", "--url", url, "a", "b").records
    assert (a["result"], a["metadata"]) == (42, {"tenant": "acme"})
    assert b["result"] == "/tmp/x 2026 12 [1, 2]"


def test_run_takes_the_queues_that_are_named(url: str) -> None:
    call("push", TASKS, "double", "n=1", "--url", url, "--id", "a")
    call("push", TASKS, "describe", "path=x", "day=2026-11-28", "--url", url, "--id", "b", "--delay", "0")
    assert call("run", TASKS, "--url", url, "--until-idle", "--queues", "numbers=3").status == 0
    assert [each["status"] for each in call("show", "--url", url, "a", "b").records] == ["Done", "Pending"]
    ended = call("run", TASKS, "--url", url, "--queues", "nothing=3")
    assert ended.status == 3
    assert "has no queue 'nothing'; it has" in ended.err


def test_options_of_a_push(url: str) -> None:
    when = ["--delay", "1h", "--priority", "3", "--attempts", "2", "--timeout", "5", "--unique", "k", "--key", "acme"]
    when += ["--deadline", "2h"]
    [first] = call("push", TASKS, "double", "n=1", "--url", url, *when).records
    [second] = call("push", TASKS, "double", "n=2", "--url", url, "--unique", "k").records
    assert first["id"] == second["id"]
    [shown] = call("show", "--url", url, first["id"]).records
    assert (shown["priority"], shown["attempts"], shown["timeout"]) == (3, 2, 5.0)
    assert (shown["unique"], shown["key"]) == ("k", "acme")
    left = datetime.fromisoformat(shown["deadline_at"]) - datetime.fromisoformat(shown["pushed_at"])
    assert round(left.total_seconds()) == 7200
    assert "it is killed at its deadline, in" in call("explain", "--url", url, first["id"], "--no-json").out
    wrong = call("push", TASKS, "double", "n=1", "--url", url, "--deadline", "0")
    assert (wrong.status, "deadline must be more than 0 seconds" in wrong.err) == (2, True)
    later = call("push", TASKS, "double", "n=1", "--url", url, "--run-at", "2199-01-01T00:00Z", "--id", "later")
    assert later.status == 0
    assert call("show", "--url", url, "later").records[0]["run_at"] == "2199-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 2, "give the name of a task after tests.cli._router:tasks; it has describe, double\n"),
        (["nothing"], 3, "has no task 'nothing'; it has describe, double\n"),
        (["tests.cli._router:double"], 3, "has no task 'tests.cli._router:double'; it has describe, double\n"),
        (["double"], 2, "trio-tasks: task double misses the argument 'n'\n"),
        (["double", "n=x"], 2, "args of double.n must be int, not str"),
        (["double", "n=NaN"], 2, "must be int"),
        (["double", "n=1", "m=2"], 2, "trio-tasks: task double has no parameter 'm'; it takes n\n"),
        (["double", "n=1", "attempt=2"], 2, "trio-tasks: task double takes no 'attempt': a worker fills it in\n"),
        (["double", "n"], 2, "'n' is not ARGUMENT=VALUE, such as n=VALUE; task double takes n\n"),
        (
            ["describe", "7"],
            2,
            "'7' is not ARGUMENT=VALUE, such as path=7; task describe takes path, day, title, sizes\n",
        ),
        (["double", "n=1", "--delay", "1h", "--run-at", "2199-01-01"], 2, "not both"),
        (["double", "n=1", "--id", ""], 2, "id"),
        (["double", "n=1", "--run-at", "tomorrow"], 2, "is no moment"),
        (["describe", "path=x", "day=no day"], 2, "day"),
    ],
)
def test_a_wrong_push_is_refused(arguments: list[str], status: int, told: str, url: str) -> None:
    ended = call("push", TASKS, *arguments, "--url", url)
    assert (ended.status, ended.out) == (status, "")
    assert told in ended.err and "Traceback" not in ended.err
    assert call("ls", "--url", url).out == ""


def test_a_task_without_arguments_takes_none(url: str) -> None:
    ended = call("push", TASKS.replace("tasks", "others"), "ping", "7", "--url", url)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "trio-tasks: '7' is not ARGUMENT=VALUE, and task ping takes no arguments\n"


@pytest.mark.parametrize("line", [["push"], ["push", "n=1"], ["doctor"]])
def test_a_task_in_place_of_its_router_is_refused(line: list[str], url: str) -> None:
    ended = call(line[0], "tests.cli._router:double", *line[1:], "--url", url)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "trio-tasks: tests.cli._router:double is a task, and no Router: name the Router, such as app:tasks, and the "
        "task after it, as in trio-tasks push app:tasks double\n"
    )


@pytest.mark.parametrize("queues", ["numbers", "numbers=0", "numbers=x", "=3", "numbers=-1"])
def test_slots_that_are_none_are_refused(queues: str, url: str) -> None:
    assert call("run", TASKS, "--url", url, "--queues", queues).status == 2


def test_run_needs_a_storage_for_a_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_TASKS_URL", raising=False)
    assert "give it by --url or TRIO_TASKS_URL, such as --url" in call("run", TASKS).err
    assert call("run", TASKS, "--url", "nothing:").status == 2


@everywhere
@pytest.mark.parametrize("seed", [[], ["--seed", "7"]])
def test_replay_settles_nothing(kind: str, seed: list[str], tmp_path: Path) -> None:
    url = url_of(kind, tmp_path)
    call("migrate", "--url", url)
    call("push", TASKS, "double", "n=13", "--attempts", "1", "--id", "a", "--url", url)
    call("push", TASKS, "double", "n=4", "--id", "b", "--delay", "1h", "--url", url)
    call("run", TASKS, "--url", url, "--until-idle")
    before = call("show", "a", "b", "--url", url).out
    ended = call("replay", "a", TASKS, "--url", url, "--no-json", *seed)
    assert (ended.status, ended.out) == (1, "Failed: ValueError: unlucky in attempt 1\n")
    lines = ended.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[1].endswith(", in double")
    assert lines[-1] == "ValueError: unlucky in attempt 1" and len(lines) == 4, "no frame but those of the program"
    ended = call("replay", "b", TASKS, "--url", url, *seed)
    assert ended.status == 0
    assert ended.records == [{"id": "b", "outcome": "Succeeded", "error": None, "result": 8}]
    assert call("show", "a", "b", "--url", url).out == before
    assert call("replay", "nothing", TASKS, "--url", url).status == 3


def test_replay_with_what_a_worker_gives(url: str) -> None:
    others = TASKS.replace("tasks", "others")
    for number in (7, 8):
        call("push", others, "half", f"n={number}", "--id", str(number), "--url", url)
    for line in (["replay", "8", others], ["run", others, "--until-idle"]):
        ended = call(*line, "--url", url)
        assert (ended.status, ended.out) == (2, "")
        assert "'settings: Data[Settings]' is not in data" in ended.err and "by --data" in ended.err
        assert "Traceback" not in ended.err
    given = ["--data", TASKS.replace("tasks", "settings")]
    assert call("replay", "8", others, *given, "--url", url, "--no-json").out == 'Succeeded: "4 by Settings"\n'
    ended = call("replay", "7", others, *given, "--url", url, "--no-json")
    assert (ended.status, ended.out) == (1, "Suspended: odd\n")


async def plain(task: Task[int]) -> int:
    return task.args + 1


async def typed(n: str) -> str:
    return n


def test_replay_with_a_handler(url: str) -> None:
    async def push() -> None:
        async with open_url(url, int, queue="q") as storage:
            await storage.push(1, id="a")

    trio.run(push)
    module = "tests.cli.test_pushing"
    assert call("replay", "a", f"{module}:plain", "--url", url, "-q", "q").records[0]["result"] == 2
    ended = call("replay", "a", f"{module}:typed", "--url", url)
    assert ended.status == 1
    assert "the task cannot be read" in ended.err


def test_the_debugger_opens_where_an_attempt_has_failed(url: str) -> None:
    call("push", TASKS, "double", "n=13", "--attempts", "1", "--id", "a", "--url", url)
    line = command("replay", "a", TASKS, "--pdb", "--url", url)
    done = subprocess.run(
        line, input=b"p n + 1\nq\n", env=environment(), capture_output=True, timeout=60, check=False, cwd=Path.cwd()
    )
    assert done.returncode == 1, done.stderr
    assert b"unlucky" in done.stdout and b"(Pdb) 14" in done.stdout
