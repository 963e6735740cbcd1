"""Tests of the containment of errors, and of the logger that never raises."""

from __future__ import annotations

import ast
import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio_tasks._concurrency.exception_groups import find_within, leaves
from trio_tasks._logging import SafeLogger, catch_errors, log, log_and_suppress, passes_through

from tests._base_errors import PlainBaseError, group

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

PACKAGE = Path(__file__).parents[1] / "trio_tasks"


class RudeInterrupt(KeyboardInterrupt):
    pass


CONTAINED = [
    ValueError("no"),
    SystemExit(3),
    GeneratorExit(),
    PlainBaseError(),
    asyncio.CancelledError(),
    StopIteration(),
    StopAsyncIteration(),
    group(SystemExit()),
    group(group(PlainBaseError()), ValueError()),
]
PASSES = [KeyboardInterrupt(), RudeInterrupt(), group(ValueError(), group(KeyboardInterrupt()))]


@pytest.mark.parametrize("error", CONTAINED, ids=repr)
def test_an_error_ends_in_the_block(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    assert not passes_through(error)
    with catch_errors() as caught:
        raise error
    assert caught.error is error
    with log_and_suppress("while %s", "testing"):
        raise error
    [record] = caplog.records
    assert record.getMessage() == "while testing"
    assert record.exc_info
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", PASSES, ids=repr)
def test_an_interruption_passes_through(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    assert passes_through(error)
    for block in (catch_errors(), log_and_suppress("while testing")):
        with pytest.raises(BaseException) as raised, block:
            raise error
        assert raised.value is error
    assert not caplog.records


async def test_a_cancellation_passes_through_and_a_group_that_holds_more_does_not() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with catch_errors() as caught:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert caught.error is None
    with trio.CancelScope() as scope:
        scope.cancel()
        with catch_errors() as caught:
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                raise group(cancelled, ValueError()) from None  # noqa: ASYNC104  it is in the group
    assert isinstance(caught.error, BaseExceptionGroup)


def test_without_an_error_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    with catch_errors() as caught, log_and_suppress("while testing"):
        pass
    assert caught.error is None
    assert not caplog.records


# Errors that hide what they are


class HiddenGroup(BaseExceptionGroup[BaseException]):  # noqa: ASYNC126  nobody splits it
    @property
    def exceptions(self) -> NoReturn:
        raise SystemExit("nothing to see here")


class HiddenCause(Exception):
    @property
    def __context__(self) -> NoReturn:  # type: ignore[override]  # that it is wrong is the point
        raise SystemExit("nothing to see here")

    @property  # type: ignore[misc]  # as above
    def __class__(self) -> NoReturn:  # type: ignore[override]  # that it is wrong is the point
        raise SystemExit("nothing to see here")


def test_an_error_that_hides_what_is_in_it_is_looked_through() -> None:
    inner = ValueError()
    assert [*leaves(HiddenGroup("group", [inner]))] == [inner]
    assert find_within(HiddenGroup("group", [HiddenCause(), inner]), ValueError) is inner
    with catch_errors() as caught:
        raise HiddenGroup("group", [HiddenCause()])
    assert type(caught.error) is HiddenGroup


# The logger


class Unprintable:
    def __repr__(self) -> NoReturn:
        raise SystemExit("nothing to see here")


@contextmanager
def a_failing(part: str, error: BaseException) -> Iterator[None]:
    """Let a filter, or a handler, of the logger fail."""

    def fail(_: logging.LogRecord) -> NoReturn:
        raise error

    logger, handler = logging.getLogger("trio_tasks"), logging.StreamHandler()
    if part == "filter":
        logger.addFilter(fail)
    elif part == "emit":
        handler.emit = fail  # type: ignore[method-assign, assignment]  # the shortest handler that fails
        logger.addHandler(handler)
    else:
        handler.addFilter(fail)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeFilter(fail)
        logger.removeHandler(handler)


@pytest.mark.parametrize("part", ["filter", "handler's filter", "emit"])
@pytest.mark.parametrize("error", CONTAINED, ids=repr)
def test_a_logger_that_fails_does_no_harm(part: str, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with a_failing(part, error):
        log.warning("mind %s", "the gap")
        with log_and_suppress("lost"):
            raise ValueError
    said = capsys.readouterr().err
    assert "lost: 'mind %s'" in said
    assert type(error).__name__ in said


def test_a_value_that_cannot_be_shown_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    logging.getLogger("trio_tasks").addHandler(handler)
    try:
        log.error("failed: %r", Unprintable())
    finally:
        logging.getLogger("trio_tasks").removeHandler(handler)
    assert "SystemExit" in capsys.readouterr().err


def test_an_interruption_of_the_logger_passes_through() -> None:
    with a_failing("filter", KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        log.warning("mind the gap")


def test_a_record_names_the_line_that_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for say in (log.debug, log.info, log.warning, log.error):
        say("here")
    log.log(logging.ERROR, "here")
    assert {record.filename for record in caplog.records} == {"test_logging.py"}
    assert log.is_enabled_for(logging.ERROR)


NOT_LOGGED_TO = {"_contracts/attempt_log.py", "_cli/store.py"}
"""Modules with a logger that is the default of a parameter, and is wrapped where it is used; or is given a filter."""


def direct_logging(source: str) -> list[int]:
    """The lines that make a logger of the standard library, other than to wrap it at once."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    wrapped = {id(arg) for call in calls if ast.unparse(call.func) == SafeLogger.__name__ for arg in call.args}
    return [call.lineno for call in calls if ast.unparse(call.func).endswith("getLogger") and id(call) not in wrapped]


def test_the_package_logs_only_through_the_logger_that_never_raises() -> None:
    found: dict[str, Any] = {
        path.relative_to(PACKAGE).as_posix(): direct_logging(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")
    }
    assert {name for name, lines in found.items() if lines} <= NOT_LOGGED_TO
    assert direct_logging("a = SafeLogger(logging.getLogger('a'))\nb = logging.getLogger('b')") == [2]
