"""Push emails and leave the work to others. Usage: python push.py ADDRESS ..."""

import sys

import trio
from emails import Email
from trio_tasks import SqliteStorage


async def main(addresses: list[str]) -> None:
    async with SqliteStorage("emails.db", Email) as storage:
        ids = await storage.push_bulk([Email(address, "Hello again") for address in addresses])
        print(f"{len(ids)} pushed")


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
