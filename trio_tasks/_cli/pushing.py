"""The commands that call the functions of a router: push a task, and run a stored one again to see why it failed."""

from __future__ import annotations

import inspect
import json
import typing
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from .. import Router, Succeeded, Suspended, Task
from .options import duration, moment_ahead, on_store, pair, queue_option, store_options
from .output import Answer, CommandError, ExitStatus, printable
from .records import value_shown
from .running import check_no_task, load, router_at, write_traceback
from .store import StoreOptions, Target, check_current, looking, storage_of, url_without, without_known_faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import Call, Outcome, TaskFunction

_NO_JSON = object()


# Push


@click.command()
@store_options
@click.argument("target", metavar="MODULE:NAME")
@click.argument("task_name", metavar="TASK", required=False)
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT=VALUE]...")
@click.option("--delay", type=duration, metavar="DURATION", help="Wait this long, such as 1h.")
@click.option("--run-at", type=moment_ahead, metavar="MOMENT", help="Wait for this moment, in ISO 8601.")
@click.option("--priority", type=int, help="Higher ones are received first.")
@click.option("--attempts", type=click.IntRange(1), help="The most attempts.")
@click.option("--timeout", type=duration, metavar="DURATION", help="The most that an attempt may take.")
@click.option("--deadline", type=duration, metavar="DURATION", help="Kill it after this long, unless it is finished.")
@click.option("--key", metavar="KEY", help="The key of its group, such as a tenant.")
@click.option("--unique", metavar="KEY", help="The unique key.")
@click.option("--id", metavar="ID", help="The id; default a new one.")
@click.option("--metadata", type=pair, metavar="NAME=VALUE", multiple=True, help="Metadata of the task.")
@on_store
async def push(
    options: StoreOptions,
    answer: Answer,
    /,
    *,
    target: str,
    task_name: str | None,
    arguments: tuple[str, ...],
    metadata: tuple[tuple[str, Any], ...],
    **settings: Any,
) -> None:
    """Push a task: call a function of a Router by its name.

    MODULE:NAME is the Router. A value is JSON, or a text; it is made what the function's annotation says.
    """
    function = _function_named(router := router_at(target), target, task_name)
    given = {name: value for name, value in settings.items() if value is not None}
    if metadata:
        given["metadata"] = dict(metadata)
    await _push(options, answer, router, function, _bound(function, arguments), given)


def _function_named(router: Router, target: str, name: str | None) -> TaskFunction[..., Any, Any]:
    """Return the function of a router.

    Raises:
      CommandError: there is none of this name, or no name was given; the message has the names.
    """
    known = ", ".join(map(printable, sorted(router.functions))) or "none"
    if name is None:
        raise CommandError(f"give the name of a task after {printable(target)}; it has {known}", ExitStatus.USAGE)
    function = router.functions.get(name)
    if function is None:
        told = f"{printable(target)} has no task {printable(name)!r}; it has {known}"
        raise CommandError(told, ExitStatus.NOT_FOUND)
    return function


async def _push(
    options: StoreOptions,
    answer: Answer,
    router: Router,
    function: TaskFunction[..., Any, Any],
    call: Call[Any],
    given: dict[str, Any],
) -> None:
    await check_current(options)
    try:
        async with router.open(url_without(options.url, {"create", "queue", "codec"}), create=False) as queues:
            task_id = await queues.push(call, **given)
    except TypeError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    record = {"queue": function.queue, "id": str(task_id), "name": function.name}
    answer.record(record, printable(str(task_id)))


def _bound(function: TaskFunction[..., Any, Any], arguments: tuple[str, ...]) -> Call[Any]:
    """Return the call with these arguments.

    Raises:
      CommandError: an argument is wrong; the message says which one.
    """
    hints = typing.get_type_hints(function.__wrapped__)
    values: dict[str, Any] = {}
    for each in arguments:
        name, mark, text = each.partition("=")
        if not (name and mark):
            raise CommandError(_no_argument(function, each), ExitStatus.USAGE)
        values[name] = _value(text, hints.get(name, Any))
    try:
        return function.bind(**values)
    except (TypeError, ValueError) as error:  # its text names bind(), which nobody has called here
        told = str(error).replace(f"{function.name}.bind() ", f"task {function.name} ", 1)
        raise CommandError(told, ExitStatus.USAGE) from error


def _no_argument(function: TaskFunction[..., Any, Any], text: str) -> str:
    """Return the message for a text that is no argument with its value, with one that could be meant."""
    told, names = f"{printable(text)!r} is not ARGUMENT=VALUE", [*function.arguments]
    if not names:
        return f"{told}, and task {function.name} takes no arguments"
    meant = f"{text}=VALUE" if text in names else f"{names[0]}={text.lstrip('=')}"
    return f"{told}, such as {printable(meant)}; task {function.name} takes {', '.join(names)}"


def _value(text: str, hint: Any) -> Any:
    """Return the value that a text stands for, as a type says; the text itself, if it can be no such value."""
    if hint is str:
        return text
    if hint is Path:
        return Path(text)
    found: Any = _NO_JSON
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
    import msgspec

    for value in (found, text):
        if value is not _NO_JSON:
            try:
                return msgspec.convert(value, hint, strict=False, dec_hook=_model)
            except (TypeError, ValueError):  # it is no such value, or the type is none of msgspec's
                continue
    return text if found is _NO_JSON else found


def _model(kind: type, plain: object) -> object:
    """Return the pydantic model that a plain value stands for."""
    make: Any = getattr(kind, "model_validate", None)
    if make is None:
        raise TypeError(f"{kind.__name__} is no model")
    return make(plain)


# Replay


@click.command()
@store_options
@queue_option
@click.argument("task_id", metavar="ID")
@click.argument("target", metavar="MODULE:NAME")
@click.option("--pdb", "debug", is_flag=True, help="Open the debugger where the attempt has failed.")
@click.option("--seed", type=int, help="Run in virtual time, in an order that this number decides.")
@click.option("--data", metavar="MODULE:NAME", multiple=True, help="A value that the handler needs from the worker.")
def replay(
    url: str | None,
    as_json: bool | None,
    queue: str | None,
    task_id: str,
    target: str,
    debug: bool,
    seed: int | None,
    data: tuple[str, ...],
) -> None:
    """Make one attempt at a stored task in this process, and settle nothing.

    MODULE:NAME is a Router, or a handler. The storage is only read, so a failure can be looked at again and again,
    also while workers use the storage. The exit status is 1 if the attempt does not succeed.
    """
    if not url:
        raise click.UsageError("give the storage by --url or TRIO_TASKS_URL, such as sqlite:///tasks.db")
    found, values = load(target), [load(each) for each in data]
    check_no_task(found, target, "as in trio-tasks replay ID app:tasks")
    if not isinstance(found, Router) and not callable(found):
        told = f"is a {type(found).__name__}, and neither a Router nor a handler"
        raise CommandError(f"{printable(target)} {told}", ExitStatus.USAGE)
    with without_known_faults():
        task = trio.run(_fetch, StoreOptions(url, queue), task_id, found)
    outcome = _attempt(found, task, seed, layers=[_debugged] if debug else [], data=values)
    error: BaseException | None = getattr(outcome, "error", None)
    if error is not None and not debug:
        write_traceback(error)
    Answer(as_json).record(*_replayed(task_id, outcome, error))
    if not isinstance(outcome, Succeeded):
        raise click.exceptions.Exit(ExitStatus.PARTLY)


def _replayed(task_id: str, outcome: Outcome, error: BaseException | None) -> tuple[dict[str, Any], str]:
    """Return what to write of the outcome of an attempt: as JSON, and as text."""
    record = {"id": task_id, "outcome": type(outcome).__name__, "error": None, "result": None}
    told = ""
    if error is not None:
        told = record["error"] = f"{type(error).__name__}: {error}"
    elif isinstance(outcome, Succeeded):
        record["result"] = outcome.result
        told = "" if outcome.result is None else value_shown(outcome.result)
    elif isinstance(outcome, Suspended):
        told = outcome.reason
    return record, printable(f"{type(outcome).__name__}: {told}" if told else type(outcome).__name__)


def _attempt(handler: Any, task: Task[Any], seed: int | None, **options: Any) -> Outcome:
    """Make an attempt with the number of the latest one."""
    from .. import testing

    attempt = max(1, int(task.parts.attempt))
    run = partial(testing.run_once, handler, task, attempt=attempt, log=None, **options)
    with testing.without_processes():
        outcome: Outcome = trio.run(run) if seed is None else testing.run_seeded(run, seed=seed)
    return outcome


async def _debugged(handler: Callable[[Task[Any]], Awaitable[Any]], task: Task[Any]) -> Any:
    """Open the debugger where the handler raises: a layer, since the variables are gone once the attempt has ended."""
    try:
        return await handler(task)
    except Exception as error:
        import pdb  # noqa: T100  it is what was asked for

        pdb.post_mortem(error.__traceback__)
        raise


async def _fetch(options: StoreOptions, task_id: str, found: Any) -> Task[Any]:
    """Read a task for the router, or for the first parameter of the handler.

    Raises:
      CommandError: it is not known, or cannot be read.
    """
    async with looking(options) as store:
        place = await store.queue_of(Target(task_id))
    task = None
    if place is not None:
        settings = _typed_settings(found)
        async with storage_of(StoreOptions(options.url, place.queue), read_only=True, **settings) as storage:
            task = await storage.fetch_by_id(task_id)
    if task is None:
        raise CommandError(f"no task {printable(task_id)} is known", ExitStatus.NOT_FOUND)
    if task.parts.unfit is not None:
        raise CommandError(f"the task cannot be read: {task.parts.unfit}", ExitStatus.PARTLY)
    return task


def _typed_settings(found: Any) -> dict[str, Any]:
    """Return the type and the codec of the tasks that a router, or a handler, takes."""
    from .. import Call

    if isinstance(found, Router):
        return {"type": Call, "codec": found}
    parameters = [*inspect.signature(found).parameters]
    hint = typing.get_type_hints(found).get(parameters[0], Any) if parameters else Any
    arguments = typing.get_args(hint)
    return {"type": (arguments[0] if arguments else Any) if typing.get_origin(hint) is Task else hint}
