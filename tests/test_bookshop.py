"""Tests of the bookshop of the docs from outside: real processes, HTTP, signals, `kill -9` and the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests._progress import Progress
from tests.cli._command import call

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "docs" / "examples" / "bookshop"
PATIENCE = 150.0  # seconds until a process that does nothing is given up; a guard, not a measure

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="it sends signals to processes"),
]


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition."""
    progress = Progress(PATIENCE)
    while not condition():
        progress.note(None, "a condition is waited for")
        time.sleep(0.02)


class Shop:
    """A folder with the shop's file, and the processes that use it.

    Args:
      folder: an empty folder.
      lease: seconds after which tasks of a process that was killed come back.
    """

    def __init__(self, folder: Path, lease: float = 30) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/bookshop.db?lease={lease}"
        self.slow = folder / "outbox" / "slow"
        self.slow.parent.mkdir()

    @contextmanager
    def start(self, *command: str) -> Iterator[Process]:
        """Start a process in the folder."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PROJECT}", "PYTHONUNBUFFERED": "1"}
        environment |= {"PORT": "0", "TRIO_TASKS_URL": self.url, "STOCK_EVERY": "1"}
        line = [sys.executable, "-W", "error", "-m", *command]
        process = subprocess.Popen(
            line, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started = Process(process)
        try:
            yield started
        finally:
            started.close()

    def run(self, *options: str) -> Any:
        """Run the shop as one process."""
        return self.start("trio_tasks", "run", "bookshop.app:main", *options)

    def cli(self, command: str, *arguments: str) -> list[dict[str, Any]]:
        """Call the command line; return its records."""
        ended = call(command, "--url", self.url, *arguments)
        assert ended.status == 0, ended
        return ended.records

    def tasks(self) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in self.cli("ls")}

    def are(self, status: str, *ids: str) -> bool:
        found = self.tasks()
        return all(each in found and found[each]["status"] == status for each in ids)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "bookshop.db")) as connection:
            return connection.execute(sql).fetchall()

    def mails(self) -> list[str]:
        """The texts of the mails that were sent, sorted."""
        path = self.slow.with_name("mails.txt")
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return sorted(json.loads(line)["text"] for line in lines)


class Process:
    """A process of the shop, and its output so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def has_logged(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def wait_until_logged(self, words: str) -> None:
        until(lambda: self.has_logged(words) or self.process.poll() is not None)
        assert self.has_logged(words), "".join(self.lines)

    def address(self) -> tuple[str, int]:
        """Wait until it serves; return its address."""
        self.wait_until_logged("Running on http://")
        [found] = re.findall(r"Running on http://([\d.]+):(\d+)", "".join(self.lines))[:1]
        return found[0], int(found[1])

    def accepts(self) -> bool:
        """Return True if it takes new connections."""
        with suppress(ConnectionRefusedError), socket.create_connection(self.address(), PATIENCE):
            return True
        return False

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        host, port = self.address()
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://{host}:{port}{path}", data, method=method)

        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                status, content = answer.status, answer.read()
        except HTTPError as error:
            with error:
                status, content = error.code, error.read()
        with suppress(ValueError):
            return status, json.loads(content)
        return status, content.decode()

    def order(self, book: str, email: str = "ada@example.com") -> int:
        status, answer = self.ask("POST", "/orders", {"book": book, "email": email})
        assert status == 201
        number: int = answer["order"]
        return number

    def end(self, number: signal.Signals | None = None) -> tuple[int, dict[str, Any]]:
        """Send a signal, wait for the end; return the exit status and the report."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        status = self.process.wait(PATIENCE)
        return status, json.loads(out.splitlines()[-1]) if out else {}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def test_a_day_in_the_shop(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with shop.run() as process:
        # An order has its two effects; the mail service refuses a new address once.
        assert process.order("Emma") == 1
        status, answer = process.ask("GET", "/orders/1?wait=1000")
        assert (status, answer["ship-1"], answer["receipt-1"]) == (
            200,
            {"status": "Done", "result": "sent"},
            {"status": "Done", "result": "mailed to ada@example.com"},
        )
        assert shop.tasks()["receipt-1"]["attempt"] == 2
        assert shop.mails() == ["Thank you for order 1."]
        assert process.has_logged("450 ada@example.com is new here")

        # A dead letter is seen, its cause is mended, and it is retried.
        assert process.order("Ulysses") == 2
        until(lambda: shop.are("Killed", "ship-2"))
        [dead] = shop.cli("ls", "-s", "Killed")
        assert (dead["id"], dead["name"]) == ("ship-2", "ship")
        [shown] = shop.cli("show", "ship-2")
        assert "the book is sold out" in json.dumps(shown)
        assert process.ask("PUT", "/books/Ulysses", {"copies": 1}) == (200, {"copies": 1})
        shop.cli("retry", "ship-2")
        until(lambda: shop.are("Done", "ship-2"))
        assert shop.rows("select * from parcels order by 1") == [(1,), (2,)]

        # An order that is rolled back has pushed nothing.
        body = {"book": "Emma", "email": "ada@example.com", "coupon": "SPRING"}
        assert process.ask("POST", "/orders", body) == (201, {"order": 3})
        status, answer = process.ask("POST", "/orders", body)
        assert (status, answer) == (409, "this coupon has been used")
        assert shop.rows("select count(*) from orders") == [(3,)]
        assert {"ship-3", "receipt-3"} <= shop.tasks().keys()
        assert not {"ship-4", "receipt-4"} & shop.tasks().keys()
        assert process.ask("GET", "/orders/4")[0] == 404

        for wrong in ({"book": "Emma"}, ["Emma"], "Emma"):
            assert process.ask("POST", "/orders", wrong)[0] == 400

        # The schedule fires each of its times once.
        until(lambda: len(shop.rows("select distinct time from stock")) >= 2)
        assert not shop.rows("select time from stock group by time, title having count(*) > 1")
        assert {each["name"] for each in shop.cli("schedules")} == {"stock", "report"}

        assert process.ask("GET", "/ready")[0] == 200
        assert 'trio_tasks_up{queue="mails"} 1.0' in process.ask("GET", "/metrics")[1]
        shut_down_during_work(shop, process)


def shut_down_during_work(shop: Shop, process: Process) -> None:
    """SIGTERM while a mail is being sent, and while an order is being received: both come to their end."""
    until(lambda: shop.are("Done", "ship-3", "receipt-3"))
    shop.slow.touch()
    assert process.order("Emma") == 4
    until(lambda: "Thank you for order 4." in shop.mails())
    with Ordering(process) as first, Ordering(process) as second:
        process.process.send_signal(signal.SIGTERM)
        process.wait_until_logged("SIGTERM: shutting down")
        status, answer = process.ask("GET", "/ready")
        assert (status, answer["shutting_down"]) == (503, True)
        assert first.finish() == 201
        shop.slow.unlink()
        until(lambda: not process.accepts())  # the workers have ended, and the server ends
        assert second.finish() == 201
    status, report = process.end()
    assert status == 0, process.lines
    assert "receipt-4" in report["drained"]
    assert (report["interrupted"], report["errors"]) == ([], [])
    assert shop.are("Done", "ship-4", "receipt-4")
    assert shop.are("Pending", "ship-5", "receipt-5", "ship-6", "receipt-6")  # for the next process


class Ordering:
    """A connection over which an order is being sent: the shop waits for the rest of it."""

    _BODY = b'{"book": "Emma", "email": "ada@example.com"}'

    def __init__(self, process: Process) -> None:
        self._client = socket.create_connection(process.address(), PATIENCE)

    def __enter__(self) -> Ordering:
        head = f"Content-Length: {len(self._BODY)}", "Expect: 100-continue"
        self._client.sendall("\r\n".join(("POST /orders HTTP/1.1", "Host: localhost", *head, "", "")).encode())
        assert self._client.recv(10_000).startswith(b"HTTP/1.1 100 ")  # it reads the body
        return self

    def finish(self) -> int:
        """Send the rest; return the status of the answer."""
        self._client.sendall(self._BODY)
        return int(self._client.recv(10_000).split()[1])

    def __exit__(self, *_: object) -> None:
        self._client.close()


def test_each_order_has_its_effects_once_after_kill_9_and_a_shutdown_that_is_cut_short(tmp_path: Path) -> None:
    shop = Shop(tmp_path, lease=2)
    orders = range(1, 6)
    receipts, parcels = [f"receipt-{each}" for each in orders], [f"ship-{each}" for each in orders]
    texts = [f"Thank you for order {each}." for each in orders]

    shop.slow.touch()
    with shop.run() as process:
        for each in orders:
            process.order("Emma", f"{each % 2}@example.com")
        until(lambda: shop.mails() == texts and shop.are("Done", *parcels))
        # All mails are sent, and no receipt is recorded as done.
        assert shop.are("Running", *receipts)
        held = attempts(shop)
        process.process.kill()
        assert process.end()[0] == -signal.SIGKILL

    with shop.run("--shutdown-timeout", "0.1") as process:
        process.address()
        again = {name: attempt + 1 for name, attempt in held.items()}
        until(lambda: attempts(shop) == again)
        status, report = process.end(signal.SIGTERM)
        assert status == 6, process.lines
        assert sorted(each["id"] for each in report["interrupted"]) == receipts
        assert "in send: await trio.sleep" in report["interrupted"][0]["line"]
    assert shop.are("Pending", *receipts)

    shop.slow.unlink()
    with shop.run() as process:
        until(lambda: shop.are("Done", *receipts, *parcels))
        assert process.end(signal.SIGTERM)[0] == 0, process.lines
    # The attempt that was killed counts, the one that was interrupted does not.
    assert attempts(shop) == again
    assert shop.mails() == texts
    assert shop.rows("select * from parcels order by 1") == [(each,) for each in orders]
    assert shop.rows("select copies from books where title = 'Emma'") == [(100 - len(orders),)]
    assert {each["queue"] for each in shop.cli("queues")} == {"default", "mails", "reports"}


def attempts(shop: Shop) -> dict[str, int]:
    """The attempts of each receipt."""
    return {each["id"]: each["attempt"] for each in shop.tasks().values() if each["name"] == "send_receipt"}


def test_the_web_alone_with_workers_in_other_processes(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    server = "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "bookshop.web:app"
    with shop.start(*server) as web, shop.start("trio_tasks", "run", "bookshop.tasks:tasks", "--processes", "2") as run:
        web.address()
        order = web.order("Emma")
        status, answer = web.ask("GET", f"/orders/{order}?wait=1000")
        assert status == 200
        assert {each["status"] for each in answer.values()} == {"Done"}
        assert run.end(signal.SIGTERM)[0] == 0, run.lines
        assert web.end(signal.SIGTERM)[0] == 0, web.lines


def test_the_tests_of_the_project_pass(tmp_path: Path) -> None:
    shutil.copytree(PROJECT, tmp_path / "bookshop", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "bookshop",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
