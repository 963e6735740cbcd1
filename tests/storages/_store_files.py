"""Helpers for tests that create, inspect and remove a storage's files, or open them by another account."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UNPRIVILEGED = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else, or give files away")


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that everybody may look into, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        Path(name).chmod(0o755)


# All that stands in the directory of a file


def names(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.parent.iterdir()}


def modes(path: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}


def owners(path: Path) -> set[tuple[int, int]]:
    return {(each.stat().st_uid, each.stat().st_gid) for each in path.parent.iterdir()}


# Changes, in functions that are not async


def write(path: Path, content: bytes = b"") -> None:
    path.write_bytes(content)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))


def make_directory(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    path.symlink_to("fifo")


NO_FILES = [make_fifo, make_socket, make_directory, make_loop, link_to_fifo]
"""What makes something that is no regular file."""


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


LOSSES = [delete, move, replace, move_directory]
"""What takes a file from its place."""

_AS_ANOTHER_ACCOUNT = """
import os, sys, tempfile, trio, trio_tasks
kind, path, user, options = getattr(trio_tasks, sys.argv[1]), sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])

async def main():
    with tempfile.TemporaryDirectory() as name:  # whatever is imported on the way may be out of reach later
        async with kind(name + "/tasks", str) as storage:
            await storage.push("x")
        async with kind(name + "/tasks", str, read_only=True) as storage:
            await storage.list_tasks()
    os.setgid(user), os.setuid(user)
    try:
        async with kind(path, str, **options) as storage:
            print(sorted(task.args for task in await storage.list_tasks()), flush=True)
            for line in sys.stdin:
                print(sorted(task.args for task in await storage.list_tasks()), flush=True)
    except trio_tasks.BackendError as error:
        print("refused", error)

trio.run(main)
"""


def command_of_another_account(kind: type, path: Path, user: int = UNPRIVILEGED, **options: Any) -> list[str]:
    """A program that becomes this account, opens a storage of this kind, and says what waits there, at once and for
    each line that it is told."""
    return [sys.executable, "-c", _AS_ANOTHER_ACCOUNT, kind.__name__, str(path), str(user), repr(options)]


def as_another_account(kind: type, path: Path, user: int = UNPRIVILEGED, **options: Any) -> str:
    """What that program says when it is told nothing."""
    command = command_of_another_account(kind, path, user, **options)
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()
