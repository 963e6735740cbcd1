"""Tests of the wake-up socket: only datagrams with its key count, and data of other processes is not trusted."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_tasks._backends.sqlite.wakeup import WakeupSocket


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[WakeupSocket, trio.Event]]:
    """A wake-up socket that is listened to, and an event that is set when it receives its key."""
    wakeup_socket, woken = WakeupSocket(), trio.Event()
    wakeup_socket.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup_socket.listen, woken.set)
        yield wakeup_socket, woken
        wakeup_socket.close()


async def test_only_the_key_is_heard() -> None:
    async with listening() as (wakeup_socket, woken):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for wrong in (
                b"",
                wakeup_socket.key[:-1],
                wakeup_socket.key + b"\0",
                bytes(16),
                wakeup_socket.key * 4,
                bytes(60_000),
            ):
                sender.sendto(wrong, ("127.0.0.1", int(wakeup_socket.address or 0)))
            await trio.sleep(0.02)
            assert not woken.is_set()
            sender.sendto(wakeup_socket.key, ("127.0.0.1", int(wakeup_socket.address or 0)))
        with trio.fail_after(60):
            await woken.wait()


@pytest.mark.parametrize("address", ["", "x", "-1", "0", "65536", "9" * 5000, "nan", None, 2**70, b"\xff", 0.5])
@pytest.mark.parametrize("key", [None, "text", 5, b"", bytes(70_000)])
async def test_a_process_that_cannot_be_woken_does_not_keep_others_from_being_woken(address: Any, key: Any) -> None:
    async with listening() as (wakeup_socket, woken):
        sender = WakeupSocket()
        sender.open()
        sender.send(
            [
                (address, key),
                (wakeup_socket.address or "", key),
                (address, wakeup_socket.key),
                (wakeup_socket.address or "", wakeup_socket.key),
            ]
        )
        sender.close()
        with trio.fail_after(60):
            await woken.wait()
        assert woken.is_set(), "by the one that could be woken"


async def test_a_sender_without_end_does_not_hold_up_the_others() -> None:
    class Flood:
        """A socket at which datagrams arrive faster than they can be read."""

        def recv(self, size: int) -> bytes:
            return b"wrong"

        def close(self) -> None:
            pass

    wakeup_socket = WakeupSocket()
    flood: Any = Flood()
    wakeup_socket._socket = flood
    assert not wakeup_socket._received()
    assert not wakeup_socket._news
