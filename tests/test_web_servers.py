"""Tests of the web applications in docs/examples: what becomes of the server when their workers fail."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.utils import LifespanFailureError
from trio_tasks import CustomBackend, Monitor, Queues, Worker

pytestmark = pytest.mark.once


async def ignore(args: object) -> None: ...


@pytest.mark.parametrize("name", ["starlette_shop", "quart_shop"])
async def test_the_server_ends_with_the_failure_of_the_workers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hypercorn logs other errors of a lifespan, and goes on serving an application without workers."""
    fail = trio.Event()

    async def receive() -> Any:
        await fail.wait()
        raise OSError("the disk is gone")

    def monitor_with_a_failing_worker(queues: Queues, *args: Any, **options: Any) -> Monitor:
        monitor = make_monitor(queues, *args, **options)
        monitor.register(Worker("failing", CustomBackend(receive=receive), ignore))
        return monitor

    make_monitor = Queues.monitor
    monkeypatch.setattr(Queues, "monitor", monitor_with_a_failing_worker)
    monkeypatch.chdir(tmp_path)
    app: Any = importlib.import_module(f"docs.examples.{name}").app
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    with pytest.RaisesGroup(LifespanFailureError, flatten_subgroups=True), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, config, shutdown_trigger=trio.sleep_forever))
            fail.set()
