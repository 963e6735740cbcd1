"""Tests of errors that are carried from one process to another."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import outcome
import pytest
import trio
from trio_tasks import AbortError, RetryAfterError, StoredError, SuspendError
from trio_tasks._concurrency.tracebacks import traceback_text
from trio_tasks._router.portable_errors import freeze, thaw

from tests.router._processes import ERRORS, Holds, Needs
from tests.test_public_values import CLASSES, ERRORS as OURS, described, errors

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def carried(error: BaseException) -> BaseException:
    return thaw(freeze(error))


@pytest.mark.parametrize("name", errors())
def test_each_of_our_errors_is_the_same_there(name: str) -> None:
    kind: Any = CLASSES[name]
    error = OURS[name]() if name in OURS else kind("no")
    again = carried(error)
    assert type(again) is type(error)
    assert described(again) == described(error)
    assert type(again.__cause__) is type(error.__cause__)


class Own(OSError):
    """An error of the system with arguments of its own."""

    def __init__(self, file: str, *, code: int) -> None:
        super().__init__(code, "gone", file)
        self.code = code


MORE: dict[str, Callable[[], BaseException]] = {
    "StopIteration": lambda: StopIteration(5),
    "SyntaxError": lambda: SyntaxError("no", ("shop.py", 3, 1, "a b")),
    "ImportError": lambda: ImportError("no", name="shop", path="/shop"),
    "KeyError": lambda: KeyError("a"),
    "an error of the system": lambda: Own("shop.db", code=2),
    "a group": lambda: ExceptionGroup("two", [ValueError(1), AbortError(Needs("tea", much=2))]),
    "a group in a group": lambda: BaseExceptionGroup("", [ExceptionGroup("in", [SuspendError(5)]), SystemExit(3)]),
}


@pytest.mark.parametrize("name", [*ERRORS, *MORE])
def test_errors_of_others_are_the_same_if_they_can_be(name: str) -> None:
    error: BaseException = (ERRORS | MORE)[name]()
    again = carried(error)
    if name in ("Holds", "KeyboardInterrupt"):
        assert isinstance(again, StoredError)
        assert again.kind.endswith(type(error).__qualname__)
        assert again.text == str(error)
        return
    if name == "KeyboardInterrupts":
        assert isinstance(again, ExceptionGroup)
        assert [type(each) for each in again.exceptions] == [StoredError, ValueError]
        return
    assert type(again) is type(error)
    if name not in ("AbortError of a lock", "Liar"):
        assert described(again) == described(error)
        assert isinstance(again, OSError) is isinstance(error, OSError)
    if isinstance(error, OSError) and isinstance(again, OSError):
        assert (again.errno, again.filename, str(again)) == (error.errno, error.filename, str(error))
    if isinstance(error, ImportError) and isinstance(again, ImportError):
        assert (again.name, again.path) == ("shop", "/shop")


def test_what_cannot_be_carried_leaves_the_rest_as_it_is() -> None:
    again = carried(AbortError(Holds("no")))
    assert isinstance(again, AbortError)
    assert isinstance(again.source, StoredError)
    assert again.__cause__ is again.source
    assert str(again) == f"{__name__.rpartition('.')[0]}._processes.Holds: no"
    group = carried(ExceptionGroup("two", [RetryAfterError(Holds("x"), 5), Holds("y")]))
    assert isinstance(group, ExceptionGroup)
    first, second = group.exceptions
    assert isinstance(first, RetryAfterError)
    assert first.delay == 5
    assert isinstance(second, StoredError)


def test_an_interruption_of_a_process_does_not_interrupt_this_one() -> None:
    async def cancelled() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            captured = await outcome.acapture(trio.lowlevel.checkpoint)
        assert isinstance(captured, outcome.Error)
        return carried(BaseExceptionGroup("", [captured.error, KeyboardInterrupt()]))

    group = trio.run(cancelled)
    assert isinstance(group, ExceptionGroup)
    assert [type(each) for each in group.exceptions] == [StoredError, StoredError]


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    try:
        raise Needs("tea", much=3)
    except Needs:
        raise ValueError("after") from Holds("cause")


def test_tracebacks_read_the_same() -> None:
    with pytest.raises(ValueError, match="after") as caught:
        deep(3)
    again = carried(caught.value)
    of = [traceback.format_tb(each.__traceback__) for each in (caught.value, again)]
    plain = [[line.splitlines()[:2] for line in each] for each in of]  # without marks of columns
    assert plain[0] == plain[1]
    assert "deep(levels - 1)" in traceback_text(again)
    assert isinstance(again.__context__, Needs)
    assert isinstance(again.__cause__, StoredError)
    assert again.__suppress_context__


def test_a_very_deep_traceback_is_carried() -> None:
    def endless(n: int) -> int:
        return endless(n + 1)

    with pytest.raises(RecursionError) as caught:
        endless(0)
    again = carried(caught.value)
    assert type(again) is RecursionError
    assert len(traceback.extract_tb(again.__traceback__)) == len(traceback.extract_tb(caught.value.__traceback__))


def test_a_few_of_many_errors_are_carried() -> None:
    first: BaseException | None = None
    for number in range(1000):
        last = ValueError(number)
        last.__context__ = first
        first = last
    assert first is not None
    assert len(freeze(first)) == 32
    assert str(carried(first)) == "999"
    group = carried(ExceptionGroup("many", [ValueError(n) for n in range(1000)]))
    assert isinstance(group, StoredError)
    assert group.text == "many (1000 sub-exceptions)"


def test_an_error_in_itself_is_carried() -> None:
    error = ValueError("self")
    error.args = (error, "self")
    error.__context__ = RuntimeError("context")
    error.__context__.__context__ = error
    again = carried(error)
    assert again.__context__ is not None
    assert again.__context__.__context__ is again


def test_a_class_that_does_not_let_itself_be_looked_at_harms_nothing() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise SystemExit

    class Hidden(Exception, metaclass=Meta):
        """An error whose class raises."""

    assert str(carried(Hidden("x"))) == "Exception: an error that does not let itself be looked at"
