"""The encoding of everything stored of a task besides its payload: options, errors and history.

All of it is CBOR, written by this module alone, in this or another version of the library. Data that cannot be read
raises a :class:`BackendError`.
"""

from __future__ import annotations

import builtins
import math
import sys
import traceback
from datetime import datetime
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import cbor2
import trio

from ..._checks import check_count, check_seconds, check_text
from ..._clock import microseconds_of, moment_after, moment_at
from ..._codecs.codec import CborCodec, DecodeError, EncodeError
from ..._concurrency.exception_groups import is_a, leaves, members_of
from ..._contracts.worker_info import MOST_RUNNING, RunningTask, WorkerInfo
from ..._logging import catch_errors, text_of
from ..._printing import LONGEST_TEXT, escaped
from ..._tasks import errors
from ..._tasks.errors import AbortError, BackendError, DeadlineError, OrphanedError, StoredError, TaskExpiredError
from ..._tasks.extensions import NO_METADATA, Metadata
from ..._tasks.task import USUAL_TERMS, Attempt, Terms, attempt_number, check_until
from ..._tasks.task_id import TaskId
from ..._tasks.task_info import LONGEST_HISTORY, TRACEBACKS, PastAttempt, latest
from .engine import LATEST

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .engine import StoredWorker

_OPTIONS_LENGTH = 8
"""Fields of encoded options that are always there."""
_PLAIN = (str, int, float, bool, type(None))
_LONGEST_TRACEBACK = 16_000
"""Characters: the end of a longer traceback is stored."""
_NO_TEXT = "an error that does not let itself be looked at"

_DEEPEST = 5
"""Levels of errors in the arguments, or the groups, of an error,"""
_MOST_MEMBERS = 20
"""and the leaves of a group that are stored apart; of one that has more, or is deeper, only the text is kept."""


def _exceptions_in(*namespaces: Mapping[str, Any]) -> dict[str, type[Exception]]:
    """Return the exception classes among the public names of a module."""
    return {
        name: kind
        for namespace in namespaces
        for name, kind in namespace.items()
        if isinstance(kind, type) and issubclass(kind, Exception) and not name.startswith("_")
    }


_OURS = _exceptions_in(vars(errors), {"DecodeError": DecodeError, "EncodeError": EncodeError})
_MADE_AGAIN = {"builtins": _exceptions_in(vars(builtins)), "trio": _exceptions_in(vars(trio)), "trio_tasks": _OURS}
"""The errors that are made again when they are read, by the first part of their module's name."""

_METADATA = CborCodec(name="metadata")


# Options


def encode_options(terms: Terms, metadata: Mapping[str, Any], run_at: datetime | None = None) -> bytes | None:
    """Encode terms and metadata as bytes; None if both are the default. A ``run_at`` in another time zone than UTC is
    kept here as it was given. The name of a task is stored apart.

    Raises:
      EncodeError: the metadata cannot be stored.
    """
    given = run_at.isoformat() if run_at is not None and run_at.utcoffset() else None
    is_usual = terms is USUAL_TERMS or (terms.name is not None and terms == usual_terms(terms.name))
    if is_usual and not metadata and given is None:
        return None
    fields = [
        terms.attempts,
        terms.timeout,
        terms.priority,
        terms.delay,
        terms.unique,
        terms.on_conflict,
        terms.expires_in,
        _METADATA.encode(dict(metadata)) if metadata else None,
    ]
    if terms.deadline is not None:
        fields += (given, terms.retry_for, terms.unique_until, terms.unique_for, terms.key, terms.deadline)
    elif terms.key is not None:
        fields += (given, terms.retry_for, terms.unique_until, terms.unique_for, terms.key)
    elif terms.unique_until != "end" or terms.unique_for is not None:
        fields += (given, terms.retry_for, terms.unique_until, terms.unique_for)
    elif terms.retry_for is not None:
        fields += (given, terms.retry_for)
    elif given:
        fields.append(given)
    return cbor2.dumps(fields)


def moment_of(run_at: int | None, options: bytes | None) -> datetime | None:
    """Return the ``run_at`` of a row, in the time zone in which it was given.

    Raises:
      BackendError: it is no valid time.
    """
    if run_at is None:
        return None
    try:
        moment = moment_after(run_at)
        given = _read(options, "the options of a task")[_OPTIONS_LENGTH:] if options is not None else None
        if given and given[0]:
            asked = datetime.fromisoformat(given[0])
            moment = asked if microseconds_of(asked) == run_at else moment
    except (TypeError, ValueError, OverflowError) as error:
        raise BackendError(f"the run_at of a task cannot be read: {error}") from error
    return moment


@lru_cache(maxsize=1024)
def usual_terms(name: str) -> Terms:
    """The default terms of a task of this name."""
    return Terms(name=name)


def decode_options(options: bytes | None, name: str | None = None) -> tuple[Terms, Metadata]:
    """Decode the terms and metadata that :func:`encode_options` encoded; ``name`` is the name of the task."""
    if name is not None:
        _check_task_name(name)
    if options is None:
        return USUAL_TERMS if name is None else usual_terms(name), NO_METADATA
    try:
        fields = _read(options, "the options of a task")
        *terms, metadata = fields[:_OPTIONS_LENGTH]
        values: list[Any] = [*terms, name, *fields[_OPTIONS_LENGTH + 1 : _OPTIONS_LENGTH + 6]]
        found = Terms(*values)
        _check_terms(found)
        return found, Metadata(_METADATA.decode(metadata)) if metadata else NO_METADATA
    except (TypeError, ValueError, LookupError) as error:
        raise BackendError(f"the options of a task cannot be read: {error}") from error


def _check_task_name(name: object) -> None:
    if not isinstance(name, str):
        raise BackendError(f"the name of a task cannot be read: {name!r:.50}")


def check_time(seconds: Any) -> float | None:
    """Return a time on the engine's clock that was read, if it is one, or None.

    Raises:
      BackendError: it is none.
    """
    if seconds is None or (type(seconds) in (int, float) and -LATEST <= seconds <= LATEST):
        return None if seconds is None else float(seconds)
    raise BackendError(f"a time cannot be read: {seconds!r:.50}")


def _check_terms(terms: Terms) -> None:
    """Raise, as TaskBuilder does, if decoded terms are invalid, since workers rely on them."""
    if terms.attempts is not None:
        check_count(terms.attempts, "attempts")
    for name in ("timeout", "expires_in", "retry_for", "unique_for"):
        if getattr(terms, name) is not None:
            check_seconds(getattr(terms, name), name, positive=True)
    check_count(terms.priority, "priority", minimum=None)
    check_seconds(terms.delay, "delay")
    if terms.unique is not None:
        check_text(terms.unique, "unique")
    if terms.key is not None:
        check_text(terms.key, "key")
    if terms.unique_until != "end":
        check_until(terms.unique_until, "unique_until")
    if terms.deadline not in (None, "inherit", math.inf):
        check_seconds(terms.deadline, "deadline", positive=True)


# Errors


def encode_error(error: BaseException) -> bytes:
    """Encode an error as bytes: its class, its text, its plain arguments, its traceback. It never raises: an error
    whose text or attributes raise is stored by its class alone.
    """
    with catch_errors() as caught:
        trace = error.traceback if is_a(error, StoredError) else _traceback_of(error)
        return _dump({**_fields_of_error(error, 0), "traceback": trace[-_LONGEST_TRACEBACK:]})
    assert caught.error is not None
    return _dump({"module": "builtins", "name": _name_of(error), "text": _NO_TEXT, "args": None, "traceback": ""})


def _name_of(error: BaseException) -> str:
    return str(type.__dict__["__qualname__"].__get__(type(error)))  # a metaclass may show another name


def _fields_of_error(error: BaseException, depth: int) -> dict[str, Any]:
    """Return the stored fields of an error without its traceback; ``depth`` is the number of errors around it."""
    if is_a(error, StoredError):  # it was read, and is stored again
        module, _, name = error.kind.rpartition(".")
        return {"module": module or "builtins", "name": name, "text": error.text, "args": None}
    kind = type(error)
    longest = LONGEST_TEXT if depth == 0 else LONGEST_TEXT // 4
    fields: dict[str, Any] = {"module": kind.__module__, "name": kind.__qualname__, "text": text_of(error)[:longest]}
    fields["args"], fields["state"], fields["members"] = None, None, None
    with catch_errors():  # a handler's error may lie about itself
        if kind in (ExceptionGroup, BaseExceptionGroup):
            fields["args"], fields["members"] = _members_of(error, depth)
        elif kind in _MADE_AGAIN.get(kind.__module__.partition(".")[0], {}).values():
            fields["args"], fields["state"] = _arguments_of(error, depth)
    return fields


def _members_of(group: BaseException, depth: int) -> tuple[list[Any] | None, list[Any] | None]:
    """Return the message of a group and the fields of its members; nothing if there are too many."""
    if depth > _DEEPEST or sum(1 for _ in leaves(group)) > _MOST_MEMBERS:
        return None, None
    assert is_a(group, BaseExceptionGroup)
    return [group.message[:LONGEST_TEXT]], [_fields_of_error(each, depth + 1) for each in members_of(group)]


def _arguments_of(error: BaseException, depth: int) -> tuple[list[Any] | None, dict[str, Any] | None]:
    """Return the arguments and attributes of an error, if they are few and plain."""
    reduced: Any = error.__reduce__()  # this includes the name of the file, which the args of an OSError omit
    _, arguments, *more = reduced
    packed = [_packed(each, depth) for each in arguments]
    if len(packed) > 8 or len(repr(packed)) > LONGEST_TEXT * (1 if depth == 0 else 4):
        return None, None
    given = dict(more[0]) if more and more[0] else {}
    state = {name: value for name, value in given.items() if _is_attribute(name) and _is_plain(name, value)}
    return packed, state if len(repr(state)) <= LONGEST_TEXT else None


def _is_attribute(name: object) -> bool:
    return type(name) is str and name.isidentifier() and (name == "__notes__" or not name.startswith("_"))


def _is_plain(name: str, value: Any) -> bool:
    return type(value) in _PLAIN or (name == "__notes__" and all(type(each) is str for each in value))


def _kind_of(value: object) -> type[object]:
    return type(value)


def _packed(value: Any, depth: int) -> Any:
    """Return the stored form of an error's argument.

    Raises:
      TypeError: it is of a type that cannot be made again.
    """
    kind = _kind_of(value)
    if kind in _PLAIN or kind is bytes:
        return value
    if kind is TaskId:
        return {"task_id": str(value)}
    if kind is Attempt:
        return {"attempt": int(value)}
    if issubclass(kind, BaseException) and depth < _DEEPEST:
        return {"error": _fields_of_error(value, depth + 1)}
    if issubclass(kind, PurePath):
        return str(value)
    raise TypeError


def _traceback_of(error: BaseException) -> str:
    with catch_errors() as caught:  # formatting calls the error's own code
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"its traceback could not be had: {type(caught.error).__name__}"


def decode_error(stored: bytes | None) -> BaseException:
    """Decode the error that :func:`encode_error` encoded.

    An error of Python, of trio or of this library is made again; the last of its causes is a :class:`StoredError` that
    has the traceback. Any other error is a :class:`StoredError`.
    """
    if stored is None:
        return StoredError("unknown", "its error was not kept", "")
    fields = _read(stored, "an error")
    try:
        again = _made_of(fields)
        stored_error = _stored_error_of(fields, _text(fields["traceback"]))
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise BackendError(f"the stored error of a task cannot be read: {error!r}") from error
    if type(again) is StoredError:
        return stored_error
    last: BaseException = again
    while last.__cause__ is not None:
        last = last.__cause__
    last.__cause__ = stored_error
    return again


def _stored_error_of(fields: Mapping[str, Any], traceback: str) -> StoredError:
    kind = f"{fields['module']}.{check_text(fields['name'], 'the name of an error')}"
    return StoredError(kind.removeprefix("builtins."), _text(fields["text"]), traceback)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    return value


def _made_of(fields: Mapping[str, Any]) -> Exception:
    """Make the error of these fields again; a :class:`StoredError` without a traceback if that is impossible."""
    stored_error = _stored_error_of(fields, "")
    module, name, arguments = fields["module"], fields["name"], fields["args"]
    if arguments is None:
        return stored_error
    if (members := fields.get("members")) is not None:
        [message] = arguments
        return ExceptionGroup(_text(message), [_made_of(each) for each in members])
    kind = _MADE_AGAIN.get(module.partition(".")[0], {}).get(name)
    if kind is None:
        return stored_error
    unpacked = [_unpacked(each) for each in arguments]
    state: dict[str, Any] = fields.get("state") or {}
    with catch_errors():  # it may take other arguments now
        again = kind(*unpacked)
        for attribute, value in state.items():
            if _is_attribute(attribute):
                setattr(again, attribute, value)
        return again
    return stored_error


def _unpacked(value: Any) -> Any:
    if _kind_of(value) is not dict:
        return value
    [(kind, content)] = value.items()
    if kind == "task_id":
        return TaskId(content)
    return attempt_number(content) if kind == "attempt" else _made_of(content)


def expired_error() -> bytes:
    """Return the stored error of a task that was not started in time."""
    return encode_error(TaskExpiredError("not started within its expires_in"))


def deadline_error() -> bytes:
    """Return the stored error of a task that waited when its deadline was over."""
    return encode_error(DeadlineError("its deadline was over while it waited"))


def overflow_error() -> bytes:
    """Return the stored error of an attempt whose number is too large for the store."""
    return encode_error(OrphanedError("its attempts cannot be counted any further"))


def aborted_error() -> bytes:
    """Return the stored error of a task that was aborted while it ran."""
    return encode_error(AbortError("aborted while it ran"))


def replaced_error(successor: str) -> bytes:
    """Return the stored error of a task that another one has replaced."""
    return encode_error(AbortError(f"replaced by task {escaped(successor)}"))


# History


_TRACEBACK = 6
"""The index of the traceback in the fields of an attempt."""
LOST = "lost"
"""The end of an attempt whose worker died, or lost its lease."""


def with_attempt(history: bytes | None, entry: PastAttempt) -> bytes:
    """Return the history with this attempt added. Beyond fifty the oldest are dropped, but for the first; a history
    that cannot be read, too.
    """
    try:
        entries = list(map(_fields_of, decode_history(history)))
    except BackendError:
        entries = []
    entries.append(_fields_of(entry))
    if len(entries) > LONGEST_HISTORY:
        entries = latest(entries, [fields[0] for fields in entries])
    for fields in entries[:-TRACEBACKS]:
        fields[_TRACEBACK] = ""
    return _dump(entries)


def _fields_of(past: PastAttempt) -> list[Any]:
    first = past.attempt, past.ended_at, past.worker, past.became, past.error[:LONGEST_TEXT]
    return [*first, past.seconds, past.traceback, past.version]


def with_loss(history: bytes | None, attempt: int, at: float, worker: str | None) -> bytes:
    """Return the history with an attempt added that was lost with its worker or its lease."""
    return with_attempt(history, PastAttempt(attempt, at, worker, LOST, "its worker died, or lost its lease"))


UNREADABLE = "unreadable"
"""The end of the attempt in which a worker first found that it cannot decode the task; it did not count."""


def unreadable_since(history: bytes | None) -> float | None:
    """Return the time at which a worker first found the task unreadable, since it last was a dead letter; None if none
    did.
    """
    found: float | None = None
    for entry in decode_history(history):
        if entry.became in ("failed", "killed"):
            found = None  # it was resumed: another life
        elif entry.became == UNREADABLE and found is None:
            found = check_time(entry.ended_at)
    return found


def ends_in_loss(history: bytes) -> bool:
    """Return True if the latest counted attempt was lost."""
    entries = [each for each in decode_history(history) if each.became != UNREADABLE]
    return bool(entries) and entries[-1].became == LOST


def decode_history(history: bytes | None) -> tuple[PastAttempt, ...]:
    """Return the past attempts, the oldest first."""
    if not history:
        return ()
    try:
        past = tuple(PastAttempt(*fields) for fields in _read(history, "a history"))
        for each in past:
            check_text(each.error, "the error of an attempt")
            check_time(each.seconds)
            _text(each.traceback)
            _text(each.version or "")
    except (TypeError, ValueError) as error:
        raise BackendError(f"the history of a task cannot be read: {error}") from error
    return past


# Workers


def encode_worker(info: WorkerInfo) -> bytes:
    """Encode the state of a worker, without the times of its heartbeats."""
    running = [
        [each.id, each.name, each.attempt, None if each.since is None else each.since.timestamp(), each.line]
        for each in info.running
    ]
    numbers = info.pid, info.slots, info.busy, info.since.timestamp()
    return _dump([info.host, info.version, info.intake, *numbers, running, info.names and [*info.names]])


def decode_worker(stored: StoredWorker, queue: str) -> tuple[WorkerInfo, str]:
    """Decode the state of a worker, field by field: it may have been stored by another version, or be damaged.

    Returns:
      the worker, with defaults for all that cannot be read; and what is wrong with that, or an empty text.
    """
    told, wrong = list[Any](), list[str]()
    if stored.state is not None:
        try:
            told = [*_list(_read(stored.state, "the state of a worker"))]
        except (BackendError, TypeError, RecursionError) as error:
            wrong.append(text_of(error))
    given = told[: len(_WORKER_FIELDS)] + [_MISSING] * (len(_WORKER_FIELDS) - len(told))  # a newer version may add some
    fields = dict[str, Any]()
    for value, (name, (decode, default)) in zip(given, _WORKER_FIELDS.items(), strict=True):
        fields[name] = default
        with catch_errors() as caught:
            fields[name] = default if value is _MISSING else decode(value)
        if caught.error is not None:
            wrong.append(f"{name}: {text_of(caught.error)}")
    since = fields.pop("since")
    info = WorkerInfo(
        name=stored.name,
        queue=queue,
        since=moment_at(stored.told_at if since is None else since),
        as_of=moment_at(stored.told_at),
        last_beat=moment_at(stored.last_beat),
        is_alive=stored.is_alive,
        **fields,
    )
    return info, "; ".join(wrong)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.50} is no list")
    return value  # pyright: ignore[reportUnknownVariableType]  its elements are checked one by one


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"{value!r:.50} is no number")
    return value


def _running_tasks(told: Any) -> tuple[RunningTask, ...]:
    return tuple(_running_task(*_list(each)[:5]) for each in _list(told)[:MOST_RUNNING])


def _running_task(id: Any, name: Any, attempt: Any, since: Any, line: Any) -> RunningTask:
    begun = check_time(since)
    return RunningTask(
        _text(id), _text_or_none(name), _number(attempt), None if begun is None else moment_at(begun), _text(line)
    )


def _names(told: Any) -> tuple[str, ...] | None:
    return None if told is None else tuple(map(_text, _list(told)))


_MISSING: Any = object()
LONGEST_STATE = 2**20
"""Bytes of the state of a worker; a longer one is not read."""
_WORKER_FIELDS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "host": (_text, ""),
    "version": (_text_or_none, None),
    "intake": (_text, "unknown"),
    "pid": (_number, 0),
    "slots": (_number, 0),
    "busy": (_number, 0),
    "since": (check_time, None),
    "running": (_running_tasks, ()),
    "names": (_names, None),
}
"""The fields of the state of a worker, in order: the function that decodes each, and its default."""


def _dump(value: Any) -> bytes:
    try:
        return cbor2.dumps(value)
    except UnicodeEncodeError:  # lone surrogates, as in the names of files
        return cbor2.dumps(_printable(value))


def _printable(value: Any) -> Any:
    kind: type = value.__class__
    if kind is str:
        return value.encode("utf-8", "backslashreplace").decode()
    if kind is list:
        return [_printable(each) for each in value]
    if kind is dict:
        return {name: _printable(each) for name, each in value.items()}
    return value


def _read(stored: bytes, what: str) -> Any:
    try:
        return cbor2.loads(stored)
    except (cbor2.CBORDecodeError, EOFError, ValueError, TypeError) as error:
        raise BackendError(f"{what} cannot be read: {error}") from error
