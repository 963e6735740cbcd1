"""The commands that change tasks and queues."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .. import Status
from .options import (
    duration,
    ids_argument,
    on_store,
    queue_option,
    read_targets,
    status_named,
    store_options,
)
from .output import Answer, CommandError, ExitStatus, counted, note, printable, span
from .store import StoreOptions, changing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import ChangeReport, DurableStorage

    Verb = Callable[[DurableStorage[Any], list[str]], Awaitable[ChangeReport]]

_UNKNOWN = "no such task is known"
_AT_ONCE = 500
"""Tasks that are told of after one transaction."""
_FINISHED = ["Done", "Failed", "Killed"]


# Tasks


async def _change(options: StoreOptions, answer: Answer, ids: tuple[str, ...], done: str, verb: Verb) -> None:
    """Change tasks, some hundreds in a transaction, and tell of each whether it was changed.

    Args:
      options: the store.
      answer: where to tell it.
      ids: the ids, or ``-``.
      done: the verb for a task that was changed, such as ``"retried"``.
      verb: changes tasks of a queue.
    """
    targets = read_targets(ids)
    refused: list[str] = []
    is_one_known = False
    async with changing(options) as store:
        for name, those in (await store.sorted_by_queue(targets)).items():
            for start in range(0, len(those), _AT_ONCE):
                part = those[start : start + _AT_ONCE]
                queue = None if name is None else store.queue(name)
                reasons = dict.fromkeys(part, _UNKNOWN) if queue is None else (await verb(queue, part)).refused
                for task_id in part:
                    _tell(answer, name, task_id, done, reasons.get(task_id))
                refused += reasons
                if queue is not None and not is_one_known:
                    is_one_known = any(await queue.fetch_by_id([*reasons])) or len(reasons) < len(part)
    if refused:
        raise click.exceptions.Exit(ExitStatus.PARTLY if is_one_known else ExitStatus.NOT_FOUND)


def _tell(answer: Answer, queue: str | None, task_id: str, done: str, reason: str | None) -> None:
    record = {"queue": queue, "id": task_id, done: reason is None, "reason": reason}
    shown = printable(task_id)
    answer.record(record, f"{shown} {done}" if reason is None else f"{shown} not {done}: {printable(reason)}")


@click.command()
@store_options
@queue_option
@ids_argument
@on_store
async def retry(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...]) -> None:
    """Make finished tasks wait again, with all of their attempts."""
    await _change(options, answer, ids, "retried", lambda queue, those: queue.resume_by_id(those))


@click.command()
@store_options
@queue_option
@click.option("--running", is_flag=True, help="Abort those that run.")
@ids_argument
@on_store
async def cancel(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...], running: bool) -> None:
    """Kill tasks that wait."""
    await _change(options, answer, ids, "cancelled", lambda queue, those: queue.cancel(those, running=running))


@click.command()
@store_options
@queue_option
@ids_argument
@on_store
async def abort(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...]) -> None:
    """Cancel the attempts under way, in whatever process; their tasks are killed."""
    await _change(options, answer, ids, "aborted", lambda queue, those: queue.abort(those))


@click.command()
@store_options
@queue_option
@ids_argument
@on_store
async def discard(options: StoreOptions, answer: Answer, *, ids: tuple[str, ...]) -> None:
    """Forget tasks that are finished, or wait."""
    await _change(options, answer, ids, "discarded", lambda queue, those: queue.discard(those))


# Queues


@click.command()
@store_options
@queue_option
@click.option("-s", "--status", type=click.Choice(_FINISHED, case_sensitive=False), help="Only tasks of this status.")
@click.option("--older", type=duration, metavar="DURATION", help="Only tasks finished so long ago, such as 7d.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@on_store
async def purge(options: StoreOptions, answer: Answer, *, status: str | None, older: float | None, yes: bool) -> None:
    """Forget finished tasks, dead letters included."""
    wanted = status_named(status)
    async with changing(options) as store:
        queues = await store.queues()
        if not yes:
            _confirm(await _question(queues, wanted, older))
        for queue in queues:
            number = await queue.vacuum(older_than=older, status=wanted)
            answer.record(
                {"queue": queue.queue, "purged": number}, f"{printable(queue.queue)}: {counted(number)} forgotten"
            )


async def _question(queues: list[DurableStorage[Any]], status: Status | None, older: float | None) -> str:
    number = 0
    for queue in queues:
        metrics = await queue.metrics()
        kept = {"Done": metrics["kept_done"], "Failed": metrics["kept_failed"], "Killed": metrics["kept_killed"]}
        number += sum(kept.values()) if status is None else kept[status.name]
    names = ", ".join(printable(queue.queue) for queue in queues)
    those = counted(number)
    if older is not None:
        those = f"of {those}, those finished {span(older)} ago or earlier"
    kind = "finished" if status is None else status.name
    return f"Forget {those} ({kind}) on {names or 'no queue'}?"


def _confirm(question: str) -> None:
    """Ask on standard error, and read the answer from standard input.

    Raises:
      CommandError: the answer is not yes.
    """
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was forgotten; --yes does not ask", ExitStatus.USAGE)


@click.command()
@store_options
@click.argument("queue", metavar="QUEUE")
@on_store
async def pause(options: StoreOptions, answer: Answer) -> None:
    """Give out no more tasks of a queue, to any worker, until it is resumed."""
    await _set_paused(options, answer, True)


@click.command()
@store_options
@click.argument("queue", metavar="QUEUE")
@on_store
async def resume(options: StoreOptions, answer: Answer) -> None:
    """Give out the tasks of a paused queue again."""
    await _set_paused(options, answer, False)


async def _set_paused(options: StoreOptions, answer: Answer, is_paused: bool) -> None:
    async with changing(options) as store:
        for queue in await store.queues():
            await (queue.pause() if is_paused else queue.resume())
            metrics = await queue.metrics()
            if metrics["is_paused"] and metrics["running"]:
                note(f"running, and going on: {counted(metrics['running'])}")
            record = {"queue": queue.queue, "is_paused": metrics["is_paused"]}
            answer.record(record, f"{printable(queue.queue)} {'paused' if metrics['is_paused'] else 'resumed'}")
