"""The first version of a program with tasks: it pushes one of each kind to the store named by its argument."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from trio_tasks import Router

tasks = Router()


@tasks.task
async def greet(name: str) -> str:
    """It is renamed later."""
    return name


@tasks.task(attempts=3)
def resize(file: str, quality: int = 80) -> None:
    """Its arguments change later."""


@tasks.task
def report(day: str, shout: bool = False) -> None:
    """It loses a parameter later, without a new version."""


@tasks.task
def gain(day: str) -> None:
    """It gains a parameter later."""


@tasks.task
def gone(path: Path) -> None:
    """It is not there later."""


@tasks.task
def broken(n: int) -> None:
    """Its upgrade fails later."""


async def main(url: str) -> None:
    async with tasks.open(url) as queues:
        await queues.push(greet.bind("ada"), id="greet")
        await queues.push(resize.bind("/a.png", quality=5), id="resize")
        await queues.push(report.bind("monday", shout=True), id="report")
        await queues.push(report.bind("tuesday"), id="report without")
        await queues.push(gain.bind("monday"), id="gain")
        await queues.push(gone.bind(Path("/a")), id="gone", attempts=1)
        await queues.push(broken.bind(5), id="broken")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
