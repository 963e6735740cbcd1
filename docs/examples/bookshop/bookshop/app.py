"""The whole shop in one process: `trio-tasks run bookshop.app:main`."""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.routing import Mount
from trio_tasks import Monitor
from trio_tasks.observe import health

from .database import URL, make_tables
from .tasks import tasks
from .web import routes

config = Config()
config.bind = [f"127.0.0.1:{os.environ.get('PORT', '8000')}"]
config.graceful_timeout = 20
config.errorlog = logging.getLogger("hypercorn")


@asynccontextmanager
async def main() -> AsyncGenerator[Monitor, None]:
    async with tasks.open(URL) as queues, trio.open_nursery() as nursery:
        await trio.to_thread.run_sync(make_tables)
        monitor = queues.monitor(
            {"default": 4, "mails": 16, "reports": 1}, shutdown_timeout=20
        )  # fires the schedules too
        web: Any = Starlette(routes=[*routes, Mount("/", health(monitor, queues))])  # /live, /ready, /metrics
        web.state.queues = queues
        stopping = trio.Event()
        await nursery.start(partial(serve, web, config, shutdown_trigger=stopping.wait))
        yield monitor  # `trio-tasks run` runs it until Ctrl-C or SIGTERM: then /ready says no, and running tasks end
        stopping.set()  # after the workers the server ends, when it has answered what it was asked
