"""Carrying the tasks of a stored queue to another store: reading them as they are stored, and storing them as they are.

An engine reads and inserts rows; here they are checked, and become pages and reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..._checks import check_count
from ..._contracts.listing import Page
from ..._contracts.storage_events import Pushed
from ..._contracts.transfer import ImportReport, StoredTask
from ..._logging import catch_errors, text_of
from ..._printing import escaped, quoted
from ..._tasks.task import USUAL_TERMS
from ..._tasks.task_id import stored_id
from .encoding import decode_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..._tasks.task import Terms
    from .engine import RowsRead
    from .exchange_loop import ExchangeLoop
    from .queue import QueueState


async def export_tasks(loop: ExchangeLoop, queue: QueueState, after: str | None, limit: int) -> Page[StoredTask]:
    """Return a page of the tasks of a queue, as they are stored."""
    check_count(limit, "limit")
    found: RowsRead = await loop.ask(loop.engine.read_rows, queue.name, _key_of(after), limit)
    return Page(found.rows, next=None if found.after is None else str(found.after))


def _key_of(after: object) -> int:
    """Return the key of the last row of the page before."""
    if after is None:
        return -1
    if not isinstance(after, str) or not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise ValueError(f"after must be the `next` of a page of exported tasks; {quoted(after)} is not")
    return int(after)


async def import_tasks(loop: ExchangeLoop, queue: QueueState, tasks: Iterable[StoredTask]) -> ImportReport:
    """Store tasks as they are, in one transaction."""
    given = _checked(tasks)
    refused = {each.id: reason for each in given if (reason := _refusal(each, loop.engine.longest))}
    wanted = [each for each in given if each.id not in refused]
    now = loop.engine.now()
    kept = [each for each in wanted if not each.is_kept_no_longer(now)]
    answers: Sequence[bool | str] = []
    if kept:
        answers = await loop.ask(loop.engine.insert_rows, queue.name, kept)
    else:
        loop.check_open()
        await trio.lowlevel.checkpoint()
    imported = [stored_id(each.id) for each, answer in zip(kept, answers, strict=True) if answer is True]
    if imported:
        loop.check_queues()
        if queue.events.open:
            for task_id in imported:
                queue.events.tell(Pushed(task_id, True))
    refused |= {each.id: answer for each, answer in zip(kept, answers, strict=True) if isinstance(answer, str)}
    present = tuple(stored_id(each.id) for each, answer in zip(kept, answers, strict=True) if answer is False)
    forgotten = tuple(stored_id(each.id) for each in wanted if each.is_kept_no_longer(now))
    return ImportReport(tuple(imported), present, forgotten, refused)


def _checked(tasks: Iterable[Any]) -> list[StoredTask]:
    given = list[StoredTask]()
    for position, each in enumerate(tasks):
        if not isinstance(each, StoredTask):
            raise TypeError(f"tasks[{position}] must be a StoredTask, as export_tasks gives, not {quoted(each)}")
        given.append(each)
    return given


def _refusal(task: StoredTask, longest: float) -> str:
    """Return the reason for which a store cannot take a task; an empty text if there is none."""
    for name, size in (("it", task.size), ("its result", len(task.result or b""))):
        if size > longest:
            return f"{name} has {size:,} bytes, and this store takes {longest:,.0f} at most"
    with catch_errors() as caught:
        terms = decode_options(task.options, task.name)[0]
        until: object = terms.unique_until if terms.unique_for is None else float
        ours = task.unique_until if isinstance(task.unique_until, str) else float
        is_right = task.unique is None or (task.unique, ours) == (terms.unique, until)
        return "" if is_right else "its unique key is not the one of its options"
    assert caught.error is not None
    return text_of(caught.error)


def terms_of(options: bytes | None) -> Terms:
    """Return the terms of a row; the usual ones, if they cannot be read."""
    if options is None:
        return USUAL_TERMS
    with catch_errors():
        return decode_options(options)[0]
    return USUAL_TERMS


OTHER_TASK = "another task of this id is there"
"""The reason for which a row is refused whose id another task has."""


def key_is_held(key: str, holder: str) -> str:
    """Return the reason for which a row is refused whose unique key another one holds."""
    return f"its unique key {quoted(key)} is held by task {escaped(holder)}"
