"""Tests of the layer Log."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Task, TaskId, Worker
from trio_tasks.layers import Log


async def work_for(task: Task[float]) -> str:
    await trio.sleep(task.args)
    return "done"


async def test_a_success_is_a_line(caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock) -> None:
    caplog.set_level(logging.DEBUG)
    await trio.sleep(7)
    task = Task(1.5)
    assert await Log()(work_for, task) == "done"
    assert caplog.record_tuples == [
        ("trio_tasks", logging.INFO, f"task {task.parts.id} succeeded in attempt 0, after 1.500 s")
    ]


class CountedId(str):
    """An id that counts how often it was made a text."""

    written = 0

    def __str__(self) -> str:
        CountedId.written += 1
        return super().__str__()


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_no_text_is_made_for_a_record_that_is_not_wanted(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("trio_tasks.test_log")
    layer, task = Log(logger), Task(ends)
    task.parts.id = cast("TaskId", CountedId("an-id"))

    async def end(task: Task[str]) -> None:
        if task.args == "raises":
            raise KeyError("x")

    async def attempt() -> int:
        before = CountedId.written
        with suppress(KeyError):
            await layer(end, task)
        return CountedId.written - before

    with caplog.at_level(logging.CRITICAL, logger.name):
        assert await attempt() == 0
    with caplog.at_level(logging.INFO, logger.name):
        assert await attempt() > 0
    assert len(caplog.records) == 1


async def test_the_level_that_holds_at_the_end_counts(caplog: pytest.LogCaptureFixture) -> None:
    async def set_level(task: Task[int]) -> None:
        caplog.set_level(task.args)

    caplog.set_level(logging.ERROR)
    await Log()(set_level, Task(logging.INFO))
    assert len(caplog.records) == 1
    await Log()(set_level, Task(logging.ERROR))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(1)], ids=["an error", "an exit"])
async def test_an_error_is_a_warning_with_its_traceback(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(task: Task[str]) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await Log()(fail, Task("private"))
    assert caught.value is error
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert " failed in attempt 0, " in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "private" not in caplog.text


async def test_a_cancellation_is_a_line(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    with trio.move_on_after(2) as scope:
        await Log()(work_for, Task(5.0))
    assert scope.cancelled_caught
    [(_, level, message)] = caplog.record_tuples
    assert level == logging.INFO
    assert message.endswith(" was cancelled in attempt 0, after 2.000 s")
    assert caplog.records[0].exc_info is None


async def test_a_cancellation_that_its_cleanup_hides_is_a_line(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def clean_up_badly(task: Task[int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("could not say goodbye")

    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConnectionError), trio.move_on_after(2):
        await Log()(clean_up_badly, Task(1))
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "was cancelled" in caplog.text


async def test_logger_and_level_can_be_chosen(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    storage = MemoryStorage[str]()

    async def handler(what: str) -> None:
        raise KeyError(what)

    await storage.push("a", attempts=1)
    storage.close()
    mine = logging.getLogger("mine")
    await Worker("w", storage, handler, layers=[Log(mine, level=logging.ERROR)], log=None).run()
    assert [(record.name, record.levelno) for record in caplog.records] == [("mine", logging.ERROR)]
    assert " failed in attempt 1, " in caplog.text


def test_wrong_arguments_are_refused() -> None:
    wrong: Any = "trio_tasks"
    with pytest.raises(TypeError, match=r"logger must be a logging.Logger, as logging.getLogger\(name\) gives"):
        Log(wrong)
    wrong = "INFO"
    with pytest.raises(TypeError, match=r"level, such as logging.INFO, must be a whole number, not 'INFO'"):
        Log(level=wrong)


def test_it_shows_itself() -> None:
    assert repr(Log()) == "<Log to 'trio_tasks'>"
