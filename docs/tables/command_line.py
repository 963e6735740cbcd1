"""Transcripts of the command line, and the description of each command, made by running it."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import click
import trio
from trio_tasks import RetryPolicy, SqliteStorage, Task, Worker, constant
from trio_tasks._cli.app import main, trio_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSCRIPTS = {
    "look": ["queues", "ls", "show email-2", "explain sms-1"],
    "change": ["ls -s Failed | retry -", "cancel email-2 email-1 email-7", "pause sms", "purge --older 7d --yes"],
    "check": ["health", "doctor -q sms"],
}
"""The commands of each transcript, after `trio-tasks`."""


class SmtpError(Exception):
    """An error of the program whose tasks these are."""


async def _send(task: Task[Any]) -> None:
    if task.args["to"] == "b@example":
        raise SmtpError("421 too many connections")


async def _fill(path: Path) -> None:
    async with SqliteStorage(path, queue="emails") as storage:
        await storage.push({"to": "a@example.com"}, id="email-1")
        await storage.push({"to": "b@example"}, id="email-2", metadata={"tenant": "acme"}, attempts=2)
        worker = Worker("ann", storage, _send, retry=RetryPolicy(backoff=constant(0)), log=None)
        await worker.run_until_idle()
        await storage.push({"to": "c@example.com"}, id="email-3", delay=90 * 60 + 20)
        await storage.share(queue="sms").push({"to": "+49 30 1234"}, id="sms-1")


def _run(arguments: list[str], url: str, given: str) -> str:
    """Run a command in this process; return what it has written."""
    out, stdin = io.StringIO(), io.TextIOWrapper(io.BytesIO(given.encode()), "utf-8")
    with patch.object(sys, "stdout", out), patch.object(sys, "stderr", out), patch.object(sys, "stdin", stdin):
        main([*arguments, "--url", url])
    return out.getvalue()


def _transcript(lines: list[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tasks.db")
        trio.run(_fill, path)
        for number, line in enumerate(lines):
            first, _, second = line.partition(" | ")
            if number:
                yield ""
            yield f"$ trio-tasks {first}" + (f" | trio-tasks {second}" if second else "")
            given = _run([*first.split(), "--json"], f"sqlite:///{path}", "") if second else ""
            yield from steady(_run([*(second or first).split(), "--no-json"], f"sqlite:///{path}", given)).splitlines()


def steady(text: str) -> str:
    """Return what a command has written, without what differs from run to run."""
    text = re.sub(r"\d+(\.\d)? s ago(?:(  ) *)?", r"2 min ago\2", text)
    text = re.sub(r" +oldest", "  oldest", text)
    text = re.sub(r"(?m)^(sms .*?) +\d+(\.\d)? s ", r"\1   2 min ", text)
    text = re.sub(r"pushed +details", "pushed     details", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-28 09:30:00", text)
    text = re.sub(r'File ".*", line \d+, in _send', 'File "/srv/app/mail.py", line 41, in send', text)
    text = re.sub(r"after running \d+\.\d s", "after running 0.1 s", text)
    text = re.sub(r"SQLite [\d.]+", "SQLite 3.51.3", text)
    text = re.sub(r"\d+ kB(, log \d+ kB)?", "139 kB", text)
    return "".join(line for line in text.splitlines(keepends=True) if "very rarely" not in line)


def _reference() -> Iterator[str]:
    """Each command: its usage, its description, its options."""
    root = click.Context(trio_tasks, info_name="trio-tasks", help_option_names=["-h", "--help"])
    for name, command in sorted(trio_tasks.commands.items()):
        context = click.Context(command, root, name, max_content_width=110, terminal_width=110)
        yield from (f"## {name}", "", "```text", *command.get_help(context).splitlines(), "```", "")
        for inner, each in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
            below = click.Context(each, context, inner, max_content_width=110, terminal_width=110)
            yield from (f"## {name} {inner}", "", "```text", *each.get_help(below).splitlines(), "```", "")


def table(part: str) -> str:
    """The transcript of this name; or the reference."""
    if part == "reference":
        return "\n".join(_reference())
    return "\n".join(["", "```text", *_transcript(TRANSCRIPTS[part]), "```"])
