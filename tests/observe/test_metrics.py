"""Tests of the metrics for Prometheus, and of the health application."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from trio_tasks import AbortError, MemoryStorage, Monitor, QueueMetrics, Router, SqliteStorage, Worker
from trio_tasks.abc import EMPTY_METRICS, Metrics
from trio_tasks.observe import Collector, health
from trio_tasks.observe._prometheus import NAMES

Samples = dict[tuple[str, ...], float]


def samples_of(text: str, name: str) -> Samples:
    """The samples of one name, by the values of their labels, in the order in which the table has them."""
    return {
        tuple(sample.labels[label] for label in (*NAMES[family.name][1], "le") if label in sample.labels): sample.value
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
    assert {*families} == {*NAMES}
    for name, (help_text, labels) in NAMES.items():
        assert families[name].documentation == help_text
        for sample in families[name].samples:
            assert {*sample.labels} - {"le"} == {*labels}


async def test_ids_and_errors_make_no_more_series(autojump_clock: MockClock) -> None:
    async def fail(number: int) -> None:
        await trio.lowlevel.checkpoint()
        raise AbortError(f"error {number}")

    storage = MemoryStorage[int]()
    collector = Collector(None, [storage])
    counts: list[int] = []
    for size in (1, 1000):
        await storage.push_bulk(range(size))
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


# Storages that do not answer


class Hanging(Metrics):
    """A queue that does not answer, and cannot be cancelled, until it is let go on; or that fails."""

    queue = "slow"

    def __init__(self) -> None:
        self.goes_on = trio.Event()
        self.asked = 0
        self.fails = False

    async def metrics(self) -> QueueMetrics:
        self.asked += 1
        with trio.CancelScope(shield=True):
            await self.goes_on.wait()
        if self.fails:
            raise OSError("gone")
        return EMPTY_METRICS


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


# Health


async def asked(
    app: Any, path: str, *, method: str = "GET", root_path: str = "", kind: str = "http"
) -> tuple[int, Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": kind, "method": method, "path": path, "root_path": root_path}, receive, send)
    head, body = sent
    assert dict(head["headers"])[b"content-length"] == str(len(body["body"])).encode() or method == "HEAD"
    text = body["body"].decode()
    return head["status"], json.loads(text) if text.startswith("{") else text


async def test_a_program_is_ready_while_it_can_receive(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](queue="orders")
    monitor = Monitor()
    app = health(monitor, storage)
    assert (await asked(app, "/live"))[0] == 200
    assert (await asked(app, "/ready"))[0] == 503, "before it runs"
    async with monitor:
        monitor.register(Worker("w", storage, work))
        await trio.sleep(1)
        ready = {"ready": True, "shutting_down": False, "workers": {"w": "open"}, "queues": {"orders": "open"}}
        assert await asked(app, "/ready") == (200, ready)
        [context] = monitor.workers
        context.pause()
        await storage.pause()
        paused = {**ready, "workers": {"w": "paused"}, "queues": {"orders": "paused"}}
        assert await asked(app, "/ready") == (200, paused)
        context.resume()
        await storage.resume()
        await storage.push(9)
        await trio.sleep(1)
        monitor.shutdown()
        status, report = await asked(app, "/ready")
        assert (status, report["ready"], report["shutting_down"]) == (503, False, True)
        assert (await asked(app, "/live"))[0] == 200
    assert (await asked(app, "/ready"))[0] == 503, "after it has run"


async def test_a_program_whose_storage_hangs_is_not_ready(autojump_clock: MockClock) -> None:
    slow = Hanging()
    async with Monitor() as monitor:
        monitor.register(Worker("w", MemoryStorage[int](), work))
        await trio.sleep(1)
        began = trio.current_time()
        status, report = await asked(health(monitor, [slow]), "/ready")
        assert (status, report["queues"]) == (503, {"slow": "no answer"})
        assert trio.current_time() - began <= 2
        slow.goes_on.set()
        monitor.shutdown()


async def test_pages_methods_and_prefixes() -> None:
    storage = MemoryStorage[int]()
    app = health(Monitor(), storage)
    status, text = await asked(app, "/metrics")
    assert (status, samples_of(text, "trio_tasks_up")) == (200, {("default",): 1})
    assert (await asked(app, "/ops/live", root_path="/ops"))[0] == 200
    assert (await asked(app, "/"))[0] == 404
    assert (await asked(app, "/live", method="POST"))[0] == 405
    assert await asked(app, "/live", method="HEAD") == (200, "")
    with pytest.raises(RuntimeError, match="websocket"):
        await asked(app, "/live", kind="websocket")


async def test_it_takes_part_in_the_life_of_a_server() -> None:
    heard = ["lifespan.startup", "lifespan.shutdown"]
    said: list[str] = []

    async def receive() -> Any:
        return {"type": heard.pop(0)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await health(Monitor(), [])({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("make", [Collector, health])
def test_wrong_arguments_are_refused(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="monitor must be a Monitor or None, not 5"):
        make(5, [])
    for wrong in (5, [5]):
        with pytest.raises(TypeError, match="queues must be the queues of a router, a storage, or storages, not 5"):
            make(Monitor(), wrong)
    with pytest.raises(TypeError, match="needs the monitor"):
        health(None, [])  # type: ignore[arg-type]  # on purpose
