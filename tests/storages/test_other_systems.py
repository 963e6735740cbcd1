"""Tests of behaviour that differs on macOS and Windows, by simulation."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.file.journal import open_journal
from trio_tasks._backends.sqlite import wakeup as _wakeup_sockets
from trio_tasks._backends.sqlite.driver import Driver, is_installed
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket

fcntl = pytest.importorskip("fcntl")

DRIVERS = [
    "sqlite3",
    pytest.param("apsw", marks=pytest.mark.skipif(not is_installed("apsw"), reason="there is no apsw here")),
]
FULLY = 4711


def append(path: Path) -> None:
    journal, _ = open_journal(path, lambda _: None, repair=False, ahead=False)
    journal.append(b"record")
    journal.sync()
    journal.close()


@pytest.mark.parametrize("answer", [0, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_that_cannot_sync_fully_is_synced_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """This happens on macOS with a network disk or a memory stick."""
    calls: list[str] = []
    real = os.fdatasync

    def control(fd: int, command: int) -> int:
        assert command == FULLY
        calls.append("fully")
        if answer:
            raise OSError(answer, os.strerror(answer))
        return 0

    def sync(fd: int) -> None:
        calls.append("plainly")
        real(fd)

    monkeypatch.setattr(_journal, "_FULL_SYNC", FULLY)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fdatasync", sync)
    append(tmp_path / "tasks.journal")
    assert set(calls) == ({"fully", "plainly"} if answer else {"fully"})


def test_a_disk_that_fails_to_sync_fully_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def control(fd: int, command: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_journal, "_FULL_SYNC", FULLY)
    monkeypatch.setattr(fcntl, "fcntl", control)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        append(tmp_path / "tasks.journal")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("synchronous", "expected"), [("FULL", 1), ("NORMAL", 0), ("OFF", 0)])
def test_full_means_the_disk_itself(tmp_path: Path, driver: Driver, synchronous: str, expected: int) -> None:
    session = Session(str(tmp_path / "tasks.db"), driver, Opening(synchronous), WakeupSocket())
    now, _ = session.open()
    connection = vars(session)["_connection"]
    for name in ("fullfsync", "checkpoint_fullfsync"):
        assert connection.execute(f"PRAGMA {name}") == [(expected,)]
    session.close(now)


def test_a_reset_connection_is_not_the_end_of_what_is_heard() -> None:
    """On Windows, a read raises this error if an earlier datagram had no receiver."""
    wakeup_socket = WakeupSocket()
    heard: list[Any] = [ConnectionResetError(), b"garbage", ConnectionResetError(), wakeup_socket.key]

    class Socket:
        def recv(self, size: int) -> bytes:
            found = heard.pop(0) if heard else BlockingIOError()
            if isinstance(found, Exception):
                raise found
            return bytes(found)

    vars(wakeup_socket)["_socket"] = Socket()
    assert wakeup_socket._received()
    assert not heard


async def test_a_wake_up_port_is_bound_exclusively_where_it_could_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(_wakeup_sockets, "_EXCLUSIVELY", socket.SO_BROADCAST)  # an option that can be seen here
    wakeup_socket = WakeupSocket()
    wakeup_socket.open()
    opened = vars(wakeup_socket)["_socket"]
    assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    wakeup_socket.close()
