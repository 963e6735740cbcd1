"""The command ``top``: the queues and the attempts under way, shown again and again."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import click
import trio

from .looking import TOTALS, queue_record
from .options import duration, on_store, queue_option, store_options
from .output import Answer, Column, age, draw, note, span
from .records import worker_record
from .store import StoreOptions, asking

if TYPE_CHECKING:
    from rich.live import Live

    from .. import DurableStorage, Minute
    from .output import Record
    from .store import Store

_MINUTES = 5
"""Minutes whose attempts count for the times that are shown."""
_MOST_ATTEMPTS = 30
"""Attempts that are shown; the JSON has all."""
_QUANTILE = 0.95


@click.command()
@store_options
@queue_option
@click.option("--every", type=duration, default="1", metavar="DURATION", help="Between two looks. Default: 1 s.")
@click.option(
    "--count", type=click.IntRange(1, 10**6), metavar="N", help="End after so many looks. Default: with Ctrl-C."
)
@on_store
async def top(options: StoreOptions, answer: Answer, *, every: float, count: int | None) -> None:
    """Show the queues, their rates, and the attempts under way with the line at which each waits, until Ctrl-C.

    The rate is of successes since the look before, at first of the last five minutes; p95 is the time within which
    95 of 100 attempts of the last five minutes ended. Failed and killed are totals since the queue was made.
    """
    async with asking(options) as store:
        looks = _Looks(store)
        with ExitStack() as stack:
            live = None if answer.as_json or not answer.is_terminal else stack.enter_context(_screen())
            number = 0
            while not answer.is_closed:
                _show(await looks.take(), answer, live)
                number += 1
                if number == count:
                    break
                await trio.sleep(max(every, 0.05))


def _screen() -> Live:
    from rich.live import Live

    return Live(auto_refresh=False, screen=True)


def _show(look: Record, answer: Answer, live: Live | None) -> None:
    """Show a look: on the screen, as JSON, or as two tables."""
    if answer.as_json:
        answer.record(look, "")
    elif live is None:
        answer.table(_QUEUE_COLUMNS, look["queues"], "the storage has no queue yet")
        if look["queues"]:
            note(TOTALS)
        answer.table(_ATTEMPT_COLUMNS, look["running"])
    else:
        from rich.text import Text

        width = live.console.width
        parts = (_QUEUE_COLUMNS, look["queues"]), (_ATTEMPT_COLUMNS, look["running"][:_MOST_ATTEMPTS])
        tables = ["\n".join(draw(columns, records, width).lines) for columns, records in parts]
        text = "\n\n".join([*filter(None, tables), TOTALS])
        live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)


_QUEUE_COLUMNS = [
    Column("queue", lambda record: record["queue"], least=8),
    Column("waiting", lambda record: str(record["waiting"]), is_number=True),
    Column("oldest", lambda record: span(record["oldest_waiting"]) if record["waiting"] else "–", is_number=True),
    Column("delayed", lambda record: str(record["delayed"]), is_number=True, leaves=1),
    Column("busy", lambda record: f"{record['busy']}/{record['slots']}", is_number=True),
    Column("done/s", lambda record: f"{record['rate']:.1f}", is_number=True),
    Column("p95", lambda record: "–" if record["p95"] is None else f"< {span(record['p95'])}", is_number=True),
    Column("failed", lambda record: str(record["failed"]), is_number=True),
    Column("killed", lambda record: str(record["killed"]), is_number=True),
    Column("", lambda record: "paused" if record["is_paused"] else ""),
]
_ATTEMPT_COLUMNS = [
    Column("queue", lambda record: record["queue"], least=6),
    Column("task", lambda record: record["id"]),
    Column("name", lambda record: record["name"] or "", least=8),
    Column("attempt", lambda record: str(record["attempt"]), is_number=True, leaves=3),
    Column("began", lambda record: age(record["since"]), leaves=1),
    Column("worker", lambda record: record["worker"], least=8, leaves=2),
    Column("waits at", lambda record: place_of(record["line"]).place),
    Column("code", lambda record: place_of(record["line"]).code, least=12, leaves=4),
]


class Place(NamedTuple):
    """The line at which an attempt waits, for a table: the file with the number of the line, and the code there."""

    place: str
    code: str


_BEGUN = {
    "a line of the thread that was begun at ": "thread of ",
    "a line of the process that was called at ": "process of ",
}
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>\d+) in (?P<code>.*)", re.DOTALL)
_INSTALLED = re.compile(r".*[/\\](?:(?:site|dist)-packages|python3\.\d+)[/\\](?=.)", re.DOTALL)
_LONGEST_FILE = 32
"""Characters of a path; of a longer one, the table has the last two parts."""


def place_of(line: str) -> Place:
    """Return the place that a line of a :class:`~trio_tasks.RunningTask` names, in short: the path is relative to the
    working directory or to where packages are installed; of an attempt that waits for its child, it is the child's.
    """
    text, begun = line.rpartition(", for its child at ")[2], ""
    for start, short in _BEGUN.items():
        if text.startswith(start):
            text, begun = text.removeprefix(start), short
    found = _PLACE.fullmatch(text)
    if found is None:
        return Place(text, "")
    return Place(f"{_short(found['file'])}:{found['line']}", begun + found["code"])


def _short(file: str) -> str:
    path = Path(file)
    with suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    path = Path(_INSTALLED.sub("", str(path)))
    return str(path) if len(str(path)) <= _LONGEST_FILE else str(Path("…", *path.parts[-2:]))


@final
class _Looks:
    """Looks at a store, one after the other.

    Args:
      store: the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before: dict[str, tuple[float, int]] = {}

    async def take(self) -> Record:
        """Return the present state of the queues, and the attempts under way, those first that began first."""
        queues: list[Record] = []
        running: list[Record] = []
        for queue in await self._store.queues():
            workers = [worker_record(each) for each in await queue.workers(fresh=True) if each.is_alive]
            for worker in workers:
                of_worker = {"queue": queue.queue, "worker": worker["name"]}
                running += [{**of_worker, **each} for each in worker["running"]]
            record = await queue_record(queue)
            record |= {name: sum(each[name] for each in workers) for name in ("busy", "slots")}
            queues.append(record | await self._rates(queue, record))
        running.sort(key=lambda each: each["since"] or datetime.now(timezone.utc))
        return {"at": datetime.now(timezone.utc), "queues": queues, "running": running}

    async def _rates(self, queue: DurableStorage[Any], record: Record) -> Record:
        """Return the successes a second since the last look, at first those of the last minutes; and the time within
        which 95 of 100 attempts of the last minutes ended.
        """
        minutes = await queue.throughput(datetime.now(timezone.utc) - timedelta(minutes=_MINUTES))
        now, done = trio.current_time(), int(record["succeeded"])
        before = self._before.get(queue.queue)
        self._before[queue.queue] = now, done
        rate = sum(each.succeeded for each in minutes) / (60 * _MINUTES)
        if before is not None:
            rate = (done - before[1]) / max(now - before[0], 1e-9)
        return {"rate": rate, "p95": _quantile(minutes)}


def _quantile(minutes: list[Minute]) -> float | None:
    """Return the bound below which 95 of 100 attempts stayed; None if there were none."""
    counts: dict[float, int] = {}
    for minute in minutes:
        for bound, number in minute.durations.items():
            counts[bound] = counts.get(bound, 0) + number
    left = sum(counts.values()) * _QUANTILE
    for bound in sorted(counts):
        left -= counts[bound]
        if left <= 0:
            return bound
    return None
