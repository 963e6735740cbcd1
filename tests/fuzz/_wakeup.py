"""Fuzzing of wake-up datagrams and of the sessions in a file: only datagrams with the key count, and nothing raises.

In a seeded run there are no sockets, so this is a plain one; what a datagram needs to arrive is a moment at most.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import trio
from trio_tasks._backends.sqlite.driver import connect, is_of_the_driver
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket

from tests.fuzz._corrupt import corrupted

_LOOPBACK = "127.0.0.1"
_TIMEOUT = 60.0
_QUIET_SECONDS = 0.003
"""Seconds in which a bell that has heard something would have said so."""
_ADDRESSES: list[Any] = [
    "",
    "0",
    "-1",
    "9",
    "65536",
    "9" * 30,
    "9" * 5000,
    "1.5",
    "1e3",
    " 9 ",
    "nan",
    "٣",
    "x",
    "127.0.0.1:9",
    None,
    0,
    -1,
    2**62,
    0.5,
    math.inf,
    b"",
    b"9",
    b"\xff",
]
_KEYS: list[Any] = [None, "", "text", "é", 0, 2**62, 0.5, math.inf, b"", b"x", bytes(16), bytes(70_000)]


def fuzz_wakeup_socket(random: Random) -> None:
    """Send damaged datagrams to a wake-up socket, and give it damaged addresses to send to."""
    trio.run(_hear if random.random() < 0.5 else _wake, random)


async def _hear(random: Random) -> None:
    wakeup = WakeupSocket()
    wakeup.open()
    wakeups = 0
    woken = trio.Event()

    def on_wakeup() -> None:
        nonlocal wakeups
        wakeups += 1
        woken.set()

    assert wakeup.address is not None, "there is no loopback interface"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakeup.listen, on_wakeup)
            sent = [each for each in _datagrams(wakeup.key, random) if each != wakeup.key]
            for each in sent:
                sender.sendto(each, (_LOOPBACK, int(wakeup.address)))
            await trio.sleep(_QUIET_SECONDS)
            assert not wakeups, sent
            at = random.randint(0, len(sent))
            for each in [*sent[:at][-100:], wakeup.key, *sent[at:][:100]]:  # more than a socket holds would be dropped
                sender.sendto(each, (_LOOPBACK, int(wakeup.address)))
            with trio.fail_after(_TIMEOUT):
                await woken.wait()
            woken = trio.Event()
            with trio.fail_after(_TIMEOUT):  # it is still there
                sender.sendto(wakeup.key, (_LOOPBACK, int(wakeup.address)))
                await woken.wait()
            if random.random() < 0.5:
                wakeup.close()  # who listens is told
            else:
                nursery.cancel_scope.cancel()
    wakeup.close()


def _datagrams(key: bytes, random: Random) -> Iterator[bytes]:
    for _ in range(random.choice((1, 3, 10, 100))):
        way = random.randrange(5)
        if way == 0:
            yield b""
        elif way == 1:
            yield key + random.randbytes(random.choice((1, 48, 49, 500)))
        elif way == 2:
            yield random.randbytes(random.choice((1, 15, 16, 17, 64, 65, 300)))
        else:
            yield corrupted(key, random)


async def _wake(random: Random) -> None:
    """By a desk, which reads the sessions of the file, one of which is that of a bell that listens."""
    listener, wakeup = WakeupSocket(), WakeupSocket()
    listener.open()
    wakeup.open()
    woken = trio.Event()
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = str(Path(directory, "tasks.db"))
        session = Session(path, "sqlite3", Opening("OFF"), wakeup)
        now, _ = session.open()
        with closing(connect("sqlite3", path)) as connection:
            for number in range(100, 100 + random.choice((1, 3, 10))):
                _insert(connection, number, random)
            late = random.random() < 0.5
            row = (200 if late else 50, listener.address, listener.key, now + 60)
            connection.execute("INSERT INTO trio_tasks_session (num, address, key, expires) VALUES (?, ?, ?, ?)", row)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.listen, woken.set)
                session.wake_others(now)
                with trio.fail_after(_TIMEOUT):
                    await woken.wait()
                nursery.cancel_scope.cancel()
        session.close(now)
    wakeup.close()
    listener.close()


def _insert(connection: Any, number: int, random: Random) -> None:
    address = random.choice(_ADDRESSES)
    key = random.choice(_KEYS)
    expires = random.choice((math.inf, 9e12, "for ever", b"\xff"))
    try:
        connection.execute(
            "INSERT INTO trio_tasks_session (num, address, key, expires) VALUES (?, ?, ?, ?)",
            (number, address, key, expires),
        )
    except Exception as error:
        if not is_of_the_driver(error):
            raise
