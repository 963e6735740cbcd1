"""Tests of promise 5: signals that come after the second one are deferred, or end a process that hangs. In processes of
their own, by real signals.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

ROOT = Path(__file__).parents[2]
INT, TERM = signal.SIGINT, signal.SIGTERM

HEAD = """
import logging, signal, sys, threading, time, trio
from trio_tasks import FileStorage, MemoryStorage, Monitor, Worker, WorkerContext

logging.basicConfig(stream=sys.stdout, format="log: %(message)s")

def say(text):
    print(text, flush=True)

async def when(condition, text):
    while not condition():
        await trio.sleep(0.001)
    say(text)
"""

CLOSING = """
async def handler(args):
    say("running")
    await trio.sleep_forever()

async def main():
    storage = FileStorage(sys.argv[1])
    closing = storage._loop.end

    async def close_slowly():  # until another line is read from standard input
        say("closing")
        await trio.to_thread.run_sync(sys.stdin.readline)
        await closing()
        say("closed")

    storage._loop.end = close_slowly
    async with storage, trio.open_nursery() as nursery:
        await storage.push(1)
        monitor = Monitor().register(Worker("w", storage, handler))
        nursery.start_soon(when, lambda: monitor.is_shutting_down, "shutting down")
        report = await monitor.run_with_signal()
        say(f"{len(report.interrupted)} interrupted")
    say("the end")

trio.run(main)
"""

STUCK = """
import trio_tasks._worker.stuck_attempts
trio_tasks._worker.stuck_attempts.RECORD_INTERVAL = 1

def handler(args):
    say("running")
    while True:
        time.sleep(0.01)

async def main():
    storage = MemoryStorage()
    await storage.push(1)
    monitor = Monitor().register(Worker("w", storage, handler))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(when, lambda: monitor.is_shutting_down, "shutting down")
        nursery.start_soon(when, lambda: monitor.cancel_scope.cancel_called, "cancelling")
        await monitor.run_with_signal()

trio.run(main)
"""

CLEANING = """
async def handler(args):
    say("running")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            say("cleaning up")
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            say("cleaned up")

async def main():
    storage = MemoryStorage()
    await storage.push(1)
    monitor = Monitor(signals=(signal.SIGINT, signal.SIGTERM)).register(Worker("w", storage, handler))
    async with monitor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(when, lambda: monitor.is_shutting_down, "shutting down")
            await trio.sleep_forever()
    say(f"{len(monitor.report.interrupted)} interrupted, {storage.statistics().waiting} waiting")

trio.run(main)
"""


class Process:
    """A process whose output is read line by line."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        """Read until a line with this text."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}: {self.lines}")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def write_line(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self) -> int:
        """Read to the end; return the exit status."""
        assert self.popen.stdout is not None
        self.lines += [line.rstrip() for line in self.popen.stdout]
        return self.popen.wait(40)


@contextmanager
def running(script: str, *arguments: str) -> Generator[Process, None, None]:
    command = [sys.executable, "-c", HEAD + script, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as popen:
        killer = threading.Timer(50, popen.kill)
        killer.start()
        try:
            yield Process(popen)
        finally:
            killer.cancel()
            popen.kill()


def test_promise_05_graceful_shutdown_has_a_timeline_a_late_sigterm_waits_for_the_storages(tmp_path: Path) -> None:
    """The signal does not end the process while the journal is open, and is not lost."""
    with running(CLOSING, str(tmp_path / "tasks")) as process:
        process.until("running")
        process.send(TERM)
        process.until("shutting down")
        process.send(TERM)
        process.until("closing")
        for _ in range(3):
            process.send(TERM)
        process.write_line()
        process.until("closed")
        assert process.end() == -TERM
    assert "1 interrupted" in process.lines


def test_promise_05_graceful_shutdown_has_a_timeline_without_a_late_one_the_program_goes_on(tmp_path: Path) -> None:
    with running(CLOSING, str(tmp_path / "tasks")) as process:
        process.until("running")
        process.send(TERM)
        process.until("shutting down")
        process.send(TERM)
        process.until("closing")
        process.write_line()
        assert process.end() == 0
    assert process.lines[-2:] == ["closed", "the end"]


def test_promise_05_graceful_shutdown_has_a_timeline_a_thread_that_is_stuck_and_named_can_be_left() -> None:
    with running(STUCK) as process:
        process.until("running")
        process.send(INT)
        process.until("shutting down")
        process.send(INT)
        process.until("cancelling")
        process.until("goes on at a line of the thread")
        process.send(INT)
        assert process.end() == 130
    assert "ending the process" in process.lines[-1]


def test_promise_05_graceful_shutdown_has_a_timeline_a_thread_must_be_named_first() -> None:
    """The third SIGINT comes before the log has named the stuck thread. So it makes the log name it, and the next
    SIGINT ends the process.
    """
    with running(STUCK.replace("RECORD_INTERVAL = 1", "RECORD_INTERVAL = 10_000")) as process:
        process.until("running")
        process.send(INT)
        process.until("shutting down")
        process.send(INT)
        process.until("cancelling")
        process.send(INT)
        process.until("goes on at a line of the thread")
        assert process.popen.poll() is None
        process.send(INT)
        assert process.end() == 130


def test_promise_05_graceful_shutdown_has_a_timeline_a_clean_up_is_not_cut_short() -> None:
    """An attempt that cleans up, and is no stuck thread, may finish, however many signals come. (Its own thread can be
    abandoned and still runs, so the test waits for a line of it.)
    """
    with running(CLEANING) as process:
        process.until("running")
        process.send(TERM)
        process.until("shutting down")
        process.send(TERM)
        process.until("cleaning up")
        process.send(TERM)
        process.write_line()
        process.until("cleaned up")
        assert process.end() == -TERM
    assert not [line for line in process.lines if "Traceback" in line]
