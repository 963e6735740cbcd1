"""The command ``run``: programs that are imported, signals, several processes, reloading, systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import open_url

from tests.cli._command import call, command, environment

APP = """
    import os
    from contextlib import asynccontextmanager
    import trio
    from trio_tasks import Monitor, SqliteStorage, Worker

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

    number = 7
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
    assert {each["status"] for each in tasks(folder).values()} == {"Done"}


@pytest.mark.parametrize("name", ["returns", "coroutine"])
def test_a_function_may_return_its_monitor(name: str, folder: Path) -> None:
    ended = call("run", f"app:{name}", "--until-idle", "--no-json")
    assert ended.status == 0
    assert ended.out == "1 worker run, 0 restarts, 0 tasks drained, 0 interrupted, 0 errors\n"


def test_a_worker_that_fails_is_told_in_the_exit_status(folder: Path) -> None:
    ended = call("run", "app:fails", "--no-json")
    assert ended.status == 1
    assert "ClosedResourceError" in ended.err
    assert ended.out.startswith("1 worker run, 0 restarts, 0 tasks drained, 0 interrupted, 1 error\n")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("app", "is not MODULE:NAME"),
        (":app", "is not MODULE:NAME"),
        ("app:", "is not MODULE:NAME"),
        ("app:missing", "has no attribute 'missing'"),
        ("nowhere:app", "No module named 'nowhere'"),
        ("app:number", "is no function that returns a Monitor"),
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


def test_the_start_of_each_worker_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_tasks")
    assert call("run", "app:app", "--until-idle").status == 0
    assert "worker 'ann' is running, with 8 slots" in caplog.messages


@pytest.mark.real
def test_the_first_signal_shuts_down_and_the_second_one_cancels(folder: Path) -> None:
    [task_id] = push(folder, "sleep")
    with running("app:app") as process:
        until(lambda: is_running(folder, task_id))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        status, out, err = ended(process)
    assert status == 6, err
    [report] = [json.loads(line) for line in out.splitlines()]
    assert report["interrupted"][0]["id"] == task_id
    assert "sleep_forever" in report["interrupted"][0]["line"]
    assert tasks(folder)[task_id]["status"] == "Pending"


@pytest.mark.real
def test_a_shutdown_that_takes_too_long_is_cut_short(folder: Path) -> None:
    [task_id] = push(folder, "sleep")
    with running("app:app", "--shutdown-timeout", "0.1") as process:
        until(lambda: is_running(folder, task_id))
        process.send_signal(signal.SIGINT)
        status, _, err = ended(process)
    assert status == 6, err


@pytest.mark.real
def test_processes_are_started_again_and_ended_together(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    with running("app:app", "--processes", "2", "--shutdown-timeout", "0.1") as process:
        until(lambda: is_running(folder, *ids))
        pids = children(process.pid)
        assert len(pids) == 2
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: len(children(process.pid)) == 2 and pids[0] not in children(process.pid))
        process.send_signal(signal.SIGTERM)
        status, out, err = ended(process)
    assert status == 6, err
    assert "ended with status 137: it is started again" in err
    assert [json.loads(line)["errors"] for line in out.splitlines()] in ([[]], [[], []])


@pytest.mark.real
def test_ctrl_c_at_a_terminal_reaches_each_process_once(folder: Path) -> None:
    ids = push(folder, *["sleep"] * 16)
    with running("app:app", "--processes", "2") as process:
        errors = process.stderr
        assert errors is not None
        until(lambda: is_running(folder, *ids))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the group in the foreground
        for _ in range(2):
            until(lambda: b"shutting down" in errors.readline())
        time.sleep(0.5)
        assert process.poll() is None
        assert len(children(process.pid)) == 2
        os.killpg(process.pid, signal.SIGINT)
        status, _, err = ended(process)
    assert status == 6, err


@pytest.mark.real
def test_processes_end_when_the_one_that_started_them_is_killed(folder: Path) -> None:
    with running("app:app", "--processes", "2") as process:
        pids = until(lambda: len(found := children(process.pid)) == 2 and found)
        until(lambda: {each["status"] for each in tasks(folder).values()} == {"Done"})
        process.kill()
        until(lambda: not any(map(is_there, pids)))


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


@pytest.mark.real
def test_a_program_is_loaded_again_when_a_file_has_changed(folder: Path) -> None:
    with running("app:app", "--reload") as process:
        until(lambda: {each["status"] for each in tasks(folder).values()} == {"Done"})
        write(folder, "app.py", APP.replace("{what} in", "new {what} in"))
        new: list[str] = []
        until(lambda: is_new(folder, new))
        write(folder, "app.py", "this is no Python")
        errors = process.stderr
        assert errors is not None
        until(lambda: b"waiting for a change" in errors.readline())
        write(folder, "app.py", APP.replace("{what} in", "newest {what} in"))
        until(lambda: is_new(folder, new, "newest c"))
        process.send_signal(signal.SIGTERM)
        status, _, err = ended(process)
    assert status == 0, err


def is_new(folder: Path, ids: list[str], text: str = "new c") -> bool:
    time.sleep(0.2)
    ids += push(folder, "c")
    found = call("show", "--url", f"sqlite:///{folder}/tasks.db", *ids).records
    return any(str(each["result"]).startswith(text) for each in found)


@pytest.mark.real
def test_systemd_is_told(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        with running("app:app", NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="100000") as process:
            assert notify.recv(1000) == b"READY=1"
            for _ in range(3):
                assert notify.recv(1000) in (b"WATCHDOG=1\nSTATUS=0/8 slots", b"WATCHDOG=1\nSTATUS=1/8 slots")
            process.send_signal(signal.SIGTERM)
            until(lambda: notify.recv(1000) == b"STOPPING=1")
            assert ended(process)[0] == 0
