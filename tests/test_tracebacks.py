"""Tests of kept errors: they keep their traceback, but no object of a handler."""

from __future__ import annotations

import gc
import re
import sys
import traceback
import weakref
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from trio_tasks import AbortError, FileStorage, MemoryStorage, RetryPolicy, Worker, constant
from trio_tasks._concurrency.tracebacks import LONGEST_TEXT, drop_locals, traceback_text

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Large:
    """An object that a handler holds in a local variable."""


kept: list[weakref.ref[Large]] = []


def fail_with_a_cause() -> None:
    large = Large()
    kept.append(weakref.ref(large))
    try:
        raise LookupError(f"no {type(large).__name__}")
    except LookupError as error:
        raise ValueError("no") from error


def fail_in_a_context() -> None:
    large = Large()
    kept.append(weakref.ref(large))
    try:
        fail_with_a_cause()
    finally:
        raise KeyError(type(large).__name__)


def fail_in_a_group() -> None:
    errors: list[Exception] = []
    for fail in (fail_with_a_cause, fail_in_a_context):
        try:
            fail()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)


def raised_by(fail: Any) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError


def text_of(error: BaseException) -> list[str]:
    """Its traceback in words; column marks, and hints at lines that are left out, are not kept."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    return [line for line in lines if not re.fullmatch(r"[ |+~^-]*", line)]


@pytest.mark.parametrize("fail", [fail_with_a_cause, fail_in_a_context, fail_in_a_group])
def test_the_traceback_reads_the_same_and_keeps_nothing(fail: Any) -> None:
    kept.clear()
    error = raised_by(fail)
    before = text_of(error)
    assert any(each() is not None for each in kept)
    drop_locals(error)
    assert text_of(error) == before
    gc.collect()
    assert kept
    assert [each() for each in kept] == [None] * len(kept)


def test_a_coroutine_that_has_caught_the_error_goes_on() -> None:
    """``traceback.clear_frames`` would close it."""

    async def main() -> None:
        caught: list[Exception] = []

        async def catch_and_go_on() -> str:
            large = Large()
            try:
                raise ValueError(type(large).__name__)
            except ValueError as error:
                caught.append(error)
            await trio.lowlevel.checkpoint()
            return type(large).__name__

        async with trio.open_nursery() as nursery:
            nursery.start_soon(catch_and_go_on)
            await trio.testing.wait_all_tasks_blocked()
            drop_locals(caught[0])
        assert text_of(caught[0])[-1] == "ValueError: Large"

    trio.run(main)


def test_an_error_without_a_traceback_has_none() -> None:
    error = ValueError("no")
    error.__cause__ = error.__context__ = error
    drop_locals(error)
    assert error.__traceback__ is None


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_dead_letter_keeps_its_traceback_and_no_locals_of_the_handler(kind: str) -> None:
    # Without a log: pytest keeps its records, and with them the errors.
    storage: Any = MemoryStorage[int]() if kind == "memory" else FileStorage.temporary(int)
    kept.clear()
    logged: list[str] = []

    async def handler(n: int) -> None:
        large = Large()
        kept.append(weakref.ref(large))
        await trio.lowlevel.checkpoint()
        raise (AbortError if n else ValueError)(f"no {type(large).__name__}")

    def listen(context: Any, event: Any) -> None:
        if (error := getattr(event, "error", None)) is not None:
            logged.extend(text_of(error))

    async with storage:
        ids = [await storage.push(n) for n in range(2)]
        storage.close()
        worker = Worker("w", storage, handler, retry=RetryPolicy(2, constant(0)), log=None, on_event=listen)
        await worker.run()
        results = [await storage.wait_for(task_id) for task_id in ids]
        gc.collect()
        assert [each() for each in kept] == [None] * 3
        for result in results:
            assert "in handler" in "".join(text_of(result.error)) + getattr(result.error.__cause__, "traceback", "")
    assert sum("in handler" in line for line in logged) == 3


# A traceback as a text


def caught(fail: Any, *args: Any) -> BaseException:
    try:
        fail(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_text_names_each_frame_and_the_errors_behind() -> None:
    text = traceback_text(caught(fail_with_a_cause))
    assert text.index("LookupError: no Large") < text.index("direct cause") < text.index("ValueError: no")
    assert text.count("Traceback (most recent call last):") == 2
    assert f'  File "{__file__}", line ' in text
    assert 'in fail_with_a_cause\n    raise ValueError("no") from error\n' in text
    assert "During handling" in traceback_text(caught(fail_in_a_context))
    assert (
        traceback_text(ValueError("never raised")) == "Traceback (most recent call last):\nValueError: never raised\n"
    )


def test_a_text_has_no_values_of_variables() -> None:
    def fail(password: str) -> None:
        raise ValueError("wrong")

    assert "hunter2" not in traceback_text(caught(fail, "".join(["hunter", "2"])))


def test_a_text_tells_of_the_members_of_a_group() -> None:
    errors: list[Any] = [caught(fail_with_a_cause), KeyError("k")]

    def fail() -> None:
        raise ExceptionGroup("two", [*errors])

    text = traceback_text(caught(fail))
    assert "number 1" in text and "number 2" in text and "in fail_with_a_cause" in text and "KeyError: 'k'" in text


def test_a_text_is_bounded() -> None:
    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise RecursionError("x" * 10_000)

    text = traceback_text(caught(fall, 300))
    assert len(text.encode()) <= LONGEST_TEXT and "more ..." in text and text.count("in fall") < 20
    many: list[Any] = [caught(fall, 20) for _ in range(1000)]
    wide = ExceptionGroup("many", many)
    assert len(traceback_text(wide).encode()) <= LONGEST_TEXT
    error: BaseException = ValueError("é" * 3000)
    for _ in range(2000):
        error, behind = ValueError("é" * 150), error
        error.__context__ = behind
    assert len(traceback_text(error).encode()) <= LONGEST_TEXT


def test_an_error_that_lies_has_no_text_or_a_harmless_one() -> None:
    class Rude(ValueError):
        __traceback__: Any = property(lambda _: 1 / 0)

        def __str__(self) -> str:
            raise SystemExit

    assert isinstance(traceback_text(caught(lambda: (_ for _ in ()).throw(Rude()))), str)


async def test_the_frames_of_the_machinery_before_the_handler_are_left_out() -> None:
    async def fail(n: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
        fail_with_a_cause()

    storage = MemoryStorage[int]()
    task_id = await storage.push(1, attempts=1)
    storage.close()
    await Worker("w", storage, fail, log=None).run()
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    [past] = task.parts.context.history
    last = past.traceback.split("direct cause")[1]
    assert "slot.py" not in last and "in fail\n    fail_with_a_cause()\n" in last
    assert past.seconds is not None and past.seconds >= 0 and past.version is None
