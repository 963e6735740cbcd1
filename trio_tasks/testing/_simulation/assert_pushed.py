"""Assertions about the tasks in a storage, for tests of code that pushes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

from ..._checks import check_callable, check_count
from ..._contracts.backend import ListTasks
from .recording import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..._tasks.outcome import Status
    from ..._tasks.task import Task

A = TypeVar("A")

_ALL = 1_000_000
_SHOWN = 20
"""Tasks that the message lists."""


@final
class _Anything:
    """The default of ``args``, which equals any value."""

    def __repr__(self) -> str:
        return "anything"


_ANY: Any = _Anything()
_OPTIONS = ("id", "priority", "attempts", "timeout", "unique", "expires_in")


async def assert_pushed(
    storage: object,
    args: Any = _ANY,
    *,
    count: int | None = None,
    status: Status | None = None,
    metadata: Mapping[str, Any] | None = None,
    where: Callable[[Task[Any]], object] | None = None,
    **options: object,
) -> list[Task[Any]]:
    """Check that tasks with these properties were pushed, and return them.

    >>> await assert_pushed(storage, Email(to="ada@example.com"), metadata={"tenant": "acme"})
    >>> await assert_pushed(storage, count=0)

    It looks at all that the storage knows: tasks that wait, that run, and those that are finished for as long as it
    remembers them.

    Args:
      storage: the handle of the queue; it must be able to list its tasks.
      args: the args that the tasks have; any, if not given.
      count: the exact number of such tasks; at least one, if not given.
      status: the status that they have now.
      metadata: entries that their metadata has, among others.
      where: a function for which ``where(task)`` is true.
      options: the options that they were pushed with: ``id``, ``priority``, ``attempts``, ``timeout``, ``unique``,
          ``expires_in``.

    Raises:
      AssertionError: there are no such tasks, or another number of them. The message lists the tasks that there are.
      TypeError: the storage cannot list its tasks, or there is no such option.

    Cancelling it changes nothing.
    """
    if not isinstance(storage, ListTasks):
        raise TypeError(f"assert_pushed needs a storage with list_tasks, which {storage!r} does not have")
    unknown = sorted(options.keys() - set(_OPTIONS))
    if unknown:
        raise TypeError(
            f"assert_pushed has no option {unknown[0]!r}; it takes {', '.join(_OPTIONS)}, metadata and where"
        )
    if count is not None:
        check_count(count, "count", minimum=0)
    if where is not None:
        check_callable(where, "where", "where(task) -> bool")
    wanted = _wanted(args, status, metadata, options)
    there = await storage.list_tasks(limit=_ALL)
    found = [task for task in there if _is_such(task, args, status, metadata, options)]
    found = [task for task in found if where is None or where(task)]
    if (len(found) == count) if count is not None else found:
        return found
    said = f"no task{wanted} was" if not found else f"{len(found)} of the tasks{wanted} were"
    due = "" if count is None else f", not {count}"
    raise AssertionError(f"{said} pushed to {storage!r}{due}; {_listed(there)}")


def _is_such(
    task: Task[Any],
    args: Any,
    status: Status | None,
    metadata: Mapping[str, Any] | None,
    options: Mapping[str, object],
) -> bool:
    parts = task.parts
    return (
        (args is _ANY or task.args == args)
        and (status is None or parts.status is status)
        and all(name in parts.metadata and parts.metadata[name] == value for name, value in (metadata or {}).items())
        and all(getattr(parts, name) == value for name, value in options.items())
    )


def _wanted(args: Any, status: Status | None, metadata: Mapping[str, Any] | None, options: Mapping[str, object]) -> str:
    said = [] if args is _ANY else [f" {as_text(args)}"]
    terms = {**({"status": status.value} if status else {}), **({"metadata": metadata} if metadata else {}), **options}
    if terms:
        said.append(" with " + ", ".join(f"{name}={as_text(value)}" for name, value in terms.items()))
    return "".join(said)


def _listed(tasks: list[Task[Any]]) -> str:
    if not tasks:
        return "there are none at all"
    lines = [_line(task) for task in tasks[:_SHOWN]]
    more = [f"  and {len(tasks) - _SHOWN} more"] if len(tasks) > _SHOWN else []
    return "\n".join(["there are:", *lines, *more])


def _line(task: Task[Any]) -> str:
    parts = task.parts
    terms: dict[str, object] = {name: getattr(parts, name) for name in _OPTIONS[1:]}
    terms["metadata"] = dict(parts.metadata)
    told = "".join(f", {name}={as_text(value)}" for name, value in terms.items() if value)
    return f"  {parts.id} {parts.status.value} {as_text(task.args)}{told}"
