"""Tests of promise 5, by real signals to a process: the first one shuts down gracefully, the second one cancels."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, signal, sys, trio
from trio_tasks import MemoryStorage, Monitor, Worker

async def handler(args):
    print("running", flush=True)
    try:
        await trio.sleep(args)
    finally:
        print("cleaning up", flush=True)

async def wait_for_shutdown(monitor):
    while not monitor.is_shutting_down:
        await trio.sleep(0.001)
    print("shutting down", flush=True)

async def main():
    seconds, signals = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    storage = MemoryStorage()
    await storage.push_bulk([seconds] * 3)
    monitor = Monitor(shutdown_timeout=3600)
    monitor.register(Worker("signalled", storage, handler, concurrency=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_shutdown, monitor)
        report = await monitor.run_with_signal(*map(signal.Signals, signals))
        nursery.cancel_scope.cancel()
    counts = storage.statistics()
    print(json.dumps([len(report.drained), len(report.interrupted), counts.waiting, counts.running]), flush=True)

trio.run(main)
"""


def run(seconds: float, *sent: signal.Signals, heeded: tuple[signal.Signals, ...] = ()) -> tuple[int, Any]:
    """Send signals to the process: the first when its attempts have begun, each further one when it has heard."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(seconds), json.dumps(heeded)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        killer = threading.Timer(20, process.kill)
        killer.start()
        try:
            for _ in range(2):
                assert process.stdout.readline() == "running\n"
            for each in sent:
                process.send_signal(each)
                if process.stdout.readline() != "shutting down\n":
                    break
            *_, last = [*process.stdout, "null"][:-1] or ["null"]
            return process.wait(30), json.loads(last)
        finally:
            killer.cancel()
            process.kill()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_promise_05_graceful_shutdown_has_a_timeline_by_a_signal(first: signal.Signals) -> None:
    """The two running attempts end by themselves; the third task stays in the backend."""
    assert run(0.5, first) == (0, [2, 0, 1, 0])


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_promise_05_graceful_shutdown_has_a_timeline_by_a_second_signal_is_now(
    first: signal.Signals, second: signal.Signals
) -> None:
    """The two running tasks are released, so three tasks are in the backend."""
    assert run(3600, first, second) == (0, [0, 2, 3, 0])


def test_promise_05_graceful_shutdown_has_a_timeline_by_a_signal_of_ones_own() -> None:
    assert run(0.5, signal.SIGUSR1, heeded=(signal.SIGUSR1,)) == (0, [2, 0, 1, 0])


def test_promise_05_graceful_shutdown_has_a_timeline_other_signals_are_left_alone() -> None:
    code, _ = run(3600, signal.SIGTERM, heeded=(signal.SIGUSR1,))
    assert code == -signal.SIGTERM
