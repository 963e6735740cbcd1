from __future__ import annotations

import math
import sys
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Any

import cbor2
import pytest
import trio
from trio_tasks import (
    AbortError,
    Attempt,
    BackendError,
    DeferredError,
    PastAttempt,
    RetryAfterError,
    StoredError,
    TaskId,
    UnknownTaskError,
)
from trio_tasks._backends.durable.encoding import (
    decode_error,
    decode_history,
    decode_options,
    encode_error,
    encode_options,
    ends_in_loss,
    expired_error,
    replaced_error,
    with_attempt,
    with_loss,
)
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks._tasks import errors as _errors
from trio_tasks._tasks.task import USUAL_TERMS, Terms
from trio_tasks._tasks.task_info import first_began

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # with its traceback
        return caught


def unread(garbage: bytes) -> object:
    """It can be read, and is not what it should be."""
    return pytest.param(garbage)


# Heads


def read(options: bytes | None) -> tuple[Terms, dict[str, object]]:
    terms, metadata = decode_options(options)
    return terms, dict(metadata)


def test_usual_terms_take_no_room() -> None:
    assert encode_options(USUAL_TERMS, {}) is None
    assert read(None) == (USUAL_TERMS, {})


def test_terms_and_metadata_come_back() -> None:
    terms = Terms(3, 1.5, -7, 60.0, "key", "replace", 30.0)
    metadata = {"tenant": "acme", "deep": [1, {"x": None}], "blob": b"\x00"}
    assert read(encode_options(terms, metadata)) == (terms, metadata)
    assert read(encode_options(USUAL_TERMS, {"a": 1})) == (USUAL_TERMS, {"a": 1})
    assert read(encode_options(terms, {})) == (terms, {})


@pytest.mark.parametrize("garbage", [b"\xff", b"", b"\x80", b"\x01", b"\x81\x01", b"\xa0", b"\x8a" + b"\x01" * 10])
def test_a_head_that_cannot_be_read_says_so(garbage: bytes) -> None:
    with pytest.raises(BackendError):
        decode_options(garbage)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(attempts="three"),  # type: ignore[arg-type]  # by another hand
        Terms(attempts=0),
        Terms(timeout=-1.0),
        Terms(timeout=float("nan")),
        Terms(priority=0.5),  # type: ignore[arg-type]  # the same
        Terms(delay=b"1"),  # type: ignore[arg-type]  # the same
        Terms(unique=1),  # type: ignore[arg-type]  # the same
        Terms(expires_in=cbor2.undefined),  # type: ignore[arg-type]  # the same
    ],
)
def test_terms_that_push_would_have_refused_are_not_read(terms: Terms) -> None:
    options = encode_options(terms, {})
    with pytest.raises(BackendError, match="the options of a task cannot be read: "):
        decode_options(options)


# Errors


class OutOfStock(Exception):
    pass


class Colour(IntEnum):
    RED = 1


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class WithoutArgs(Exception):
    @property
    def args(self) -> tuple[object, ...]:  # type: ignore[override]  # it lies about itself
        raise RuntimeError("no")


class WithoutNotes(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override,unused-ignore]  # the same; 3.10 knows no notes
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3, 1.5, None, True),
        KeyError("name"),
        FileNotFoundError(2, "gone"),
        ZeroDivisionError(),
        AbortError("enough"),
        ValueError(math.inf),
    ],
)
def test_an_error_of_python_or_of_ours_is_made_again(error: Exception) -> None:
    again = decode_error(encode_error(raised(error)))
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert isinstance(again.__cause__, StoredError)
    assert "Traceback" in again.__cause__.traceback
    assert "in raised" in again.__cause__.traceback


def noted(error: Exception) -> Exception:
    error.__notes__ = ["one note"]  # type: ignore[attr-defined,unused-ignore]  # 3.10 knows no notes
    error.code = 503  # type: ignore[attr-defined]  # an attribute that somebody has given it
    return error


COME_BACK: dict[str, Exception] = {
    "TooSlowError": trio.TooSlowError("attempt 1 took longer than its 3 seconds"),
    "trio's": trio.BrokenResourceError("gone"),
    "AbortError of an error": AbortError(ValueError("why")),
    "AbortError of another": AbortError(AbortError(KeyError("why"))),
    "RetryAfterError": RetryAfterError("busy", 3.0),
    "RetryAfterError of an error": RetryAfterError(OSError(5, "disk I/O error", "a.txt"), 3.0),
    "DeferredError": DeferredError("later"),
    "UnknownTaskError": UnknownTaskError(TaskId("abc")),
    "KeyError(task_id)": KeyError(TaskId("abc")),
    "ValueError(attempt)": ValueError(Attempt(3), "x"),
    "OSError with a file": FileNotFoundError(2, "No such file or directory", "/etc/nothing"),
    "OSError with two files": OSError(18, "Invalid cross-device link", "a", None, "b"),
    "OSError with bytes": FileNotFoundError(2, "No such file or directory", b"\xff.txt"),
    "UnicodeDecodeError": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "ImportError": ImportError("No module named 'x'", name="x", path="x.py"),
    "notes": noted(ValueError("no")),
    "a group": ExceptionGroup("two", [ValueError(1), ExceptionGroup("in", [KeyError(TaskId("a"))])]),
    "a group of steering errors": ExceptionGroup("two", [AbortError(ValueError("why")), RetryAfterError("busy", 1.0)]),
}


def told(error: BaseException) -> object:
    """All that tells one error from another."""
    several = tuple(map(told, error.exceptions)) if isinstance(error, BaseExceptionGroup) else ()
    arguments = [told(each) if isinstance(each, BaseException) else (type(each), each) for each in error.args]
    more = {name: getattr(error, name, None) for name in ("delay", "name", "path", "code", "__notes__", "task_id")}
    files = [str(getattr(error, name, None)) for name in ("filename", "filename2", "errno")]
    source = getattr(error, "source", None)
    return (
        type(error),
        str(error),
        None if several else arguments,
        several,
        more,
        files,
        told(source) if isinstance(source, BaseException) else source,
    )


@pytest.mark.parametrize("name", COME_BACK)
def test_an_error_comes_back_as_it_was_raised(name: str) -> None:
    error = COME_BACK[name]
    again = decode_error(encode_error(raised(error)))
    assert told(again) == told(error)
    last = again
    while last.__cause__ is not None:
        last = last.__cause__
    assert isinstance(last, StoredError)
    assert "in raised" in last.traceback
    assert told(decode_error(encode_error(again))) == told(error)


def test_the_path_of_a_file_comes_back_as_text() -> None:
    again = decode_error(encode_error(PermissionError(13, "Permission denied", PurePosixPath("/etc/nothing"))))
    assert isinstance(again, PermissionError)
    assert again.filename == "/etc/nothing"


def test_the_source_of_a_steering_error_is_its_cause() -> None:
    again = decode_error(encode_error(raised(AbortError(ValueError("why")))))
    assert isinstance(again, AbortError)
    assert isinstance(again.source, ValueError)
    assert again.__cause__ is again.source


def test_each_error_of_ours_that_can_be_made_of_what_it_has_is_made_again() -> None:
    """The list of errors is derived from the package, so it includes new ones."""
    ours = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    public = [kind for kind in ours if not kind.__name__.startswith("_") and kind is not StoredError]
    assert len(public) >= 14
    for kind in public:
        try:
            error = kind("text")
        except TypeError:
            continue  # it takes more
        assert type(decode_error(encode_error(error))) is kind


@pytest.mark.parametrize("error", [OutOfStock("shoes"), SystemExit(3)])
def test_any_other_error_is_a_witness_of_itself(error: BaseException) -> None:
    again = decode_error(encode_error(error))
    assert isinstance(again, StoredError)
    assert again.kind.endswith(type(error).__qualname__)
    assert again.text == str(error)


def test_a_group_is_kept_with_all_its_leaves() -> None:
    group = raised(ExceptionGroup("two", [ValueError("one leaf"), ExceptionGroup("in", [OutOfStock("another")])]))
    again = decode_error(encode_error(group))
    assert isinstance(again, ExceptionGroup)
    first, second = leaves(again)
    assert (type(first), str(first)) == (ValueError, "one leaf")
    assert isinstance(second, StoredError)
    assert (second.kind.rpartition(".")[2], second.text) == ("OutOfStock", "another")
    assert isinstance(again.__cause__, StoredError)
    assert "another" in again.__cause__.traceback


def test_a_group_of_what_is_no_exception_can_be_raised_again() -> None:
    again = decode_error(encode_error(BaseExceptionGroup("two", [SystemExit(3), ValueError()])))
    assert isinstance(again, ExceptionGroup)
    assert [getattr(each, "kind", type(each).__name__) for each in leaves(again)] == ["SystemExit", "ValueError"]


def test_a_group_that_is_too_large_is_a_witness_of_itself() -> None:
    group: Exception = ValueError("innermost")
    for _ in range(20):
        group = ExceptionGroup("deep", [group])
    for large in (group, ExceptionGroup("wide", [ValueError(n) for n in range(1000)])):
        stored = encode_error(raised(large))
        assert len(stored) < 40_000
        assert isinstance(decode_error(stored), (StoredError, ExceptionGroup))


def test_what_was_stored_and_read_can_be_stored_again() -> None:
    first = decode_error(encode_error(raised(OutOfStock("shoes"))))
    again = decode_error(encode_error(first))
    assert isinstance(again, StoredError)
    assert (again.kind, again.text, again.traceback) == (first.kind, first.text, first.traceback)  # type: ignore[attr-defined]  # it is one as well


HOSTILE = [
    WithoutText("a"),
    pytest.param(WithoutArgs("a")),
    pytest.param(WithoutNotes("a")),
    ValueError("lone \ud800 surrogate", "\udfff"),
    pytest.param(ValueError(10**5000)),
    ValueError("x" * 10_000_000),
    ValueError(*range(1000)),
    ValueError(["nested", {"a": object()}]),
    ValueError(Colour.RED),
    ValueError(b"\xff", {1: 2}),
    ValueError(2**70, -(2**70), math.nan),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
]


@pytest.mark.parametrize("error", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_whatever_was_raised_can_be_stored_in_bounds(error: Exception) -> None:
    stored = encode_error(raised(error))
    assert len(stored) < 40_000
    again = decode_error(stored)
    assert type(error).__name__ in (type(again).__name__, getattr(again, "kind", "").rpartition(".")[2])
    with_attempt(None, PastAttempt(1, 0.0, "w", "failed", "lone \ud800"))


def test_an_error_that_was_not_kept_is_one_too() -> None:
    assert isinstance(decode_error(None), StoredError)


@pytest.mark.parametrize("garbage", [b"\xff", b"", *map(unread, [b"\x80", b"\x01", b"\xa0"])])
def test_an_error_that_cannot_be_read_says_so(garbage: bytes) -> None:
    with pytest.raises(BackendError):
        decode_error(garbage)


def test_expired_and_replaced_are_told_apart() -> None:
    assert type(decode_error(expired_error())).__name__ == "TaskExpiredError"
    assert "abc" in str(decode_error(replaced_error("abc")))


# History


def test_a_history_grows_and_forgets_its_oldest() -> None:
    history = None
    for attempt in range(1, 121):
        history = with_attempt(history, PastAttempt(attempt, float(attempt), "w", "retried", "x" * 10_000))
    entries = decode_history(history)
    assert [entry.attempt for entry in entries] == [1, *range(72, 121)]
    for attempt in range(1, 61):  # it was resumed
        history = with_attempt(history, PastAttempt(attempt, 200.0 + attempt, "w", "retried", "x", 0.5))
    entries = decode_history(history)
    assert [(entry.attempt, entry.ended_at) for entry in entries[:2]] == [(1, 201.0), (12, 212.0)]
    assert len(entries) == 50
    assert first_began(entries, 61) == 200.5
    assert first_began(entries, 1) is None
    assert history is not None
    assert len(history) < 50 * 4_200
    assert not ends_in_loss(history)
    assert ends_in_loss(with_loss(history, 121, 5.0, None))
    assert decode_history(with_loss(None, 1, 5.0, None)) == (
        PastAttempt(1, 5.0, None, "lost", "its worker died, or lost its lease"),
    )
    assert decode_history(None) == ()


def test_only_the_latest_five_attempts_have_a_traceback() -> None:
    history = None
    for attempt in range(1, 61):
        entry = PastAttempt(attempt, float(attempt), "w", "retried", "ValueError", 0.5, f"at {attempt}", "1.4")
        history = with_attempt(history, entry)
    entries = decode_history(history)
    assert [each.traceback for each in entries] == [""] * 45 + [f"at {attempt}" for attempt in range(56, 61)]
    assert {(each.seconds, each.version) for each in entries} == {(0.5, "1.4")}


def test_a_history_of_an_older_version_can_be_read() -> None:
    older = cbor2.dumps([[1, 2.0, "w", "retried", "ValueError"]])
    assert decode_history(older) == (PastAttempt(1, 2.0, "w", "retried", "ValueError"),)
    assert decode_history(with_loss(older, 2, 3.0, None))[0] == PastAttempt(1, 2.0, "w", "retried", "ValueError")


@pytest.mark.parametrize("field", [["soon", "", None], [0.5, b"", None], [0.5, "", 14]])
def test_a_history_with_other_values_than_ours_says_so(field: list[Any]) -> None:
    with pytest.raises(BackendError):
        decode_history(cbor2.dumps([[1, 2.0, "w", "retried", "ValueError", *field]]))


@pytest.mark.parametrize("garbage", [b"\xff", *map(unread, [b"\x01", b"\x81\x01", b"\xa1\x01\x01"])])
def test_a_history_that_cannot_be_read_says_so(garbage: bytes) -> None:
    with pytest.raises(BackendError):
        decode_history(garbage)


def test_a_history_that_can_be_read_in_part_begins_anew() -> None:
    """Such a history was kept as it was, and was unreadable after the next attempt, too. Changing random bytes found
    this.
    """
    entry = PastAttempt(2, 5.0, "w", "retried", "ValueError")
    several: list[Any] = [[1, 2], [[1, 2.0, None, "lost", b"no text"]], [[]], 5]
    for broken in several:
        assert decode_history(with_attempt(cbor2.dumps(broken), entry)) == (entry,)


def test_an_error_whose_name_is_no_text_cannot_be_read() -> None:
    fields = {"module": "builtins", "name": b"ValueError", "text": "", "traceback": "", "args": []}
    with pytest.raises(BackendError, match="cannot be read"):
        decode_error(cbor2.dumps(fields))


@pytest.mark.parametrize("stored", ["text", 5, 0.5])
@pytest.mark.parametrize("read", [decode_options, decode_error, decode_history])
def test_what_is_no_bytes_cannot_be_read(read: Any, stored: Any) -> None:
    """A column of SQLite may have a value of any type, whatever its declared type is."""
    with pytest.raises(BackendError, match="cannot be read"):
        read(stored)
