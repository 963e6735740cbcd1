"""The options that commands share, and the types of their values: durations, moments, pairs, ids."""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import datetime, timedelta, timezone
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import click
import trio

from .. import Status
from .output import Answer, CommandError, ExitStatus, printable
from .store import StoreOptions, Target, without_known_faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
F = TypeVar("F", bound="Callable[..., Any]")

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)\s*([a-z]*)")
_LONGEST = 100 * 365 * 86_400
"""Seconds that a duration may have."""


def duration(text: str) -> float:
    """Return the seconds of a duration: a number of seconds, or one with a unit, as in ``90``, ``1.5h``, ``7d``."""
    found = _DURATION.fullmatch(text.strip().lower())
    unit = _SECONDS.get(found[2] or "s") if found else None
    seconds = float(found[1]) * unit if found and unit else math.inf
    if seconds > _LONGEST:
        raise click.BadParameter(f"{printable(text)!r} is no duration such as 90, 90s, 15m, 1.5h, 7d")
    return seconds


def moment(text: str) -> datetime:
    """Return a moment: in ISO 8601, by UTC unless it says otherwise; or a duration, for so long ago."""
    text = text.strip()
    if _DURATION.fullmatch(text.lower()):
        return datetime.now(timezone.utc) - timedelta(seconds=duration(text))
    return moment_ahead(text)


def moment_ahead(text: str) -> datetime:
    """Return a moment in ISO 8601, by UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise click.BadParameter(
            f"{printable(text)!r} is no moment such as 2026-11-28T09:30+01:00, nor a duration"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def pair(text: str) -> tuple[str, Any]:
    """Return a name and a value from ``name=value``; the value is JSON, or else a text."""
    name, mark, value = text.partition("=")
    if not (name and mark):
        raise click.BadParameter(f"{printable(text)!r} is not NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return name, value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


STATUS = click.Choice([status.name for status in Status], case_sensitive=False)


def status_named(name: str | None) -> Status | None:
    """Return the status of this name, in any case."""
    return None if name is None else Status[name.capitalize()]


# Ids


def read_targets(ids: tuple[str, ...]) -> list[Target]:
    """Return the tasks of these ids; ``-`` stands for those on standard input, an id or a JSON object a line.

    Raises:
      CommandError: a line is none of these, or there is no id.
    """
    targets: dict[Target, None] = {}
    for each in ids:
        found = _piped() if each == "-" else [Target(each)]
        targets.update(dict.fromkeys(found))
    for target in targets:
        if not target.id or not _is_unicode(target.id) or not _is_unicode(target.queue or ""):
            raise CommandError(f"{printable(target.id)!r} is no id: it must be a text in Unicode", ExitStatus.USAGE)
    return list(targets)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _piped() -> list[Target]:
    return [_target_of(line, number) for number, line in enumerate(_lines_in(), start=1) if line.strip()]


def _lines_in() -> list[str]:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is no text in UTF-8: {error.reason}", ExitStatus.USAGE) from None


def _target_of(line: str, number: int) -> Target:
    text = line.strip()
    if not text.startswith("{"):
        if "  " in text:
            what = f"line {number} of standard input is a row of a table, and no id: {printable(text[:60])!r}"
            raise CommandError(f"{what}; pipe JSON lines, which `--json` writes, or ids alone", ExitStatus.USAGE)
        return Target(text)
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"line {number} of standard input is no JSON: {error}", ExitStatus.USAGE) from None
    task_id, queue = found.get("id"), found.get("queue")
    if not isinstance(task_id, str) or not task_id or not isinstance(queue, (str, type(None))):
        raise CommandError(f'line {number} of standard input has no text as its "id"', ExitStatus.USAGE)
    return Target(task_id, queue)


# Options


def store_options(command: F) -> F:
    """Add the options ``--url`` and ``--json/--no-json``."""
    url = click.option(
        "--url", envvar="TRIO_TASKS_URL", metavar="URL", help="The storage. Default: the variable TRIO_TASKS_URL."
    )
    as_json = click.option(
        "--json/--no-json", "as_json", default=None, help="JSON lines, or a table. Default: a table on a terminal."
    )
    return url(as_json(command))


def queue_option(command: F) -> F:
    """Add the option ``--queue``."""
    return click.option("-q", "--queue", metavar="NAME", help="The queue. Default: all queues of the storage.")(command)


def ids_argument(command: F) -> F:
    """Add the argument for ids."""
    return click.argument("ids", nargs=-1, required=True, metavar="ID...")(command)


def on_store(command: Callable[Concatenate[StoreOptions, Answer, P], Awaitable[object]]) -> Callable[..., None]:
    """Make a command of an async function that is given the options of the store, and the answer to write."""

    def run(url: str | None, as_json: bool | None, queue: str | None = None, **options: Any) -> None:
        if not url:
            raise click.UsageError("give the storage by --url or TRIO_TASKS_URL, such as sqlite:///tasks.db")
        with without_known_faults():
            trio.run(partial(cast("Any", command), StoreOptions(url, queue), Answer(as_json), **options))

    return update_wrapper(run, command)
