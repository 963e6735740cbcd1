"""The option ``run --health``: an address, and the application of :mod:`trio_tasks.observe`, served by hypercorn."""

from __future__ import annotations

import importlib
import re
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

import click
import trio

from ..abc import Metrics
from .output import CommandError, ExitStatus, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import Monitor, Queues

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[\w.-]*)):(?P<port>\d{1,5})", re.ASCII)
_LARGEST_PORT = 65_535
_PATIENCE = 0.5
"""Seconds that requests under way may take when the program ends."""


class Address(NamedTuple):
    """A place to listen on; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def of_process(self, index: int) -> Address:
        """Return the address of one of several processes, counted from 0: each has the next port."""
        return self._replace(port=self.port + index) if index else self

    def check_ports(self, processes: int) -> None:
        """Raise if there are not enough ports for so many processes, or they would not be known."""
        if processes > 1 and self.port == 0:
            raise click.BadParameter(f"{processes} processes need a port that is known: each has the next one, not any")
        if self.port + processes - 1 > _LARGEST_PORT:
            raise click.BadParameter(f"{processes} processes need the ports from {self.port} on: there are not so many")


def address(text: str) -> Address:
    """Return an address, from ``127.0.0.1:9000``, ``[::1]:9000``, or ``:9000`` for all interfaces."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or int(found["port"]) > _LARGEST_PORT:
        raise click.BadParameter(
            f"{printable(text)!r} is not HOST:PORT, such as 127.0.0.1:9000, or :9000 for all hosts"
        )
    return Address(found["v6"] or found["host"] or "0.0.0.0", int(found["port"]))


@final
class HealthServer:
    """A socket that listens, and the server that answers there as long as a program runs.

    Args:
      address: where to listen.

    Raises:
      CommandError: hypercorn is not installed, or one cannot listen there.
    """

    def __init__(self, address: Address) -> None:
        try:
            self._serve: Any = importlib.import_module("hypercorn.trio").serve
            self._config: Any = importlib.import_module("hypercorn.config").Config()
        except ModuleNotFoundError as error:
            told = f"--health needs {error.name}: pip install 'trio_tasks[health]'"
            raise CommandError(told, ExitStatus.USAGE) from None
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server((address.host, address.port), family=family)
        except (OSError, UnicodeError) as error:
            told = f"--health cannot listen on {address}: {printable(str(error))}"
            raise CommandError(told, ExitStatus.USAGE) from None
        self.address = address._replace(port=self._socket.getsockname()[1])

    def close(self) -> None:
        """Listen no more, without having served."""
        self._socket.close()

    async def serve(
        self, monitor: Monitor, queues: Queues | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer requests about a monitor until it is cancelled."""
        from ..observe import health

        self._config.bind = [f"fd://{self._socket.detach()}"]
        self._config.errorlog = None
        self._config.graceful_timeout = _PATIENCE
        application = health(monitor, queues) if queues is not None else _Application(monitor)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(self._serve, application, self._config))
            task_status.started()


@final
class _Application:
    """The health of a monitor whose storages are known by its workers alone, which it may get and lose as it runs."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._storages: Sequence[Metrics] | None = None
        self._health: Any

    async def __call__(self, *request: Any) -> None:
        """Answer a request."""
        from ..observe import health

        backends = [getattr(each.recipe, "backend", None) for each in self._monitor.workers]
        by_queue = {str(getattr(each, "queue", "default")): each for each in backends if isinstance(each, Metrics)}
        storages = [*by_queue.values()]  # two workers may have one, or each its own handle to a queue
        if storages != self._storages:
            self._storages, self._health = storages, health(self._monitor, storages)
        await self._health(*request)
