"""Wake-ups: datagrams on the loopback interface between processes that share a file.

Each process has a socket. Its port stands in the shared store with a key; a datagram without the key is dropped. A
datagram that gets lost (another network namespace, a full buffer) is made up for by polling now and then.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from contextlib import ExitStack, closing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import trio

from ..._concurrency.threads import pause_instead
from ..._concurrency.virtual_time import rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class News(Enum):
    """What a wake-up says, as it stands behind the key."""

    CHANGED = b""
    """Tasks may be ready, finished or to be aborted."""
    FINISHED = b"!"
    """Tasks are finished, which matters only to those who wait for that."""
    ASKED = b"?"
    """The states of workers are asked for."""


_PROBES = b"."
"""Behind the key: nothing is asked for; the sender only looks if a socket has this port."""
KEY_SIZE = 16
"""Bytes of a key; nothing of another length is sent, whatever stands in a store."""
_EXCLUSIVELY: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
_LOOPBACK = "127.0.0.1"
_APART = 0.001
"""Seconds to wait after each wake-up; those that arrive meanwhile count as one."""
_LONGEST_PAUSE = 0.1
"""Seconds to wait, at most, where only datagrams without the key arrive."""
_AT_ONCE = 500
"""Datagrams that are read in one go, so that a sender without end does not hold up the event loop."""


_RESPONSE_TIME = 0.01
"""Seconds within which the system says that no socket has a port of this machine."""
_IS_PROMPT = sys.platform.startswith("linux")
"""True where it says so before it returns from sending."""
_OWN: dict[str, bytes] = {}
"""The addresses of this process, with their keys."""
_PROBED_AT_ONCE = 50
"""Sockets that are open at a time to probe addresses."""


class Address(NamedTuple):
    """The place at which a session receives wake-ups, as it stands in a store."""

    port: str
    key: bytes
    network: str
    """The name of the network in which the port is; empty if it is not known."""


@cache
def network_name() -> str:
    """Return the name of the network of this process: two processes with the same name share the loopback interface.

    On Linux each container may have a network of its own, on a machine that they share.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')}"  # noqa: PTH115  it is no path
    except (OSError, ValueError):
        return "" if sys.platform == "linux" else f"{sys.platform} {socket.gethostname()}"


def is_answered(address: str | None, key: bytes) -> bool | None:
    """Return True if another process listens at this address; None if that is not known.

    A session that was never closed stays in a file for a while after its process has died; but no socket has its port.
    """
    if address is None:
        return None
    if address in _OWN:
        return False
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            probe.connect((_LOOPBACK, int(address)))
            probe.settimeout(_RESPONSE_TIME)
            probe.send(key)
            probe.recv(1)  # no process answers, but the system does if none is there
    except socket.timeout:  # noqa: UP041  before Python 3.10 it is no TimeoutError
        return True
    except (OSError, ValueError, TypeError, OverflowError):
        return False
    return True


def _refusing(addresses: list[Address]) -> set[Address]:
    """Return those of these addresses that the system refuses, since no socket has them."""
    refusing, until = set[Address](), time.monotonic() + (0.0 if _IS_PROMPT else _RESPONSE_TIME)
    with ExitStack() as stack:
        probes = list[tuple[Address, socket.socket]]()
        for each in addresses:
            try:
                probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            except OSError:
                break  # too many files are open: those that are left are not judged
            try:
                probe.connect((_LOOPBACK, int(each.port)))
                probe.send(each.key + _PROBES)
            except ConnectionError:
                refusing.add(each)
            except (OSError, ValueError, TypeError, OverflowError):  # it was never the address of a session
                continue
            else:
                probes.append((each, probe))
        for each, probe in probes:
            probe.settimeout(max(0.0, until - time.monotonic()))
            try:
                probe.recv(1)  # nothing is sent back, but a refusal may have come
            except ConnectionError:
                refusing.add(each)
            except OSError:
                continue
    return refusing


_VIRTUAL_NETWORK = "virtual time"
_VIRTUAL_SOCKETS: trio.lowlevel.RunVar[dict[str, WakeupSocket]] = trio.lowlevel.RunVar("trio_tasks wakeup_sockets")


def _virtual_sockets() -> dict[str, WakeupSocket]:
    try:
        return _VIRTUAL_SOCKETS.get()
    except LookupError:
        sockets: dict[str, WakeupSocket] = {}
        _VIRTUAL_SOCKETS.set(sockets)
        return sockets


@final
class WakeupSocket:
    """A socket that receives wake-ups, and sends them to other processes.

    Attributes:
      address: the port as text; None where there can be no socket.
      key: the content of a wake-up for this socket.
      network: the name of the network in which the address is.
    """

    def __init__(self) -> None:
        self._virtual: dict[str, WakeupSocket] | None = None  # all sockets of a run in virtual time, by address
        self._woken = trio.Event()
        self._news: set[News] = set()  # what was received, and not told yet
        self.key = secrets.token_bytes(KEY_SIZE)
        self.address: str | None = None
        self.network = network_name()
        self._own: str | None = None  # the address, even where it is not stored for others
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Open the socket, which receives wake-ups from now on."""
        if pause_instead() is not None:  # the order in which datagrams arrive is random, too
            self._virtual = _virtual_sockets()
            self.address, self.network = f"here {len(self._virtual)}", _VIRTUAL_NETWORK
            self._virtual[self.address] = self
            return
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if _EXCLUSIVELY is not None:  # otherwise another process could bind the same port, and read the key
                self._socket.setsockopt(socket.SOL_SOCKET, _EXCLUSIVELY, 1)
            self._socket.bind((_LOOPBACK, 0))
            self._socket.setblocking(False)
            self.address = str(self._socket.getsockname()[1])
            self._own = self.address
            _OWN[self._own] = self.key
        except OSError:  # a sandbox without a network: polling must do
            self.close()

    def send(self, others: Iterable[tuple[str, bytes]], news: News = News.CHANGED) -> None:
        """Send a wake-up to each of these addresses, with its key; may be called in any thread."""
        for address, key in others:
            if self._virtual is not None and address in self._virtual:
                self._virtual[address]._news.add(news)
                self._virtual[address]._woken.set()
            try:
                if self._socket is not None and len(key) == KEY_SIZE:
                    self._socket.sendto(key + news.value, (_LOOPBACK, int(address)))
            except (OSError, ValueError, TypeError, OverflowError):  # it may be gone, or was never one of ours
                continue

    async def listen(  # noqa: ASYNC910  a closed socket receives nothing
        self,
        on_change: Callable[[], None],
        on_finish: Callable[[], None] = lambda: None,
        on_asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Call the function for what a wake-up says, for each, until cancelled."""
        calls = {News.ASKED: on_asked, News.FINISHED: on_finish, News.CHANGED: on_change}
        while self._virtual is not None:
            await self._woken.wait()
            self._woken = trio.Event()
            self._tell(calls)
            await rest(_APART)
        if self._socket is None:
            await trio.sleep_forever()
        pause = _APART
        while self._socket is not None:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                return  # noqa: ASYNC910  a closed socket receives nothing
            is_ours = self._received()
            self._tell(calls)
            # A flood of datagrams must not keep the loop busy.
            pause = _APART if is_ours else min(2 * pause, _LONGEST_PAUSE)
            await rest(pause)

    def _tell(self, calls: dict[News, Callable[[], None]]) -> None:
        """Call the functions for what was received. A change includes what is finished."""
        news, self._news = self._news, set()
        if News.CHANGED in news:
            news.discard(News.FINISHED)
        for each, call in calls.items():
            if each in news:
                call()

    def _received(self) -> bool:
        """Read what was received; return True if some of it has the key."""
        is_ours = False
        for _ in range(_AT_ONCE):
            if self._socket is None:
                break
            try:
                received = self._socket.recv(64)
                if received.startswith(self.key):
                    is_ours = True
                    self._news.update(each for each in News if received[KEY_SIZE:] == each.value)
            except ConnectionResetError:  # Windows says here that a socket to which we have sent is gone
                continue
            except OSError:  # no more datagrams
                break
        return is_ours

    def unanswered(self, addresses: Iterable[Address]) -> set[Address]:
        """Return those of these addresses at which no socket receives any more: their sessions are gone.

        Only addresses in the network of this socket are judged. Where the process of a socket has died, another one may
        have its port by now; such an address is not returned. It may be called in any thread, and takes 0.01 s at most
        for each fifty addresses that receive.
        """
        near = [each for each in addresses if each.network == self.network and self.network]
        if self.network == _VIRTUAL_NETWORK:
            return {each for each in near if not self._is_virtual_socket(each)}
        own = {each for each in near if each.port in _OWN}
        others = [each for each in near if each not in own]
        gone = {each for each in own if _OWN.get(each.port) not in (None, each.key)}
        for start in range(0, len(others), _PROBED_AT_ONCE):
            gone |= _refusing(others[start : start + _PROBED_AT_ONCE])
        return gone

    def _is_virtual_socket(self, address: Address) -> bool:
        found = (self._virtual or {}).get(address.port)
        return found is not None and found.key == address.key and found.address is not None

    def close(self) -> None:
        """Close the socket, which receives no more wake-ups."""
        if self._virtual is not None:
            self.address = None
        if self._socket is not None:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
            if self._own is not None:
                _OWN.pop(self._own, None)
            self._own = self.address = None
