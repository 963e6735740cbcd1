"""What is kept of a task beside its payload: its head (terms and metadata), its errors, its history.

All of it is CBOR, written by this module alone. What is read back was written by us, or by another version of us: what
cannot be read says so, in a :class:`BackendError`.
"""

from __future__ import annotations

import builtins
import traceback
from datetime import datetime
from typing import TYPE_CHECKING, Any

import cbor2

from .._checks import check_count, check_seconds, check_text
from .._clock import microseconds_of, moment_after
from .._codec import CborCodec, DecodeError, EncodeError
from .._contained import catch_errors
from .._error_text import text_of
from .._errors import (
    AbortError,
    BackendError,
    DeferredError,
    DuplicateTaskError,
    LeaseLostError,
    MonitorError,
    OrphanedError,
    OverloadedError,
    RetryAfterError,
    StoredError,
    SuspendError,
    TaskExpiredError,
    UnknownTaskError,
    WorkerError,
)
from .._extensions import NO_METADATA, Metadata
from .._groups import is_a
from .._printing import escaped
from .._task import USUAL_TERMS, Terms
from .._task_info import LONGEST_HISTORY, LONGEST_TEXT, PastAttempt
from ._port import LATEST

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = 8
"""Fields of a head that are always there."""
_PLAIN = (str, int, float, bool, type(None))
_LONGEST_TRACEBACK = 16_000
"""Characters: the end of a traceback is what tells most."""
_NO_TEXT = "an error that does not let itself be looked at"

_OURS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        AbortError,
        BackendError,
        DeferredError,
        DuplicateTaskError,
        LeaseLostError,
        MonitorError,
        OrphanedError,
        OverloadedError,
        RetryAfterError,
        SuspendError,
        TaskExpiredError,
        UnknownTaskError,
        WorkerError,
        DecodeError,
        EncodeError,
    )
}
"""Which of our errors are made again when they are read."""

_METADATA = CborCodec(name="metadata")


# Heads


def encode_head(terms: Terms, metadata: Mapping[str, Any], run_at: datetime | None = None) -> bytes | None:
    """Terms and metadata as bytes; None if both are the usual ones. A ``run_at`` in another time zone than UTC is kept
    here as it was given.

    Raises:
      EncodeError: the metadata cannot be stored.
    """
    given = run_at.isoformat() if run_at is not None and run_at.utcoffset() else None
    if terms is USUAL_TERMS and not metadata and given is None:
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
    return cbor2.dumps([*fields, given] if given else fields)


def moment_of(run_at: int | None, head: bytes | None) -> datetime | None:
    """The ``run_at`` of a row, in the time zone in which it was given.

    Raises:
      BackendError: nobody could have given it.
    """
    if run_at is None:
        return None
    try:
        moment = moment_after(run_at)
        given = _read(head, "the head of a task")[_HEAD:] if head is not None else None
        if given:
            asked = datetime.fromisoformat(given[0])
            moment = asked if microseconds_of(asked) == run_at else moment
    except (TypeError, ValueError, OverflowError) as error:
        raise BackendError(f"when a task is to run cannot be read: {error}") from error
    return moment


def decode_head(head: bytes | None) -> tuple[Terms, Metadata]:
    """What :func:`encode_head` was given."""
    if head is None:
        return USUAL_TERMS, NO_METADATA
    try:
        *terms, metadata = _read(head, "the head of a task")[:_HEAD]
        found = Terms(*terms)
        _check_terms(found)
        return found, Metadata(_METADATA.decode(metadata)) if metadata else NO_METADATA
    except (TypeError, ValueError) as error:
        raise BackendError(f"the head of a task cannot be read: {error}") from error


def _check_terms(terms: Terms) -> None:
    """See that what was read could have been asked for: a worker goes by it."""
    if terms.attempts is not None:
        check_count(terms.attempts, "attempts")
    for name in ("timeout", "expires_in"):
        if getattr(terms, name) is not None:
            check_seconds(getattr(terms, name), name, positive=True)
    check_count(terms.priority, "priority", minimum=None)
    check_seconds(terms.delay, "delay")
    if terms.unique is not None:
        check_text(terms.unique, "unique")


# Errors


def encode_error(error: BaseException) -> bytes:
    """An error as bytes: its class, its text, its plain arguments, its traceback. It never raises: an error that cannot
    be looked at is stored by its class alone."""
    with catch_errors() as caught:
        return _encode_error(error)
    assert caught.error is not None
    return _dump({"module": "builtins", "name": _name_of(error), "text": _NO_TEXT, "args": None, "traceback": ""})


def _name_of(error: BaseException) -> str:
    return str(type.__dict__["__qualname__"].__get__(type(error)))  # not that which its metaclass may show instead


def _encode_error(error: BaseException) -> bytes:
    if is_a(error, StoredError):  # it was read, and is stored again
        module, _, name = error.kind.rpartition(".")
        fields = {"module": module or "builtins", "name": name, "text": error.text, "traceback": error.traceback}
        return _dump({**fields, "args": None})
    kind = type(error)
    return _dump(
        {
            "module": kind.__module__,
            "name": kind.__qualname__,
            "text": text_of(error)[:LONGEST_TEXT],
            "args": _arguments_of(error),
            "traceback": _traceback_of(error)[-_LONGEST_TRACEBACK:],
        }
    )


def _arguments_of(error: BaseException) -> list[Any] | None:
    """What an error was made of, if that is little, and plain."""
    with catch_errors():  # a handler's error may lie about itself
        arguments = list(error.args)
        plain = len(arguments) <= 8 and all(type(each) in _PLAIN for each in arguments)
        return arguments if plain and len(repr(arguments)) <= LONGEST_TEXT else None
    return None


def _traceback_of(error: BaseException) -> str:
    with catch_errors() as caught:  # the same
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"its traceback could not be had: {type(caught.error).__name__}"


def decode_error(stored: bytes | None) -> BaseException:
    """The error that was stored.

    One of Python's own, or of ours, is made again, with a :class:`StoredError` as its cause that has the traceback;
    any other is a :class:`StoredError`.
    """
    if stored is None:
        return StoredError("unknown", "its error was not kept", "")
    fields = _read(stored, "an error")
    try:
        kind, name = f"{fields['module']}.{fields['name']}", check_text(fields["name"], "the name of an error")
        witness = StoredError(kind.removeprefix("builtins."), fields["text"], fields["traceback"])
        arguments = fields["args"]
    except (TypeError, KeyError, ValueError) as error:
        raise BackendError(f"an error cannot be read: {error!r}") from error
    made: Any = _OURS.get(name) if kind.startswith("trio_tasks.") else None
    if kind == f"builtins.{name}":
        made = getattr(builtins, name, None)
    if arguments is None or not (isinstance(made, type) and issubclass(made, Exception)):
        return witness
    with catch_errors() as caught:
        again = made(*arguments)
    if caught.error is not None:  # it takes other arguments now
        return witness
    again.__cause__ = witness
    return again


def expired_error() -> bytes:
    """That a task was not started in time."""
    return encode_error(TaskExpiredError("not started within its expires_in"))


def overflow_error() -> bytes:
    """That an attempt has a number beyond which a store cannot count."""
    return encode_error(OrphanedError("its attempts cannot be counted any further"))


def aborted_error() -> bytes:
    """That somebody wanted it aborted."""
    return encode_error(AbortError("aborted while it ran"))


def replaced_error(successor: str) -> bytes:
    """That another task has taken its place."""
    return encode_error(AbortError(f"replaced by task {escaped(successor)}"))


# History


LOST = "lost"
"""What became of an attempt whose worker died, or lost its lease."""


def with_attempt(history: bytes | None, entry: PastAttempt) -> bytes:
    """The history with this attempt more; the oldest are forgotten beyond fifty, and so is what cannot be read."""
    try:
        entries = list(map(_fields_of, decode_history(history)))
    except BackendError:
        entries = []
    entries.append(_fields_of(entry))
    return _dump(entries[-LONGEST_HISTORY:])


def _fields_of(past: PastAttempt) -> list[Any]:
    return [past.attempt, past.ended_at, past.worker, past.became, past.error[:LONGEST_TEXT]]


def with_loss(history: bytes | None, attempt: int, at: float, worker: str | None) -> bytes:
    """The history with one attempt more, whose worker died, or lost its lease."""
    return with_attempt(history, PastAttempt(attempt, at, worker, LOST, "its worker died, or lost its lease"))


UNREADABLE = "unreadable"
"""What became of the attempt in which a worker first found that it cannot decode the task; it did not count."""


def unreadable_since(history: bytes | None) -> float | None:
    """When a worker first found the task unreadable, since it last was a dead letter; None if no worker did."""
    found: float | None = None
    for entry in decode_history(history):
        if entry.became in ("failed", "killed"):
            found = None  # it was resumed: another life
        elif entry.became == UNREADABLE and found is None:
            found = _moment(entry.ended_at)
    return found


def _moment(value: Any) -> float:
    """A time that was read, and is one."""
    if type(value) not in (int, float) or not -LATEST <= value <= LATEST:
        raise BackendError(f"the time of an attempt cannot be read: {value!r:.50}")
    return float(value)


def ends_in_loss(history: bytes) -> bool:
    """Whether the latest attempt that counted was lost."""
    entries = [each for each in decode_history(history) if each.became != UNREADABLE]
    return bool(entries) and entries[-1].became == LOST


def decode_history(history: bytes | None) -> tuple[PastAttempt, ...]:
    """The attempts, the oldest first."""
    if not history:
        return ()
    try:
        past = tuple(PastAttempt(*fields) for fields in _read(history, "a history"))
        for each in past:
            check_text(each.error, "the error of an attempt")
    except (TypeError, ValueError) as error:
        raise BackendError(f"a history cannot be read: {error}") from error
    return past


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
