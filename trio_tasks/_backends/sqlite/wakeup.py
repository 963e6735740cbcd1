"""Wake-ups: datagrams on the loopback interface between processes that share a file.

Each process has a socket. Its port stands in the shared store with a key; a datagram without the key is dropped. A
datagram that gets lost (another network namespace, a full buffer) is made up for by polling now and then.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import closing
from typing import TYPE_CHECKING, final

import trio

from ..._concurrency.threads import pause_instead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ASKS = b"?"
"""Behind the key: the states of workers are asked for."""
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
_OWN: set[str] = set()
"""The addresses of this process."""


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
    """

    def __init__(self) -> None:
        self._virtual: dict[str, WakeupSocket] | None = None  # all sockets of a run in virtual time, by address
        self._woken = trio.Event()
        self._is_asked = False
        self.key = secrets.token_bytes(KEY_SIZE)
        self.address: str | None = None
        self._own: str | None = None  # the address, even where it is not stored for others
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Open the socket, which receives wake-ups from now on."""
        if pause_instead() is not None:  # the order in which datagrams arrive is random, too
            self._virtual = _virtual_sockets()
            self.address = f"here {len(self._virtual)}"
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
            _OWN.add(self._own)
        except OSError:  # a sandbox without a network: polling must do
            self.close()

    def send(self, others: Iterable[tuple[str, bytes]], *, asks: bool = False) -> None:
        """Send a wake-up to each of these addresses, with its key; may be called in any thread. With ``asks``, it asks
        for the states of the workers there."""
        for address, key in others:
            if self._virtual is not None and address in self._virtual:
                self._virtual[address]._is_asked |= asks
                self._virtual[address]._woken.set()
            try:
                if self._socket is not None and len(key) == KEY_SIZE:
                    self._socket.sendto(key + _ASKS if asks else key, (_LOOPBACK, int(address)))
            except (OSError, ValueError, TypeError, OverflowError):  # it may be gone, or was never one of ours
                continue

    async def listen(  # noqa: ASYNC910  a closed socket receives nothing
        self, on_wakeup: Callable[[], None], on_asked: Callable[[], None] = lambda: None
    ) -> None:
        """Call ``on_wakeup`` for each wake-up, and ``on_asked`` when the states of workers are asked for, until
        cancelled."""
        while self._virtual is not None:
            await self._woken.wait()
            self._woken = trio.Event()
            on_wakeup()
            if self._is_asked:
                self._is_asked = False
                on_asked()
            await trio.sleep(_APART)
        if self._socket is None:
            await trio.sleep_forever()
        pause = _APART
        while self._socket is not None:
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                return  # noqa: ASYNC910  a closed socket receives nothing
            is_received = self._received()
            if self._is_asked:
                self._is_asked = False
                on_asked()
            if is_received:
                on_wakeup()
                pause = _APART
            else:
                pause = min(2 * pause, _LONGEST_PAUSE)  # a flood of datagrams must not keep the loop busy
            await trio.sleep(pause)

    def _received(self) -> bool:
        is_received = False
        for _ in range(_AT_ONCE):
            if self._socket is None:
                break
            try:
                received = self._socket.recv(64)
                is_received = received == self.key or is_received
                self._is_asked = received == self.key + _ASKS or self._is_asked
            except ConnectionResetError:  # Windows says here that a socket to which we have sent is gone
                continue
            except OSError:  # no more datagrams
                break
        return is_received

    def close(self) -> None:
        """Close the socket, which receives no more wake-ups."""
        if self._socket is not None:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
            if self._own is not None:
                _OWN.discard(self._own)
            self._own = self.address = None
