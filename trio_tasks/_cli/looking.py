"""The commands that look at a storage and change nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click
import trio

from .. import FileStorage, Status
from .options import (
    STATUS,
    duration,
    ids_argument,
    moment,
    on_store,
    pair,
    queue_option,
    read_targets,
    status_named,
    store_options,
)
from .output import Answer, Column, CommandError, ExitStatus, age, note, printable, span
from .records import details_of, details_shown, is_dead, summary_of, worker_record
from .store import StoreOptions, Target, asking, looking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from .. import DurableStorage, Explanation, Task
    from .output import Record
    from .store import Store

_ON_A_TERMINAL = 100
"""Tasks that are listed on a terminal, unless more are asked for."""
_AT_ONCE = 500


def _text(name: str, least: int | None = None, leaves: int = 0) -> Column:
    return Column(name, lambda record: str(record[name] or ""), least=least, leaves=leaves)


def _number(name: str, leaves: int = 0) -> Column:
    return Column(name, lambda record: _grouped(record[name]), is_number=True, leaves=leaves)


def _grouped(number: int | None) -> str:
    """Return a number with its digits in groups of three."""
    return "" if number is None else f"{number:,}".replace(",", " ")


# Queues


@click.command()
@store_options
@queue_option
@on_store
async def queues(options: StoreOptions, answer: Answer) -> None:
    """List the queues, with the numbers of their tasks.

    Workers, waiting, delayed, running and oldest are as of now. Succeeded, retried, failed and killed are totals since
    the queue was made: a task that failed, and succeeded when it was tried again, counts in both.
    """
    async with looking(options) as store:
        records = [await queue_record(each) for each in await store.queues()]
        answer.table(_QUEUE_COLUMNS, records, "the storage has no queue yet")
        if records and not answer.as_json:
            note(f"succeeded, retried, {TOTALS}")


TOTALS = "failed, killed: totals since the queue was made"
"""A remark below a table of queues."""

_QUEUE_COLUMNS = [
    _text("queue", 8),
    _number("workers"),
    _number("waiting"),
    _number("delayed", leaves=1),
    _number("running"),
    Column("oldest", lambda record: span(record["oldest_waiting"]) if record["waiting"] else "", is_number=True),
    _number("succeeded"),
    _number("retried", leaves=2),
    _number("failed"),
    _number("killed"),
    Column("", lambda record: "paused" if record["is_paused"] else ""),
]


async def queue_record(queue: DurableStorage[Any]) -> Record:
    """Return the counters of a queue, and its number of workers: None where that cannot be known."""
    alive = None if isinstance(queue, FileStorage) else len(await queue.list_workers())
    return {"queue": queue.queue, "workers": alive, **await queue.metrics()}


# Tasks


def _filter_options(command: Any) -> Any:
    """Add the options for the filters of ``list_tasks``."""
    for option in reversed(
        [
            click.option("-s", "--status", type=STATUS, help="Tasks of this status."),
            click.option("--name", metavar="NAME", help="Tasks of this name."),
            click.option("--worker", metavar="NAME", help="Tasks that this worker runs, or ran last."),
            click.option("--key", metavar="KEY", help="Tasks with this key."),
            click.option("--unique", metavar="KEY", help="The task with this unique key."),
            click.option(
                "--metadata", type=pair, metavar="NAME=VALUE", multiple=True, help="Tasks with this in their metadata."
            ),
            click.option("--pushed-after", type=moment, metavar="MOMENT", help="Tasks pushed at or after this moment."),
            click.option("--pushed-before", type=moment, metavar="MOMENT", help="Tasks pushed before this moment."),
            click.option("--delayed/--ready", default=None, help="Of those that wait: the delayed ones; the others."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@store_options
@queue_option
@_filter_options
@click.option("--newest-first", is_flag=True, help="List in the opposite order.")
@click.option("--limit", type=click.IntRange(1), help="The most tasks to list. Default: 100 on a terminal, else all.")
@on_store
async def ls(
    options: StoreOptions, answer: Answer, /, *, newest_first: bool, limit: int | None, **filters: Any
) -> None:
    """List tasks: unfinished ones first, as they would be received; then finished ones, as they were finished."""
    wanted = _filters_of(filters)
    most = limit if limit is not None else _ON_A_TERMINAL if answer.is_terminal and not answer.as_json else None
    records: list[Record] = []
    number = 0

    def take(record: Record) -> bool:
        nonlocal number
        if number == most:
            if limit is None:
                note(f"there are more than {most}: see --limit")
            return False
        number += 1
        if answer.as_json:
            answer.table([], [record])
        else:
            records.append(record)
        return not answer.is_closed

    async with looking(options) as store:
        await _list_all(store, wanted, newest_first, take)
    answer.table(_TASK_COLUMNS, records, "there are no such tasks")


def _filters_of(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters that were given, as ``list_tasks`` takes them."""
    given = {name: value for name, value in filters.items() if value is not None and value != ()}
    if "metadata" in given:
        given["metadata"] = dict(given["metadata"])
    return {**given, "status": status_named(given.get("status"))}


async def _list_all(
    store: Store, filters: Mapping[str, Any], newest_first: bool, take: Callable[[Record], bool]
) -> None:
    """Give the tasks of all queues, page by page, to a function, until it returns False."""
    for queue in await store.queues():
        cursor: str | None = ""
        while cursor is not None:
            page = await queue.list_tasks(newest_first=newest_first, after=cursor or None, limit=_AT_ONCE, **filters)
            if not all(take(summary_of(task, queue.queue)) for task in page):
                return
            cursor = page.next


_TASK_COLUMNS = [
    _text("queue", 6),
    _text("id"),
    _text("name", 8),
    _text("status"),
    _number("attempt", leaves=1),
    Column("pushed", lambda record: age(record["pushed_at"]), leaves=2),
    Column("details", lambda record: _details_listed(record), least=12),
]


def _details_listed(record: Record) -> str:
    """Return when a task is ready, where it runs, or how it has failed: what is of interest in its state."""
    if record["status"] == "Running":
        return f"by worker {record['worker']!r}, began {age(record['started_at'])}"
    texts = [f"ready {age(record['run_at'])}"] if record["status"] == "Pending" and record["run_at"] is not None else []
    if record["error"]:
        texts.append(record["error"] if is_dead(record) else f"last error: {record['error']}")
    return "; ".join(texts)


@click.command()
@store_options
@queue_option
@ids_argument
@on_store
async def show(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...]) -> None:
    """Show all that is known of tasks: args, options, result, and each attempt with its error and traceback."""
    targets = read_targets(ids)
    async with looking(options) as store:
        missing = 0
        for number, target in enumerate(targets):
            queue = await store.queue_of(target)
            task = None if queue is None else await queue.fetch_by_id(target.id)
            if queue is None or task is None:
                missing += 1
                note(f"no task {printable(target.id)} is known")
                continue
            record = details_of(task, queue.queue)
            if number and not answer.as_json:
                answer.write("")
            answer.record(record, details_shown(record))
        end_with(missing, len(targets))


def end_with(missing: int, number: int) -> None:
    """End the command with the right status if some ids were not found, or none."""
    if missing:
        raise click.exceptions.Exit(ExitStatus.NOT_FOUND if missing == number else ExitStatus.PARTLY)


@click.command()
@store_options
@queue_option
@ids_argument
@on_store
async def explain(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...]) -> None:
    """Explain where tasks are, and why they do not run now."""
    targets = read_targets(ids)
    async with asking(options) as store:
        missing = 0
        for target in targets:
            explanation = await _explained(store, target)
            missing += explanation is None or explanation.kind == "unknown"
            if explanation is None:
                note(f"no task {printable(target.id)} is known")
            else:
                record = {**dataclasses.asdict(explanation), "text": str(explanation)}
                record["status"] = None if explanation.status is None else explanation.status.name
                answer.record(record, str(explanation))
        end_with(missing, len(targets))


async def _explained(store: Store, target: Target) -> Explanation | None:
    queue = await store.queue_of(target)
    return None if queue is None else await queue.explain(target.id)


# Workers


@click.command()
@store_options
@queue_option
@click.option("--fresh", is_flag=True, help="Ask the workers for their present state, for a second at most.")
@on_store
async def workers(options: StoreOptions, answer: Answer, *, fresh: bool) -> None:
    """List the workers, in all processes, and for an hour those whose process has died."""
    async with asking(options) if fresh else looking(options) as store:
        found = [worker for queue in await store.queues() for worker in await queue.workers(fresh=fresh)]
        if isinstance(store.storage, FileStorage):
            note("the workers of a journal are known in its own process only")
        answer.table(_WORKER_COLUMNS, [worker_record(each) for each in found], "no workers are known")


_WORKER_COLUMNS = [
    _text("name"),
    _text("queue", 6),
    _text("host", 8, leaves=1),
    Column("pid", lambda record: str(record["pid"]), is_number=True),
    Column("busy", lambda record: f"{record['busy']}/{record['slots']}", is_number=True),
    Column("intake", lambda record: str(record["intake"]) if record["is_alive"] else "dead", least=8),
    Column("since", lambda record: age(record["since"]), leaves=2),
    Column("last beat", lambda record: age(record["last_beat"]), leaves=4),
    _text("version", leaves=3),
]


# One task, until it ends


@click.command()
@store_options
@queue_option
@click.option("--every", type=duration, default="0.5", metavar="DURATION", help="Between two looks. Default: 0.5 s.")
@click.argument("task_id", metavar="ID")
@on_store
async def watch(options: StoreOptions, answer: Answer, *, task_id: str, every: float) -> None:
    """Follow a task until it has ended: its status, its attempts, its progress. The exit status is 1 if it fails."""
    async with looking(options) as store:
        queue = await store.queue_of(Target(task_id))
        seen: Record | None = None
        while True:
            task = None if queue is None else await queue.fetch_by_id(task_id)
            if queue is None or task is None:
                raise CommandError(f"no task {printable(task_id)} is known", ExitStatus.NOT_FOUND)
            record = _watched(task, queue.queue)
            if record != seen:
                answer.record(record, _watched_shown(record))
            seen = record
            if task.parts.status.is_final:
                break
            await trio.sleep(max(every, 0.01))
    if seen["status"] != Status.Done.name:
        raise click.exceptions.Exit(ExitStatus.PARTLY)


def _watched(task: Task[Any], queue: str) -> Record:
    details = details_of(task, queue)
    names = ("queue", "id", "status", "attempt", "worker", "run_at", "progress", "result", "error", "error_attempt")
    return {name: details[name] for name in names}


def _watched_shown(record: Record) -> str:
    status = record["status"]
    texts = [f"{status}, attempt {record['attempt']}" if record["attempt"] else status]
    moment: datetime | None = record["run_at"]
    if status == Status.Pending.name and moment is not None:
        texts.append(f"ready {age(moment)}")
    if record["progress"] is not None:
        texts.append(f"progress: {printable(str(record['progress']))}")
    if record["error"] is not None:
        of_attempt = "" if record["error_attempt"] is None else f" (attempt {record['error_attempt']})"
        texts.append(f"{'error' if is_dead(record) else f'last error{of_attempt}'}: {printable(record['error'])}")
    return ", ".join(texts)
