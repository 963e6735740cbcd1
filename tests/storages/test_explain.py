"""Each storage explains where a task is, and why it does not run now, from whatever process it is asked."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    BackendError,
    Explanation,
    Failed,
    FileStorage,
    Killed,
    MemoryStorage,
    Retried,
    Router,
    SqliteStorage,
    Status,
    Succeeded,
    Suspended,
    Task,
    Worker,
    WorkerContext,
)
from trio_tasks._contracts.explanation import MOST_COUNTED, Evidence, explanation_of, span
from trio_tasks._contracts.layer import explanation_by
from trio_tasks._tasks.errors import SuspendError
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, RateLimit

from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)
stored = pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])


async def explain(storage: Any, task_id: str, kind: str) -> Explanation:
    found = await storage.explain(task_id)
    assert isinstance(found, Explanation)
    assert (found.kind, found.id, found.queue) == (kind, task_id, "default"), str(found)
    assert str(found).startswith(f"task {task_id} ")
    return found


async def run_for_ever(n: int) -> None:
    await trio.sleep_forever()


@everywhere
async def test_an_unknown_task(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        assert "is not known on queue 'default'" in str(await explain(storage, "unknown", "unknown"))
        await storage.push(1)
        assert (await explain(storage, "unknown", "unknown")).status is None
        for wrong in (5, ""):
            with pytest.raises((TypeError, ValueError)):
                await storage.explain(wrong)


@everywhere
@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (Succeeded(1), "is done in its attempt 1"),
        (Failed(ValueError("no\nluck")), "has failed in its attempt 1"),
        (Killed(ValueError("no\nluck")), "was killed in its attempt 1"),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_a_finished_task(outcome: Any, end: str, opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        task_id = await storage.push(1)
        await storage.settle(await storage.receive(), outcome)
        mock_clock.jump(600.0)
        found = await explain(storage, task_id, "finished")
        assert found.status is not None
        assert found.status.is_final
        assert str(found).startswith(f"task {task_id} {end}, 10 min ago")
        assert str(found).endswith("ago" if isinstance(outcome, Succeeded) else "ago: ValueError: no")
        assert found.finished_at is not None
        assert (found.as_of - found.finished_at).total_seconds() == pytest.approx(600, abs=0.01)


@everywhere
async def test_a_task_that_was_cancelled_or_has_expired(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        cancelled, expires = await storage.push(1), await storage.push(2, expires_in=5.0)
        await storage.cancel(cancelled)
        assert "was killed before its first attempt" in str(await explain(storage, cancelled, "finished"))
        assert (await explain(storage, expires, "no_worker")).ahead == 0
        mock_clock.jump(6.0)
        assert "TaskExpiredError" in (await explain(storage, expires, "finished")).error


async def test_an_explanation_that_finds_a_task_late_makes_room(mock_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    expires = await storage.push(1, expires_in=5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.push, 2)
        await wait_all_tasks_blocked()
        mock_clock.jump(6.0)
        await explain(storage, expires, "finished")
        await wait_all_tasks_blocked()
        assert storage.statistics().pushers_waiting == 0
        nursery.cancel_scope.cancel()


@everywhere
async def test_a_running_task(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        task_id = await storage.push(1)
        context = await nursery.start(Worker("the worker", storage, run_for_ever).run)
        with trio.fail_after(60):
            while not context.running_tasks:  # noqa: ASYNC110  it is told nowhere else
                await trio.sleep(0.001)
        found = await explain(storage, task_id, "running")
        assert (found.worker, found.attempt, found.status) == ("the worker", 1, Status.Running)
        assert found.started_at is not None
        assert timedelta() <= found.as_of - found.started_at < timedelta(minutes=1)
        assert (found.pid, found.told_at is not None, found.last_beat is not None) == (os.getpid(), True, True)
        assert "trio.sleep_forever()" in found.line
        assert "its attempt 1 began" in str(found)
        assert f"in worker 'the worker' (process {os.getpid()} on {found.host}), and waited 0.0 s ago at /" in str(
            found
        )
        assert "the last sign of life of its process came 0.0 s ago" in str(found)
        nursery.cancel_scope.cancel()


@stored
async def test_an_orphan(kind: Any, tmp_path: Path, mock_clock: MockClock) -> None:
    async with kind(tmp_path / "tasks", int, lease=10.0) as storage:
        task_id = await storage.push(1)
        await storage.receive()
        assert "its lease holds for 10 s" in str(await explain(storage, task_id, "running"))
        mock_clock.jump(15.0)
        assert "its lease ran out 5.0 s ago" in str(await explain(storage, task_id, "running"))


@everywhere
async def test_a_suspended_task_until_it_is_due(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        task_id = await storage.push(1)
        await storage.settle(await storage.receive(), Suspended(trio.current_time() + 100, "the server rests"))
        found = await explain(storage, task_id, "suspended")
        assert found.reason == "the server rests"
        assert found.until is not None
        assert (found.until - found.as_of).total_seconds() == pytest.approx(100, abs=0.01)
        assert "is suspended for 100 s more, until 2" in str(found)
        assert str(found).endswith(": the server rests")
        mock_clock.jump(101)
        found = await explain(storage, task_id, "no_worker")
        assert found.reason == ""


@everywhere
async def test_a_task_that_is_suspended_until_it_is_rescheduled(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        task_id = await storage.push(1)
        await storage.settle(await storage.receive(), Suspended(math.inf))
        found = await explain(storage, task_id, "suspended")
        assert str(found).endswith("is suspended until it is rescheduled: no reason was given")
        await storage.reschedule(task_id, 30.0)
        assert (await explain(storage, task_id, "delayed")).reason == ""
        await storage.reschedule(task_id, 0)
        await explain(storage, task_id, "no_worker")


@everywhere
async def test_a_handler_gives_the_reason_on_one_line(opened: Opener, tmp_path: Path) -> None:
    async def suspend(n: int) -> None:
        raise SuspendError(3600, f"line\nand \ud800 {'long' * 200}")

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        task_id = await storage.push(1)
        context = await nursery.start(Worker("w", storage, suspend).run)
        with trio.fail_after(60):
            while not context.statistics().suspended:  # noqa: ASYNC110  it is told nowhere else
                await trio.sleep(0.001)
        found = await explain(storage, task_id, "suspended")
        assert found.reason.startswith("line\\nand \\ud800 longlong")
        assert len(found.reason) == 500
        nursery.cancel_scope.cancel()


@stored
async def test_a_reason_outlives_the_process(kind: Any, tmp_path: Path) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        task_id = await storage.push(1)
        await storage.settle(await storage.receive(), Suspended(math.inf, "5"))
    async with kind(tmp_path / "tasks", int) as storage:
        assert (await explain(storage, task_id, "suspended")).reason == "5"
        assert (await storage.metrics())["suspended_now"] == 1
        assert await storage.audit()


@everywhere
async def test_a_delayed_and_a_retried_task(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        later = await storage.push(1, delay=7200.0)
        retried = await storage.push(2)
        await storage.settle(await storage.receive(), Retried(ValueError("first"), 50.0))
        assert "waits for 2 hours more, until 2" in str(await explain(storage, later, "delayed"))
        assert str(await explain(storage, retried, "delayed")).endswith("its attempt 1 ended with ValueError: first")
        mock_clock.jump(51.0)
        assert str(await explain(storage, retried, "no_worker")).endswith("its attempt 1 ended with ValueError: first")


@everywhere
async def test_a_paused_queue_comes_before_a_missing_worker(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        task_id, later = await storage.push(1), await storage.push(2, delay=60.0)
        await storage.pause()
        assert str(await explain(storage, task_id, "paused")).endswith("is ready, but queue 'default' is paused")
        await explain(storage, later, "delayed")
        await storage.resume()
        assert str(await explain(storage, task_id, "no_worker")).endswith("no worker is alive on queue 'default'")


@everywhere
async def test_the_place_in_the_order(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    """Rows that are due go in their turn, though nobody has entered that; those that have expired do not go at all."""
    async with opened(tmp_path / "tasks") as storage:
        due = await storage.push(1, delay=5.0)
        plain, low = await storage.push(5), await storage.push(2, priority=-1)
        await storage.push(3, expires_in=6.0)
        await storage.push(4, delay=5.0, expires_in=6.0)
        mock_clock.jump(10.0)
        urgent_and_due = await storage.push(6, delay=1.0, priority=9)
        await storage.push(7, delay=60.0, priority=9)
        mock_clock.jump(2.0)
        order = [urgent_and_due, plain, due, low]
        async with with_busy_worker(storage):
            for place, task_id in enumerate(order):
                found = await explain(storage, task_id, "waiting")
                assert (found.ahead, list(found.first)) == (place, order[: min(place, 3)]), str(found)
            assert "is ready, and goes next on queue 'default', where worker 'w' receives, 1 of 1 slots busy" in str(
                await explain(storage, urgent_and_due, "waiting")
            )
            assert "and 1 task goes first, the next one" in str(await explain(storage, plain, "waiting"))


@everywhere
async def test_no_more_than_a_thousand_are_counted(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        async with with_busy_worker(storage):
            ids = await storage.push_bulk(range(MOST_COUNTED + 5))
            for number, counted in ((MOST_COUNTED - 1, MOST_COUNTED - 1), (MOST_COUNTED + 4, MOST_COUNTED)):
                found = await explain(storage, ids[number], "waiting")
                assert (found.ahead, found.is_ahead_bounded) == (counted, counted == MOST_COUNTED)
                assert ("at least 1000 tasks go first" in str(found)) is found.is_ahead_bounded


@everywhere
async def test_a_gate_that_holds_each_worker(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        limit = ConcurrencyLimit(1)
        context = await nursery.start(Worker("w", storage, run_for_ever, concurrency=2, layers=[limit]).run)
        running = await storage.push(1)
        await settled_down(context)
        waiting = await storage.push(2)
        found = await explain(storage, waiting, "held_by_gate")
        assert found.gates == (("w", "ConcurrencyLimit: 1 of 1 permits are taken"),)
        assert "no worker on queue 'default' is open: worker 'w' (ConcurrencyLimit: 1 of 1 permits" in str(found)
        await explain(storage, running, "running")
        context.pause()
        assert (await explain(storage, waiting, "held_by_gate")).gates == (("w", "paused"),)
        second = await nursery.start(Worker("second", storage, run_for_ever, concurrency=1).run)
        await settled_down(second)
        assert (await explain(storage, waiting, "running")).worker == "second"
        last = await storage.push(3)
        found = await explain(storage, last, "waiting")
        assert (found.workers, found.busy, found.slots) == (("w", "second"), 2, 3)
        assert found.gates == (("w", "paused"),)
        assert str(found).endswith("2 of 3 slots busy; not open is the intake of worker 'w' (paused)")
        second.stop()
        found = await explain(storage, last, "held_by_gate")
        assert found.gates == (("w", "paused"), ("second", "closed"))
        nursery.cancel_scope.cancel()


async def settled_down(context: WorkerContext) -> None:
    """Wait until the worker has begun an attempt, and its other slots wait."""
    while not context.running_tasks:  # noqa: ASYNC110  whatever the clock shows
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()


async def test_gates_in_words(mock_clock: MockClock) -> None:
    async def fail(task: Task[int]) -> None:
        raise KeyError("no luck")

    task, breaker, rate = Task.builder(1).build(), CircuitBreaker(1, recovery_timeout=20), RateLimit(2, per=60)
    assert explanation_by(breaker) == "CircuitBreaker: closed"
    with pytest.raises(KeyError):
        await breaker(fail, task)
    mock_clock.jump(5)
    assert explanation_by(breaker) == "CircuitBreaker: open, trials begin in 15.0 s"
    mock_clock.jump(15)
    assert breaker.admit(task)
    assert explanation_by(breaker) == "CircuitBreaker: half-open, 1 trials are under way"
    assert explanation_by(rate) == "RateLimit: 0 of 2 in 60 s are used"
    for _ in range(2):
        with pytest.raises(KeyError):
            await rate(fail, task)
    mock_clock.jump(50)
    assert explanation_by(rate) == "RateLimit: 2 of 2 in 60 s are used, the next in 10.0 s"
    by_key = ConcurrencyLimit(1, key=lambda task: task.args)
    assert explanation_by(by_key) == "ConcurrencyLimit: 0 permits are taken in all, 1 for each key"


class Odd:
    """A gate whose ``explain`` returns this, or raises it."""

    def __init__(self, words: object) -> None:
        self.words = words

    def __repr__(self) -> str:
        return "<Odd>"

    def explain(self) -> Any:
        if isinstance(self.words, Exception):
            raise self.words
        return self.words


def test_a_gate_whose_words_cannot_be_had_is_shown_by_its_repr() -> None:
    for words in (5, "", ValueError("no words")):
        assert explanation_by(Odd(words)) == "<Odd>"
    assert explanation_by(Odd("long\n" * 100)).startswith("long\\nlong")
    assert len(explanation_by(Odd("long\n" * 100))) == 200
    assert explanation_by("a gate") == "'a gate'"


@asynccontextmanager
async def with_busy_worker(storage: Any) -> AsyncGenerator[None, None]:
    """Run a worker whose one slot is busy."""
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, run_for_ever, concurrency=1).run)
        await storage.push(0, priority=100)
        await settled_down(context)
        yield
        nursery.cancel_scope.cancel()


async def test_a_journal_that_another_handle_writes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.journal"
    async with FileStorage(path, int) as storage, FileStorage(path, int, read_only=True) as view:
        suspended = await storage.push(1)
        await storage.settle(await storage.receive(), Suspended(math.inf, "why not"))
        assert (await explain(view, suspended, "suspended")).reason == "why not"
        running, waiting, last = [await storage.push(number) for number in range(3)]
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, run_for_ever, concurrency=1).run)
            with trio.fail_after(60):
                while not context.running_tasks:  # noqa: ASYNC110  it is told nowhere else
                    await trio.sleep(0.001)
            found = await explain(view, running, "running")
            assert (found.worker, found.until) == ("w", None)
            found = await explain(view, last, "waiting")
            assert (found.workers, found.first) == (None, (waiting,))
            assert str(found).endswith("whose workers cannot be seen from here")
            nursery.cancel_scope.cancel()


async def test_a_prefetched_task_is_about_to_begin() -> None:
    """Seen between the step in which it is handed over and the one in which its slot goes on."""
    storage = MemoryStorage[int]()
    evidence = Evidence(id="t", queue="q", now=1000.0, task=Task.builder(1).id("t").build())
    assert evidence.task is not None
    evidence.task.parts.status = Status.Queued
    assert "is about to begin" in str(explanation_of(evidence))
    assert (await storage.explain("t")).kind == "unknown"


def test_an_error_that_cannot_be_read_is_left_out() -> None:
    class Unreadable:
        worker = None

        @property
        def error(self) -> BaseException:
            raise BackendError("it cannot be read")

    task = Task.builder(1).id("t").build()
    task.parts.context = Unreadable()
    assert explanation_of(Evidence(id="t", queue="q", now=0.0, task=task)).error == ""


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (["a"], "where worker 'a' receives"),
        (["a", "b"], "where workers 'a' and 'b' receive"),
        (["a", "b", "c", "d", "e"], "where workers 'a', 'b', 'c' and 2 more receive"),
    ],
)
def test_workers_in_words(workers: list[str], text: str) -> None:
    found = Explanation(kind="waiting", id="t", queue="q", as_of=MOMENT, workers=tuple(workers))
    assert str(found).endswith(f"{text}, 0 of 0 slots busy")


ANY_KIND: list[Any] = [MemoryStorage, SqliteStorage, FileStorage]


class Knowing:
    """A handler that knows some names of tasks."""

    def __init__(self, *names: str) -> None:
        self.task_names: Any = frozenset(names)

    async def __call__(self, task: Task[int]) -> None:
        await trio.sleep_forever()


def named(task: Task[int]) -> Task[int]:
    """Name a task by its args, as it is pushed."""
    if task.args >= 0:
        task.parts.terms = replace(task.parts.terms, name=f"kind {task.args}")
    return task


@pytest.mark.parametrize("kind", ANY_KIND)
async def test_a_name_that_no_worker_knows(kind: Any, tmp_path: Path) -> None:
    path: Any = [] if kind is MemoryStorage else [tmp_path / "tasks"]
    async with kind(*path, type=int, on_push=named) as storage, trio.open_nursery() as nursery:
        contexts = [
            await nursery.start(Worker(name, storage, handler, concurrency=1).run)
            for name, handler in (
                ("one", Knowing("kind 1")),
                ("none", Knowing()),
                ("some", Knowing("b", "a", "kind 1")),
            )
        ]
        assert [each.names for each in await storage.workers()] == [("kind 1",), (), ("a", "b", "kind 1")]
        for context in contexts:
            context.pause()
        unknown, known, unnamed = [await storage.push(number) for number in (5, 1, -1)]
        found = await explain(storage, unknown, "no_worker")
        assert (found.name, found.workers) == ("kind 5", ("one", "none", "some"))
        assert found.known_names == (("one", ("kind 1",)), ("none", ()), ("some", ("a", "b", "kind 1")))
        assert str(found).endswith(
            "is ready, but no worker alive on queue 'default' knows tasks named 'kind 5': worker 'one' knows 'kind 1', "
            "worker 'none' knows none, worker 'some' knows 'a', 'b' and 'kind 1'"
        )
        assert (await explain(storage, known, "held_by_gate")).workers == ("one", "some")
        assert (await explain(storage, unnamed, "held_by_gate")).workers == ("one", "none", "some")
        context = await nursery.start(Worker("any", storage, run_for_ever, concurrency=1).run)
        context.pause()
        assert (await explain(storage, unknown, "held_by_gate")).gates == (("any", "paused"),)
        context.stop()
        await context.wait_stopped()
        for number in range(5):
            (await nursery.start(Worker(f"{number}", storage, Knowing(*map(str, range(9)))).run)).pause()
        words = str(await explain(storage, unknown, "no_worker"))
        assert words.endswith("worker 'some' knows 'a', 'b' and 'kind 1', 5 more know others")
        nursery.cancel_scope.cancel()


async def test_a_router_of_an_older_version_does_not_know_a_name(tmp_path: Path) -> None:
    old, new = Router(), Router()

    @old.task(name="video.crop", aliases=["crop"])
    async def crop(path: str) -> None:
        await trio.lowlevel.checkpoint()

    @new.task(name="video.resize")
    async def resize(path: str) -> None:
        await trio.lowlevel.checkpoint()

    assert crop.name == "video.crop"
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    async with new.open(url) as queues, old.open(url) as others, trio.open_nursery() as nursery:
        storage = others["default"]
        context = await nursery.start(Worker("old", storage, old).run)
        context.pause()
        found = await queues.explain(await queues.push(resize.bind("a film")))
        assert (found.kind, found.name) == ("no_worker", "video.resize")
        assert found.known_names == (("old", ("crop", "video.crop")),)
        nursery.cancel_scope.cancel()


def test_names_that_are_wrong_are_refused() -> None:
    storage, handler = MemoryStorage[int](), Knowing()
    for wrong in ("name", ["name"], {5}, 5):
        handler.task_names = wrong
        with pytest.raises(TypeError, match="task_names of the handler must be a set of names"):
            Worker("w", storage, handler)
    handler.task_names = None
    assert Worker("w", storage, handler).prepare().task_names is None
    handler.task_names = frozenset(map(str, range(1001)))
    assert Worker("w", storage, handler).prepare().task_names is None


MOMENT = explanation_of(Evidence(id="t", queue="q", now=1e9)).as_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (3, "3.0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 hours"), (2e5, "2 days")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(MOMENT + timedelta(seconds=seconds), MOMENT) == text
