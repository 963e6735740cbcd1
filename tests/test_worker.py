"""Tests of Worker: building it and running it."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    Engage,
    Event,
    FileStorage,
    HandlerSignatureError,
    HeartBeat,
    MemoryStorage,
    Outcome,
    Pipe,
    RetryPolicy,
    Start,
    Stop,
    Success,
    Task,
    Worker,
    WorkerContext,
    WorkerError,
    WorkerReport,
)
from trio_tasks.abc import Feeder, RegisterWorker
from trio_tasks.layers import Log, MapArgs
from trio_tasks.testing import Faults, FaultyBackend


async def sleep(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def no_op(n: int) -> None:
    pass


def faulty(backend: Backend[Any]) -> Backend[Any]:
    return FaultyBackend(backend, Faults())


def piped(storage: Any) -> Backend[Any]:
    _, source = trio.open_memory_channel[Any](0)
    return Pipe(source, storage)


def in_memory(type: Any) -> MemoryStorage[Any]:
    return MemoryStorage(type=type)


def shared(storage: FileStorage[Any]) -> Backend[Any]:
    return storage.share(Mail, queue="other")


class Failing(Backend[float]):
    """A backend that fails after a while."""

    def __init__(self, after: float = 0) -> None:
        self.error = OSError("gone")
        self._after = after

    async def receive(self) -> Task[float]:
        await trio.sleep(self._after)
        raise self.error

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        raise AssertionError("it gave none")


# Runs


async def test_it_returns_what_was_done_when_the_backend_ends() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(100))
    storage.close()
    assert await Worker("w", storage, no_op).run() == WorkerReport("w", succeeded=100)


async def test_started_gives_the_context_of_this_run(nursery: trio.Nursery) -> None:
    worker = Worker("w", MemoryStorage[int](), no_op, concurrency=3)
    context: WorkerContext = await nursery.start(worker.run)
    assert context.is_running
    assert (context.name, context.concurrency) == ("w", 3)
    context.stop()
    await context.wait_stopped()
    assert not context.is_running


async def test_a_backend_that_fails_at_once_fails_the_nursery_not_the_start() -> None:
    backend = Failing()
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            context: WorkerContext = await nursery.start(Worker("w", backend, sleep).run)
            assert context.is_running
            await trio.sleep_forever()


async def test_a_worker_that_cannot_be_registered_fails_the_start() -> None:
    class Closed(Failing, RegisterWorker):
        async def register_worker(self, context: WorkerContext) -> None:
            await trio.lowlevel.checkpoint()
            raise self.error

    heard: list[Event] = []
    worker = Worker("w", Closed(), sleep, on_event=lambda _, event: heard.append(event))
    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(OSError):
            await nursery.start(worker.run)
    assert heard == [Stop()]


async def test_a_recipe_may_be_run_again(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    worker = Worker("w", storage, sleep)
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            context: WorkerContext = await nursery.start(worker.run)
            await storage.push(1)
            await trio.sleep(2)
            context.stop()
        assert context.report().succeeded == 1


async def test_a_recipe_may_be_run_twice_at_once(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    worker = Worker("w", storage, sleep, concurrency=2)
    async with trio.open_nursery() as nursery:
        one: WorkerContext = await nursery.start(worker.run)
        other: WorkerContext = await nursery.start(worker.run)
        assert one is not other
        await storage.push_bulk([10] * 6)
        await trio.sleep(5)
        assert storage.statistics().running == 4
        one.stop()
        await one.wait_stopped()
        assert one.report().succeeded == 2
        assert other.is_running
        storage.close()
    assert other.report().succeeded == 4


async def test_two_runs_at_once_have_their_own_threads() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(2))
    storage.close()
    both = threading.Barrier(2)

    def meet(n: int) -> None:
        both.wait(timeout=60)

    worker = Worker("w", storage, meet, concurrency=1, retry=RetryPolicy(attempts=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        nursery.start_soon(worker.run)
    assert storage.statistics().succeeded == 2


async def test_a_context_is_for_one_run(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    worker = Worker("w", storage, no_op)
    context = worker.prepare()
    nursery.start_soon(worker.run, context)
    await wait_all_tasks_blocked()
    with pytest.raises(WorkerError, match="was used for another run"):
        await worker.run(context)
    assert context.is_running
    context.stop()
    await context.wait_stopped()
    with pytest.raises(WorkerError, match="was used for another run"):
        await worker.run(context)


async def test_a_context_is_for_the_worker_that_made_it() -> None:
    storage = MemoryStorage[int]()
    storage.close()
    with pytest.raises((WorkerError, ValueError), match="other"):
        await Worker("w", storage, no_op).run(Worker("other", storage, no_op, concurrency=1).prepare())


@pytest.mark.parametrize("given", [5, "context", MemoryStorage], ids=repr)
async def test_what_is_no_context_is_refused(given: Any) -> None:
    storage = MemoryStorage[int]()
    storage.close()
    with pytest.raises(TypeError, match=r"WorkerContext|prepare\(\)"):
        await Worker("w", storage, no_op).run(given)


async def test_it_can_be_stopped_before_it_starts() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    worker = Worker("w", storage, no_op)
    context = worker.prepare()
    context.stop()
    assert await worker.run(context) == WorkerReport("w")
    assert storage.statistics().waiting == 1


async def test_it_can_be_paused_before_it_starts(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    worker = Worker("w", storage, no_op)
    context = worker.prepare()
    context.pause()
    nursery.start_soon(worker.run, context)
    await trio.sleep(5)
    assert storage.statistics().waiting == 1
    context.resume()
    await context.wait_stopped()
    assert context.report().succeeded == 1


async def test_every_run_is_a_checkpoint() -> None:
    storage = MemoryStorage[int]()
    storage.close()
    worker = Worker("w", storage, no_op)
    stopped = worker.prepare()
    stopped.stop()
    with assert_checkpoints():
        await worker.run()
    with assert_checkpoints():
        await worker.run(stopped)


async def test_an_idle_worker_sets_no_alarm_and_nothing_of_it_runs(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op).run)
    await storage.push_bulk(range(1000))
    await storage.wait_for(await storage.push(1))
    await wait_all_tasks_blocked()
    found = trio.lowlevel.current_statistics()
    assert found.tasks_runnable == 0
    assert found.seconds_to_next_deadline == math.inf
    context.stop()


# Stopping and cancelling


async def test_stop_lets_attempts_finish(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    ids = await storage.push_bulk([5, 5, 5])
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, sleep, concurrency=2).run)
        await trio.sleep(1)
        context.stop()
        assert context.is_shutting_down
    assert trio.current_time() - start == 5
    assert context.report() == WorkerReport("w", succeeded=2, drained=context.report().drained)
    assert sorted(context.report().drained) == ids[:2]
    assert storage.statistics().waiting == 1


async def test_a_stopped_worker_can_be_cancelled(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, sleep).run)
        await trio.sleep(1)
        context.stop()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    report = context.report()
    assert (report.released, len(report.interrupted), report.drained) == (1, 1, ())


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_at_any_moment_of_its_start_it_loses_nothing(steps: int) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([1000] * 3)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Worker("w", storage, sleep, concurrency=2).run)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    counts = storage.statistics()
    assert (counts.waiting, counts.running) == (3, 0)


@pytest.mark.parametrize("steps", range(12))
async def test_stopped_at_any_moment_of_its_start_it_ends(steps: int, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([1] * 3)
    worker = Worker("w", storage, sleep, concurrency=2)
    context = worker.prepare()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, context)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        context.stop()
    counts = storage.statistics()
    assert counts.running == 0
    assert counts.waiting + counts.succeeded == 3
    assert context.is_stopped


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_slots_stay_while_a_retry_is_pending_on_a_closed_storage(
    concurrency: int, autojump_clock: MockClock
) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(3))
    storage.close()

    async def fails_at_first(task: Task[int]) -> None:
        if task.parts.attempt < 3:
            raise ValueError("again")

    policy = RetryPolicy(backoff=lambda attempt: 10.0)
    report = await Worker("w", storage, fails_at_first, concurrency=concurrency, retry=policy).run()
    assert (report.succeeded, report.retried) == (3, 6)


async def test_another_worker_takes_over_what_a_cancelled_one_releases_to_a_closed_storage(
    autojump_clock: MockClock,
) -> None:
    """A closed storage ends when it is empty; a task in an attempt may come back to it."""
    storage = MemoryStorage[float]()
    await storage.push(10)
    storage.close()
    worker = Worker("w", storage, sleep, concurrency=1)

    async def run_for_two_seconds() -> None:
        with trio.move_on_after(2):
            await worker.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_for_two_seconds)
        await trio.sleep(1)
        nursery.start_soon(worker.run)
    assert storage.statistics().succeeded == 1


# Beside the slots


class Beating(Backend[float]):
    """A backend with leases to renew."""

    heartbeat_interval = 5.0

    def __init__(self, storage: MemoryStorage[float]) -> None:
        self.beats: list[float] = []
        self.linger = 0.0
        self._storage = storage

    async def receive(self) -> Task[float]:
        return await self._storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await self._storage.settle(task, outcome)

    async def beat(self, context: WorkerContext) -> None:
        self.beats.append(trio.current_time())
        try:
            await trio.lowlevel.checkpoint()
            if self.linger:
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.linger)


async def test_the_heart_beats_for_as_long_as_an_attempt_goes_on(autojump_clock: MockClock) -> None:
    storage, heard = MemoryStorage[float](), list[Event]()
    await storage.push(22)
    backend = Beating(storage)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        worker = Worker("w", backend, sleep, on_event=lambda _, event: heard.append(event))
        context: WorkerContext = await nursery.start(worker.run)
        await trio.sleep(1)
        context.stop()
    assert [when - start for when in backend.beats] == [0, 5, 10, 15, 20]
    assert heard.count(HeartBeat()) == 5
    await trio.sleep(100)
    assert len(backend.beats) == 5


async def test_a_heart_that_fails_ends_the_worker_and_releases(autojump_clock: MockClock) -> None:
    class Broken(Beating):
        async def beat(self, context: WorkerContext) -> None:
            await trio.sleep(3)
            raise OSError("gone")

    storage = MemoryStorage[float]()
    await storage.push(100)
    with pytest.RaisesGroup(OSError):
        await Worker("w", Broken(storage), sleep).run()
    assert storage.statistics().waiting == 1


class Fed(Beating, Feeder):
    """A backend that carries tasks in while the intake is open."""

    heartbeat_interval = math.inf

    def __init__(self, storage: MemoryStorage[float], feed: Callable[[], Awaitable[None]]) -> None:
        super().__init__(storage)
        self.log: list[str] = []
        self._feed = feed

    async def feed(self) -> None:
        self.log.append("begins")
        try:
            await self._feed()
        finally:
            self.log.append("ends")


async def test_a_feeder_runs_while_the_intake_is_open(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    backend = Fed(MemoryStorage[float](), trio.sleep_forever)
    context: WorkerContext = await nursery.start(Worker("w", backend, sleep, concurrency=2).run)
    await trio.sleep(1)
    assert backend.log == ["begins"]
    assert context.statistics().slots_waiting == 2
    context.pause()
    await trio.sleep(1)
    assert backend.log == ["begins", "ends"]
    context.resume()
    await trio.sleep(1)
    assert backend.log == ["begins", "ends", "begins"]
    context.stop()
    await context.wait_stopped()
    assert backend.log == ["begins", "ends"] * 2


async def test_a_feeder_that_returns_is_not_called_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    backend = Fed(MemoryStorage[float](), trio.lowlevel.checkpoint)
    context: WorkerContext = await nursery.start(Worker("w", backend, sleep).run)
    await trio.sleep(1)
    context.pause()
    context.resume()
    await trio.sleep(1)
    assert backend.log == ["begins", "ends"]
    context.stop()


async def test_a_feeder_that_fails_ends_the_worker(autojump_clock: MockClock) -> None:
    async def feed() -> None:
        await trio.sleep(1)
        raise OSError("gone")

    storage = MemoryStorage[float]()
    await storage.push(100)
    with pytest.RaisesGroup(OSError):
        await Worker("w", Fed(storage, feed), sleep).run()
    assert storage.statistics().waiting == 1


# run_until


async def test_run_until_stops_gracefully_when_the_function_returns(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(10)
    start = trio.current_time()

    async def wait() -> None:
        await trio.sleep(3)

    report = await Worker("w", storage, sleep).run_until(wait)
    assert trio.current_time() - start == 10
    assert (report.succeeded, len(report.drained)) == (1, 1)


async def test_run_until_cancels_the_function_when_the_worker_ends_first(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(10)
    storage.close()
    cancelled = False

    async def wait() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled = True
            raise

    report = await Worker("w", storage, sleep).run_until(wait)
    assert report.succeeded == 1
    assert cancelled


async def test_run_until_cancels_the_worker_when_the_function_raises(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(10)

    async def wait() -> None:
        await trio.sleep(3)
        raise KeyError("no")

    with pytest.RaisesGroup(KeyError):
        await Worker("w", storage, sleep).run_until(wait)
    assert storage.statistics().waiting == 1


async def test_run_until_raises_what_run_would_when_the_backend_fails(autojump_clock: MockClock) -> None:
    backend = Failing(after=1)
    with pytest.RaisesGroup(OSError) as caught:
        await Worker("w", backend, sleep).run_until(trio.sleep_forever)
    assert caught.value.exceptions == (backend.error,)


async def test_run_until_can_be_started_and_cancelled(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(10)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, sleep).run_until, trio.sleep_forever)
        await trio.sleep(1)
        assert context.is_running
        nursery.cancel_scope.cancel()
    assert storage.statistics().waiting == 1


@pytest.mark.parametrize("given", [5, None], ids=repr)
async def test_run_until_refuses_what_cannot_be_called(given: Any) -> None:
    with pytest.raises(TypeError, match="an async function without parameters"):
        await Worker("w", MemoryStorage[int](), no_op).run_until(given)


# stream


async def test_stream_gives_the_events_and_ends_with_the_worker() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2])
    storage.close()
    async with Worker("w", storage, no_op, concurrency=1).stream() as events:
        names = [type(event).__name__ async for event in events]
    assert names == ["Start", "Engage", "Success", "Engage", "Success", "Stop"]


async def test_leaving_a_stream_early_stops_gracefully(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([5] * 3)
    heard: list[Event] = []
    worker = Worker("w", storage, sleep, concurrency=2, on_event=lambda _, event: heard.append(event))
    async with worker.stream() as events:
        async for event in events:
            if isinstance(event, Engage):
                break
    counts = storage.statistics()
    assert (counts.running, counts.released) == (0, 0)
    assert counts.succeeded >= 1
    assert isinstance(heard[0], Start)
    assert isinstance(heard[-1], Stop)


async def test_a_slow_reader_misses_no_event(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([0] * 50)
    storage.close()
    succeeded = 0
    async with Worker("w", storage, sleep).stream() as events:
        async for event in events:
            await trio.sleep(10)
            succeeded += isinstance(event, Success)
    assert succeeded == 50


async def test_an_error_in_the_block_of_a_stream_cancels_the_worker(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    with pytest.RaisesGroup(KeyError):
        async with Worker("w", storage, sleep).stream():
            await trio.sleep(1)
            raise KeyError("no")
    assert storage.statistics().waiting == 1


async def test_a_backend_that_fails_cancels_the_block_of_a_stream(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with Worker("w", Failing(after=1), sleep).stream():
            await trio.sleep_forever()


async def test_closing_the_stream_does_not_end_the_worker(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([1] * 3)
    storage.close()
    async with Worker("w", storage, sleep).stream() as events:
        events.close()
        await trio.sleep(5)
    assert storage.statistics().succeeded == 3
    assert not caplog.records


async def test_a_stream_can_be_cancelled(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    with trio.move_on_after(5):
        async with Worker("w", storage, sleep).stream() as events:
            async for _ in events:
                pass
    assert storage.statistics().waiting == 1


# Wrong arguments


class ALayer:
    async def __call__(self, handler: Any, task: Task[Any]) -> Any:
        return await handler(task)


async def an_async_listener(context: WorkerContext, event: Event) -> None:
    pass


class AnAsyncListener:
    async def __call__(self, context: WorkerContext, event: Event) -> None:
        pass


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": 5}, TypeError, "a worker's name must be a string"),
    ({"name": ""}, ValueError, "a worker's name must not be an empty string"),
    ({"backend": 5}, TypeError, r"from a backend, such as MemoryStorage\(\)"),
    ({"backend": MemoryStorage}, TypeError, "from a backend"),
    ({"handler": 5}, TypeError, "a handler must be a function"),
    ({"concurrency": 0}, ValueError, "concurrency must be 1 or more"),
    ({"concurrency": 1.5}, TypeError, "concurrency must be a whole number"),
    ({"concurrency": True}, TypeError, "concurrency must be a whole number"),
    ({"layers": 5}, TypeError, r"layers must be .*handler, task"),
    ({"layers": ALayer()}, TypeError, r"layers must be .*handler, task"),
    ({"layers": [5]}, TypeError, r"each of layers must be callable, as async layer\(handler, task\)"),
    ({"layers": [ALayer]}, TypeError, "ALayer is a class"),
    ({"data": 5}, TypeError, "data must be"),
    ({"data": "text"}, TypeError, "data must be"),
    ({"retry": 5}, TypeError, "retry must be a RetryPolicy"),
    ({"on_event": 5}, TypeError, r"on_event must be callable, as on_event\(context, event\)"),
    ({"on_event": [5]}, TypeError, "each of on_event must be callable"),
    ({"on_event": an_async_listener}, TypeError, "on_event must be a plain function"),
    ({"on_event": AnAsyncListener()}, TypeError, "on_event must be a plain function"),
    ({"version": ""}, ValueError, "version must not be an empty string"),
    ({"version": 1.4}, TypeError, "version must be"),
    ({"settle_timeout": 0}, ValueError, "settle_timeout must be more than 0 seconds"),
    ({"settle_timeout": math.inf}, ValueError, "settle_timeout must be a finite number"),
    ({"settle_timeout": "5"}, TypeError, "settle_timeout must be a number of seconds"),
]


@pytest.mark.parametrize(
    ("given", "kind", "message"), WRONG, ids=[f"{next(iter(each[0]))}: {n}" for n, each in enumerate(WRONG)]
)
def test_a_wrong_argument_is_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    usual: dict[str, Any] = {"name": "w", "backend": MemoryStorage[int](), "handler": no_op}
    with pytest.raises(kind, match=message):
        Worker(**{**usual, **given})


def test_its_repr_is_for_people() -> None:
    worker = Worker("emails", MemoryStorage[int](), no_op, concurrency=3)
    assert repr(worker) == f"<Worker 'emails': {__name__}.no_op, 3 slots on {worker.backend!r}>"


async def test_any_channel_will_do_and_any_outcome_is_settled_there() -> None:
    send, receive = trio.open_memory_channel[int](10)
    with send:
        for n in range(3):
            send.send_nowait(n)
    assert (await Worker("w", receive, no_op).run()).succeeded == 3


# The type of the args


@dataclass(frozen=True)
class Mail:
    to: str


@dataclass(frozen=True)
class Sms:
    to: str


async def send_sms(sms: Sms) -> None: ...


async def keep(handler: Callable[[Task[Any]], Awaitable[Any]], task: Task[Any]) -> Any:
    return await handler(task)


@pytest.mark.parametrize("around", [pytest.param(lambda it: it, id="itself"), faulty, piped, shared])
@pytest.mark.parametrize("store", [FileStorage.temporary, in_memory])
def test_a_handler_for_args_of_another_class_is_refused_when_it_is_built(
    store: Callable[[Any], Any], around: Callable[[Any], Any]
) -> None:
    storage: Any = around(store(Mail))
    with pytest.raises(HandlerSignatureError, match=r"send_sms .* 'sms: Sms' .* which are Mail here"):
        Worker("w", storage, send_sms)
    with pytest.raises(HandlerSignatureError, match=r"which are Mail here"):
        Worker("w", storage, send_sms, layers=[Log()])


@pytest.mark.parametrize("layer", [MapArgs(lambda mail: Sms(mail.to)), keep])
def test_with_a_layer_that_may_change_the_args_nothing_is_known_of_them(layer: Any) -> None:
    storage: Any = FileStorage.temporary(Mail)
    with pytest.raises(HandlerSignatureError):
        Worker("w", storage, send_sms, layers=[Log()])
    assert Worker("w", storage, send_sms, layers=[layer, Log()]).backend is storage
