"""A web application that says whether the program lives, whether it can receive tasks, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final

import trio

from .._logging import log_and_suppress
from ._collector import Collector

if TYPE_CHECKING:
    from .. import Monitor, Schedules
    from ._snapshot import QueueSnapshot

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STUCK = 5.0
"""Seconds after which an event loop in which nothing runs is stuck."""
_PATIENCE = 1.5
"""Seconds for which a page waits for the event loop of the program, beside the second that storages have."""


class _Response(NamedTuple):
    status: int
    body: bytes
    kind: str = "application/json"


def health(monitor: Monitor, queues: object, *, schedules: Schedules | None = None) -> Health:
    """Make an ASGI application with ``/live``, ``/ready`` and ``/metrics``, inside the trio run of the program.

    >>> nursery.start_soon(hypercorn.trio.serve, health(monitor, queues), config)

    * ``/live`` is 200 as long as the event loop turns. Served in the same run, it does not answer while the loop is
      stuck. Served in a run of its own, in another thread, it is 503 then, after five seconds.
    * ``/ready`` is 200 if the program can receive tasks: each worker of the monitor has an open intake, none waits for
      its restart, and each storage has answered within a second; else 503. A paused worker or queue counts as ready,
      and so does a worker all of whose slots are taken, or which a layer holds back; the answer says which. A program
      that is being shut down is not ready. Workers that another monitor runs, or none, are not looked at.
    * ``/metrics`` is the text that Prometheus reads; see :class:`Collector`. It needs ``trio_tasks[prometheus]``.

    Args:
      monitor: the monitor of the workers.
      queues: the queues of a router, a storage, or a list of storages.
      schedules: the schedules that the program fires. Default: those of the queues of a router.

    Raises:
      TypeError: an argument is of the wrong type.
      ValueError: two of the storages are of the same queue.
    """
    if monitor is None:
        raise TypeError("health needs the monitor of the workers")
    return Health(Collector(monitor, queues, schedules=schedules), monitor)


@final
class Health:
    """The application that :func:`health` makes."""

    def __init__(self, collector: Collector, monitor: Monitor) -> None:
        self._collector = collector
        self._monitor = monitor
        self._registry: Any = None
        self._token = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None

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

    async def _in_program(self, async_fn: Callable[[], Awaitable[T]], seconds: float) -> T | None:
        """Call a function in the trio run of the program; return None if it takes longer, or that run is over.

        In the run of the program itself, there is no limit: where that is stuck, no time-out comes either.
        """
        here = trio.lowlevel.current_trio_token()
        if self._token is None:
            self._token = here
        if here is self._token:
            return await async_fn()
        results: list[T] = []
        done = trio.Event()

        async def call() -> None:
            with log_and_suppress("a page of health failed"):
                results.append(await async_fn())
            with suppress(trio.RunFinishedError):  # the run in which it was asked is over
                here.run_sync_soon(done.set)

        with suppress(trio.RunFinishedError), trio.move_on_after(seconds):
            self._token.run_sync_soon(trio.lowlevel.spawn_system_task, call)
            await done.wait()
        await trio.lowlevel.checkpoint()
        return results[0] if results else None

    async def _live(self) -> _Response:
        turned = await self._in_program(_turn, _STUCK)
        return _Response(200 if turned else 503, _as_json({"live": bool(turned)}))

    async def _ready(self) -> _Response:
        found = await self._in_program(self._report, _PATIENCE)
        return found or _Response(503, _as_json({"ready": False, "error": "the event loop of the program is stuck"}))

    async def _report(self) -> _Response:
        reader = self._collector.reader
        queues, workers = await reader.read_queues(), reader.workers()
        closed = [each.statistics.name for each in workers if each.intake == "closed"]
        silent = [each.queue for each in queues if not each.is_up]
        restarting = self._monitor.restarting
        is_ready = bool(self._monitor.is_running and workers and not closed and not restarting and not silent)
        report = {
            "ready": is_ready and not self._monitor.is_shutting_down,
            "shutting_down": self._monitor.is_shutting_down,
            "restarting": restarting,
            "workers": {each.statistics.name: each.intake for each in workers},
            "queues": {
                each.queue: "no answer" if not each.is_up else "paused" if _is_paused(each) else "open"
                for each in queues
            },
        }
        return _Response(200 if report["ready"] else 503, _as_json(report))

    async def _metrics(self) -> _Response:
        found = await self._in_program(self._scrape, _PATIENCE)
        return found or _Response(503, _as_json({"error": "the event loop of the program is stuck"}))

    async def _scrape(self) -> _Response:
        try:
            from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        except ModuleNotFoundError as error:
            await trio.lowlevel.checkpoint()
            return _Response(501, _as_json({"error": f"{error}: pip install 'trio_tasks[prometheus]'"}))
        if self._registry is None:
            self._registry = CollectorRegistry()
            self._collector.prometheus(self._registry)
        await self._collector.read()
        return _Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)

    def __repr__(self) -> str:
        return f"<Health of {self._monitor!r}>"


async def _turn() -> bool:
    await trio.lowlevel.checkpoint()
    return True


def _is_paused(queue: QueueSnapshot) -> bool:
    return queue.metrics is not None and queue.metrics["is_paused"]


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


async def _live_through(receive: Receive, send: Send) -> None:
    """Take part in the start and the end of the server, where there is nothing to do."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
