"""The format of a dump: one line of JSON for each task, limit and schedule, from which it can be stored again.

The first line names the format, and the last one says how many tasks and schedules there are, so that a dump that was
cut off is told from a whole one. What is not there has its default. Bytes are ``{"cbor": value}`` where the value says
all of them, and else ``{"base64": text}``; bytes inside such a value are ``{"$bytes": text}``. Times are seconds since
the epoch, or ``"never"``.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

from .. import CborCodec, Limits, Metadata, Rate, StoredTask, TaskBuilder
from ..abc import StoredSchedule, TaskTemplate
from .output import CommandError, ExitStatus, printable
from .records import limits_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION = 1
HEADER = {"kind": "header", "format": "trio_tasks dump", "version": VERSION}
_FORMAT = HEADER["format"]
_CBOR = CborCodec(name="the value")
_TASK_FIELDS = dataclasses.fields(StoredTask)
_BYTES = frozenset(("payload", "options", "result", "history", "progress"))
_TIMES = frozenset(("pushed", "started", "since", "due", "expires", "deadline", "unique_until"))
_TASK_ORDER = (
    *(each for each in _TASK_FIELDS if each.name not in _BYTES),
    *(each for each in _TASK_FIELDS if each.name in _BYTES),
)
_SCHEDULE_FIELDS = tuple(each for each in dataclasses.fields(StoredSchedule) if each.name != "template")
_LIMITS_FIELDS = dataclasses.fields(Limits)
_TERMS: Mapping[str, object] = dataclasses.asdict(cast("Any", TaskBuilder(None).build().parts.terms))
"""The options of a task, each with its default."""
_LARGEST = 2**63
_SHOWN = 60


class LineError(ValueError):
    """An error in a line of a dump; the text says what would be right."""


# From values to lines


def line(record: Mapping[str, Any]) -> bytes:
    """Return the line of a record; in ASCII, if it has a character that a terminal does not just print."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = json.dumps(record, allow_nan=False)
    return text.encode() + b"\n"


def task_line(task: StoredTask, queue: str) -> bytes:
    """Return the line of a task."""
    record: dict[str, Any] = {"kind": "task", "queue": queue}
    for each in _TASK_ORDER:
        value = getattr(task, each.name)
        if value != each.default:
            record[each.name] = _shown(each.name, value)
    return line(record)


def schedule_line(name: str, schedule: StoredSchedule) -> bytes:
    """Return the line of a schedule."""
    record: dict[str, Any] = {"kind": "schedule", "name": name}
    record |= {
        each.name: getattr(schedule, each.name)
        for each in _SCHEDULE_FIELDS
        if getattr(schedule, each.name) != each.default
    }
    template = schedule.template
    record["payload"] = shown_bytes(template.payload)
    terms = dataclasses.asdict(cast("Any", template.terms))
    given = {name: value for name, value in terms.items() if value != _TERMS[name]}
    record["options"] = {name: None if value == math.inf else value for name, value in given.items()}
    record["metadata"] = shown_bytes(_CBOR.encode(dict(template.metadata)))
    return line(record)


def limits_line(queue: str, key: str | None, limits: Limits) -> bytes:
    """Return the line of the limits of a queue, or of a key in it."""
    record: dict[str, Any] = {"kind": "limits", "queue": queue}
    if key is not None:
        record["key"] = key
    given = {each.name for each in _LIMITS_FIELDS if getattr(limits, each.name) != each.default}
    return line(record | {name: value for name, value in limits_record(limits).items() if name in given})


def end_line(tasks: int, schedules: int) -> bytes:
    """Return the last line."""
    return line({"kind": "end", "tasks": tasks, "schedules": schedules})


def _shown(name: str, value: Any) -> Any:
    if name in _BYTES:
        return shown_bytes(value)
    return "never" if name in _TIMES and value == math.inf else value


def shown_bytes(data: bytes) -> dict[str, Any]:
    """Return bytes in the terms of JSON: as the value that they encode, if that gives the same bytes again."""
    try:
        value = _CBOR.decode(data)
        if _CBOR.encode(value) == data:
            return {"cbor": _plain(value)}
    except (TypeError, ValueError):  # it is another format, or has what JSON has not
        pass
    return {"base64": base64.b64encode(data).decode()}


def _plain(value: Any) -> Any:
    """Return a decoded value in the terms of JSON.

    Raises:
      ValueError: it has none.
    """
    kind: type[object] = value.__class__
    if kind is str or kind is bool or value is None:
        return value
    if (kind is float and math.isfinite(value)) or (kind is int and -_LARGEST <= value < _LARGEST):
        return value
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is list:
        return [_plain(each) for each in value]
    if kind is dict and all(type(name) is str and not name.startswith("$") for name in value):
        return {name: _plain(each) for name, each in value.items()}
    raise ValueError("it has no terms in JSON")


# From lines to values


@final
class Line(NamedTuple):
    """A line that was read."""

    kind: str
    record: dict[str, Any]
    """Its other fields."""


_KINDS = ("header", "queue", "limits", "task", "schedule", "end")


def parse(text: bytes) -> Line:
    """Return a line.

    Raises:
      LineError: it is none.
    """
    try:
        record = json.loads(text.decode(), parse_constant=_refuse_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise LineError(f"it must be text in UTF-8, and is not: {error.reason}") from None
    except (ValueError, RecursionError) as error:
        cut = "" if text.endswith(b"\n") else "; it has no end, so the file may be cut off"
        raise LineError(f"it must be an object of JSON, and is not: {printable(str(error))}{cut}") from None
    if not isinstance(record, dict):
        raise LineError(f"it must be an object of JSON, and is {_told(record)}")
    fields = cast("dict[str, Any]", record)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise LineError(f'its "kind" must be one of {", ".join(_KINDS)}, not {_told(kind)}')
    return Line(kind, fields)


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:_SHOWN]} is too large for a number")
    return number


def _told(value: object) -> str:
    """Return a value of a line, short enough for an error."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_header(text: bytes) -> None:
    """Raise CommandError unless this is the first line of a dump that this version can read."""
    try:
        kind, record = parse(text)
        if kind != "header" or record.get("format") != _FORMAT:
            raise LineError("it must be the header of a dump, and is not")
    except LineError as error:
        what = "A dump is what `trio-tasks export` writes: lines of JSON, of which the first is"
        told = f"line 1: {printable(str(error))}. {what} {line(HEADER).decode()[:-1]}"
        raise CommandError(told, ExitStatus.USAGE) from None
    version = record.get("version")
    if version != VERSION or type(version) is not int:
        told = f"its version is {_told(version)}, and this trio_tasks reads {VERSION}"
        raise wrong_line(1, LineError(f"{told}; import it by the version that has written it, or a newer one"))


def read_task(record: Mapping[str, Any]) -> StoredTask:
    """Return the task of a line.

    Raises:
      LineError: a field is wrong.
    """
    fields = dict(record)
    _check_names(fields, {each.name for each in _TASK_FIELDS}, ("id", "state", "payload"))
    for name, value in fields.items():
        if name in _BYTES:
            fields[name] = read_bytes(name, value)
        elif name in _TIMES and value == "never":
            fields[name] = math.inf
    try:
        return StoredTask(**fields)
    except (TypeError, ValueError) as error:
        raise LineError(str(error)) from None


def read_limits(record: Mapping[str, Any]) -> tuple[str, str | None, Limits]:
    """Return the queue, the key and the limits of a line.

    Raises:
      LineError: a field is wrong.
    """
    fields = dict(record)
    _check_names(fields, {*(each.name for each in _LIMITS_FIELDS), "queue", "key"}, ("queue",))
    queue = text_of(fields.pop("queue"), "queue")
    key = text_of(fields.pop("key"), "key") if "key" in fields else None
    for name in {"rate", "rate_per_key"} & fields.keys():
        rate: Any = fields[name]
        if not isinstance(rate, dict) or {*cast("dict[str, Any]", rate)} != {"n", "per"}:
            raise LineError(f'{name} must be {{"n": number, "per": seconds}}, not {_told(fields[name])}')
    try:
        rates: dict[str, Any] = {name: Rate(**fields.pop(name)) for name in ("rate", "rate_per_key") if name in fields}
        limits = Limits(**fields, **rates)
    except (TypeError, ValueError) as error:
        raise LineError(str(error)) from None
    if key is not None and not (limits.concurrency is None and limits.rate is None):
        raise LineError("concurrency and rate are limits of a whole queue, and not of a key")
    return queue, key, limits


def read_bytes(name: str, value: Any) -> bytes:
    """Return the bytes of a field.

    Raises:
      LineError: it has none.
    """
    found: object = None
    try:
        [(form, content)] = cast("dict[str, Any]", value).items()
        if form == "cbor":
            found = _CBOR.encode(_value_of(content))
        elif form == "base64":
            found = base64.b64decode(content, validate=True)
    except (TypeError, ValueError, AttributeError, RecursionError):
        pass  # the same is told of all of them
    if not isinstance(found, bytes):
        raise LineError(f'{name} must be {{"base64": text}} or {{"cbor": value}}, not {_told(value)}')
    return found


def _value_of(content: Any) -> Any:
    """Return the value that was in a line, with its bytes."""
    kind: type[object] = content.__class__
    if kind is dict:
        if "$bytes" in content:
            [text] = content.values()
            return base64.b64decode(text, validate=True)
        return {name: _value_of(each) for name, each in content.items()}
    return [_value_of(each) for each in content] if kind is list else content


def read_schedule(record: Mapping[str, Any]) -> tuple[str, StoredSchedule]:
    """Return the name and the schedule of a line.

    Raises:
      LineError: a field is wrong.
    """
    fields = dict(record)
    names = {each.name for each in _SCHEDULE_FIELDS}
    _check_names(fields, {*names, "name", "payload", "options", "metadata"}, ("name", "times", "queue", "done"))
    name = text_of(fields.pop("name"), "name")
    payload = read_bytes("payload", fields.pop("payload", None))
    options, metadata = fields.pop("options", {}), fields.pop("metadata", None)
    values: Any = {} if metadata is None else _CBOR.decode(read_bytes("metadata", metadata))
    if not isinstance(options, dict) or not isinstance(values, dict):
        raise LineError("options and metadata must be objects")
    _check_schedule(fields)
    try:
        template = TaskTemplate(payload, _terms_of(cast("dict[str, Any]", options)), Metadata(cast("Any", values)))
    except (TypeError, ValueError) as error:
        raise LineError(str(error)) from None
    return name, StoredSchedule(**fields, template=template)


def _terms_of(options: dict[str, Any]) -> Any:
    """Return the options of a task; each is checked by the builder of tasks."""
    if unknown := options.keys() - _TERMS.keys():
        raise LineError(f"options has no {min(unknown)}; it may have {', '.join(_TERMS)}")
    builder = TaskBuilder(None)
    for name in ("attempts", "timeout", "priority", "key", "retry_for", "expires_in", "deadline"):
        if name in options:
            builder = getattr(builder, name)(options[name])
    if "delay" in options:
        builder = builder.run_in_seconds(options["delay"])
    if "unique" in options:
        by_name = {"on_conflict": "on_conflict", "unique_until": "until", "unique_for": "seconds"}
        chosen: dict[str, Any] = {to: options[name] for name, to in by_name.items() if name in options}
        builder = builder.unique(options["unique"], **chosen)
    terms: Any = builder.build().parts.terms
    given = options.get("name")
    return terms if given is None else dataclasses.replace(terms, name=text_of(given, "the name in options"))


_BOUND = 2**58
_LONGEST = 2.0**33
SCHEDULE_RULES: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "times": ("a text", lambda value: type(value) is str and value),
    "queue": ("a text", lambda value: type(value) is str and value),
    "done": ("a time in microseconds", lambda value: type(value) is int and abs(value) < _BOUND),
    "fired": ("a time in microseconds", lambda value: type(value) is int and abs(value) < _BOUND),
    "missed": ("latest, skip or all", lambda value: value in ("latest", "skip", "all")),
    "within": ("a number of seconds", lambda value: type(value) in (int, float) and 0 <= value <= _LONGEST),
    "limit": ("a number above 0", lambda value: type(value) is int and 0 < value < _LARGEST),
    "overlap": ("skip or allow", lambda value: value in ("skip", "allow")),
    "jitter": ("a number of seconds", lambda value: type(value) in (int, float) and 0 <= value <= _LONGEST),
    "is_paused": ("true or false", lambda value: type(value) is bool),
    "is_dynamic": ("true or false", lambda value: type(value) is bool),
    "orphaned_from": ("a time in microseconds", lambda value: type(value) is int and abs(value) < _BOUND),
}
"""For each field of a schedule, what it must be."""


def _check_schedule(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        what, is_right = SCHEDULE_RULES[name]
        if not is_right(value):
            raise LineError(f"{name} must be {what}, not {_told(value)}")


def _check_names(fields: Mapping[str, Any], known: set[str], needed: Sequence[str]) -> None:
    if unknown := fields.keys() - known:
        raise LineError(f"it has a field {_told(min(unknown))}, which this version does not know")
    if missing := [name for name in needed if name not in fields]:
        raise LineError(f"it has no {missing[0]}")


def text_of(value: object, name: str) -> str:
    """Return a text of a line.

    Raises:
      LineError: it is none.
    """
    if not isinstance(value, str) or not value or any("\ud800" <= each <= "\udfff" for each in value):
        raise LineError(f"{name} must be a text that is not empty, not {_told(value)}")
    return value


def wrong_line(number: int, error: LineError) -> CommandError:
    """Return the error that ends the command, for a line of this number."""
    return CommandError(f"line {number}: {printable(str(error))}", ExitStatus.USAGE)
