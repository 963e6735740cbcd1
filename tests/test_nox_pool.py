"""Tests of the pool of nox sessions, as a program on real noxfiles, with Ctrl-C and kill -9 in the middle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_demo import ROOT, Terminal, environment

POOL = ROOT / "docs" / "examples" / "nox_pool.py"

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="there are no process groups here"),
    pytest.mark.real,
]

NOXFILE = """
import nox

PROGRAM = '''
import os, pathlib, sys, time
name, waits = sys.argv[1], sys.argv[2:]
with open(f"{name}.runs", "a") as runs:
    print(os.getpid(), file=runs, flush=True)
print(name, "was here", flush=True)
end = time.monotonic() + 150  # a test that fails leaves nothing behind for longer
for path in waits:
    while not pathlib.Path(path).exists():
        if time.monotonic() > end:
            sys.exit(9)
        time.sleep(0.02)
if name == "bad" and not pathlib.Path("mended").exists():
    sys.exit(7)
'''


def run(session, *arguments):
    session.run("python", "-c", PROGRAM, *arguments, external=True)
"""


class Folder:
    """A folder with a noxfile, whose sessions log their runs and wait for files."""

    def __init__(self, path: Path, **sessions: list[str]) -> None:
        self.path = path
        text = NOXFILE
        for name, waits in sessions.items():
            text += (
                f"\n\n@nox.session(venv_backend='none')\ndef {name}(session):\n    run(session, *{[name, *waits]})\n"
            )
        (path / "noxfile.py").write_text(text)

    def pids(self, name: str) -> list[int]:
        """Return the processes that have run a session, the oldest first."""
        path = self.path / f"{name}.runs"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the pool to its end, without a terminal."""
        return subprocess.run(
            [sys.executable, "-W", "error", str(POOL), *arguments],
            cwd=self.path, env=environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def start(self, *arguments: str) -> Terminal:
        """Run the pool in a terminal for the length of the block."""
        return Terminal(*arguments, cwd=self.path, program=POOL, output=self.path / "report")

    def report(self) -> dict[str, tuple[str, ...]]:
        return rows_of((self.path / "report").read_text())


def rows_of(report: str) -> dict[str, tuple[str, ...]]:
    """The rows of a report: by session, the status, the seconds and the attempts."""
    head, *rows = [re.split(r" {2,}", line) for line in report.splitlines()]
    assert head == ["session", "status", "seconds", "attempts"]
    assert all(re.fullmatch(r"\d+\.\d|-", seconds) for _, _, seconds, _ in rows)
    return {name: (status, "-" if seconds == "-" else "s", attempts) for name, status, seconds, attempts in rows}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_dead(pid: int) -> None:
    while is_alive(pid):  # the test's timeout bounds it
        time.sleep(0.02)


def test_sessions_run_in_parallel_and_each_failure_is_shown(tmp_path: Path) -> None:
    # Each of the two waits for the other one: they end only if they run at the same time.
    folder = Folder(tmp_path, left=["right.runs"], right=["left.runs"], bad=[])

    ended = folder.run("--jobs", "2")

    assert ended.returncode == 1, ended.stderr
    assert rows_of(ended.stdout) == {
        "left": ("done", "s", "1"), "right": ("done", "s", "1"), "bad": ("failed", "s", "1"),
    }  # fmt: skip
    assert re.search(r"^bad: failed after \d+\.\d s: exit status 1$", ended.stderr, re.MULTILINE)
    assert "\nbad | bad was here\n" in ended.stderr
    assert "failed with exit code 7" in ended.stderr
    assert re.search(r"^left: started by worker \d\n", ended.stderr, re.MULTILINE)
    assert re.search(r"^left: done after \d+\.\d s\n", ended.stderr, re.MULTILINE)
    assert "left was here" not in ended.stderr
    assert "\x1b" not in ended.stderr
    assert "Traceback" not in ended.stderr

    (tmp_path / "mended").touch()
    again = folder.run()

    assert again.returncode == 0, again.stderr
    assert "resuming: 2 done, 1 failed, 0 interrupted, 0 waiting" in again.stderr
    assert [len(folder.pids(name)) for name in ("left", "right", "bad")] == [1, 1, 2]
    assert rows_of(again.stdout)["bad"][0] == "done"

    afresh = folder.run("--jobs", "2")
    assert afresh.returncode == 0, afresh.stderr
    assert "resuming" not in afresh.stderr
    assert len(folder.pids("left")) == 2, "once all are done, the next run begins anew"


def test_the_sessions_that_are_named_are_run_and_no_others(tmp_path: Path) -> None:
    Folder(tmp_path, one=[], two=[], three=[])
    above = Folder(tmp_path.parent, unseen=[])
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(POOL), str(tmp_path / "noxfile.py"), "--", "three", "one"],
        cwd=above.path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert rows_of(ended.stdout).keys() == {"one", "three"}


def test_what_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    folder = Folder(tmp_path, one=[])
    missing = folder.run("nowhere.py")
    assert missing.returncode == 2
    assert "there is no file" in missing.stderr
    unknown = folder.run("--", "unknown")
    assert unknown.returncode == 2
    assert "unknown" in unknown.stderr
    assert not folder.pids("one")
    assert "Traceback" not in missing.stderr + unknown.stderr


def test_ctrl_c_lets_running_sessions_end_and_begins_no_more(tmp_path: Path) -> None:
    folder = Folder(tmp_path, first=["go"], second=[])
    with folder.start("--jobs", "1") as terminal:
        terminal.wait_for(r"1 waiting, 1 running: first \d+ s")
        terminal.interrupt()
        terminal.wait_for(r"1 running; Ctrl-C again terminates them: first")
        (tmp_path / "go").touch()
        assert terminal.wait() == 130
    assert "first: done after" in terminal.seen
    assert "second" not in terminal.seen
    assert folder.report() == {"first": ("done", "s", "1"), "second": ("waiting", "-", "0")}
    assert not folder.pids("second")

    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert "resuming: 1 done, 0 failed, 0 interrupted, 1 waiting" in again.stderr
    assert len(folder.pids("first")) == 1, "it was done, and has been run again"
    assert len(folder.pids("second")) == 1


def test_a_second_ctrl_c_terminates_the_sessions(tmp_path: Path) -> None:
    folder = Folder(tmp_path, long=["never"])
    with folder.start() as terminal:
        terminal.wait_for(r"0 waiting, 1 running: long")
        while not folder.pids("long"):
            time.sleep(0.02)
        terminal.interrupt()
        terminal.wait_for("Ctrl-C again terminates them")
        terminal.interrupt()
        assert terminal.wait() == 130
    assert re.search(r"long: interrupted after \d+\.\d s", terminal.seen)
    assert folder.report() == {"long": ("interrupted", "-", "0")}
    [pid] = folder.pids("long")
    wait_until_dead(pid)

    (tmp_path / "never").touch()
    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert len(folder.pids("long")) == 2


def test_after_kill_9_it_goes_on_and_no_session_runs_twice_at_a_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path, quick=[], long=["go"])
    with folder.start("--jobs", "1") as terminal:
        terminal.wait_for(r"0 waiting, 1 running: long")
        while not folder.pids("long"):
            time.sleep(0.02)
        terminal.process.kill()
        assert terminal.wait() == -signal.SIGKILL
    [left_over] = folder.pids("long")
    assert is_alive(left_over), "kill -9 does not reach it"

    with folder.start() as terminal:
        while len(folder.pids("long")) < 2:
            assert terminal.process.poll() is None, terminal.seen
            time.sleep(0.02)
        assert not is_alive(left_over), "the session runs twice at a time"
        (tmp_path / "go").touch()
        assert terminal.wait() == 0, terminal.seen

    assert "resuming: 1 done, 0 failed, 1 interrupted, 0 waiting" in terminal.seen
    assert len(folder.pids("quick")) == 1, "it was done, and has been run again"
    assert folder.report() == {"quick": ("done", "s", "1"), "long": ("done", "s", "2")}


def test_the_noxfile_of_the_project_runs_it() -> None:
    text = (ROOT / "noxfile.py").read_text("utf-8")
    assert '"nox_pool.py"' in text
    assert len(POOL.read_text("utf-8").splitlines()) <= 260
