"""The command ``top``: the queues and the attempts under way, shown again and again."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, final

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
    Column("at", lambda record: record["line"], least=16),
]


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
