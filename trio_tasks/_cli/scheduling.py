"""The command ``schedules``: list the schedules of a storage, pause, resume, remove and prune them, and run one now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from .. import Schedules
from .options import on_store, store_options
from .output import Answer, Column, CommandError, ExitStatus, age, note, printable
from .store import StoreOptions, changing, looking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .output import Record
    from .store import Store

    Change = Callable[[Schedules], Awaitable[object]]

_NAMED = 10
"""Schedules that an error names at most."""


@click.group(invoke_without_command=True)
@store_options
@click.pass_context
def schedules(context: click.Context, url: str | None, as_json: bool | None) -> None:
    """List the schedules; or pause, resume or remove one, run it now, or prune all that are orphaned."""
    if context.invoked_subcommand is None:
        _list(url=url, as_json=as_json)
    elif url is not None:
        context.obj = url


@on_store
async def _list(options: StoreOptions, answer: Answer) -> None:
    async with looking(options) as store:
        found = await (await _schedules_of(store)).list()
    answer.table(_COLUMNS, [dataclasses.asdict(each) for each in found], "the storage has no schedules")


def _next(record: Record) -> str:
    if record["is_orphaned"]:
        return "never"
    return "paused" if record["is_paused"] else age(record["next"])


def _defined(record: Record) -> str:
    if record["is_dynamic"]:
        return "at run time"
    return "orphaned" if record["is_orphaned"] else "in the code"


_COLUMNS = [
    Column("name", lambda record: record["name"]),
    Column("times", lambda record: record["spec"], least=12),
    Column("queue", lambda record: record["queue"], least=6, leaves=1),
    Column("next", _next),
    Column("previous", lambda record: age(record["previous"]), leaves=2),
    Column("defined", _defined),
]


async def _schedules_of(store: Store) -> Schedules:
    """Return the schedules of a store, with the queues that they push to."""
    names = {each.queue for each in await Schedules(store.storage).list()}
    return Schedules(store.storage, *(store.queue(name) for name in names if name != store.storage.queue))


async def _change(options: StoreOptions, answer: Answer, name: str, done: str, change: Change) -> None:
    """Change a schedule, and tell it."""
    async with changing(options) as store:
        found = await change(await _schedules_of(store))
        if not found:
            told = f"the storage has no schedule {printable(name)!r}: {await _known(store)}"
            raise CommandError(told, ExitStatus.NOT_FOUND)
    record = {"name": name, done: True}
    if isinstance(found, str):
        record["id"] = str(found)
        answer.record(record, printable(str(found)))
    else:
        answer.record(record, f"{printable(name)} {done}")


async def _known(store: Store) -> str:
    """Return the names of the schedules that there are, for a message."""
    names = sorted(each.name for each in await (await _schedules_of(store)).list())
    if not names:
        return "it has none yet; `trio-tasks run` stores those that stand in the code"
    return f"the schedules are {', '.join(map(printable, names[:_NAMED]))}" + (", …" if len(names) > _NAMED else "")


_name = click.argument("name", metavar="NAME")


@schedules.command()
@store_options
@_name
@on_store
async def pause(options: StoreOptions, answer: Answer, *, name: str) -> None:
    """Fire no time of a schedule, in any process, until it is resumed."""
    await _change(options, answer, name, "paused", lambda found: found.pause(name))


@schedules.command()
@store_options
@_name
@on_store
async def resume(options: StoreOptions, answer: Answer, *, name: str) -> None:
    """Fire a schedule again, from now on: the times of the pause are passed over."""
    await _change(options, answer, name, "resumed", lambda found: found.resume(name))


@schedules.command()
@store_options
@_name
@on_store
async def remove(options: StoreOptions, answer: Answer, *, name: str) -> None:
    """Remove a schedule. One that stands in the code comes back when a program starts."""
    await _change(options, answer, name, "removed", lambda found: found.remove(name))
    note("a schedule that stands in the code comes back when a program starts")


@schedules.command()
@store_options
@_name
@on_store
async def run(options: StoreOptions, answer: Answer, *, name: str) -> None:
    """Push a task of a schedule now, whether it is paused or not, and print its id."""
    await _change(options, answer, name, "run", lambda found: found.run_now(name))


@schedules.command()
@store_options
@on_store
async def prune(options: StoreOptions, answer: Answer) -> None:
    """Remove the orphaned schedules, which have gone from the code of the programs; those put at run time stay."""
    async with changing(options) as store:
        names = await (await _schedules_of(store)).prune()
    for name in names:
        answer.record({"name": name, "pruned": True}, f"{printable(name)} pruned")
    if not names:
        note("no schedule is orphaned")
