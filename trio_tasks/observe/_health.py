"""A web application that says whether the program lives, whether it can receive tasks, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, final

import trio

from ._snapshot import SnapshotReader

if TYPE_CHECKING:
    from .. import Monitor
    from ._snapshot import QueueSnapshot

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TIMEOUT = 1.0
"""Seconds in which a storage has to answer."""


class _Response(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"


def health(monitor: Monitor, queues: object) -> Health:
    """Make an ASGI application with ``/live``, ``/ready`` and ``/metrics``, to be served in the same trio run.

    >>> nursery.start_soon(hypercorn.trio.serve, health(monitor, queues), config)

    * ``/live`` is 200 as long as the event loop turns. Where it is stuck there is no answer.
    * ``/ready`` is 200 if the program can receive tasks: each worker of the monitor has an open intake, and each
      storage has answered within a second; else 503. A paused worker or queue counts as ready, and the answer says so,
      as it does of a worker whose layer holds it back. A program that is being shut down is not ready.
    * ``/metrics`` is the text that Prometheus reads; see :class:`Collector`. It needs ``trio_tasks[prometheus]``.

    Args:
      monitor: the monitor of the workers.
      queues: the queues of a router, a storage, or a list of storages.

    Raises:
      TypeError: an argument is of the wrong type.
    """
    if monitor is None:
        raise TypeError("health needs the monitor of the workers")
    return Health(SnapshotReader(monitor, queues, _TIMEOUT), monitor, queues)


@final
class Health:
    """The application that :func:`health` makes."""

    def __init__(self, reader: SnapshotReader, monitor: Monitor, queues: object) -> None:
        self._reader = reader
        self._monitor = monitor
        self._queues = queues
        self._collector: Any = None
        self._registry: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await _live_through(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this application has no {scope['type']}")
        answer = await self._answer(scope)
        headers = [(b"content-type", answer.kind.encode()), (b"content-length", str(len(answer.body)).encode())]
        headers.append((b"cache-control", b"no-store"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    async def _answer(self, scope: Scope) -> _Response:
        pages = {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics}
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", ""))) or "/"
        await trio.lowlevel.checkpoint()
        if path not in pages:
            return _Response(404, _as_json({"error": f"there is {', '.join(pages)}"}))
        if scope["method"] not in ("GET", "HEAD"):
            return _Response(405, _as_json({"error": "GET or HEAD it"}))
        return await pages[path]()

    async def _live(self) -> _Response:
        await trio.lowlevel.checkpoint()
        return _Response(200, _as_json({"live": True}))

    async def _ready(self) -> _Response:
        queues, workers = await self._reader.read_queues(), self._reader.workers()
        closed = [each.statistics.name for each in workers if each.intake == "closed"]
        silent = [each.queue for each in queues if not each.is_up]
        is_ready = bool(self._monitor.is_running and workers and not closed and not silent)
        report = {
            "ready": is_ready and not self._monitor.is_shutting_down,
            "shutting_down": self._monitor.is_shutting_down,
            "workers": {each.statistics.name: each.intake for each in workers},
            "queues": {
                each.queue: "no answer" if not each.is_up else "paused" if _is_paused(each) else "open"
                for each in queues
            },
        }
        return _Response(200 if report["ready"] else 503, _as_json(report))

    async def _metrics(self) -> _Response:
        try:
            from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

            from ._prometheus import Collector
        except ModuleNotFoundError as error:
            await trio.lowlevel.checkpoint()
            return _Response(501, _as_json({"error": f"{error}: pip install 'trio_tasks[prometheus]'"}))
        if self._collector is None:
            self._collector, self._registry = Collector(self._monitor, self._queues), CollectorRegistry()
            self._collector.prometheus(self._registry)
        await self._collector.read()
        return _Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)

    def __repr__(self) -> str:
        return f"<Health of {self._monitor!r}>"


def _is_paused(queue: QueueSnapshot) -> bool:
    return queue.metrics is not None and queue.metrics["is_paused"]


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


async def _live_through(receive: Receive, send: Send) -> None:
    """Take part in the start and the end of the server, where there is nothing to do."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
