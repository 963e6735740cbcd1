"""Tests of the metrics for Prometheus."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Call,
    Event,
    MemoryStorage,
    Monitor,
    QueueMetrics,
    Router,
    Schedules,
    SqliteStorage,
    Succeeded,
    Task,
    Worker,
    WorkerContext,
    every,
)
from trio_tasks.observe import Collector, health
from trio_tasks.observe._names import METRICS
from trio_tasks.testing import virtual_clock

from tests._scale import scaled
from tests.observe._hanging import Hanging

Samples = dict[tuple[str, ...], float]


LABELS = {each.prometheus: each.labels for each in METRICS}


def samples_of(text: str, name: str) -> Samples:
    """The samples of one name, by the values of their labels, in the order in which the table has them."""
    return {
        tuple(sample.labels[label] for label in (*LABELS[family.name], "le") if label in sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def scraped(collector: Collector) -> str:
    await collector.read()
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


async def work(number: int) -> None:
    await trio.sleep(number)
    if number == 2:
        raise AbortError("no")


# What is told


async def test_each_metric_has_its_name_its_labels_and_its_value(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](queue="orders")
    for number in (1, 1, 2):
        await storage.push(number)
    await storage.push(0, delay=3600)
    async with Monitor() as monitor:
        monitor.register(Worker("w", storage, work, concurrency=2, log=None))
        await trio.sleep(10)
        await storage.push(9)
        await trio.sleep(1)
        text = await scraped(Collector(monitor, storage))
        monitor.cancel_scope.cancel()
    assert samples_of(text, "trio_tasks_up") == {("orders",): 1}
    assert samples_of(text, "trio_tasks_pushed_total") == {("orders",): 5}
    assert samples_of(text, "trio_tasks_tasks") == {
        ("orders", "waiting"): 0,
        ("orders", "delayed"): 1,
        ("orders", "running"): 1,
        ("orders", "dead"): 1,
    }
    attempts = samples_of(text, "trio_tasks_attempts_total")
    assert attempts[("orders", "", "succeeded")] == 2
    assert attempts[("orders", "", "killed")] == 1
    assert len(attempts) == 6
    durations = samples_of(text, "trio_tasks_attempt_duration_seconds_bucket")
    assert (durations[("orders", "", "0.5")], durations[("orders", "", "2.0")]) == (0, 2)
    assert (durations[("orders", "", "4.0")], durations[("orders", "", "+Inf")]) == (3, 3)
    assert samples_of(text, "trio_tasks_attempt_duration_seconds_sum") == {("orders", ""): pytest.approx(4)}
    assert samples_of(text, "trio_tasks_slots") == {("orders", "w", "taken"): 1, ("orders", "w", "free"): 1}
    assert samples_of(text, "trio_tasks_worker_up") == {("orders", "w"): 1}
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [*families] == [each.prometheus for each in METRICS]
    for each in METRICS:
        assert (families[each.prometheus].documentation, families[each.prometheus].type) == (each.text, each.kind)
        for sample in families[each.prometheus].samples:
            assert {*sample.labels} - {"le"} == {*each.labels}


@pytest.mark.nightly
async def test_ids_and_errors_make_no_more_series(autojump_clock: MockClock) -> None:
    async def fail(number: int) -> None:
        await trio.lowlevel.checkpoint()
        raise AbortError(f"error {number}")

    storage = MemoryStorage[int]()
    collector = Collector(None, [storage])
    counts: list[int] = []
    for size in (1, scaled(10_000)):
        await storage.push_bulk(range(size), key=f"tenant {size}")
        await Worker("w", storage, fail, log=None).run_until_idle()
        text = await scraped(collector)
        counts.append(sum(len(family.samples) for family in text_string_to_metric_families(text)))
    assert counts[0] == counts[1]


async def test_counters_never_fall_though_minutes_are_written_and_forgotten(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def nothing(number: int) -> None:
        await trio.lowlevel.checkpoint()

    memory = MemoryStorage[int](queue="memory")
    async with SqliteStorage(tmp_path / "tasks.db", int, queue="sqlite") as stored:
        collector = Collector(None, [memory, stored])
        seen: list[Samples] = []
        for _ in range(3):
            for storage in (memory, stored):
                await storage.push(1)
                await Worker("w", storage, nothing).run_until_idle()
            await stored.throughput()  # which writes the minutes
            seen.append(samples_of(await scraped(collector), "trio_tasks_attempts_total"))
            await trio.sleep(50 * 3600)  # until minutes are not kept any more
            await memory.throughput()
    for queue in ("memory", "sqlite"):
        assert [each[(queue, "", "succeeded")] for each in seen] == [1, 2, 3]


async def test_names_of_tasks_are_labels_and_the_queues_of_a_router_are_told() -> None:
    tasks = Router()

    @tasks.task(queue="mail")
    async def send(to: str) -> None:
        await trio.lowlevel.checkpoint()

    async with tasks.open(MemoryStorage()) as queues:
        await queues.push(send.bind("a"))
        async with queues.monitor({"mail": 1}) as monitor:
            await queues.wait_for(await queues.push(send.bind("b")))
            text = await scraped(Collector(monitor, queues))
            monitor.shutdown()
    assert samples_of(text, "trio_tasks_attempts_total")[("mail", "send", "succeeded")] == 2


async def test_tasks_of_unknown_names_share_one_label(autojump_clock: MockClock) -> None:
    """Names that only another version of the program knows are data here, as ids are."""
    tasks = Router()

    @tasks.task(queue="mail")
    async def send(to: str) -> None:
        await trio.lowlevel.checkpoint()

    async with tasks.open(MemoryStorage()) as queues:
        for number in range(20):
            await queues["mail"].push(Call(f"gone-{number}", {}))
        await queues.push(send.bind("a"))
        async with queues.monitor({"mail": 1}, log=None) as monitor:
            await trio.sleep(1)
            for collector in (Collector(monitor, queues), Collector(monitor, queues["mail"])):
                attempts = samples_of(await scraped(collector), "trio_tasks_attempts_total")
                assert {task for _, task, _ in attempts} == {"send", "?"}
                assert attempts["mail", "?", "suspended"] == 20
            monitor.shutdown()
        attempts = samples_of(await scraped(collector), "trio_tasks_attempts_total")
        assert {task for _, task, _ in attempts} == {"send", "?"}, "after its workers have ended, too"


async def test_settling_and_lost_leases_of_a_worker_are_told(tmp_path: Path) -> None:
    async def settle_itself(task: Task[int]) -> None:
        if task.args:
            await storage.settle(task, Succeeded(None))

    async with SqliteStorage(tmp_path / "tasks.db", int, queue="q") as storage, Monitor() as monitor:
        for _ in range(2):  # two of one name, which are told of together
            monitor.register(Worker("w", storage, settle_itself, concurrency=3, log=None))
        await storage.wait_for(await storage.push_bulk([0, 0, 1, 0]))
        while monitor.workers[0].running_tasks or monitor.workers[1].running_tasks:
            await trio.lowlevel.checkpoint()
        text = await scraped(Collector(monitor, storage))
        monitor.shutdown()
    assert samples_of(text, "trio_tasks_leases_lost_total") == {("q", "w"): 1}
    assert samples_of(text, "trio_tasks_settle_seconds_count") == {("q", "w"): 4}
    assert samples_of(text, "trio_tasks_slots") == {("q", "w", "taken"): 0, ("q", "w", "free"): 6}
    assert samples_of(text, "trio_tasks_worker_up") == {("q", "w"): 1}


# Schedules


START = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=START) as clock:
        yield clock


async def test_schedules_of_the_code_are_told_by_name_and_the_others_together(clock: MockClock) -> None:
    tasks = Router()

    @tasks.task
    async def poll(name: str) -> None:
        await trio.lowlevel.checkpoint()

    last, missed = "trio_tasks_schedule_last_firing_timestamp", "trio_tasks_schedule_missed_total"
    async with tasks.open(MemoryStorage()) as queues:
        monitor = queues.monitor({"default": 1})
        collector = Collector(monitor, queues)
        assert samples_of(await scraped(collector), missed) == {}
        tasks.schedule("poll", poll.bind("a"), every(minutes=1))  # which a scrape has not kept from being declared
        for number in range(3):
            await queues.schedules.put(f"report-{number}", poll.bind("b"), every(minutes=2))
        async with monitor:
            await trio.sleep(250)
            fired = START.timestamp() + 240
            assert samples_of(await scraped(collector), last) == {("poll",): fired, ("?",): fired}
            monitor.shutdown()
        await queues.schedules.remove("report-1")
        await trio.sleep(300)
        async with monitor:
            await trio.sleep(1)
            fired = START.timestamp() + 540  # each of the others two minutes apart, one minute before
            assert samples_of(text := await scraped(collector), last) == {("poll",): fired, ("?",): fired - 60}
            assert samples_of(text, missed) == {("poll",): 4, ("?",): 2}
            monitor.shutdown()
        assert samples_of(await scraped(collector), missed) == {("poll",): 4, ("?",): 2}, "and afterwards"


async def test_schedules_that_a_program_fires_itself_can_be_given(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    schedules = Schedules(storage)
    schedules.declare("poll", 1, every(hours=1))
    await storage.push(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(schedules.run)
        collector = Collector(None, storage, schedules=schedules)
        await trio.sleep(3601)
        text = await scraped(collector)
        nursery.cancel_scope.cancel()
    assert [*samples_of(text, "trio_tasks_schedule_last_firing_timestamp")] == [("poll",)]
    assert samples_of(text, "trio_tasks_schedule_missed_total") == {("poll",): 0}


# Storages that do not answer


async def test_a_scrape_ends_in_time_though_a_storage_hangs(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    slow, fast = Hanging(), MemoryStorage[int](queue="fast")
    collector = Collector(None, [slow, fast])
    for _ in range(3):
        began = trio.current_time()
        up = samples_of(await scraped(collector), "trio_tasks_up")
        assert up == {("slow",): 0, ("fast",): 1}
        assert trio.current_time() - began == 1
    assert slow.asked == 1, "it is not asked again before it has answered"
    slow.goes_on.set()
    assert samples_of(await scraped(collector), "trio_tasks_up")[("slow",)] == 1
    assert samples_of(await scraped(collector), "trio_tasks_up")[("slow",)] == 1
    slow.fails = True
    with caplog.at_level(logging.ERROR, "trio_tasks"):
        assert samples_of(await scraped(collector), "trio_tasks_up")[("slow",)] == 0
    assert "the counters of queue 'slow' cannot be read" in caplog.text


def test_a_read_that_goes_on_ends_with_the_run() -> None:
    class Endless(Hanging):
        async def metrics(self) -> QueueMetrics:
            await trio.sleep_forever()
            raise AssertionError

    async def main() -> str:
        return await scraped(Collector(None, [Endless()], timeout=0.01))

    assert samples_of(trio.run(main), "trio_tasks_up") == {("slow",): 0}, "and the run has ended"


async def test_a_closed_storage_is_down_and_its_read_ends_without_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int, queue="q") as storage:
        collector = Collector(None, storage)
        await storage.push(1)
        assert samples_of(await scraped(collector), "trio_tasks_up") == {("q",): 1}
    assert samples_of(await scraped(collector), "trio_tasks_up") == {("q",): 0}
    assert not caplog.records


async def test_a_listener_that_raises_as_exporters_may_harms_no_task(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def export(context: WorkerContext, event: Event) -> None:
        raise SystemExit("the collector is away")

    storage = MemoryStorage[int](queue="orders")
    collector = Collector(None, storage)
    await storage.push_bulk([0, 1, 2])
    with caplog.at_level(logging.ERROR, "trio_tasks"):
        report = await Worker("w", storage, work, on_event=export).run_until_idle()
    assert (report.succeeded, report.killed) == (2, 1)
    assert "listener" in caplog.text
    attempts = samples_of(await scraped(collector), "trio_tasks_attempts_total")
    assert (attempts["orders", "", "succeeded"], attempts["orders", "", "killed"]) == (2, 1)


# From another thread


async def test_a_server_in_another_thread_reads_in_the_trio_run() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    registry = CollectorRegistry()
    collector = Collector(None, storage)
    collector.prometheus(registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        text = await trio.to_thread.run_sync(lambda: urlopen(url, timeout=30).read().decode())
    finally:
        await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
        thread.join()
    assert samples_of(text, "trio_tasks_pushed_total") == {("default",): 1}


def test_after_the_run_the_latest_counters_are_told() -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        storage = MemoryStorage[int]()
        await storage.push(1)
        collector = Collector(None, storage)
        collector.prometheus(registry)
        await collector.read()

    trio.run(main)
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(generate_latest(registry).decode()))
    thread.start()
    thread.join()
    assert samples_of(texts[0], "trio_tasks_pushed_total") == {("default",): 1}


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [("prometheus_client", "_prometheus", "prometheus"), ("opentelemetry.metrics", "_instruments", "otel")],
)
async def test_without_its_library_the_extra_is_named(
    library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"trio_tasks.observe.{module}", raising=False)
    monkeypatch.delattr(f"trio_tasks.observe.{module}", raising=False)
    collector = Collector(None, MemoryStorage[int]())
    register: Callable[..., None] = collector.prometheus if extra == "prometheus" else collector.opentelemetry
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trio_tasks\[{extra}\]'"):
        register(None)


@pytest.mark.parametrize("make", [Collector, health])
def test_wrong_arguments_are_refused(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="monitor must be a Monitor or None, not 5"):
        make(5, [])
    with pytest.raises(TypeError, match="schedules must be a Schedules or None, not 5"):
        make(Monitor(), [], schedules=5)
    with pytest.raises(ValueError, match="two of these have the same"):
        make(Monitor(), [MemoryStorage(), MemoryStorage()])
    storage = MemoryStorage[int]()
    make(Monitor(), [storage, storage])
    for wrong in (5, [5]):
        with pytest.raises(TypeError, match="queues must be the queues of a router, a storage, or storages, not 5"):
            make(Monitor(), wrong)
    with pytest.raises(TypeError, match="needs the monitor"):
        health(None, [])  # type: ignore[arg-type]  # on purpose
