"""What systemd is told of a program that it has started, and by which processes."""

from __future__ import annotations

import os
import re
import socket
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, final

import trio

from .output import note

if TYPE_CHECKING:
    from collections.abc import Generator

    from .. import Monitor

_EVERY = 5.0
"""Seconds between two lines of status, if no watchdog needs more."""
_STATUS = re.compile(r"STATUS=(\d+)/(\d+)")


async def wait_started(monitor: Monitor) -> None:
    """Wait until a monitor has started a worker."""
    while not monitor.workers:  # noqa: ASYNC110  the monitor tells by this alone
        await trio.sleep(0.01)


@final
class Service:
    """Tells systemd that the program is ready, that it lives, and what it does, if systemd has started it.

    Args:
      member: the number of this process, from 1, if it tells this to the process that has started several; else 0.
    """

    def __init__(self, member: int = 0) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._member = f"\nMEMBER={member}" if member else ""
        self._every = min(_EVERY, int(os.environ.get("WATCHDOG_USEC") or 10**9) / 2e6)

    def send(self, text: str) -> None:
        """Send a message; without systemd, do nothing."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.setblocking(False)
                notify.sendto((text + self._member).encode(), self._address)
        except OSError as error:
            note(f"systemd could not be told {text!r}: {error}")

    async def tell(self, monitor: Monitor) -> None:
        """Say that the program is ready; then, again and again, that trio's loop turns, and how many slots are busy."""
        if not self._address:
            return
        await wait_started(monitor)
        self.send("READY=1")
        while True:
            busy = sum(each.task_count for each in monitor.workers)
            slots = sum(each.concurrency for each in monitor.workers)
            self.send(f"WATCHDOG=1\nSTATUS={busy}/{slots} slots")
            await trio.sleep(self._every)

    @contextmanager
    def of_processes(self, number: int) -> Generator[ServiceOfProcesses, None, None]:
        """Give what tells systemd of several processes."""
        if not self._address:
            yield ServiceOfProcesses(self, number, None, "")
            return
        with (
            TemporaryDirectory(prefix="trio-tasks-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        ):
            path = str(Path(folder, "notify"))
            notify.bind(path)
            yield ServiceOfProcesses(self, number, notify, path)

    @property
    def every(self) -> float:
        """The seconds between two messages."""
        return self._every


@final
class ServiceOfProcesses:
    """Tells systemd of several processes, which tell their parts here: ready when all are, and all of their slots.

    Args:
      service: what tells systemd.
      number: of processes.
      notify: the socket on which the processes are heard; None without systemd.
      path: that of the socket.
    """

    def __init__(self, service: Service, number: int, notify: socket.socket | None, path: str) -> None:
        self._service = service
        self._number = number
        self._notify = notify
        self._ready: set[str] = set()
        self._slots: dict[str, tuple[int, int]] = {}
        self.environment = {} if notify is None else {"NOTIFY_SOCKET": path}
        """The variables of the processes."""

    async def tell(self) -> None:
        """Say that the program is ready when all processes are; then that trio's loop turns, and what they do."""
        if self._notify is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, trio.socket.from_stdlib_socket(self._notify.dup()))
            while True:
                busy, slots = (sum(each) for each in zip((0, 0), *self._slots.values(), strict=True))
                self._service.send(f"WATCHDOG=1\nSTATUS={busy}/{slots} slots")
                await trio.sleep(self._service.every)

    def stopping(self) -> None:
        """Say that the processes shut down."""
        self._service.send("STOPPING=1")

    async def _listen(self, notify: trio.socket.SocketType) -> None:
        with notify:
            while True:
                self._note((await notify.recv(1000)).decode("utf-8", "replace"))

    def _note(self, text: str) -> None:
        first, _, member = text.rpartition("\nMEMBER=")
        if status := _STATUS.search(first):
            self._slots[member] = int(status[1]), int(status[2])
        if first == "READY=1" and member not in self._ready:
            self._ready.add(member)
            if len(self._ready) == self._number:
                self._service.send("READY=1")
