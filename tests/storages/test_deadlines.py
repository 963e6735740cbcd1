"""A deadline holds for the whole life of a task, on every storage: while it waits, in each attempt, and in what that
pushes.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    DeadlineError,
    DeadlinePassed,
    Error,
    FileStorage,
    Killed,
    LeaseLostError,
    Limits,
    MemoryStorage,
    Monitor,
    Released,
    Retried,
    RetryPolicy,
    Router,
    SqliteStorage,
    Status,
    StorageEvent,
    Succeeded,
    Suspended,
    Task,
    TaskBuilder,
    TaskId,
    Worker,
    WorkerContext,
    constant,
    open_url,
    pipe_to,
)
from trio_tasks.testing import run_once, virtual_clock

from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)
stored = pytest.mark.parametrize("opened", [STORAGES["file"], STORAGES["sqlite"]], ids=["file", "sqlite"])


def in_virtual_time(opened: Opener, path: Path, main: Callable[[Any], Awaitable[None]]) -> None:
    """Run a program on an open storage, in virtual time."""

    async def run() -> None:
        async with opened(path / "tasks") as storage:
            await main(storage)

    with virtual_clock() as clock:
        trio.run(run, clock=clock)


def inheriting(kind: str, path: Path) -> Any:
    """A storage, not open yet, where pushes inherit deadlines."""
    if kind == "memory":
        return MemoryStorage[int](deadline="inherit")
    made: Any = FileStorage if kind == "file" else SqliteStorage
    return made(path / "tasks", int, deadline="inherit")


def left() -> float:
    """The seconds until the deadline of the caller, in the precision of the clocks."""
    return round(trio.current_effective_deadline() - trio.current_time(), 3)


@asynccontextmanager
async def at_work(storage: Any, handler: Any, **options: Any) -> AsyncGenerator[None, None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, log=None, **options).run)
        yield
        nursery.cancel_scope.cancel()


async def end_of(storage: Any, task_id: str) -> tuple[Status, str]:
    """The status of a finished task, and the name of its error."""
    result = await storage.wait_for(task_id)
    return result.status, type(result.error).__name__


KILLED = Status.Killed, "DeadlineError"


# Travelling


@everywhere
def test_a_deadline_travels_through_three_generations(opened: Opener, tmp_path: Path) -> None:
    """Each attempt pushes the next task with "inherit": all of them end at one moment, the third one in its attempt."""

    async def main(storage: Any) -> None:
        scopes: list[float] = []
        deadlines: list[datetime | None] = []
        ids: list[TaskId] = []

        async def handler(task: Task[int]) -> None:
            scopes.append(left())
            deadlines.append(task.parts.deadline_at)
            if task.args < 3:
                await trio.sleep(2)
                ids.append(await storage.push(task.args + 1, deadline="inherit"))
            else:
                await trio.sleep_forever()

        ids.append(await storage.push(1, deadline=10))
        async with at_work(storage, handler):
            for each in ids:  # it grows meanwhile
                await storage.wait_for(each)
        assert scopes == [10, 8, 6]
        assert trio.current_time() == pytest.approx(10)
        assert len({each and round(each.timestamp(), 3) for each in deadlines}) == 1
        finished = [(await storage.fetch_by_id(each)).parts for each in ids]
        assert [each.status for each in finished] == [Status.Done, Status.Done, Status.Killed]
        assert finished[2].finished == pytest.approx(finished[0].deadline, abs=0.001)

    in_virtual_time(opened, tmp_path, main)


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
def test_a_storage_says_that_pushes_inherit(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with inheriting(kind, tmp_path) as storage, storage.share(int, queue="other") as other:

            async def deadline_of(**options: Any) -> float | None:
                found = await storage.fetch_by_id(await storage.push(1, **options))
                return None if found.parts.deadline is None else round(found.parts.deadline - found.parts.pushed, 3)

            assert await deadline_of() is None  # there is none to inherit
            with trio.fail_after(20):
                assert await deadline_of() == 20
                assert await deadline_of(deadline=30) == 30
                assert await deadline_of(deadline="inherit") == 20
                assert await deadline_of(deadline=None) is None
                [task_id] = await storage.push_bulk([1])
                assert (await storage.fetch_by_id(task_id)).parts.deadline is not None
                assert (await other.fetch_by_id(await other.push(1))).parts.deadline is not None
                with trio.CancelScope(shield=True):
                    assert await deadline_of(deadline="inherit") is None

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


def test_a_shutdown_is_no_deadline_that_an_attempt_passes_on() -> None:
    """The scopes around a worker bound its run. What its attempts push is for the next run."""

    async def main() -> None:
        storage = MemoryStorage[int](deadline="inherit")
        pushed: list[TaskId] = []

        async def push() -> None:
            pushed.append(await storage.push(9, delay=100))

        async def handler(number: int, nursery: trio.Nursery) -> None:
            await trio.sleep(2)  # until the shutdown has begun
            assert left() < 20
            await push()
            nursery.start_soon(push)
            with trio.fail_after(30):
                await push()
            with trio.fail_after(3):
                await push()

        async def run(deadline: float | None) -> Counter[float | None]:
            """Run a worker until it is shut down; return the seconds that its pushes have inherited."""
            pushed.clear()
            await storage.push(1, deadline=deadline)
            async with Monitor(shutdown_timeout=10) as monitor:
                monitor.register(Worker("w", storage, handler))
                await trio.sleep(1)
                monitor.shutdown()
            parts = [each.parts for each in await storage.fetch_by_id(pushed) if each is not None]
            return Counter(each.deadline and round(each.deadline - (each.pushed or 0.0)) for each in parts)

        assert await run(None) == Counter([None, 30, 3, None])
        with trio.fail_after(500):  # around the run of the worker
            assert await run(40) == Counter([38, 30, 3, 38])

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


@everywhere
def test_a_push_after_the_callers_deadline_is_over_begins_nothing(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        begun: list[int] = []

        async def handler(number: int) -> None:
            begun.append(number)

        with trio.CancelScope() as scope:
            scope.cancel()
            if isinstance(storage, MemoryStorage):
                storage.push_nowait(1, deadline="inherit")
            else:
                await storage.push(1, deadline="inherit")
        async with at_work(storage, handler):
            await trio.sleep(1)
        assert not begun
        assert all(each.parts.status is Status.Killed for each in await storage.list_tasks())

    in_virtual_time(opened, tmp_path, main)


def test_a_push_that_waits_for_room_inherits_the_deadline_of_its_own_caller() -> None:
    async def main() -> None:
        storage = MemoryStorage[int](1)
        await storage.push(1)

        async def push() -> None:
            with trio.fail_after(5):
                await storage.push(2, deadline="inherit")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.sleep(2)
            with trio.fail_after(100):  # the caller of this one has another deadline
                task = await storage.receive()
                await storage.settle(task, Succeeded(None))
                task = await storage.receive()
        assert task.parts.deadline is not None and task.parts.pushed is not None
        assert task.parts.deadline - task.parts.pushed == pytest.approx(3)

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
def test_functions_of_a_router_have_deadlines_and_calls_pass_them_on(kind: str, tmp_path: Path) -> None:
    tasks = Router()
    seen: list[tuple[str, float]] = []

    @tasks.task(deadline=10)
    async def parent() -> None:
        seen.append(("parent", left()))
        await trio.sleep(1)
        await queues.push(child.bind())
        await queues.push(other.bind(), deadline=3)

    @tasks.task(deadline="inherit")
    async def child() -> None:
        seen.append(("child", left()))

    @tasks.task
    async def other() -> None:
        seen.append(("other", left()))

    async def main() -> None:
        async with queues, queues.monitor({"default": 1}) as monitor:
            await queues.push(parent.bind())
            await trio.sleep(5)
            monitor.shutdown()

    url = {"memory": "memory://", "file": f"file://{tmp_path}/j", "sqlite": f"sqlite:///{tmp_path}/t.db"}[kind]
    with virtual_clock() as clock:
        queues = tasks.open(url)
        trio.run(main, clock=clock)
    assert seen == [("parent", 10), ("child", 9), ("other", 3)]


def test_a_url_says_that_pushes_inherit(tmp_path: Path) -> None:
    async def main() -> None:
        for url in ("memory://?deadline=inherit", f"sqlite:///{tmp_path}/t.db?deadline=inherit"):
            async with open_url(url) as storage:
                with trio.fail_after(600):
                    found = await storage.fetch_by_id(await storage.push(1))
                assert found is not None and found.parts.deadline is not None
        with pytest.raises(ValueError, match="must be inherit, not '3'"):
            open_url("memory://?deadline=3")

    trio.run(main)


# Not begun after it


@everywhere
def test_a_task_is_not_begun_after_its_deadline_whatever_state_it_waits_in(opened: Opener, tmp_path: Path) -> None:
    """Ready, delayed, retried, suspended, released or held by a pause: it is killed at the very moment, for everybody
    who looks.
    """

    async def main(storage: Any) -> None:
        ids = {name: await storage.push(1, deadline=10, id=name) for name in ("retried", "suspended", "released")}
        outcomes = {
            "retried": Retried(ValueError("again"), 60.0),
            "suspended": Suspended(math.inf, "until rescheduled"),
            "released": Released(),
        }
        for _ in ids:
            task = await storage.receive()
            await trio.sleep(1)
            await storage.settle(task, outcomes[task.parts.id])
            if task.parts.id == "released":
                await storage.pause()
        await storage.push(1, deadline=7, id="ready", priority=-1)
        await storage.push(1, deadline=7, delay=5, id="delayed")
        await storage.reschedule("delayed", 100)
        all_ids = ["retried", "suspended", "released", "ready", "delayed"]
        await trio.sleep(6.999)
        waiting = [each.parts.status for each in await storage.fetch_by_id(all_ids)]
        assert waiting == [Status.Pending] * 5
        assert "at its deadline, in 0.0 s" in str(await storage.explain("delayed"))
        await trio.sleep(0.002)
        found = await storage.fetch_by_id(all_ids)
        assert [each.parts.status for each in found] == [Status.Killed] * 5
        assert {type(each.parts.context.error) for each in found} == {DeadlineError}
        for each in found:
            assert each.parts.finished == pytest.approx(each.parts.deadline, abs=0.001)
            assert "DeadlineError" in str(await storage.explain(each.parts.id))
        assert [await end_of(storage, each) for each in all_ids] == [KILLED] * 5
        assert (await storage.metrics())["killed"] == 5
        assert await storage.audit()
        assert {each.parts.id for each in await storage.list_tasks(Status.Killed)} == {*all_ids}

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_a_task_that_a_limit_holds_back_is_killed_at_its_deadline(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        await storage.set_limits(Limits(per_key=1))
        first = await storage.push(1, key="acme", deadline=50)
        held = [await storage.push(2, key="acme", **options) for options in ({"deadline": 5}, {"expires_in": 5})]
        kept = await storage.push(3, key="acme", deadline=50)
        running = await storage.receive()
        with trio.move_on_after(6):
            await storage.receive()
            raise AssertionError("there is no place for it")
        assert await end_of(storage, held[0]) == KILLED
        assert await end_of(storage, held[1]) == (Status.Killed, "TaskExpiredError")
        assert await storage.audit()
        await storage.settle(running, Retried(ValueError("again"), 10.0))
        task = await storage.receive()
        assert task.parts.id == kept
        await trio.sleep(12)
        assert "it is killed at its deadline, in" in str(await storage.explain(first))
        await storage.settle(task, Released())
        await trio.sleep(40)
        assert [await end_of(storage, each) for each in (first, kept)] == [KILLED] * 2
        assert await storage.audit()
        assert (await storage.metrics())["killed"] == 4

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_what_is_past_its_deadline_is_listed_in_pages(opened: Opener, tmp_path: Path) -> None:
    """Also before that is entered, and with what has expired."""

    async def main(storage: Any) -> None:
        for number in range(6):
            options = {"deadline": 5 + number} if number % 2 else {"expires_in": 5 + number}
            await storage.push(number, **options)
            await storage.push(number, **options, delay=1)
        await trio.sleep(20)
        whole = [each.parts.id for each in await storage.list_tasks(Status.Killed)]
        assert len(whole) == 12
        pages, after = [], None
        while True:
            page = await storage.list_tasks(Status.Killed, limit=5, after=after)
            pages += [each.parts.id for each in page]
            if (after := page.next) is None:
                break
        assert pages == whole

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_a_wait_for_the_result_ends_at_the_deadline(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        task_id = await storage.push(1, deadline=10)
        assert await end_of(storage, task_id) == KILLED
        assert trio.current_time() == pytest.approx(10, abs=0.01)
        retried = await storage.push(1, deadline=10)
        await storage.settle(await storage.receive(), Retried(ValueError("again"), 60.0))
        assert await end_of(storage, retried) == KILLED
        assert trio.current_time() == pytest.approx(20, abs=0.01)

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_the_earlier_of_expiry_and_deadline_ends_it(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        expires = await storage.push(1, deadline=10, expires_in=5)
        deadline = await storage.push(1, deadline=5, expires_in=10)
        await trio.sleep(6)
        assert await end_of(storage, expires) == (Status.Killed, "TaskExpiredError")
        assert await end_of(storage, deadline) == KILLED
        begun = await storage.push(1, deadline=10, expires_in=5)
        await storage.settle(await storage.receive(), Retried(ValueError("again"), 7.0))
        await trio.sleep(6)  # it was begun in time, and does not expire any more
        task = await storage.fetch_by_id(begun)
        assert task.parts.status is Status.Pending
        await trio.sleep(4.1)
        assert await end_of(storage, begun) == KILLED

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_its_end_while_it_waits_is_an_event(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        seen: list[StorageEvent] = []

        async def follow(events: Any) -> None:
            async for event in events:
                seen.append(event)  # noqa: PERF401  it is read meanwhile

        async def handler(number: int) -> None:
            raise ValueError("again")

        async with storage.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(follow, events)
            late = await storage.push(1, deadline=5)
            async with at_work(storage, handler, retry=RetryPolicy(attempts=5, backoff=constant(60))):
                await trio.sleep(6)
            assert seen[1:] == [DeadlinePassed(late)]
            nursery.cancel_scope.cancel()

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_a_unique_key_is_free_after_the_deadline(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        first = await storage.push(1, unique="key", deadline=5)
        assert await storage.push(2, unique="key") == first
        await trio.sleep(5.001)
        second = await storage.push(2, unique="key")
        assert second != first
        assert await end_of(storage, first) == KILLED

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_an_update_by_a_push_brings_its_own_deadline(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        one = await storage.push(1, unique="1", deadline=5)
        await storage.push(2, unique="1", on_conflict="update", deadline=50)
        two = await storage.push(1, unique="2", deadline=5)
        await storage.push(2, unique="2", on_conflict="update")
        three = await storage.push(1, unique="3")
        await storage.push(2, unique="3", on_conflict="update", deadline=5)
        await trio.sleep(6)
        found = await storage.fetch_by_id([one, two, three])
        assert [each.parts.status for each in found] == [Status.Pending, Status.Pending, Status.Killed]
        assert [each.parts.deadline is None for each in found] == [False, True, False]
        task = await storage.receive()
        assert round(task.parts.cancel_at, 2) == 50

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_a_task_that_is_made_to_wait_again_by_hand_has_no_deadline(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        task_id = await storage.push(1, deadline=5)
        await trio.sleep(6)
        assert await storage.resume_by_id(task_id)
        assert (await storage.fetch_by_id(task_id)).parts.deadline is None

        async def handler(number: int) -> float:
            return trio.current_effective_deadline()

        async with at_work(storage, handler):
            assert (await storage.wait_for(task_id)).result == math.inf

    in_virtual_time(opened, tmp_path, main)


# In an attempt


@everywhere
def test_an_attempt_is_cancelled_at_the_deadline_and_is_not_retried(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        ended: list[float] = []
        events: list[Error] = []

        async def handler(number: int) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

        def note(context: WorkerContext, event: object) -> None:
            if isinstance(event, Error):
                events.append(event)

        task_id = await storage.push(1, deadline=5, timeout=7)
        async with at_work(storage, handler, on_event=note):
            assert await end_of(storage, task_id) == KILLED
        assert ended == [pytest.approx(5, abs=0.01)]
        [event] = events
        assert isinstance(event.outcome, Killed) and isinstance(event.error, DeadlineError)
        assert "in its attempt 1" in str(event.error)

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_the_shorter_of_timeout_and_deadline_cuts_an_attempt_short(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        scopes: list[float] = []

        async def handler(number: int) -> None:
            scopes.append(left())
            await trio.sleep_forever()

        task_id = await storage.push(1, deadline=10, timeout=4, attempts=5)
        async with at_work(storage, handler, retry=RetryPolicy(backoff=constant(0))):
            assert await end_of(storage, task_id) == KILLED
        assert scopes == [4, 4, 2]
        history = (await storage.fetch_by_id(task_id)).parts.context.history
        assert [each.became for each in history] == ["retried", "retried", "killed"]

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_a_handler_that_finishes_in_time_wins(opened: Opener, tmp_path: Path) -> None:
    """Also if it returns although it was cancelled."""

    async def main(storage: Any) -> None:
        async def handler(number: int) -> str:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            return "done"

        async with at_work(storage, handler):
            result = await storage.wait_for(await storage.push(1, deadline=1))
        assert (result.status, result.result) == (Status.Done, "done")

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_an_error_after_the_deadline_is_the_cause_of_its_end(opened: Opener, tmp_path: Path) -> None:
    """A handler that turns its cancellation into an error of its own is not attempted again either."""

    async def main(storage: Any) -> None:
        async def handler(number: int) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleaning up has failed")

        task_id = await storage.push(1, deadline=5)
        async with at_work(storage, handler):
            assert await end_of(storage, task_id) == KILLED
        error = (await storage.fetch_by_id(task_id)).parts.context.error
        assert "in its attempt 1" in str(error)
        if isinstance(storage, MemoryStorage):
            assert isinstance(error.__cause__, ValueError)

    in_virtual_time(opened, tmp_path, main)


@everywhere
def test_an_abort_before_the_deadline_stays_the_outcome(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        async def handler(number: int) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)  # until after the deadline

        task_id = await storage.push(1, deadline=5)
        async with at_work(storage, handler):
            await trio.sleep(2)
            assert await storage.cancel(task_id, running=True)
            assert await end_of(storage, task_id) == (Status.Killed, "AbortError")

    in_virtual_time(opened, tmp_path, main)


def test_a_sync_handler_is_asked_to_end_and_its_slot_waits_for_the_thread() -> None:
    clock = MockClock()
    begun, seen_by_thread = threading.Event(), list[str]()

    def handler(number: int) -> None:
        begun.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
                time.sleep(0.001)
        finally:
            seen_by_thread.append("cancelled")

    async def main() -> None:
        storage = MemoryStorage[int]()
        async with at_work(storage, handler):
            task_id = await storage.push(1, deadline=5)
            await trio.to_thread.run_sync(begun.wait)
            clock.jump(6)
            assert await end_of(storage, task_id) == KILLED
            assert seen_by_thread == ["cancelled"]

    trio.run(main, clock=clock)


@stored
def test_an_orphan_whose_deadline_is_over_does_not_come_back(opened: Opener, tmp_path: Path) -> None:
    async def main(storage: Any) -> None:
        short = storage.share(int, queue="short", lease=10.0)
        late, in_time = await short.push(1, deadline=5), await short.push(2, deadline=50)
        lost = [await short.receive(), await short.receive()]
        await trio.sleep(11)
        again = await short.receive()
        assert again.args == 2 and again.parts.attempt == 2
        assert round(again.parts.cancel_at, 2) == 50
        assert await end_of(short, late) == KILLED
        with pytest.raises(LeaseLostError):
            await short.settle(lost[0], Succeeded(None))
        await short.settle(again, Retried(ValueError("again"), 100.0))
        await trio.sleep(40)
        assert await end_of(short, in_time) == KILLED

    in_virtual_time(opened, tmp_path, main)


# From sync code


def test_a_push_outside_of_trio_cannot_inherit(tmp_path: Path) -> None:
    with SqliteStorage.open_sync(tmp_path / "tasks.db", int) as storage:
        with pytest.raises(RuntimeError, match='deadline="inherit" takes the deadline of the trio task'):
            storage.push(1, deadline="inherit")
        task_id = storage.push(1, deadline=60)
        found = storage.fetch_by_id(task_id)
        assert found is not None and found.parts.deadline is not None and found.parts.pushed is not None
        assert found.parts.deadline - found.parts.pushed == pytest.approx(60, abs=5)
    with SqliteStorage.open_sync(tmp_path / "tasks.db", int, deadline="inherit") as storage:
        found = storage.fetch_by_id(storage.push(1))  # the storage's wish is for code of trio
        assert found is not None and found.parts.deadline is None


async def test_a_push_in_a_thread_of_trio_inherits_from_the_trio_task_that_waits_for_it(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:

        def push() -> TaskId:
            connection = sqlite3.connect(tmp_path / "tasks.db")
            try:
                task_id = storage.push_in(connection, 1, deadline="inherit")
                connection.commit()
            finally:
                connection.close()
            return task_id

        with trio.fail_after(500):
            task_id = await trio.to_thread.run_sync(push)
        found = await storage.fetch_by_id(task_id)
        assert found is not None and found.parts.deadline is not None and found.parts.pushed is not None
        assert 400 < found.parts.deadline - found.parts.pushed <= 500

        refused: list[BaseException] = []

        def push_outside() -> None:
            try:
                push()
            except RuntimeError as error:
                refused.append(error)

        thread = threading.Thread(target=push_outside)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert len(refused) == 1


@everywhere
async def test_a_task_that_was_looked_up_can_be_pushed_elsewhere(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        with trio.fail_after(500):
            task = await storage.fetch_by_id(await storage.push(1, deadline="inherit", expires_in=1000))
        other = MemoryStorage[int]()  # where nothing is to be inherited now
        await other.push_task(task)
        received = await other.receive()
        assert received.parts.deadline is None
        await other.settle(received, Retried(ValueError("again")))
        assert (await other.receive()).parts.attempt == 2


@pytest.mark.parametrize("given", [5, "inherit"])
def test_run_once_takes_a_task_as_if_it_were_pushed_then(given: Any) -> None:
    async def handler(number: int) -> None:
        assert left() == 5
        await trio.sleep_forever()

    async def main() -> None:
        with trio.move_on_after(5 if given == "inherit" else 50, shield=True):
            outcome = await run_once(handler, Task.builder(1).deadline(given).build(), log=None)
            assert isinstance(outcome, Killed) and isinstance(outcome.error, DeadlineError)
            return
        assert given == "inherit"  # its caller was cancelled at the same moment

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


# Refused, shown, stored


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "deadline must be more than 0 seconds, not 0"),
        (-3, "deadline must be more than 0 seconds, not -3"),
        (math.nan, "deadline must be a finite number of seconds, not nan"),
        (math.inf, "deadline=None stands for no deadline"),
        ("never", "deadline must be a number of seconds, 'inherit' or None, not 'never'"),
    ],
)
def test_a_wrong_deadline_is_refused_where_it_is_given(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskBuilder(1).deadline(value)
    with pytest.raises(ValueError, match=message):
        MemoryStorage[int]().push_nowait(1, deadline=value)
    tasks = Router()
    with pytest.raises(ValueError, match=message):
        tasks.task(name="late", deadline=value)(lambda: None)


def test_other_wrong_values_are_refused() -> None:
    with pytest.raises(TypeError, match="deadline must be a number of seconds, not True"):
        TaskBuilder(1).deadline(True)
    with pytest.raises(ValueError, match=r"deadline must be more than the delay, which is 5 s, and not 3 s"):
        TaskBuilder(1).deadline(3).run_after(5).build()
    wrong: Any = {"deadline": 5}
    for make in (MemoryStorage[int], lambda **given: SqliteStorage("tasks.db", int, **given)):
        with pytest.raises(ValueError, match="deadline of a storage must be 'inherit' or None, not 5"):
            make(**wrong)
    assert TaskBuilder(1).run_after(5).deadline("inherit").build().parts.deadline is None  # known at the push alone


@everywhere
async def test_parts_show_it(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        task = Task.builder(1).deadline(60).build()
        assert task.parts.deadline is None and task.parts.deadline_at is None
        task_id = await storage.push_task(task)
        for parts in (task.parts, (await storage.fetch_by_id(task_id)).parts, (await storage.receive()).parts):
            assert parts.deadline is not None and parts.deadline_at is not None
            assert parts.deadline_at == datetime.fromtimestamp(parts.deadline, timezone.utc)
            assert parts.terms.deadline == 60


@everywhere
def test_channels_and_pipes_have_deadlines(opened: Opener, tmp_path: Path) -> None:
    """What a channel gives counts as pushed when it is given; what a pipe pushes, when it is pushed."""

    async def main(storage: Any) -> None:
        send, receive = trio.open_memory_channel[Task[int]](10)
        ends: list[type[BaseException]] = []

        async def handler(number: int) -> None:
            await trio.sleep_forever()

        def note(context: WorkerContext, event: object) -> None:
            if isinstance(event, Error):
                ends.append(type(event.error))

        for _ in range(2):
            await send.send(Task.builder(1).deadline(5).build())
        async with at_work(receive, handler, on_event=note):
            await trio.sleep(12)
        assert ends == [DeadlineError] * 2

        send, receive = trio.open_memory_channel[Task[int]](10)
        await send.send(Task.builder(1).id("piped").deadline(5).build())
        send.close()
        async with at_work(pipe_to(receive, storage), handler):
            await trio.sleep(1)
            assert await end_of(storage, "piped") == KILLED

    in_virtual_time(opened, tmp_path, main)


@pytest.mark.parametrize("source", ["file", "sqlite"])
@pytest.mark.parametrize("target", ["file", "sqlite"])
def test_an_export_keeps_it(source: str, target: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with STORAGES[source](tmp_path / "source") as one, STORAGES[target](tmp_path / "target") as two:
            ids = ["ready", "delayed", "retried", "running", "both"]
            await one.push(1, id="retried", deadline=60)
            await one.settle(await one.receive(), Retried(ValueError("again"), 10.0))
            await one.push(1, id="running", deadline=60)
            await one.receive()
            await one.push(1, id="ready", deadline=60)
            await one.push(1, id="delayed", deadline=60, delay=30)
            await one.push(1, id="both", deadline=60, expires_in=50)
            assert await two.import_tasks(await one.export_tasks())
            found = await two.fetch_by_id(ids)
            there = await one.fetch_by_id(ids)
            assert [each.parts.deadline for each in found] == pytest.approx([each.parts.deadline for each in there])
            await trio.sleep(60.1)
            await two.push(1)
            await two.receive()  # enters what is due, the orphan among it
            expected = [KILLED] * 4 + [(Status.Killed, "TaskExpiredError")]
            assert [await end_of(two, each) for each in ids] == expected

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


def test_a_journal_keeps_deadlines_over_a_restart_and_a_compaction(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "tasks"
        async with STORAGES["file"](path) as storage:
            for name in ("waiting", "running", "resumed"):
                await storage.push(1, id=name, deadline=60)
            await storage.settle(await storage.receive(), Retried(ValueError("again"), 100.0))
            assert await storage.cancel("resumed") and await storage.resume_by_id("resumed")
            await storage.receive()
        for _ in range(2):
            async with STORAGES["file"](path) as storage:
                found = await storage.fetch_by_id(["waiting", "running", "resumed"])
                assert [each.parts.deadline is not None for each in found] == [True, True, False]
        await trio.sleep(61)
        async with STORAGES["file"](path) as storage:
            found = await storage.fetch_by_id(["waiting", "running", "resumed"])
            assert [each.parts.status for each in found] == [Status.Killed, Status.Killed, Status.Pending]

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
