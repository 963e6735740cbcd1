"""Two versions of a program on one file: a renamed task, changed arguments, and a task that only one of them knows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
import trio.lowlevel
from trio_tasks import Router

old = Router()


@old.task
async def greet(name: str) -> str:
    await trio.lowlevel.checkpoint()
    return f"hello {name}"


@old.task
def resize(file: str) -> str:
    return file


new = Router()


@new.task(name="welcome", aliases=["greet"])  # tasks that were stored as "greet" are run, too
async def welcome(name: str, language: str = "en") -> str:  # a parameter with a default needs no new version
    await trio.lowlevel.checkpoint()
    return f"welcome {name} ({language})"


@new.task(name="resize", version=2, upgrade={1: lambda args: {"path": args["file"], "width": 640}})
def resize_to(path: Path, width: int) -> str:
    return f"{path} {width}"


@new.task
async def invoice(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


async def main(folder: str) -> None:
    url = f"sqlite:///{folder}/tasks.db"
    async with old.open(url) as queues:
        greeting = await queues.push(greet.bind("Ada"))
        resizing = await queues.push(resize.bind("cat.mp4"))

    async with new.open(url) as queues:
        [worker] = queues.make_workers({"default": 4})
        await worker.run_until_idle()
        print(await welcome.result(queues, greeting))
        print(await resize_to.result(queues, resizing))
        number = await queues.push(invoice.bind(7))

    async with old.open(url) as queues:  # it does not know invoices, and leaves them alone
        [worker] = queues.make_workers({"default": 4}, log=None)
        await worker.run_until_idle()
        explanation = await queues.explain(number)
        print(explanation.kind, "-", explanation.reason)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, folder)
