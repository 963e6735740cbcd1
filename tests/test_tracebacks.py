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
from trio_tasks._concurrency.tracebacks import drop_locals

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
