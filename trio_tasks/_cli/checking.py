"""The commands that check a storage, bring it up to date, or complete a command line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click
from click import shell_completion

from .. import BackendError, FileStorage, Status
from .options import duration, on_store, queue_option, store_options
from .output import Answer, Column, ExitStatus, counted, printable, size, span
from .running import router_at
from .store import Store, StoreOptions, looking, storage_of

if TYPE_CHECKING:
    from .. import DurableStorage, Router
    from .output import Record

_LEVELS = {"ok": "ok", "warning": "WARN", "failure": "FAIL"}


_LARGE_LOG = 64 * 10**6
"""Bytes of a write-ahead log that are more than usual."""
_MANY_DEAD = 10_000
_AT_ONCE = 500
_LOOKED_AT = 100
"""Waiting tasks of a queue that are read for a check."""


def _finding(level: str, about: str, text: str) -> Record:
    return {"level": level, "about": about, "text": text}


_FINDING_COLUMNS = [
    Column("", lambda record: _LEVELS[record["level"]]),
    Column("", lambda record: printable(record["about"])),
    Column("", lambda record: str(record["text"])),
]


# Health


@click.command()
@store_options
@queue_option
@click.option("--oldest", type=duration, metavar="DURATION", help="Unhealthy, if a task has waited longer than this.")
@on_store
async def health(options: StoreOptions, answer: Answer, *, oldest: float | None) -> None:
    """Check that the storage answers, and that its queues are worked on. The exit status is 4 if they are not.

    A queue is unhealthy if no worker is alive, it is not paused, and tasks are ready or delayed, or a schedule is to
    push some; if tasks were lost with their worker, and nothing has taken them back; or if a task has waited for longer
    than --oldest. The workers of a journal are not known to other processes.
    """
    async with looking(options) as store:
        schedules = await _active_schedules(store)
        # a queue to which nothing was pushed yet is known by its schedules alone
        names = {*schedules, *await store.names()} if store.chosen is None else {store.chosen}
        for name in names - schedules.keys():
            await store.check_queue(name)
        findings = [await _health_of(store.queue(name), oldest, schedules[name]) for name in sorted(names)]
    if not findings:
        findings = [_finding("ok", "storage", "it answers, and has no queue yet")]
    _tell(answer, findings)


async def _active_schedules(store: Store) -> Counter[str]:
    """Return the number of schedules for each queue that a worker's program has to fire."""
    found = [each.schedule for each in await store.storage.list_schedules()]
    return Counter(each.queue for each in found if each and not each.is_paused and each.orphaned_from is None)


async def _health_of(queue: DurableStorage[Any], oldest: float | None, schedules: int) -> Record:
    """Return the health of a queue, to which so many schedules push."""
    metrics = await queue.metrics()
    about = f"queue {queue.queue}"
    waiting = f"{counted(metrics['waiting'])} waiting"
    later = metrics["delayed"] + metrics["suspended_now"]
    if later:
        waiting += f", {later} delayed"
    if metrics["orphans"]:
        return _finding("failure", about, f"{counted(metrics['orphans'])} lost with their worker")
    if not metrics["is_paused"]:
        is_needed = metrics["waiting"] or later or schedules
        if is_needed and not isinstance(queue, FileStorage) and not await queue.list_workers():
            scheduled = f", {counted(schedules, 'schedule')}" if schedules else ""
            return _finding("failure", about, f"{waiting}{scheduled}, no worker alive")
        if oldest is not None and metrics["waiting"] and metrics["oldest_waiting"] > oldest:
            return _finding("failure", about, f"{waiting}, the oldest for {span(metrics['oldest_waiting'])}")
    state = "paused, " if metrics["is_paused"] else ""
    return _finding("ok", about, f"{state}{waiting}, {metrics['running']} running")


def _tell(answer: Answer, findings: list[Record]) -> None:
    """Write the findings, and end with the right status."""
    if answer.as_json:
        answer.table([], findings)
    else:
        answer.lines(_FINDING_COLUMNS, findings)
    if any(each["level"] == "failure" for each in findings):
        raise click.exceptions.Exit(ExitStatus.UNHEALTHY)


# Doctor


@click.command()
@store_options
@queue_option
@click.argument("targets", metavar="[MODULE:NAME]...", nargs=-1)
@on_store
async def doctor(options: StoreOptions, answer: Answer, *, targets: tuple[str, ...]) -> None:
    """Check the storage thoroughly: format, size, all pages or records, SQLite's version; and each queue.

    Of each queue it checks that its counters agree with its tasks, that a worker is there, and that its tasks can be
    read. It reads the whole store, and changes nothing. Of each queue of the routers MODULE:NAME, if some are given, it
    also checks that they know the names of all unfinished tasks.
    """
    routers = [router_at(each) for each in targets]
    async with looking(options) as store:
        findings = await _store_findings(store.storage)
        schedules = await _active_schedules(store)
        for queue in await store.queues():
            findings += await _queue_findings(queue, schedules[queue.queue])
            findings += await _names_findings(queue, routers, " or ".join(targets))
    _tell(answer, findings)


async def _store_findings(storage: DurableStorage[Any]) -> list[Record]:
    info = await storage.inspect()
    log = f", log {size(info.log_size)}" if info.log_size else ""
    about = info.place.rpartition("/")[2]
    findings = [_finding("failure", about, each) for each in info.damage] or [
        _finding("ok", about, f"{info.kind}, format {info.version}, {size(info.size)}{log}, intact")
    ]
    if info.log_size > _LARGE_LOG:
        told = f"the log is large: {size(info.log_size)}. A process that reads without end keeps it from being cut"
        findings.append(_finding("warning", about, told))
    return findings + [_finding("warning", about, each) for each in info.warnings]


async def _queue_findings(queue: DurableStorage[Any], schedules: int) -> list[Record]:
    about = f"queue {queue.queue}"
    metrics, balance = await queue.metrics(), await queue.audit()
    health = await _health_of(queue, None, schedules)
    findings = [health if health["level"] == "ok" else {**health, "level": "warning"}]
    if not balance:
        findings.append(_finding("failure", about, str(balance)))
    if metrics["is_paused"] and metrics["waiting"]:
        findings.append(_finding("warning", about, f"paused, {counted(metrics['waiting'])} waiting"))
    dead = metrics["kept_failed"] + metrics["kept_killed"]
    if dead > _MANY_DEAD:
        findings.append(_finding("warning", about, f"{counted(dead, 'dead letter')} kept: see `trio-tasks purge`"))
    unreadable = [task for task in await queue.list_tasks(Status.Pending, limit=_LOOKED_AT) if task.parts.unfit]
    if unreadable:
        some = f"{counted(len(unreadable))} of the first {_LOOKED_AT} cannot be read here: {unreadable[0].parts.unfit}"
        findings.append(_finding("warning", about, some))
    return findings


async def _names_findings(queue: DurableStorage[Any], routers: list[Router], targets: str) -> list[Record]:
    """Return the findings about unfinished tasks of names that no router knows which has this queue."""
    functions = [function for router in routers for function in router.functions.values()]
    is_theirs = any(each.queue == queue.queue for each in functions)
    known = {name for each in functions for name in (each.name, *each.aliases)}
    numbers: Counter[str | None] = Counter()
    for status in (Status.Pending, Status.Queued, Status.Running) if is_theirs else ():
        cursor: str | None = ""
        while cursor is not None:
            page = await queue.list_tasks(status, after=cursor or None, limit=_AT_ONCE)
            numbers.update(task.parts.name for task in page)
            cursor = page.next
    return [
        _finding(
            "failure", f"queue {queue.queue}", f"{counted(number)} of name {name!r}, which {targets} does not know"
        )
        for name, number in sorted(numbers.items(), key=lambda each: str(each[0]))
        if name not in known
    ]


# Migration


@click.command()
@store_options
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@on_store
async def migrate(options: StoreOptions, answer: Answer, *, dry_run: bool) -> None:
    """Make the store if it is not there, and bring it to the format of this version of trio_tasks.

    Stop the processes of an older version before: they do not know the new format.
    """
    state, what = "current", "is up to date"
    try:
        async with storage_of(options, read_only=True):
            pass
    except BackendError as error:
        if not (error.is_missing or error.is_outdated):
            raise
        state = "missing" if error.is_missing else "outdated"
        what = "is not there, and would be made" if error.is_missing else f"would be migrated: {error}"
    if state != "current" and not dry_run:
        async with storage_of(options, create=True):
            what = "was made" if state == "missing" else "was migrated"
    answer.record({"was": state, "is_changed": state != "current" and not dry_run}, f"the store {what}")


# Completion


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion of a shell: add `eval "$(trio-tasks completion bash)"` to ~/.bashrc, or likewise."""
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    click.echo(kind(root.command, {}, "trio-tasks", "_TRIO_TASKS_COMPLETE").source())
