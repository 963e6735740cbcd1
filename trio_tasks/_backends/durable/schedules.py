"""Schedules in a stored storage: their encoding, and the rows of the tasks that are pushed with a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import cbor2

from ..._clock import microseconds_of, wall_after
from ..._contracts.deadlines import seconds_left
from ..._contracts.schedules import (
    MissedPolicy,
    OverlapPolicy,
    ScheduleEntry,
    ScheduleResult,
    StoredSchedule,
    TaskTemplate,
)
from ..._logging import log
from ..._printing import escaped
from ..._tasks.errors import BackendError, DuplicateTaskError
from ..._tasks.task_id import TaskId, stored_id
from .encoding import decode_options, encode_options
from .engine import NewRow, ScheduleUpdate
from .rows import check_length

if TYPE_CHECKING:
    from ..._contracts.schedules import ScheduleChange
    from .engine import Engine, ScheduleOutcome, ScheduleRow

_FORMAT = 1
_MISSED, _OVERLAP = get_args(MissedPolicy), get_args(OverlapPolicy)
_LONGEST_DELAY = 2.0**33


def entry_of(row: ScheduleRow) -> ScheduleEntry:
    """Decode a row; one that cannot be read is logged, and has no schedule."""
    schedule: StoredSchedule | None = None
    if row.body is not None:
        try:
            schedule = _decode(row.body)
        except BackendError as error:
            log.error("schedule %s cannot be read, and is not fired: %s", escaped(row.name), error)
    return ScheduleEntry(row.name, row.revision, schedule, row.body is None)


def update_of(change: ScheduleChange, queue: str, engine: Engine) -> ScheduleUpdate:
    """Encode a change, for the engine.

    Raises:
      EncodeError: it is longer than the store takes.
    """
    body = None if change.schedule is None else _encode(change.schedule)
    check_length(len(body or b""), engine.longest, "the schedule")
    rows = [_row_of(each, queue, engine) for each in change.tasks]
    return ScheduleUpdate(change.name, change.was, body, rows)


def result_of_update(outcome: ScheduleOutcome) -> ScheduleResult:
    """Return the result of a change."""
    ids = [None if isinstance(each, DuplicateTaskError) else stored_id(each) for each in outcome.ids]
    return ScheduleResult(outcome.revision, ids)


def _row_of(template: TaskTemplate, queue: str, engine: Engine) -> NewRow:
    terms = template.terms
    is_given = isinstance(terms.deadline, float)  # a schedule has no deadline that could be inherited
    rest = seconds_left(terms, inherits=False) if is_given else None
    run_at = wall_after(terms.delay) if terms.delay else None
    options = encode_options(terms, template.metadata, run_at)
    times = terms.expires_in, None if run_at is None else microseconds_of(run_at), False
    order = terms.priority, terms.delay, terms.unique, terms.on_conflict
    more = terms.name, terms.unique_until, terms.unique_for
    deadline = None if rest is None else engine.now() + rest
    return NewRow(queue, TaskId.new(), template.payload, options, *order, *times, *more, terms.key, deadline)


def _encode(schedule: StoredSchedule) -> bytes:
    template = schedule.template
    fields: list[Any] = [
        _FORMAT,
        schedule.times,
        schedule.queue,
        template.payload,
        encode_options(template.terms, template.metadata),
        template.terms.name,
        schedule.done,
        schedule.fired,
        schedule.missed,
        schedule.within,
        schedule.limit,
        schedule.overlap,
        schedule.jitter,
        schedule.is_paused,
        schedule.is_dynamic,
        schedule.orphaned_from,
    ]
    return cbor2.dumps(fields)


def _decode(body: bytes) -> StoredSchedule:
    try:
        version, times, queue, payload, options, name, *settings = cbor2.loads(body)
        if version != _FORMAT:
            raise BackendError(f"it was stored by a newer trio_tasks, in format {version!r:.20}")
        template = TaskTemplate(payload, *decode_options(options, name))
        schedule = StoredSchedule(times, queue, template, *settings)
    except (cbor2.CBORError, ValueError, TypeError, LookupError, EOFError) as error:
        raise BackendError(f"what is stored of it cannot be understood: {error!r:.200}") from error
    if not _is_sound(schedule):
        raise BackendError("what is stored of it is not sound")
    return schedule


def _is_sound(schedule: Any) -> bool:
    """Return True if all fields of a decoded schedule are what they should be."""
    return bool(
        type(schedule.times) is type(schedule.queue) is str
        and type(schedule.template.payload) is bytes
        and _is_moment(schedule.done)
        and (schedule.fired is None or _is_moment(schedule.fired))
        and schedule.missed in _MISSED
        and (schedule.within is None or _is_duration(schedule.within))
        and type(schedule.limit) is int
        and schedule.limit > 0
        and schedule.overlap in _OVERLAP
        and _is_duration(schedule.jitter)
        and type(schedule.is_paused) is type(schedule.is_dynamic) is bool
        and (schedule.orphaned_from is None or _is_moment(schedule.orphaned_from))
    )


def _is_moment(value: object) -> bool:
    return type(value) is int and -(2**58) < value < 2**58


def _is_duration(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= _LONGEST_DELAY
