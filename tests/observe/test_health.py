"""Tests of the health application: what is live, what is ready, in time, from the same trio run and from another."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Monitor, Worker, constant
from trio_tasks.observe import health

from tests.observe._hanging import Hanging


async def work(seconds: float) -> None:
    await trio.sleep(seconds)


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
        ready = {
            "ready": True,
            "shutting_down": False,
            "restarting": 0,
            "workers": {"w": "open"},
            "queues": {"orders": "open"},
        }
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
    assert status == 200
    assert 'trio_tasks_up{queue="default"} 1.0' in text
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


async def test_a_program_is_not_ready_while_a_worker_waits_for_its_restart(autojump_clock: MockClock) -> None:
    fails = True

    def make(attempt: int) -> Worker[float, None]:
        channel, receiving = trio.open_memory_channel[float](0)
        if attempt == 1:
            receiving.close()  # so its first receive fails
        else:
            channels.append(channel)
        return Worker("broken", receiving, work)

    channels: list[trio.MemorySendChannel[float]] = []
    monitor = Monitor(should_restart=lambda context, error, attempt: fails, restart_backoff=constant(10))
    app = health(monitor, MemoryStorage[float](queue="orders"))
    async with monitor:
        monitor.register(Worker("sound", MemoryStorage[float](), work))
        monitor.register(make)
        await trio.sleep(1)
        status, report = await asked(app, "/ready")
        assert (status, report["ready"], report["restarting"]) == (503, False, 1)
        assert report["workers"] == {"sound": "open"}
        await trio.sleep(10)
        status, report = await asked(app, "/ready")
        assert (status, report["restarting"], report["workers"]) == (200, 0, {"sound": "open", "broken": "open"})
        monitor.shutdown()


async def test_a_worker_whose_slots_are_all_taken_is_ready(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    async with Monitor() as monitor:
        monitor.register(Worker("w", storage, work, concurrency=2))
        await storage.push_bulk([1000, 1000, 1])
        await trio.sleep(500)
        assert (await asked(health(monitor, storage), "/ready"))[0] == 200
        monitor.shutdown()


# From a trio run of its own, in another thread


def asked_elsewhere(app: Any, *paths: str) -> list[tuple[int, Any, float]]:
    """Ask in another trio run, in which time is virtual: status, answer, and the virtual seconds that it took."""

    async def ask() -> list[tuple[int, Any, float]]:
        answers: list[tuple[int, Any, float]] = []
        for path in paths:
            began = trio.current_time()
            answers.append((*await asked(app, path), trio.current_time() - began))
        return answers

    return trio.run(ask, clock=MockClock(autojump_threshold=0))


async def test_a_stuck_event_loop_is_told_from_another_run() -> None:
    """The clock of the other run is virtual, and goes on as soon as nothing happens: the loop is stuck for good."""
    answers: list[tuple[int, Any, float]] = []

    async def block(item: str) -> None:
        thread = threading.Thread(target=lambda: answers.extend(asked_elsewhere(app, "/live", "/ready", "/metrics")))
        thread.start()
        thread.join()  # blocks the event loop until all was asked
        await trio.lowlevel.checkpoint()

    storage = MemoryStorage[str]()
    async with Monitor() as monitor:
        app = health(monitor, storage)
        monitor.register(Worker("w", storage, block))
        await storage.wait_for(await storage.push("x"))
        monitor.shutdown()
    (live, live_report, until_live), (ready, ready_report, until_ready), (metrics, _, until_metrics) = answers
    assert (live, live_report, until_live) == (503, {"live": False}, 5.0)
    assert (ready, ready_report["ready"]) == (503, False)
    assert until_ready <= 2
    assert metrics == 503
    assert until_metrics <= 2


async def test_a_running_event_loop_is_told_from_another_run() -> None:
    """The clock of the other run is real, since only a running program can answer it."""

    async def ask() -> list[tuple[int, Any]]:
        return [await asked(app, path) for path in ("/live", "/ready", "/metrics")]

    storage = MemoryStorage[float](queue="orders")
    async with Monitor() as monitor:
        app = health(monitor, storage)
        monitor.register(Worker("w", storage, work))
        await storage.wait_for(await storage.push(0))
        answers = await trio.to_thread.run_sync(trio.run, ask)
        monitor.shutdown()
    assert [status for status, _ in answers] == [200, 200, 200]
    assert 'trio_tasks_up{queue="orders"} 1.0' in answers[2][1]
    answers = await trio.to_thread.run_sync(trio.run, ask)
    assert [status for status, _ in answers] == [200, 503, 200], "the monitor has ended, and the program goes on"


def test_after_the_run_of_the_program_nothing_is_live() -> None:
    async def program() -> Any:
        await trio.lowlevel.checkpoint()
        return health(Monitor(), MemoryStorage[float]())

    app = trio.run(program)
    answers = asked_elsewhere(app, "/live", "/ready")
    assert [(status, seconds) for status, _, seconds in answers] == [(503, 0.0), (503, 0.0)]
