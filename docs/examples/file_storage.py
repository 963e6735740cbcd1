"""Tasks in a journal file, for one process: they are there when it is started again."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio_tasks import FileStorage, Worker


@dataclass
class Email:
    to: str


async def send(email: Email) -> None:
    print("sent to", email.to)


async def main() -> None:
    async with FileStorage("tasks.journal", Email, queue="emails") as storage:
        await storage.push(Email(to="a@example.com"))
        numbers = await storage.metrics()
        print(f"{numbers['waiting']} waiting, {numbers['running']} running")
    async with FileStorage("tasks.journal", Email, queue="emails") as storage:
        storage.close()  # nothing more is pushed: the worker ends when all is done
        await Worker("emails", storage, send).run()


trio.run(main)
