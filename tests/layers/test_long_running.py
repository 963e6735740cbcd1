"""Tests of the layer LongRunning: attempts that take long are logged, and not ended."""

from __future__ import annotations

import contextvars
import logging
import math
import sys
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import Custom, Event, MemoryStorage, Task, Worker, WorkerContext
from trio_tasks.layers import LongRunning, StillRunning, Timeout

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


async def work_for(task: Task[float]) -> str:
    await trio.sleep(task.args)
    return "done"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


async def test_what_is_quick_is_left_alone(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    assert await LongRunning(maximum=10)(work_for, Task(9.0)) == "done"
    assert trio.current_time() == 9
    assert not warnings(caplog)


async def test_what_takes_long_is_named_each_time(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(7)
    task = Task(35.0)
    assert await LongRunning(maximum=10)(work_for, task) == "done"
    assert trio.current_time() == 42
    assert warnings(caplog) == [f"task {task.parts.id} is still running, after {n} s" for n in (10, 20, 30)]


async def test_it_is_named_once_each_time_with_crooked_numbers(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(1 / 3)
    await LongRunning(maximum=0.1)(work_for, Task(10.05))
    assert len(warnings(caplog)) == 100


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), SystemExit(1), BaseExceptionGroup("both", [SystemExit(1), KeyError("x")])],
    ids=["an error", "an exit", "a group"],
)
async def test_an_error_passes_as_it_is(error: BaseException, autojump_clock: trio.testing.MockClock) -> None:
    async def fail(task: Task[float]) -> None:
        await trio.sleep(3)
        raise error

    with pytest.raises(type(error)) as caught:
        await LongRunning(2)(fail, Task(1.0))
    assert caught.value is error


async def test_a_cancellation_ends_both(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(25) as scope:
        await LongRunning(10)(work_for, Task(math.inf))
    assert scope.cancelled_caught
    await trio.sleep(100)
    assert len(warnings(caplog)) == 2


async def test_a_cleanup_that_takes_long_is_not_cut_short_and_named(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    cleaned: list[float] = []

    async def tidy(task: Task[float]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
                cleaned.append(trio.current_time())

    task = Task(1.0)
    with trio.move_on_after(5):
        await LongRunning(10)(tidy, task)
    assert cleaned == [35]
    assert warnings(caplog) == [f"task {task.parts.id} is still running, after {n} s" for n in (10, 20, 30)]


async def test_an_attempt_that_blocks_the_event_loop_is_named_afterwards(
    caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    async def block(task: Task[float]) -> str:
        mock_clock.jump(task.args)
        return "done"

    mock_clock.jump(7)
    task = Task(45.0)
    assert await LongRunning(10)(block, task) == "done"
    assert warnings(caplog) == [
        f"task {task.parts.id} ran for 45 s, the last 45 s of them without letting another trio task run"
    ]
    caplog.clear()
    assert await LongRunning(10)(block, Task(10.5)) == "done"
    assert not warnings(caplog), "a little late is not worth a word"


async def test_after_a_pause_it_is_not_named_for_the_past(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def block_and_go_on(task: Task[float]) -> None:
        autojump_clock.jump(45)
        await trio.sleep(12)

    task = Task(1.0)
    await LongRunning(10)(block_and_go_on, task)
    assert warnings(caplog) == [f"task {task.parts.id} is still running, after {n} s" for n in (45, 55)]
    caplog.clear()

    async def go_on_and_block(task: Task[float]) -> None:
        await trio.sleep(12)
        autojump_clock.jump(45)

    await LongRunning(10)(go_on_and_block, task)
    assert warnings(caplog) == [
        f"task {task.parts.id} is still running, after 10 s",
        f"task {task.parts.id} ran for 57 s, the last 47 s of them without letting another trio task run",
    ]


async def test_in_a_worker_its_listeners_are_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    storage = MemoryStorage[float]()
    heard: list[Any] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Custom):
            heard.append(event.value)

    async def handler(seconds: float) -> None:
        await trio.sleep(seconds)

    task_id = await storage.push(25.0)
    await storage.push(5.0)
    storage.close()
    layers: list[Any] = [LongRunning(10), Timeout(60)]
    report = await Worker("w", storage, handler, layers=layers, on_event=listen).run()
    assert report.succeeded == 2
    assert all(isinstance(each, StillRunning) for each in heard)
    assert [(each.task.parts.id, each.seconds) for each in heard] == [(task_id, 10), (task_id, 20)]
    assert len(warnings(caplog)) == 2


async def test_a_shutdown_names_the_line_of_the_handler(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The nursery that it needs does not get in between the worker and the cancellation."""
    storage = MemoryStorage[float]()

    async def stuck(seconds: float) -> None:
        await trio.sleep(seconds)

    await storage.push(1000.0)
    worker = Worker("w", storage, stuck, layers=[LongRunning(10)])
    context = worker.prepare()
    with trio.move_on_after(5):
        await worker.run(context)
    report = context.report()
    assert report.released == 1
    assert [each.where.partition(" in ")[2] for each in report.interrupted] == ["stuck: await trio.sleep(seconds)"]


async def run_in_worker(layer: LongRunning, handler: Any, *args: float, concurrency: int = 10) -> list[Any]:
    """Run a worker with the layer until it has finished all tasks; return the ids."""
    storage = MemoryStorage[float]()
    ids = await storage.push_bulk(args)
    storage.close()
    await Worker("w", storage, handler, layers=[layer], concurrency=concurrency).run()
    return ids


async def test_in_a_worker_each_attempt_is_named_at_its_own_times(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    said = list[tuple[float, str]]()
    layer = LongRunning(10)

    async def handler(task: Task[float]) -> None:
        await trio.sleep(task.args)

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((trio.current_time(), record.getMessage()))

    noting = Noting()
    logging.getLogger("trio_tasks").addHandler(noting)
    try:
        async with trio.open_nursery() as nursery:
            for start in (0, 3, 8):  # three workers share the layer
                nursery.start_soon(run_in_worker, layer, handler, 9.0, 21.0)
                await trio.sleep(start)
        for _ in range(2):  # after the workers, a new one
            await run_in_worker(layer, handler, 5.0, 11.0, concurrency=1)
    finally:
        logging.getLogger("trio_tasks").removeHandler(noting)
    assert [at for at, _ in said] == [10, 10, 13, 20, 20, 23, *(24 + 5 + 10, 24 + 16 + 5 + 10)]
    assert [text.partition("after ")[2] for _, text in said] == ["10 s", "10 s", "10 s", "20 s", "20 s", "20 s"] + [
        "10 s"
    ] * 2


async def test_in_a_worker_that_was_idle_an_attempt_is_named(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async def handler(task: Task[float]) -> None:
        await trio.sleep(task.args)

    storage = MemoryStorage[float]()
    await nursery.start(Worker("w", storage, handler, layers=[LongRunning(10)]).run)
    for seconds in (1.0, 15.0):
        await storage.push(seconds)
        await trio.sleep(40)
    assert [each.partition("after ")[2] for each in warnings(caplog)] == ["10 s"]
    nursery.cancel_scope.cancel()


async def test_in_a_worker_a_cleanup_that_takes_long_is_named(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def tidy(task: Task[float]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(task.args)

    with trio.move_on_after(5):
        await run_in_worker(LongRunning(10), tidy, 35.0)
    assert trio.current_time() == 35
    named = [each for each in warnings(caplog) if "is still running, after" in each]
    assert [each.partition("after ")[2] for each in named] == ["10 s", "20 s", "30 s"]


async def test_in_a_worker_an_attempt_that_blocks_the_event_loop_is_named_afterwards(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def block(task: Task[float]) -> None:
        autojump_clock.jump(task.args)

    ids = await run_in_worker(LongRunning(10), block, 1.0, 45.0, 1.0)
    assert [each for each in warnings(caplog) if "the last" in each] == [
        f"task {ids[1]} ran for 45 s, the last 45 s of them without letting another trio task run"
    ]


async def test_in_a_worker_the_log_sees_the_context_variables_of_the_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    heard = list[str]()

    async def set_it(handler: Any, task: Task[float]) -> Any:
        token = variable.set(f"of {task.args:g}")
        try:
            return await handler(task)
        finally:
            variable.reset(token)

    async def handler(seconds: float) -> None:
        await trio.sleep(seconds)

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Custom):
            heard.append(variable.get())

    storage = MemoryStorage[float]()
    await storage.push_bulk([15.0, 25.0])
    storage.close()
    await Worker("w", storage, handler, layers=[set_it, LongRunning(10)], on_event=listen).run()
    assert heard == ["of 15", "of 25", "of 25"]


async def test_in_a_worker_one_watcher_watches_all_attempts(autojump_clock: trio.testing.MockClock) -> None:
    class Tasks(trio.abc.Instrument):
        spawned = steps = 0

        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            self.spawned += 1

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

    async def no_op(n: float) -> None:
        pass

    counted = Tasks()
    trio.lowlevel.add_instrument(counted)
    await run_in_worker(LongRunning(10), no_op, *[0.0] * 1000)
    trio.lowlevel.remove_instrument(counted)
    assert counted.spawned < 100
    assert counted.steps < 300
    assert trio.current_time() == 0, "nothing waits for a watcher"


@pytest.mark.parametrize("maximum", [0, -1, math.nan, math.inf])
def test_a_wrong_number_is_refused(maximum: float) -> None:
    with pytest.raises(ValueError, match="maximum must be"):
        LongRunning(maximum)


def test_it_shows_itself() -> None:
    assert repr(LongRunning(60)) == "<LongRunning, named after 60 s>"
