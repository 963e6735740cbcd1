"""A bell is rung by whoever knows its key, and by nobody else; and what others say of themselves is not trusted."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_tasks._backends.sqlite.wakeup import Bell


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Bell, trio.Event]]:
    """A bell, and what is set when it is rung."""
    bell, rung = Bell(), trio.Event()
    bell.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.listen, rung.set)
        yield bell, rung
        bell.close()


async def test_only_the_key_is_heard() -> None:
    async with listening() as (bell, rung):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for wrong in (b"", bell.key[:-1], bell.key + b"\0", bytes(16), bell.key * 4, bytes(60_000)):
                sender.sendto(wrong, ("127.0.0.1", int(bell.address or 0)))
            await trio.sleep(0.02)
            assert not rung.is_set()
            sender.sendto(bell.key, ("127.0.0.1", int(bell.address or 0)))
        with trio.fail_after(60):
            await rung.wait()


@pytest.mark.parametrize("address", ["", "x", "-1", "0", "65536", "9" * 5000, "nan", None, 2**70, b"\xff", 0.5])
@pytest.mark.parametrize("key", [None, "text", 5, b"", bytes(70_000)])
async def test_who_cannot_be_rung_does_not_keep_others_from_being_rung(address: Any, key: Any) -> None:
    async with listening() as (bell, rung):
        ringer = Bell()
        ringer.open()
        ringer.ring([(address, key), (bell.address or "", key), (address, bell.key), (bell.address or "", bell.key)])
        ringer.close()
        with trio.fail_after(60):
            await rung.wait()


async def test_who_sends_without_end_does_not_hold_up_everybody() -> None:
    class Flood:
        """A socket at which datagrams arrive faster than they can be read."""

        def recv(self, size: int) -> bytes:
            return b"wrong"

        def close(self) -> None:
            pass

    bell = Bell()
    flood: Any = Flood()
    bell._socket = flood
    assert not bell._heard()
