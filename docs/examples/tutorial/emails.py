"""Emails as tasks in an SQLite file: push some, and work until none is left. Usage: python emails.py ADDRESS ..."""

import sys
from dataclasses import dataclass

import trio
from trio_tasks import SqliteStorage, Worker


@dataclass
class Email:
    to: str
    subject: str


async def send_email(email: Email) -> None:
    await trio.sleep(0.5)  # a mail server takes its time
    print(f"{email.subject!r} was sent to {email.to}")


async def main(addresses: list[str]) -> None:
    async with SqliteStorage("emails.db", Email) as storage:
        for address in addresses:
            await storage.push(Email(address, "Welcome"), attempts=3)
        storage.close()  # nothing more is pushed: the worker returns when the queue is empty
        await Worker("emails", storage, send_email).run()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
