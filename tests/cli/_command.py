"""Calls of the command line: inside this process, or as a process of its own; and stores with tasks for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import trio
from trio_tasks import AbortError, RetryPolicy, Task, Worker, constant, open_url
from trio_tasks._cli.app import main

ROOT = Path(__file__).parents[2]
WILD = "evil\n\x1b[31mid\u202e"
KINDS = ["sqlite", "file"]
SECRET = "hunter2"
ROUTER = "tests.cli._router:tasks"
NEEDS = {
    "show": ["x"],
    "explain": ["x"],
    "watch": ["x"],
    "pause": ["x"],
    "resume": ["x"],
    "purge": ["--yes"],
    "push": [ROUTER, "double", "n=1"],
    "replay": ["x", ROUTER],
    "retry": ["x"],
    "cancel": ["x"],
    "abort": ["x"],
    "discard": ["x"],
    "import": ["-"],
    "top": ["--count", "1"],
    "doctor": [ROUTER],
    "completion": ["bash"],
    "run": [ROUTER, "--until-idle", "--queues", "numbers=1"],
    **{f"schedules {verb}": ["x"] for verb in ("pause", "resume", "remove", "run")},
}
"""The arguments with which a command can be called; it may not find what they name."""


class Ended(NamedTuple):
    """The end of a command: its exit status, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines."""
        return [json.loads(line, parse_constant=_refuse) for line in self.out.splitlines()]


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def call(*arguments: str, stdin: bytes | str = b"") -> Ended:
    """Run a command in this process, with pipes as its streams."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = io.BytesIO(), io.BytesIO()
    streams = {"stdin": io.BytesIO(given), "stdout": out, "stderr": err}
    texts = {name: io.TextIOWrapper(each, "utf-8", write_through=True) for name, each in streams.items()}
    with ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(patch.object(sys, name, text))
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return Ended(status, out.getvalue().decode(), err.getvalue().decode())


def command(*arguments: str) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-W", "error", "-m", "trio_tasks", *arguments]


def environment(**more: str) -> Mapping[str, str]:
    """The environment for such a process."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def call_process(*arguments: str, stdin: bytes = b"", cwd: Path = ROOT, **more: str) -> Ended:
    """Run a command as a process."""
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def url_of(kind: str, folder: Path) -> str:
    """The URL of a store in this folder."""
    return f"sqlite:///{folder}/tasks.db" if kind == "sqlite" else f"file://{folder}/tasks.journal"


async def handle(task: Task[Any]) -> Any:
    """Do what the args of the task say."""
    args = task.args
    if "fail" in args:
        raise ConnectionError(args["fail"])
    if "kill" in args:
        raise AbortError(args["kill"])
    return {"sent": args["to"]}


async def fill(url: str) -> None:
    """Make a store with a queue ``emails``, in which tasks are done, failed, killed, ready and delayed; and a queue
    ``sms`` with a task that is ready.
    """
    async with open_url(url, queue="emails") as storage:
        for number, args in enumerate([{"to": "a"}, {"to": "b", "fail": "421 too many"}, {"to": "c", "kill": "no"}]):
            await storage.push(args, id=f"email-{number}", attempts=2, metadata={"tenant": "acme", "n": number})
        worker = Worker("ann", storage, handle, retry=RetryPolicy(attempts=2, backoff=constant(0)), log=None)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(worker.run)
            for number in range(3):
                await storage.wait_for(f"email-{number}")
            context.stop()
        await storage.push({"to": "e"}, id="email-4", priority=5, unique="e", key="acme")
        await storage.push({"n": float("nan"), "b": b"\0\x1b", 7: [float("inf")]}, id=WILD, delay=3600)
        await storage.share(queue="sms").push({"to": "f"}, id="sms-1")


def filled(kind: str, folder: Path) -> str:
    """Make such a store in this folder; return its URL."""
    url = url_of(kind, folder)
    trio.run(fill, url)
    return url
