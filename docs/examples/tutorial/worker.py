"""Send emails until Ctrl-C or SIGTERM. Usage: python worker.py NAME"""

import sys

import trio
from emails import Email, send_email
from trio_tasks import Monitor, SqliteStorage, Worker


async def main(name: str) -> None:
    async with SqliteStorage("emails.db", Email, lease=5.0) as storage:
        monitor = Monitor(shutdown_timeout=10)
        monitor.register(Worker(name, storage, send_email, concurrency=4))
        print(f"{name} works")
        print(await monitor.run_with_signal())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
