"""Tests of the demo as a program, with Ctrl-C and kill -9 in the middle; results are compared with sha256sum."""

from __future__ import annotations

import importlib.util
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import Failed, MemoryStorage, Monitor, RetryPolicy, SqliteStorage, Status, Succeeded
from trio_tasks.testing import run_once

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "docs" / "examples" / "hash_tree.py"
MEGABYTE = 1 << 20

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here"),
    pytest.mark.skipif(os.name != "posix", reason="there are no signals and no terminals here"),
]


def command(*arguments: object, program: Path = DEMO) -> list[str]:
    return [sys.executable, "-W", "error", str(program), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def run(
    *arguments: object, cwd: Path, path: str | None = None, program: Path = DEMO
) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end, away from any terminal."""
    env = environment() if path is None else {**environment(), "PATH": path}
    asked = command(*arguments, program=program)
    return subprocess.run(asked, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


class Terminal:
    """The demo in a terminal, which ends with the block."""

    def __init__(self, *arguments: object, cwd: Path, program: Path = DEMO, output: Path | None = None) -> None:
        self.master, slave = os.openpty()
        self.seen = ""
        asked = command(*arguments, program=program)
        with Path(output or os.devnull).open("w") as stdout:
            self.process = subprocess.Popen(asked, cwd=cwd, env=environment(), stdout=stdout, stderr=slave)
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def _read(self) -> bool:
        """Read more output; return False at its end."""
        assert select.select([self.master], [], [], 100)[0], f"it has stopped after {self.seen!r}"
        try:
            shown = os.read(self.master, 65536)
        except OSError:  # so says Linux that a terminal was closed
            return False
        self.seen += shown.decode()
        return bool(shown)

    def wait_for(self, pattern: str) -> None:
        """Read until this text appears."""
        while not re.search(pattern, self.seen):
            assert self._read(), f"no {pattern!r} in {self.seen!r}"

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Read to the end; return the exit status."""
        while self._read():
            pass
        return self.process.wait(100)


def sums_of(*paths: bytes) -> list[bytes]:
    """What sha256sum itself says of these files."""
    answer = subprocess.run([b"sha256sum", b"--", *paths], stdout=subprocess.PIPE, check=True)
    return sorted(answer.stdout.splitlines(keepends=True))


def lines_of(manifest: Path) -> list[bytes]:
    """The lines of a manifest, after sha256sum has agreed with each."""
    content = manifest.read_bytes()
    assert content.endswith(b"\n")
    lines = content.splitlines(keepends=True)
    assert all(re.fullmatch(rb"\\?[0-9a-f]{64}  /.+\n", line) for line in lines)
    checked = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", str(manifest)], capture_output=True)
    assert checked.returncode == 0, checked.stderr
    return sorted(lines)


def number_in(pattern: str, text: str) -> int:
    """The one number that this pattern finds."""
    found: list[str] = re.findall(pattern, text)
    assert len(found) == 1, f"{pattern!r} is {len(found)} times in {text!r}"
    return int(found[0])


def kept_beside(manifest: Path) -> list[str]:
    """The manifest, and what is left of the tasks."""
    return [path.name for path in manifest.parent.glob(f"{manifest.name}*")]


def sparse(path: Path, size: int) -> None:
    """A file that takes its time to be hashed, and no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


NAMES = [b"plain", b"empty", b" spaces ", b"-", b"-c", b"*star", b"back\\slash", b"new\nline", b"\\n", b"car\rriage"]
NAMES += ["größe ☃".encode(), b"colon: OK"] + ([b"not utf-8 \xff\xfe"] if sys.platform == "linux" else [])


def test_sha256sum_agrees_with_every_line(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    folders = [tree, tree / "deep", tree / "deep" / "er\nand \\ er"]
    paths: list[bytes] = []
    for folder in folders:
        folder.mkdir()
        for number, name in enumerate(NAMES):
            path = folder / os.fsdecode(name)
            path.write_bytes(b"" if name == b"empty" else b"%d\n" % number * number)
            paths.append(os.fsencode(path))
    sparse(tree / "large", 20 * MEGABYTE + 1)
    (tree / "to a file").symlink_to(tree / "plain")
    (tree / "to a folder").symlink_to(folders[1])
    (tree / "to nothing").symlink_to(tree / "nothing")
    (tree / "round in a circle").symlink_to(tree)
    os.mkfifo(tree / "fifo")
    manifest = tree / "deep" / "SUMS"  # among the files, and not one of them

    ended = run("tree", "--output", manifest, cwd=tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert lines_of(manifest) == sums_of(*paths, os.fsencode(tree / "large"))
    assert ended.stdout == ""
    assert "\x1b" not in ended.stderr
    first, *_, last = ended.stderr.splitlines()
    assert re.fullmatch(r"hashed \d+ (of \d+ files|files, \d+ found so far), \d running", first)
    shares = re.findall(r"^(worker \d) hashed (\d+) files, 0 failed$", ended.stderr, re.MULTILINE)
    assert [name for name, _ in shares] == ["worker 1", "worker 2", "worker 3", "worker 4"]
    assert sum(int(count) for _, count in shares) == len(paths) + 1
    assert last == f"sha256sum -c agrees with all {len(paths) + 1} lines of {manifest}"
    assert f"hashed {len(paths) + 1} files in this run, and 0 before" in ended.stderr
    assert "resuming" not in ended.stderr
    assert kept_beside(manifest) == ["SUMS"]


def test_the_manifest_is_in_the_current_directory_unless_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for _ in range(2):  # the second time there is one already
        ended = run(tmp_path, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert lines_of(tmp_path / "SHA256SUMS") == sums_of(os.fsencode(tmp_path / "file"))


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("good")
    folder = os.open(tmp_path, os.O_RDONLY)
    # Until the path is too long for any system; not even root can read that. The first name has a length with which a
    # folder that can be read has a file that can be read, wherever the temporary directory is.
    first = (99 - len(os.fsencode(tmp_path))) % 201 or 201
    for length in (first, *[200] * 25):
        os.mkdir("d" * length, dir_fd=folder)
        deeper = os.open("d" * length, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)

    ended = run(tmp_path, "--output", tmp_path / "SUMS", cwd=tmp_path)

    assert ended.returncode == 1, ended.stderr
    failed = r"^worker \d failed on '/.*': \[Errno \d+\] File name too long"
    assert len(re.findall(failed, ended.stderr, re.MULTILINE)) == 1
    assert os.fsencode(tmp_path / "good") in b"".join(lines_of(tmp_path / "SUMS"))
    assert re.search(r" hashed \d+ files, 1 failed$", ended.stderr, re.MULTILINE)
    assert re.search(r"^sha256sum -c agrees with all \d+ lines", ended.stderr, re.MULTILINE)


def test_what_may_not_be_read_is_reported(tmp_path: Path) -> None:
    for name in ("good", "locked", "locked away"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "locked" / "file").chmod(0)
    (tmp_path / "locked away").chmod(0)
    if os.access(tmp_path / "locked away", os.R_OK):
        pytest.skip("root may read everything")
    try:
        ended = run(tmp_path, "--output", tmp_path / "SUMS", cwd=tmp_path)
    finally:
        (tmp_path / "locked away").chmod(0o700)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("Permission denied") == 2
    assert lines_of(tmp_path / "SUMS") == sums_of(os.fsencode(tmp_path / "good" / "file"))


def test_a_directory_that_is_not_there_is_reported(tmp_path: Path) -> None:
    ended = run("nowhere", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert f"failed on '{tmp_path}/nowhere': [Errno 2]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_sha256sum_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ended = run(tmp_path, cwd=tmp_path, path=str(tmp_path))
    assert ended.returncode == 1, ended.stderr
    assert "there is no sha256sum here" in ended.stderr
    assert len(lines_of(tmp_path / "SHA256SUMS")) == 1


def test_if_sha256sum_does_not_agree_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "sha256sum").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sha256sum").chmod(0o755)
    ended = run(tmp_path, cwd=tmp_path, path=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert ended.returncode == 1, ended.stderr
    assert "sha256sum -c does not agree" in ended.stderr


def test_ctrl_c_in_the_middle_finishes_running_tasks(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(500):
        sparse(tree / f"{number}", 32 * MEGABYTE)  # 16 GB in all: nobody is done before the signal comes
    with Terminal(tree, cwd=tmp_path) as terminal:
        terminal.wait_for(r"hashed [1-9]\d* of 500 files, [1-8] running")
        terminal.interrupt()
        assert terminal.wait() == 130

    hashed = number_in(r"hashed (\d+) files in this run, and 0 before", terminal.seen)
    drained = number_in(r"4 worker runs, 0 restarts, (\d+) tasks drained, 0 interrupted, 0 errors", terminal.seen)
    assert 1 <= drained <= min(8, hashed)
    assert number_in(r"(\d+) files are left", terminal.seen) == 500 - hashed > 0
    assert "released '" not in terminal.seen
    assert "sha256sum" not in terminal.seen
    assert "Traceback" not in terminal.seen


def test_a_second_ctrl_c_releases_running_tasks(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    sparse(tree / "endless", 256 << 30)
    with Terminal(tree, cwd=tmp_path) as terminal:
        terminal.wait_for("hashed 0 of 1 files, 1 running")
        started = time.monotonic()
        terminal.interrupt()
        terminal.wait_for("1 running; Ctrl-C again puts them back")
        terminal.interrupt()
        assert terminal.wait() == 130
    assert time.monotonic() - started < 30, "it was the shutdown's deadline that ended it"

    assert re.search(rf"worker \d released '{tree}/endless'", terminal.seen)
    assert re.search(
        r"0 tasks drained, 1 interrupted, 0 errors\s+interrupted: .*hash_tree\.py:\d+ in sha256", terminal.seen
    )
    assert "1 files are left" in terminal.seen
    assert not (tmp_path / "SHA256SUMS").exists()


WATCHED = """
import functools, importlib.util, os, signal, sys, time

spec = importlib.util.spec_from_file_location("hash_tree", {demo!r})
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
log = os.open({log!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)


def kill_at_the_last(fn, times):
    @functools.wraps(fn)
    def called(*args):
        nonlocal times
        times -= 1
        if not times:
            os.kill(os.getpid(), signal.SIGKILL)
        return fn(*args)
    return called


def logged(fn):
    @functools.wraps(fn)
    def called(path):
        os.write(log, path + b"\\0")
        return fn(path)
    return called


def slow(fn):
    @functools.wraps(fn)
    def called(path):
        time.sleep(0.1)
        return fn(path)
    return called


demo.sha256 = logged(demo.sha256)
{more}
sys.exit(demo.main())
"""


SLOW = "demo.sha256 = slow(demo.sha256)"


class Watched:
    """The demo, with a log of each file that it begins to hash."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "log"

    def program(self, more: str = "") -> Path:
        path = self._directory / "watched.py"
        path.write_text(WATCHED.format(demo=str(DEMO), log=str(self._log), more=more))
        self._log.write_bytes(b"")
        return path

    def begun(self) -> list[bytes]:
        """Return the files that this run has begun to hash."""
        return self._log.read_bytes().split(b"\0")[:-1]


async def settled_of(tree: Path, manifest: Path) -> set[bytes]:
    """What a run that was killed has settled."""
    tasks = f"{manifest}.tasks"
    async with SqliteStorage[bytes](tasks, bytes, queue=ascii(str(tree))) as storage:
        return {task.args for task in await storage.list_tasks(Status.Done, limit=10_000)}


def files_in(tree: Path, number: int) -> list[bytes]:
    """So many small files, in folders of ten."""
    paths = [tree / f"{each // 10}" / f"{each}" for each in range(number)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return [os.fsencode(path) for path in paths]


KILLED = [
    pytest.param("demo.sha256 = kill_at_the_last(demo.sha256, 120)", id="while_it_hashes"),
    pytest.param("demo.os.scandir = kill_at_the_last(os.scandir, 70)", id="while_it_pushes"),
    pytest.param("demo.manifest_line = kill_at_the_last(demo.manifest_line, 300)", id="while_it_writes_the_manifest"),
    pytest.param("demo.Path.unlink = kill_at_the_last(demo.Path.unlink, 1)", id="before_it_cleans_up"),
]


@pytest.mark.parametrize("kill", KILLED)
async def test_killed_at_any_point_it_goes_on_and_hashes_nothing_twice(tmp_path: Path, kill: str) -> None:
    tree, manifest, watched = tmp_path / "tree", tmp_path / "SUMS", Watched(tmp_path)
    paths = files_in(tree, 1200)  # more than go into one transaction

    died = run(tree, "--output", manifest, cwd=tmp_path, program=watched.program(kill))
    assert died.returncode == -signal.SIGKILL, died.stderr
    first = watched.begun()
    settled = await settled_of(tree, manifest)
    assert settled <= set(first)
    ended = run(tree, "--output", manifest, cwd=tmp_path, program=watched.program())

    assert ended.returncode == 0, ended.stderr
    second = watched.begun()
    assert not settled & set(second), "what was settled has been hashed again"
    assert len(second) == len(set(second)), "something was hashed twice"
    assert settled | set(second) == set(paths)
    assert lines_of(manifest) == sums_of(*paths)
    assert f"hashed {len(second):,} files in this run, and {len(settled):,} before" in ended.stderr
    assert kept_beside(manifest) == ["SUMS"]


def test_kill_9_from_outside_and_it_shows_what_was_running(tmp_path: Path) -> None:
    tree, manifest, watched = tmp_path / "tree", tmp_path / "SUMS", Watched(tmp_path)
    tree.mkdir()
    paths = [tree / f"{number}" for number in range(64)]
    for path in paths:
        path.write_text(path.name)
    with Terminal(tree, "--output", manifest, cwd=tmp_path, program=watched.program(SLOW)) as terminal:
        terminal.wait_for(r"hashed [1-9]\d* of 64 files, [1-8] running")
        terminal.process.kill()
        assert terminal.wait() == -signal.SIGKILL
    first = len(watched.begun())

    ended = run(tree, "--output", manifest, cwd=tmp_path, program=watched.program())

    assert ended.returncode == 0, ended.stderr
    resuming = r"^resuming: (\d+) files hashed before, (\d+) interrupted, (\d+) waiting$"
    [numbers] = re.findall(resuming, ended.stderr, re.MULTILINE)
    before, interrupted, waiting = map(int, numbers)
    assert before + interrupted + waiting == 64
    assert before >= 1
    assert 1 <= interrupted <= 8
    assert first <= before + interrupted
    assert len(watched.begun()) == interrupted + waiting
    known = (
        r"resuming: .*|hashed \d+ .*, [0-8] running|worker \d hashed .*|hashed \d+ files in this run, .*|sha256sum .*"
    )
    assert [line for line in ended.stderr.splitlines() if not re.fullmatch(known, line)] == [], "a warning, or the like"
    assert lines_of(manifest) == sums_of(*map(os.fsencode, paths))


def test_after_ctrl_c_it_goes_on(tmp_path: Path) -> None:
    tree, manifest, watched = tmp_path / "tree", tmp_path / "SUMS", Watched(tmp_path)
    tree.mkdir()
    for number in range(64):
        (tree / f"{number}").write_text(f"{number}")
    with Terminal(tree, "--output", manifest, cwd=tmp_path, program=watched.program(SLOW)) as terminal:
        terminal.wait_for(r"hashed [1-9]\d* of 64 files, [1-8] running")
        terminal.interrupt()
        assert terminal.wait() == 130
    hashed = number_in(r"hashed (\d+) files in this run, and 0 before", terminal.seen)
    assert len(watched.begun()) == hashed

    with Terminal(tree, "--output", manifest, cwd=tmp_path, program=watched.program()) as terminal:
        assert terminal.wait() == 0, terminal.seen
    assert f"resuming: {hashed} files hashed before, 0 interrupted, {64 - hashed} waiting" in terminal.seen
    assert f"hashed {64 - hashed} files in this run, and {hashed} before" in terminal.seen
    assert len(watched.begun()) == 64 - hashed
    assert len(lines_of(manifest)) == 64


def load() -> Any:
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("hash_tree", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_file_that_vanishes_is_a_failed_task(tmp_path: Path) -> None:
    once = RetryPolicy(attempts=1)
    path = tmp_path / "file"
    path.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert await run_once(load().sha256, os.fsencode(path), retry=once) == Succeeded(empty)
    path.unlink()
    outcome = await run_once(load().sha256, os.fsencode(path), retry=once)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, FileNotFoundError)


def test_it_can_be_read_in_two_minutes() -> None:
    lines = DEMO.read_text("utf-8").splitlines()
    assert len(lines) <= 170


def test_the_standard_library_comes_without_the_packages_that_are_installed_in_it(tmp_path: Path) -> None:
    demo = load()
    for name in ("a.py", "b/c.py", "site-packages/d.py", "b/site-packages/e.py", "dist-packages/f/g.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [f"{path.relative_to(tmp_path)}" for path in tmp_path.rglob("*.py")]

    def walked() -> list[str]:
        return sorted(os.path.relpath(os.fsdecode(path), tmp_path) for path in demo.walk(os.fsencode(tmp_path)))

    assert walked() == sorted(names), "some other directory is hashed as a whole"
    demo.LIBRARY = str(tmp_path)
    demo.INSTALLED = {os.fsencode(tmp_path / Path(os.fsdecode(path)).name) for path in demo.INSTALLED}
    assert walked() == ["a.py", "b/c.py", "b/site-packages/e.py"]


async def test_the_total_is_said_when_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    demo = load()
    async with trio.open_nursery() as nursery:
        storage, all_pushed = MemoryStorage[bytes](), trio.Event()
        await storage.push(b"a file")
        nursery.start_soon(demo.show_progress, storage, Monitor(), all_pushed)
        await trio.testing.wait_all_tasks_blocked()
        assert capsys.readouterr().err == "hashed 0 files, 1 found so far, 0 running\n"
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        all_pushed.set()
        nursery.start_soon(demo.show_progress, storage, Monitor(), all_pushed)
        await trio.testing.wait_all_tasks_blocked()
        assert capsys.readouterr().err == "hashed 0 of 1 files, 0 running\n"
        nursery.cancel_scope.cancel()
