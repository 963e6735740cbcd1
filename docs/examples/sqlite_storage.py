"""Two queues in one SQLite file, and what is there when the program comes back."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio_tasks import SqliteStorage, Status, Worker


@dataclass
class Email:
    to: str
    subject: str


async def send(email: Email) -> str:
    return f"{email.subject!r} has gone to {email.to}"


async def first_run() -> str:
    async with SqliteStorage("tasks.db", Email, queue="emails", result_type=str) as emails:
        numbers = emails.share(int, queue="numbers", keep_results=0)  # over the same connection
        await numbers.push_bulk(range(10))
        ada = await emails.push(Email("ada@example.com", "hello"), priority=5)
        await emails.push(Email("bob@example.com", "tomorrow"), delay=86400)
        print(emails, await emails.list_queues())
        return ada  # no worker ran: all of it stays in the file


async def second_run(ada: str) -> None:
    async with SqliteStorage("tasks.db", Email, queue="emails", result_type=str) as emails:
        numbers = await emails.metrics()
        print(f"{numbers['waiting']} waiting, {numbers['delayed']} delayed, {numbers['running']} running")
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("postman", emails, send).run)
            print((await emails.wait_for(ada)).unwrap())
            context.stop()
        for task in await emails.list_tasks(Status.Pending):
            print("still to come:", task.args)


if __name__ == "__main__":
    trio.run(second_run, trio.run(first_run))
