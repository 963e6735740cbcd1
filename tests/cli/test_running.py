"""The command ``run``: programs that are imported, signals, several processes, reloading, systemd."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Monitor, Worker, open_url
from trio_tasks._cli import running as running_command
from trio_tasks._cli.processes import RELOADED, changed_at

from tests.cli._command import call, command, environment

APP = """
    import os
    from contextlib import asynccontextmanager
    import trio
    from trio_tasks import FileStorage, Monitor, Router, SqliteStorage, Worker

    async def work(what: str) -> str:
        if what == "sleep":
            await trio.sleep_forever()
        return f"{what} in {os.getpid()}"

    @asynccontextmanager
    async def app():
        async with SqliteStorage("tasks.db", str, queue="work") as storage:
            monitor = Monitor()
            monitor.register(Worker("ann", storage, work))
            yield monitor

    async def generator():
        async with app() as monitor:
            yield monitor

    def returns():
        monitor = Monitor()
        monitor.register(Worker("bob", trio.open_memory_channel(1)[1], work))
        return monitor

    async def coroutine():
        return returns()

    def nothing():
        return 7

    def fails():
        async def broken(what: str) -> None: ...
        send, receive = trio.open_memory_channel(1)
        receive.close()
        monitor = Monitor()
        monitor.register(Worker("cid", receive, work))
        return monitor

    @asynccontextmanager
    async def journal():
        async with FileStorage("tasks.journal", str, queue="work") as storage:
            monitor = Monitor()
            monitor.register(Worker("ann", storage, work))
            yield monitor

    async def needs(settings):
        yield returns()

    number = 7
    tasks = Router()

    @tasks.task(queue="naps")
    async def nap() -> None:
        await trio.sleep_forever()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, "app.py", APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    push(tmp_path, "a", "b")
    return tmp_path


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).write_text(textwrap.dedent(source))


def push(folder: Path, *what: str) -> list[str]:
    async def push_all() -> list[str]:
        async with open_url(f"sqlite:///{folder}/tasks.db", queue="work") as storage:
            return [str(await storage.push(each)) for each in what]

    return trio.run(push_all)


def tasks(folder: Path) -> dict[str, dict[str, Any]]:
    found = call("ls", "--url", f"sqlite:///{folder}/tasks.db").records
    return {each["id"]: each for each in found}


@pytest.mark.parametrize("name", ["app", "generator"])
def test_a_program_runs_until_it_is_idle(name: str, folder: Path) -> None:
    ended = call("run", f"app:{name}", "--until-idle", "--json")
    assert ended.status == 0, ended
    [report] = ended.records
    assert (report["succeeded"], report["interrupted"], report["errors"]) == (2, [], [])
    told = f"trio-tasks: app:{name} runs: work 8 slots; Ctrl-C or SIGTERM shuts it down, a second one cancels what runs"
    assert told in ended.err.splitlines()
    assert {each["status"] for each in tasks(folder).values()} == {"Done"}


@pytest.mark.parametrize("name", ["returns", "coroutine"])
def test_a_function_may_return_its_monitor(name: str, folder: Path) -> None:
    ended = call("run", f"app:{name}", "--until-idle", "--no-json")
    assert ended.status == 0
    assert ended.out == "attempts: 0 succeeded, 0 to be retried, 0 failed, 0 killed\n"


def test_a_worker_that_fails_is_told_in_the_exit_status(folder: Path) -> None:
    ended = call("run", "app:fails", "--no-json")
    assert ended.status == 1
    assert "ClosedResourceError" in ended.err
    assert ended.out.splitlines()[1:] == ["workers: 1 error, 0 restarts", "error: ClosedResourceError: "]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("app", "is not MODULE:NAME"),
        (":app", "is not MODULE:NAME"),
        ("app:", "is not MODULE:NAME"),
        ("app:missing", "has no attribute 'missing'"),
        ("nowhere:app", "No module named 'nowhere'"),
        ("app:nothing", "must return a Monitor, not int"),
        ("..app:app", "cannot be imported"),
        ("\x1b[31m:x", "cannot be imported"),
    ],
)
def test_a_wrong_target_is_told(target: str, told: str, folder: Path) -> None:
    ended = call("run", target)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err
    assert "_cli" not in ended.err and "importlib" not in ended.err


NEITHER = "and neither a Router nor a function that returns a Monitor"
A_TASK = "app:nap is a task, and no Router: name the Router, such as app:tasks"
WRONG = [
    (["run", "app:nap"], f"{A_TASK}, as in trio-tasks run app:tasks"),
    (["run", "app:number"], f"app:number is a int, {NEITHER}"),
    (["run", "app:trio"], f"app:trio is a module, {NEITHER}"),
    (["run", "app:Router"], "app:Router must return a Monitor, not Router"),
    (["run", "app:work"], "app:work must be a function without arguments that returns a Monitor: missing a "),
    (
        ["run", "app:needs"],
        "app:needs must be a function without arguments that returns a Monitor: missing a ",
    ),
    (["run", "app:tasks", "--url", "sqlite:///tasks.db", "--queues", "x=1"], "app:tasks has no queue 'x'; it has naps"),
    (["push", "app:nap"], f"{A_TASK}, and the task after it, as in trio-tasks push app:tasks nap"),
    (["push", "app:number", "nap"], "app:number is a int, and no Router"),
    (["push", "app:returns", "nap"], "app:returns is a function, and no Router"),
    (["doctor", "app:nap"], A_TASK),
    (["doctor", "app:trio"], "app:trio is a module, and no Router"),
    (["replay", "a", "app:nap"], f"{A_TASK}, as in trio-tasks replay ID app:tasks"),
    (["replay", "a", "app:number"], "app:number is a int, and neither a Router nor a handler"),
    (["replay", "a", "app:trio"], "app:trio is a module, and neither a Router nor a handler"),
]
"""Commands with a thing of the wrong kind, and what they tell."""


@pytest.mark.parametrize(("line", "told"), WRONG, ids=lambda each: " ".join(each[:3]) if isinstance(each, list) else "")
def test_a_thing_of_the_wrong_kind_is_told_in_a_line(
    line: list[str], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_TASKS_URL", "sqlite:///tasks.db")
    ended = call(*line)
    assert ended.status == (3 if "--queues" in line else 2)
    assert ended.err.startswith(f"trio-tasks: {told}")
    assert (ended.out, ended.err.count("\n")) == ("", 1)


def test_a_program_with_a_journal_is_refused_in_several_processes(folder: Path) -> None:
    with running("app:journal", "--processes", "3") as process:
        status, _, err = ended(process)
    assert status == 2
    told = "trio-tasks: the program opens a journal, which has one process, in each of several: leave out --processes"
    assert err.count(told) == 1
    assert "started again" not in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///nowhere/x.journal", "a journal (file:…) has one process"),
        ("memory://", "memory:// is a storage inside one process"),
    ],
)
def test_several_processes_on_a_storage_of_one_are_refused(url: str, told: str, folder: Path) -> None:
    ended = call("run", "app:tasks", "--url", url, "--processes", "2")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"trio-tasks: {told}: leave out --processes, or use sqlite:///tasks.db\n"


def test_a_router_without_a_url_is_told_which(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_TASKS_URL", raising=False)
    ended = call("run", "app:tasks")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith("by --url or TRIO_TASKS_URL, such as --url sqlite:///tasks.db\n")


def test_an_error_while_importing_shows_the_traceback_of_the_program(folder: Path) -> None:
    write(folder, "broken.py", "def f():\n    raise RuntimeError('no such setting')\nf()\n")
    ended = call("run", "broken:app")
    assert ended.status == 2
    lines = ended.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "broken.py" in lines[1]
    assert lines[-2:] == ["RuntimeError: no such setting", "trio-tasks: broken:app cannot be imported"]
    write(folder, "leaves.py", "import sys\nsys.exit(9)\n")
    assert call("run", "leaves:app").status == 2


# Processes


@contextmanager
def running(*arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run as a process, in the current folder."""
    line = command("run", *arguments)
    with subprocess.Popen(line, stdout=-1, stderr=-1, env=environment(**more), start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is so; the timeout of the test is the bound."""
    while not (found := condition()):
        time.sleep(0.02)
    return found


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def is_running(folder: Path, *ids: str) -> bool:
    found = tasks(folder)
    return all(found[each]["status"] == "Running" for each in ids)


def test_the_first_signal_shuts_down_and_the_second_one_cancels(folder: Path) -> None:
    [task_id] = push(folder, "sleep")
    with running("app:app") as process:
        until(lambda: is_running(folder, task_id))
        process.send_signal(signal.SIGTERM)
        errors = process.stderr
        assert errors is not None
        until(lambda: b"shutting down" in errors.readline())
        assert process.poll() is None and is_running(folder, task_id)
        process.send_signal(signal.SIGTERM)
        status, out, err = ended(process)
    assert status == 6, err
    [report] = [json.loads(line) for line in out.splitlines()]
    assert report["interrupted"][0]["id"] == task_id
    assert "sleep_forever" in report["interrupted"][0]["line"]
    assert tasks(folder)[task_id]["status"] == "Pending"


def test_a_shutdown_that_takes_too_long_is_cut_short(folder: Path) -> None:
    [task_id] = push(folder, "sleep")
    with running("app:app", "--shutdown-timeout", "0.1") as process:
        until(lambda: is_running(folder, task_id))
        process.send_signal(signal.SIGINT)
        status, _, err = ended(process)
    assert status == 6, err


def test_processes_are_started_again_and_ended_together(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    first = free_ports(2)
    addresses = [f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"]
    options = ["--processes", "2", "--shutdown-timeout", "0.1", "--health", addresses[0]]
    with running("app:app", *options) as process:
        until(lambda: is_running(folder, *ids))
        until(lambda: [ask(each, "/ready")[0] for each in addresses] == [200, 200])
        assert ask(addresses[1], "/ready")[1]["queues"] == {"work": "open"}
        pids = children(process.pid)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: len(children(process.pid)) == 2 and pids[0] not in children(process.pid))
        until(lambda: [ask(each, "/ready")[0] for each in addresses] == [200, 200])
        process.send_signal(signal.SIGTERM)
        status, out, err = ended(process)
    assert status == 6, err
    assert "trio-tasks: app:app in 2 processes; Ctrl-C or SIGTERM shuts it down" in err
    assert "ended with status 137: it is started again" in err
    for number, address in enumerate(addresses, start=1):
        assert f"trio-tasks: app:app runs in process {number}: work 8 slots; health on http://{address}\n" in err
    [report] = [json.loads(line) for line in out.splitlines()]
    assert (report["processes"], report["unreported"], report["errors"]) == (2, 1, [])
    assert {each["process"] for each in report["interrupted"]} <= {1, 2}, "one was killed, and its tasks have a lease"
    assert len(report["interrupted"]) >= 8 and {each["id"] for each in report["interrupted"]} <= {*ids}


def test_ctrl_c_at_a_terminal_reaches_each_process_once(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    with running("app:app", "--processes", "2", "--no-json") as process:
        errors = process.stderr
        assert errors is not None
        until(lambda: is_running(folder, *ids))
        groups = {os.getpgid(each) for each in children(process.pid)}
        assert process.pid not in groups, "else a terminal would signal them, and so would the process above them"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the group in the foreground
        told = [until(lambda: b"shutting down" in (line := errors.readline()) and line.decode()) for _ in range(2)]
        assert process.poll() is None and is_running(folder, *ids)
        os.killpg(process.pid, signal.SIGINT)
        status, out, err = ended(process)
    assert status == 6, err
    assert all(" SIGINT: shutting down" in each for each in told), "not the signal of the process above"
    assert sorted(each.partition(" process ")[2][0] for each in told) == ["1", "2"]
    lines = out.splitlines()
    assert lines[0].startswith("2 processes, attempts: 2 succeeded, 0 to be retried, 0 failed, 0 killed")
    assert lines[1] == "of those running at shutdown: 0 finished, 16 interrupted"
    assert len(lines) == 2 + 16 and all(" of worker 'ann' in process " in each for each in lines[2:])


def test_processes_shut_down_when_the_one_that_started_them_is_killed(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    with running("app:app", "--processes", "2", "--shutdown-timeout", "0.1") as process:
        until(lambda: is_running(folder, *ids))
        pids = children(process.pid)
        assert len(pids) == 2
        process.kill()
        _, out, _ = ended(process)  # once the processes below have closed their standard output
    reports = [json.loads(line) for line in out.splitlines()]
    assert len(reports) == 2, "each of them has ended in order"
    assert sorted(each["id"] for report in reports for each in report["interrupted"]) == sorted(ids)
    assert {tasks(folder)[each]["status"] for each in ids} == {"Pending"}, "none waits for the end of a lease"
    until(lambda: not any(map(is_there, pids)))


# Health


def test_health_is_served_as_long_as_the_program_runs(folder: Path) -> None:
    url = f"sqlite:///{folder}/tasks.db"
    assert call("push", "app:tasks", "nap", "--url", url, "--id", "a").status == 0
    with running("app:tasks", "--url", f"{url}?lease=60", "--health", "127.0.0.1:0") as process:
        errors = process.stderr
        assert errors is not None
        line = until(lambda: b"health on" in (line := errors.readline()) and line.decode())
        told = f"trio-tasks: app:tasks runs on {url}: naps 8 slots; health on http://127.0.0.1:"
        assert line.startswith(told) and line.endswith(
            "; Ctrl-C or SIGTERM shuts it down, a second one cancels what runs\n"
        )
        address = line.partition("http://")[2].partition(";")[0]
        until(lambda: is_running(folder, "a"))
        assert ask(address, "/live") == (200, {"live": True})
        status, ready = until(lambda: (found := ask(address, "/ready"))[0] == 200 and found)
        assert (status, ready["queues"]) == (200, {"naps": "open"})
        metrics = ask(address, "/metrics")[1]
        assert 'trio_tasks_slots{queue="naps"' in metrics and metrics.count("# TYPE") > 5
        process.send_signal(signal.SIGTERM)
        until(lambda: ask(address, "/ready")[0] == 503)
        assert ask(address, "/live")[0] == 200
        assert is_running(folder, "a")
        process.send_signal(signal.SIGTERM)
        status, _, err = ended(process)
    assert status == 6, err
    assert ask(address, "/live")[0] == 0


def ask(address: str, path: str) -> tuple[int, Any]:
    """The status and the answer of a request; status 0 if nothing listens there."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0, None
    return status, json.loads(text) if text.startswith("{") else text


def free_ports(number: int) -> int:
    """The first of some ports, one after the other, on which nothing listens."""
    while True:
        with ExitStack() as stack, suppress(OSError):
            first: int = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in range(first + 1, first + number):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@pytest.mark.parametrize(
    "text", ["9000", ":", ":x", ":65536", ":-1", "a b:1", "http://x:1", "[::1:9", "::1:9", "x:1:2"]
)
def test_an_address_that_is_none_is_refused(text: str, folder: Path) -> None:
    ended = call("run", "app:app", "--health", text)
    assert (ended.status, ended.out) == (2, "")
    assert "is not HOST:PORT" in ended.err


def test_addresses() -> None:
    from trio_tasks._cli.serving import address

    assert [str(address(each)) for each in (":9000", "host.example:1", "[::1]:80")] == [
        "0.0.0.0:9000", "host.example:1", "[::1]:80",
    ]  # fmt: skip
    assert str(address("[::1]:80").of_process(2)) == "[::1]:82"
    assert str(address(":0").of_process(0)) == "0.0.0.0:0"


async def test_health_of_two_workers_of_one_queue() -> None:
    from trio_tasks._cli.serving import _Application

    async def send(message: Any) -> None:
        sent.append(message)

    async def work(what: str) -> None:
        await trio.lowlevel.checkpoint()

    sent: list[Any] = []
    storage = MemoryStorage[str](queue="work")
    async with Monitor() as monitor:
        for each in (storage, storage, storage.share(queue="work")):
            monitor.register(Worker("ann", each, work))
        await trio.testing.wait_all_tasks_blocked()
        await _Application(monitor)({"type": "http", "method": "GET", "path": "/ready"}, None, send)
        monitor.shutdown()
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["queues"] == {"work": "open"}


def test_health_needs_hypercorn_and_a_free_port(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ([], ["--reload"], ["--processes", "2"]):
            ended = call("run", "app:app", "--health", place, *option)
            assert (ended.status, ended.out) == (2, "")
            assert f"--health cannot listen on {place}: " in ended.err and ended.err.count("\n") == 1
    ended = call("run", "app:app", "--health", ":65535", "--processes", "2")
    assert ended.status == 2 and "there are not so many" in ended.err
    ended = call("run", "app:app", "--health", "127.0.0.1:0", "--processes", "2")
    assert ended.status == 2 and "2 processes need a port that is known" in ended.err
    monkeypatch.setitem(sys.modules, "hypercorn.trio", None)
    ended = call("run", "app:app", "--health", "127.0.0.1:0")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith(" pip install 'trio_tasks[health]'\n")


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    found: list[int] = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):  # by the thread that has started them
        with suppress(OSError):
            found += map(int, each.read_text().split())
    return sorted(found)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_a_program_is_loaded_again_when_a_file_has_changed(folder: Path) -> None:
    with running("app:app", "--reload") as process:
        until(lambda: {each["status"] for each in tasks(folder).values()} == {"Done"})
        write(folder, "app.py", APP.replace("{what} in", "new {what} in"))
        new: list[str] = []
        until(lambda: is_new(folder, new))
        write(folder, "app.py", "this is no Python")
        errors = process.stderr
        assert errors is not None
        until(lambda: b"process 1 could not begin: it tries again when a file below" in errors.readline())
        write(folder, "app.py", APP.replace("{what} in", "newest {what} in"))
        until(lambda: is_new(folder, new, "newest c"))
        process.send_signal(signal.SIGTERM)
        status, _, err = ended(process)
    assert status == 0, err


def test_a_change_while_the_program_is_imported_is_not_lost(folder: Path) -> None:
    change = "\n    from pathlib import Path\n    Path(__file__).write_text(Path(__file__).read_text() + ' ')\n"
    write(folder, "app.py", APP + change)
    ended = call("run", "app:app", "--reload", "--member", "1")
    assert ended.status == RELOADED, ended


def test_a_program_below_the_prefix_of_python_is_watched_and_installed_packages_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as in ``/usr/src/app``, with a Python in ``/usr``."""
    for prefix in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, prefix, str(tmp_path))
    module = ModuleType("app")
    module.__file__ = str(tmp_path / "app.py")
    monkeypatch.setitem(sys.modules, "app", module)
    assert module.__file__ in running_command._changes()
    assert not {json.__file__, click.__file__} & running_command._changes().keys()


def test_a_file_that_cannot_be_looked_at_has_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code that was made at run time may have any text as its file; and an editor may replace one at any moment."""
    for name in ("x" * 300, "a\0b", "gone.py"):
        module = ModuleType("made")
        module.__file__ = str(tmp_path / name)
        monkeypatch.setitem(sys.modules, "made", module)
        assert running_command._changes()[module.__file__] == 0
    (tmp_path / "app.py").touch()
    assert changed_at(tmp_path / "app.py")


def is_new(folder: Path, ids: list[str], text: str = "new c") -> bool:
    time.sleep(0.2)
    ids += push(folder, "c")
    found = call("show", "--url", f"sqlite:///{folder}/tasks.db", *ids).records
    return any(str(each["result"]).startswith(text) for each in found)


def test_systemd_is_told(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        with running("app:app", NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="100000") as process:
            assert notify.recv(1000) == b"READY=1"
            for _ in range(3):
                assert re.fullmatch(rb"WATCHDOG=1\nSTATUS=[0-8]/8 slots", notify.recv(1000))
            until(lambda: notify.recv(1000) == b"WATCHDOG=1\nSTATUS=0/8 slots")
            process.send_signal(signal.SIGTERM)
            until(lambda: notify.recv(1000) == b"STOPPING=1")
            assert ended(process)[0] == 0


def test_systemd_is_told_of_several_processes(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        options = ["--processes", "2", "--shutdown-timeout", "0"]
        with running("app:app", *options, NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="100000") as process:
            told = [notify.recv(1000)]
            while told[-1] != b"READY=1":
                told.append(notify.recv(1000))
            assert all(each.startswith(b"WATCHDOG=1\nSTATUS=") for each in told[:-1])
            until(lambda: notify.recv(1000) == b"WATCHDOG=1\nSTATUS=16/16 slots")
            assert is_running(folder, *ids)
            process.send_signal(signal.SIGTERM)
            until(lambda: notify.recv(1000) == b"STOPPING=1")
            status, _, err = ended(process)
    assert status == 6, err


async def test_systemd_is_told_that_all_processes_are_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trio_tasks._cli.systemd import Service

    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        await notify.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        with Service().of_processes(2) as service:
            monkeypatch.setenv("NOTIFY_SOCKET", service.environment["NOTIFY_SOCKET"])
            first, second = Service(1), Service(2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.tell)
                for text in ("READY=1", "WATCHDOG=1\nSTATUS=3/8 slots", "READY=1", "STOPPING=1"):
                    first.send(text)
                while (told := await notify.recv(1000)) != b"WATCHDOG=1\nSTATUS=3/8 slots":
                    assert told == b"WATCHDOG=1\nSTATUS=0/0 slots"
                second.send("WATCHDOG=1\nSTATUS=1/8 slots")
                second.send("READY=1")
                while (told := await notify.recv(1000)) != b"READY=1":
                    assert told.startswith(b"WATCHDOG=1\nSTATUS=")
                while await notify.recv(1000) != b"WATCHDOG=1\nSTATUS=4/16 slots":
                    pass
                nursery.cancel_scope.cancel()
        assert not os.path.exists(service.environment["NOTIFY_SOCKET"])  # noqa: ASYNC240, PTH110  it takes no time
