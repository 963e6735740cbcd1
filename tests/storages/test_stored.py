from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    AbortError,
    Attempt,
    BackendError,
    DecodeError,
    DuplicateTaskError,
    Error,
    Event,
    Failed,
    Killed,
    LeaseLostError,
    OrphanedError,
    Release,
    Released,
    RetryPolicy,
    Status,
    Succeeded,
    Task,
    TaskExpiredError,
    TaskId,
    UnknownTaskError,
    Worker,
    WorkerContext,
)
from trio_tasks._backends.durable.engine import Query, State
from trio_tasks._backends.durable.queue import STALE

from tests.storages._engine import Storage, Store, TroubledEngine, broken
from tests.storages._rows import new, push


@dataclass
class Email:
    to: str
    copies: int = 1


# Opening and closing


async def test_before_it_is_opened_and_after_it_was_closed_it_says_so() -> None:
    storage = Storage[str]()
    for _ in range(2):
        for ask in (storage.push("a"), storage.receive(), storage.wait_for("a"), storage.metrics()):
            with pytest.raises(trio.ClosedResourceError):
                await ask
        with pytest.raises(trio.ClosedResourceError):
            storage.receive_nowait()
        if not storage.engine.calls["open"]:
            async with storage:
                pass
    with pytest.raises(RuntimeError, match="opened already"):
        async with storage:
            pass


async def test_it_cannot_be_opened_twice_at_once() -> None:
    async with Storage[str]() as storage:
        with pytest.raises(RuntimeError, match="opened already"):
            async with storage:
                pass
        await storage.push("it is open all the same")


async def test_what_could_not_be_opened_may_be_tried_again() -> None:
    storage = Storage[str]()
    storage.engine.trouble = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        async with storage:
            pass
    storage.engine.trouble = None
    async with storage:
        await storage.push("a")


async def test_a_cancelled_block_is_left_in_good_order(autojump_clock: MockClock) -> None:
    storage = Storage[str]()
    with trio.move_on_after(1) as scope:
        async with storage:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert storage.engine.calls["aclose"] == 1


async def test_a_block_that_is_cancelled_in_a_nursery_of_its_own_is_left_in_good_order(
    autojump_clock: MockClock,
) -> None:
    storage = Storage[str]()
    with trio.move_on_after(1) as scope:
        async with storage, trio.open_nursery() as nursery:
            nursery.start_soon(storage.receive)
            nursery.start_soon(trio.sleep_forever)
    assert scope.cancelled_caught
    assert storage.engine.calls["aclose"] == 1


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
async def test_what_the_block_raises_comes_out_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with Storage[str]():
            raise error
    assert caught.value is error


async def test_aclose_ends_it_from_within_and_twice_does_no_harm() -> None:
    async with Storage[str]() as storage:
        await storage.aclose()
        await storage.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await storage.push("a")
    assert storage.engine.calls["aclose"] == 1


async def test_aclose_does_its_work_though_it_is_cancelled(autojump_clock: MockClock) -> None:
    storage = Storage[str]()
    async with storage:
        with trio.CancelScope() as scope:
            scope.cancel()
            await storage.aclose()
        assert storage.engine.calls["aclose"] == 1


# Sharing


async def test_shared_queues_have_options_and_types_of_their_own() -> None:
    async with Storage[Email](type=Email, lease=10.0) as storage:
        numbers: Any = storage.share(int, queue="numbers", lease=3.0)
        assert (storage.lease, numbers.lease, numbers.queue) == (10.0, 3.0, "numbers")
        async with numbers as same:
            assert same is numbers
            with pytest.raises((TypeError, ValueError)):
                await numbers.push("three")
            await numbers.push(3)
        await storage.push(Email("a@example.com"))
        assert (await storage.receive()).args == Email("a@example.com")
        assert (await numbers.receive()).args == 3
        assert sorted(await storage.list_queues()) == ["numbers", "q"]
        with pytest.raises(ValueError, match="open here already"):
            storage.share(str, queue="numbers")
        with pytest.raises(TypeError, match="no option"):
            storage.share(str, queue="x", leas=3)  # type: ignore[call-arg]  # which is the point


async def test_a_task_is_settled_where_it_came_from() -> None:
    async with Storage[int]() as storage:
        await storage.push(1)
        task = await storage.receive()
        with pytest.raises(LeaseLostError):
            await storage.share(int, queue="other").settle(task, Succeeded(None))
        with pytest.raises(LeaseLostError):
            await storage.settle(Task(1), Succeeded(None))
        with pytest.raises(TypeError, match="outcome"):
            await storage.settle(task, "done")  # type: ignore[arg-type]  # which is the point
        await storage.settle(task, Succeeded(None))
        with pytest.raises(LeaseLostError):
            await storage.settle(task, Succeeded(None))


# What goes in


@pytest.mark.parametrize("args", [object(), Email("a", "many"), {"a": {1: lambda: 1}}])  # type: ignore[arg-type]  # what cannot be told apart by its type
async def test_args_that_cannot_be_encoded_are_refused_at_the_door(args: Any) -> None:
    async with Storage[Any](type=Any if isinstance(args, dict) else Email) as storage:
        with pytest.raises((TypeError, ValueError)):
            await storage.push(args)
        with pytest.raises((TypeError, ValueError)):
            await storage.push_bulk([Email("good"), args])
        assert storage.engine.calls["exchange"] == 0
        assert await storage.rows() == []


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"a": object()}),
        {"a": "\ud800"},
    ],
    ids=["object", "surrogate"],
)
async def test_metadata_that_cannot_be_stored_are_refused_at_the_door(metadata: dict[str, Any]) -> None:
    async with Storage[str]() as storage:
        with pytest.raises((TypeError, ValueError)):
            await storage.push_task(Task.builder("a").metadata(**metadata).build())
        assert await storage.rows() == []


async def test_metadata_that_are_too_deep_are_refused_at_the_door() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    async with Storage[str]() as storage:
        with pytest.raises(ValueError, match="deep"):
            await storage.push_task(Task.builder("a").metadata(deep=deep).build())


async def test_terms_metadata_and_extensions_travel(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        builder = Task.builder("a").id("x").attempts(3).timeout(30).priority(5).unique("k", on_conflict="raise")
        task = builder.metadata(tenant="acme", n=[1, 2]).expires_in(60).data(Email("me")).build()
        await storage.push_task(task)
        received = await storage.receive()
        assert received.parts.terms == task.parts.terms
        assert dict(received.parts.metadata) == {"tenant": "acme", "n": [1, 2]}
        assert received.parts.extensions[Email] == Email("me")
        assert (received.parts.attempt, received.parts.status) == (1, Status.Running)
        found = await storage.fetch_by_id("x")
        assert found is not None
        assert (found.parts.terms, dict(found.parts.metadata)) == (task.parts.terms, dict(task.parts.metadata))


async def test_names_that_no_store_could_have_are_refused_at_the_door() -> None:
    async with Storage[str]() as storage:
        for ask in (storage.fetch_by_id, storage.cancel, storage.abort, storage.discard, storage.wait_for):
            with pytest.raises(ValueError, match="a task's id must be encodable as UTF-8"):
                await ask("half \ud800")
        with pytest.raises(ValueError, match="queue must be encodable as UTF-8"):
            storage.share(queue="half \ud800")


async def test_a_duplicate_that_is_refused_leaves_nothing_behind() -> None:
    async with Storage[str]() as storage:
        await storage.push_task(Task.builder("a").id("x").data(Email("first")).build())
        with pytest.raises(DuplicateTaskError):
            await storage.push_task(Task.builder("b").id("x").data(Email("second")).build())
        task = await storage.receive()
        assert task.args == "a"
        assert task.parts.extensions[Email] == Email("first")


# What comes out


async def never(args: object) -> None:
    raise AssertionError(f"an attempt was made at {args!r}")


@dataclass
class OldMail:
    to: str


@dataclass
class NewMail:
    address: str


async def test_what_this_version_cannot_read_is_put_back_until_a_newer_one_can(autojump_clock: MockClock) -> None:
    """In a rolling deploy, the old version runs on for an hour, on the queue to which the new version pushes."""
    old_heard: list[Event] = []
    begun = trio.current_time()
    seen: list[Any] = []

    async def old(mail: OldMail) -> None:
        seen.append(mail)

    async def new(mail: NewMail, attempt: Attempt) -> None:
        seen.append((mail, int(attempt)))

    async with Storage[NewMail](type=NewMail) as storage:
        task_id = await storage.push(NewMail("a"), attempts=1)
        old_storage = Storage[OldMail](TroubledEngine(storage.engine.store), OldMail)
        async with old_storage, trio.open_nursery() as nursery:
            worker = Worker("old", old_storage, old, on_event=lambda _, event: old_heard.append(event))
            context = await nursery.start(worker.run)
            await old_storage.push(OldMail("b"))
            await trio.sleep(3600)
            context.stop()
        kept = await storage.fetch_by_id(task_id)
        assert kept is not None
        assert (kept.args, kept.parts.status, kept.parts.attempt) == (NewMail("a"), Status.Pending, 0)
        assert [(each.attempt, each.became, each.worker) for each in kept.parts.context.history] == [
            (1, "unreadable", "old")
        ]
        storage.close()
        await Worker("new", storage, new).run()
        assert seen == [OldMail("b"), (NewMail("a"), 1)]
        assert (await storage.metrics())["failed"] == 0
    released = [each for each in old_heard if isinstance(each, Release)]
    assert all(each.reason.startswith("it cannot be read here: DecodeError: ") for each in released)
    untils = [each.until - begun for each in released if each.until is not None]
    assert untils[:8] == pytest.approx([5, 15, 35, 75, 155, 315, 615, 915], abs=1.0)


@pytest.mark.parametrize("after", [0.0, 1.0, 60.0, 86_400.0, math.inf])
async def test_a_task_that_no_version_reads_for_so_long_is_a_dead_letter(
    autojump_clock: MockClock, after: float
) -> None:
    """The time counts from when a worker first found the task unreadable, not from the push. It is stored with the
    row.
    """
    events: list[Event] = []
    quiet: Any = {"queue": "numbers", "poll_interval": 1e7, "lease": 1e7}  # a day of looking takes long

    async def handler(number: int) -> None:
        raise AssertionError("it was read")

    async with Storage[Any](unreadable_after=after, **quiet) as storage:
        await storage.push("not a number", id="bad")
        await trio.sleep(2 * 86_400)
        begun = trio.current_time()
        for _ in range(2):  # the first of them ends on the way
            numbers = Storage[int](TroubledEngine(storage.engine.store), int, unreadable_after=after, **quiet)
            async with numbers:
                with trio.move_on_after(after / 2 if after < math.inf else 86_400):
                    await Worker("w", numbers, handler, on_event=lambda _, event: events.append(event)).run()
        if after < math.inf:
            numbers = Storage[int](TroubledEngine(storage.engine.store), int, unreadable_after=after, **quiet)
            async with numbers:
                numbers.close()
                storage.close()
                await Worker("w", numbers, handler, on_event=lambda _, event: events.append(event)).run()
            result = await storage.wait_for("bad")
            assert (result.status, type(result.error)) == (Status.Failed, DecodeError)
            assert trio.current_time() - begun == pytest.approx(after, abs=2.0)
            [error] = [each for each in events if isinstance(each, Error)]
            assert isinstance(error.outcome, Failed)
            assert await storage.resume_by_id("bad"), "in its new life it is as at first"
        task = await storage.fetch_by_id("bad")
        assert task is not None
        assert (task.parts.status, task.parts.attempt) == (Status.Pending, 0)
        became = [each.became for each in task.parts.context.history]
        assert became == (["unreadable"] if after else []) + (["failed"] if after < math.inf else [])


async def test_an_unreadable_task_that_is_resumed_is_put_back_anew(autojump_clock: MockClock) -> None:
    async with Storage[Any](queue="numbers") as storage:
        await storage.push("not a number", id="bad")
        numbers = Storage[int](TroubledEngine(storage.engine.store), int, queue="numbers", unreadable_after=60.0)
        async with numbers:
            for _ in range(2):
                begun = trio.current_time()
                with trio.move_on_after(600):
                    await Worker("w", numbers, never).run()
                result = await numbers.wait_for("bad")
                assert result.status is Status.Failed
                assert await storage.resume_by_id("bad")
                task = await storage.fetch_by_id("bad")
                assert task is not None
                [*_, unreadable, failed] = task.parts.context.history
                assert failed.ended_at - unreadable.ended_at == pytest.approx(60, abs=2)
                assert trio.current_time() - begun == pytest.approx(600, abs=2)


async def test_an_orphan_that_could_not_be_read_meanwhile_is_still_one(autojump_clock: MockClock) -> None:
    """It has used up its attempts. A version that could not read it gives it no further attempt."""
    async with Storage[int](lease=10.0) as storage:
        await storage.push(1, id="a", attempts=1)
        await storage.receive()  # and nobody renews the lease
        await trio.sleep(11)
        texts = Storage[str](TroubledEngine(storage.engine.store), str)
        async with texts:
            with trio.move_on_after(2):
                await Worker("w", texts, never).run()
        storage.close()
        await Worker("w", storage, never).run()
        result = await storage.wait_for("a")
        assert (result.status, type(result.error)) == (Status.Failed, OrphanedError)


@pytest.mark.parametrize("value", [-1.0, math.nan, "1", None])
def test_how_long_a_task_may_be_unreadable_is_a_number_of_seconds(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="unreadable_after must be"):
        Storage(unreadable_after=value)


async def test_a_payload_that_does_not_decode_is_a_dead_letter_that_can_be_read(autojump_clock: MockClock) -> None:
    async with Storage[Any](unreadable_after=0.0) as storage:
        numbers = storage.share(int, queue="numbers")
        bad = storage.share(queue="bad")
        await bad.push("not a number")
        store = storage.engine.store
        [row] = (await store.rows.search("bad", Query(list(State), limit=1))).rows
        await push(store.rows, new("bad", row.payload, queue="numbers"), new("garbage", b"\xff\x00", queue="numbers"))
        await push(store.rows, new("headless", row.payload, queue="numbers", options=b"\x01"))
        good = await numbers.push(3)
        numbers.close()
        done: list[int] = []

        async def handler(number: int) -> None:
            done.append(number)

        await Worker("w", numbers, handler).run()
        assert done == [3]
        assert (await numbers.wait_for(good)).status is Status.Done
        for task_id, payload in (("bad", row.payload), ("garbage", b"\xff\x00")):
            task = await numbers.fetch_by_id(task_id)
            assert task is not None
            assert task.parts.status is Status.Failed
            assert bytes(task.args) == payload
            assert task.parts.unfit is not None
        assert (await numbers.wait_for("headless")).status is Status.Failed


async def test_a_result_that_cannot_be_encoded_fails_the_task(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        outcomes: list[Any] = []

        async def handler(text: str) -> object:
            return object() if text == "bad" else text

        ids = await storage.push_bulk(["bad", "good"])
        storage.close()
        await Worker("w", storage, handler, on_event=lambda _, event: outcomes.append(event)).run()
        assert [(await storage.wait_for(id)).status for id in ids] == [Status.Failed, Status.Done]
        [error] = [event for event in outcomes if isinstance(event, Error)]
        assert isinstance(error.outcome, Failed)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(10**5000),
        "lone \ud800",
    ],
    ids=["long", "lone"],
)
async def test_no_error_of_a_handler_can_harm_its_worker(autojump_clock: MockClock, value: Any) -> None:
    async with Storage[str]() as storage:

        async def handler(text: str) -> None:
            if text == "bad":
                raise ValueError(value)

        bad, good = await storage.push_bulk(["bad", "good"], attempts=1)
        storage.close()
        await Worker("w", storage, handler).run()
        assert (await storage.wait_for(bad)).status is Status.Failed
        assert (await storage.wait_for(good)).status is Status.Done


@pytest.mark.parametrize("how", ["done", "failed"])
async def test_a_waiter_here_is_given_the_result_that_the_store_does_not_keep(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str
) -> None:
    async with Storage[str](keep_results=0, keep_dead=0) as storage:
        ended: list[Any] = []

        async def handler(text: str) -> str:
            await trio.sleep(1)
            if text == "failed":
                raise ValueError("no")
            return text.upper()

        async def wait(task_id: str) -> None:
            ended.append(await storage.wait_for(task_id))

        task_id = await storage.push(how, attempts=1)
        for _ in range(3):
            nursery.start_soon(wait, task_id)
        await trio.sleep(0.5)
        storage.close()
        await Worker("w", storage, handler).run()
        await trio.sleep(0.5)
        assert len(ended) == 3
        for each in ended:
            assert (each.id, each.status.name.lower(), each.result) == (task_id, how, "DONE" if how == "done" else None)
            assert (str(each.error) == "no") == (how == "failed")
        with pytest.raises(UnknownTaskError):
            await storage.wait_for(task_id)
        assert not storage._queue.endings
        assert not storage._queue.awaited


async def test_each_attempt_names_the_one_worker_that_made_it(autojump_clock: MockClock) -> None:
    """Two workers of one process run on one queue."""
    async with Storage[int]() as storage:
        made: dict[str, str] = {}
        seen: dict[str, Any] = {}

        async def handler(number: int, context: WorkerContext, task_id: TaskId) -> None:
            made[task_id] = context.name
            running = await storage.fetch_by_id(task_id)
            assert running is not None
            seen[task_id] = running.parts.context.worker
            await trio.sleep(1)
            if number % 3:
                raise (ValueError if number % 3 == 1 else AbortError)("no")

        ids = await storage.push_bulk(range(12), attempts=1)
        storage.close()
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(Worker(name, storage, handler, concurrency=2).run)
        assert set(made.values()) == {"one", "two"}
        assert seen == made
        for number, task_id in enumerate(ids):
            task = await storage.fetch_by_id(task_id)
            assert task is not None
            assert task.parts.context.worker == made[task_id]
            assert [each.worker for each in task.parts.context.history] == ([made[task_id]] if number % 3 else [])


async def receive_within(storage: Storage[int], scope: trio.CancelScope) -> None:
    with scope:
        await storage.receive()


async def test_what_is_claimed_and_not_begun_is_queued(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The receiver was cancelled while the task was being claimed. The task is given back, and shows as Queued until
    then.
    """
    async with Storage[int](poll_interval=1e7) as storage:
        waiting = trio.CancelScope()
        nursery.start_soon(receive_within, storage, waiting)
        await trio.sleep(1)
        storage.engine.gate = gate = trio.Event()
        nursery.start_soon(storage.push, 1)
        await trio.sleep(1)  # the exchange is done, and its answer is on its way
        waiting.cancel()
        await trio.lowlevel.checkpoint()
        storage.engine.gate = None
        gate.set()
        await wait_all_tasks_blocked()
        seen: list[str] = []
        for _ in range(10):
            for task in await storage.list_tasks():
                found = await storage.fetch_by_id(task.parts.id)
                assert found is not None
                seen.append(task.parts.status.value)
                listed = {status: len(await storage.list_tasks(status)) for status in Status}
                assert sum(listed.values()) == 1
            await trio.sleep(STALE / 2)
        assert seen[0] == "Queued"
        assert seen[-1] == "Pending"
        assert set(seen) == {"Queued", "Pending"}
        task = await storage.receive()
        assert task.parts.status is Status.Running
        assert [each.parts.id for each in await storage.list_tasks(Status.Running)] == [task.parts.id]
        assert await storage.list_tasks(Status.Queued) == []


async def test_what_was_claimed_for_one_worker_is_not_run_by_another_in_its_name(autojump_clock: MockClock) -> None:
    """The worker that the task was claimed for has stopped meanwhile. The task is given back, and claimed for the other
    worker.
    """
    async with Storage[int](poll_interval=1e7) as storage, trio.open_nursery() as nursery:
        contexts: list[WorkerContext] = []
        begun: list[str] = []

        async def handle(number: int, context: WorkerContext) -> None:
            begun.append(context.name)
            await trio.sleep_forever()

        for name in ("one", "two"):
            contexts.append(await nursery.start(Worker(name, storage, handle, concurrency=1).run))
            await wait_all_tasks_blocked()
        storage.engine.gate = gate = trio.Event()
        nursery.start_soon(storage.push, 1)
        await trio.sleep(1)  # the exchange is done, and its answer is on its way
        [claim] = storage.engine.exchanges[-1].claims
        assert [*(claim.workers or ())] == ["one", "two"]
        contexts[0].stop()
        await trio.lowlevel.checkpoint()
        storage.engine.gate = None
        gate.set()
        await trio.sleep(1)
        [task] = await storage.list_tasks()
        assert (begun, task.parts.context.worker, task.parts.attempt) == (["two"], "two", 1)
        nursery.cancel_scope.cancel()


# Expiry


@pytest.mark.parametrize("delay", [0.0, 5.0, 3600.0])
async def test_a_waiter_for_a_task_learns_of_its_expiry_at_once(autojump_clock: MockClock, delay: float) -> None:
    """No receiver runs, and no other call looks at the store."""
    async with Storage[int](poll_interval=1e7) as storage:
        begun = trio.current_time()
        task_id = await storage.push(1, expires_in=7)
        await storage.reschedule(task_id, delay)
        result = await storage.wait_for(task_id)
        assert (result.status, type(result.error)) == (Status.Killed, TaskExpiredError)
        assert trio.current_time() - begun == pytest.approx(7, abs=0.1)


async def test_a_waiter_for_a_task_that_was_started_in_time_waits_for_its_end(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with Storage[int](lease=1e7, poll_interval=1e7) as storage:
        task_id = await storage.push(1, expires_in=7)
        ended: list[Any] = []

        async def wait() -> None:
            ended.append(await storage.wait_for(task_id))

        nursery.start_soon(wait)
        await trio.sleep(5)
        task = await storage.receive()
        await trio.sleep(50)
        assert not ended
        await storage.settle(task, Succeeded(3))
        await trio.sleep(1)
        assert [each.result for each in ended] == [3]


# Leases


async def test_leases_are_renewed_for_as_long_as_the_work_takes(autojump_clock: MockClock) -> None:
    store = Store()
    async with Storage[float](TroubledEngine(store), lease=3.0) as storage:
        async with Storage[float](TroubledEngine(store), lease=3.0) as other:
            await storage.push(100.0)
            storage.close()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Worker("w", storage, trio.sleep).run)
                await trio.sleep(1)
                with trio.move_on_after(90) as waiting:
                    await other.receive()
                assert waiting.cancelled_caught
            assert len(await other.rows(State.DONE)) == 1


async def test_a_worker_that_lost_its_lease_ends_the_attempt_and_cannot_settle(autojump_clock: MockClock) -> None:
    store = Store()
    engine = TroubledEngine(store)
    async with Storage[str](engine, lease=3.0) as storage, Storage[str](TroubledEngine(store), lease=60.0) as other:
        began: list[float] = []
        ended: list[float] = []

        async def handler(text: str) -> None:
            began.append(trio.current_time())
            try:
                await trio.sleep(30)
            finally:
                ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, handler).run)
            await storage.push("a")
            await trio.sleep(0.5)
            engine.latency = 5.0  # its beats come too late
            task = await other.receive()
            assert task.parts.attempt == 2
            assert task.parts.is_orphan
            engine.latency = 0.0
            await trio.sleep(12)
            assert ended
            assert ended[0] < 12
            context.stop()
        await other.settle(task, Succeeded(None))
        counts = await other.metrics()
        assert (counts["succeeded"], counts["running"], counts["waiting"]) == (1, 0, 0)


class Hand:
    """A holder of tasks, in place of a worker's slot."""

    worker = "w"

    def __init__(self, task: Task[Any]) -> None:
        self.told: list[Killed | Released] = []
        task.parts.holder = self

    def revoke(self, outcome: Killed | Released) -> bool:
        self.told.append(outcome)
        return True

    def current_line(self) -> str:
        return "nowhere"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_worker_that_lost_a_lease_and_claims_the_task_again_keeps_the_claim_that_counts(
    autojump_clock: MockClock, order: tuple[int, int]
) -> None:
    async with Storage[str](lease=9.0) as storage:
        task_id = await storage.push("a")
        tasks = [await storage.receive(), await storage.receive()]
        assert [task.parts.attempt for task in tasks] == [1, 2]
        lost, kept = map(Hand, tasks)
        context = WorkerContext("w")
        context.running_tasks = {tasks[number]: None for number in order}
        await trio.sleep(6)
        await storage.beat(context)
        assert (lost.told, kept.told) == ([Released("its lease was lost")], [])
        await trio.sleep(6)
        with trio.move_on_after(1) as waiting:  # a lease that had not been renewed would be over
            await storage.receive()
        assert waiting.cancelled_caught
        assert await storage.abort(task_id)
        await storage.beat(context)
        assert {type(outcome) for outcome in lost.told} == {Released}
        assert {type(outcome) for outcome in kept.told} == {Killed}
        with pytest.raises(LeaseLostError):
            await storage.settle(tasks[0], Succeeded(None))
        await storage.settle(tasks[1], Succeeded(None))


async def test_attempts_that_were_lost_are_used_up(autojump_clock: MockClock) -> None:
    store = Store()
    async with Storage[str](TroubledEngine(store)) as storage, Storage[str](TroubledEngine(store), lease=3.0) as other:
        task_id = await storage.push("a", attempts=2)
        for attempt in (1, 2):
            assert (await other.receive()).parts.attempt == attempt
        runs: list[str] = []

        async def handler(text: str) -> None:
            runs.append(text)

        storage.close()
        await Worker("w", storage, handler, retry=RetryPolicy(attempts=5)).run()
        result = await storage.wait_for(task_id)
        assert result.status is Status.Failed
        assert type(result.error).__name__ in ("OrphanedError", "StoredError")
        assert "Orphaned" in repr(result.error)
        assert runs == []


async def test_an_attempt_is_aborted_from_another_storage(autojump_clock: MockClock) -> None:
    store = Store()
    async with Storage[float](TroubledEngine(store)) as storage, Storage[float](TroubledEngine(store)) as other:
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, trio.sleep).run)
            task_id = await storage.push(1000.0)
            await trio.sleep(5)
            assert await other.abort(task_id)
            result = await other.wait_for(task_id)
            assert trio.current_time() < 6
            assert result.status is Status.Killed
            assert not await other.abort(task_id)
            task_id = await storage.push(1000.0)
            await trio.sleep(1)
            assert await storage.abort(task_id)
            assert (await storage.wait_for(task_id)).status is Status.Killed
            context.stop()


@pytest.mark.parametrize("is_here", [True, False])
async def test_an_abort_is_for_the_attempt_that_counts(autojump_clock: MockClock, is_here: bool) -> None:
    """It does not cancel an earlier attempt that has lost its lease without knowing it."""
    store = Store()
    here = Storage[str](TroubledEngine(store), lease=3.0, poll_interval=1000.0)
    there = Storage[str](TroubledEngine(store), lease=60.0, poll_interval=1000.0)
    async with here, there:
        task_id = await here.push("a")
        lost = Hand(await here.receive())
        task = await there.receive()
        kept = Hand(task)
        assert await (here if is_here else there).abort(task_id)
        await trio.sleep(1)
        assert (lost.told, {type(outcome) for outcome in kept.told}) == ([], {Killed})
        await there.settle(task, Released())
        with trio.fail_after(1):
            assert (await there.wait_for(task_id)).status is Status.Killed


async def test_an_abort_that_was_told_is_not_forgotten_if_the_settlement_fails(autojump_clock: MockClock) -> None:
    async with Storage[str](lease=20.0) as storage:
        task_id = await storage.push("a")
        task = await storage.receive()
        hand = Hand(task)
        assert await storage.abort(task_id)
        [outcome] = hand.told
        storage.engine.trouble = broken()
        with pytest.raises(BackendError):
            await storage.settle(task, outcome)
        task.parts.holder, storage.engine.trouble = None, None
        storage.close()
        with pytest.raises(trio.EndOfChannel):
            await storage.receive()
        result = await storage.wait_for(task_id)
        assert (result.status, str(result.error)) == (Status.Killed, "aborted while it ran")
        assert trio.current_time() >= 20 - 1e-6, "as exactly as the clock of a store, which counts from 1970"


async def test_an_abort_that_cannot_be_stored_cancels_no_attempt(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        task_id = await storage.push("a")
        hand = Hand(await storage.receive())
        storage.engine.trouble = broken()
        with pytest.raises(BackendError):
            await storage.abort(task_id)
        assert not hand.told


async def test_workers_are_listed_in_every_process(autojump_clock: MockClock) -> None:
    store = Store()
    async with Storage[float](TroubledEngine(store)) as storage, Storage[float](TroubledEngine(store)) as other:
        async with trio.open_nursery() as nursery:
            one = await nursery.start(Worker("one", storage, trio.sleep).run)
            two = await nursery.start(Worker("two", storage, trio.sleep).run)
            assert sorted(await other.list_workers()) == ["one", "two"]
            one.stop()
            await trio.sleep(15)
            assert await other.list_workers() == ["two"]
            two.stop()


async def test_handlers_report_progress(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:

        async def handler(task: Task[str]) -> None:
            await storage.report_progress(task, {"done": 1})
            await trio.sleep(10)

        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, handler).run)
            task_id = await storage.push("a")
            await trio.sleep(1)
            assert await storage.progress_of(task_id) == {"done": 1}
            context.stop()


async def test_it_shows_itself_to_people() -> None:
    storage = Storage[str]()
    assert "not opened yet" in repr(storage)
    async with storage:
        assert "open" in repr(storage)
    assert "closed" in repr(storage)
    assert repr(Killed(ValueError())) != repr(Released())
