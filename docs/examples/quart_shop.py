"""A quart-trio application whose nursery runs workers: hypercorn --worker-class trio quart_shop:app serves it."""

from __future__ import annotations

from functools import partial

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # hypercorn's types are not complete
from hypercorn.utils import LifespanFailureError
from quart import request
from quart_trio import QuartTrio
from trio_tasks import Queues, Router

tasks = Router()
mailing = trio.Event()


@tasks.task
async def mail_receipt(order: int, email: str) -> None:
    mailing.set()
    await trio.sleep(0.2)
    print(f"mailed the receipt of order {order} to {email}")


class Workers:
    """The queues of the application, and their workers, from before its first request to after its last one."""

    queues: Queues

    def __init__(self) -> None:
        self._stop = trio.Event()
        self._have_ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with tasks.open("sqlite:///shop.db") as self.queues:
                async with self.queues.monitor({"default": 4}, shutdown_timeout=20) as monitor:
                    task_status.started()
                    await self._stop.wait()
                    monitor.shutdown()
                print(f"{len(monitor.report.interrupted)} tasks were interrupted")
        except Exception as error:  # any other error is logged, and the application goes on without workers
            raise LifespanFailureError("workers", "they have failed") from error
        finally:
            self._have_ended.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._have_ended.wait()


app = QuartTrio(__name__)
app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 25  # more than the shutdown_timeout of the monitor
workers = Workers()


@app.before_serving
async def start() -> None:
    await app.nursery.start(workers.run)


@app.after_serving
async def stop() -> None:
    await workers.stop()


@app.post("/orders")
async def take_order() -> tuple[dict[str, str], int]:
    order = await request.get_json()
    task_id = await workers.queues.push(mail_receipt.bind(order["number"], order["email"]))
    return {"task": task_id}, 202


async def main() -> None:
    """Serve the application, order something, and stop serving while the receipt is being mailed."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None  # an example prints the same each time
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        async with httpx2.AsyncClient(base_url=address) as client:
            response = await client.post("/orders", json={"number": 7, "email": "ada@example.com"})
        print(response.status_code, *response.json())
        await mailing.wait()
        stop.set()  # as SIGTERM does, where hypercorn was started by its command


if __name__ == "__main__":
    trio.run(main)
