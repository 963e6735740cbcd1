"""Two processes and one file: one pushes a task, follows its progress and aborts it; the other one works."""

from __future__ import annotations

import sys

import trio
from trio_tasks import Data, SqliteStorage, Task, TaskId, Worker


async def convert(task: Task[str], storage: Data[SqliteStorage[str]]) -> None:
    for page in range(1, 1001):
        await storage.report_progress(task, {"page": page, "of": 1000})
        await trio.sleep(0.02)


async def work() -> None:
    async with SqliteStorage("books.db", str, driver="apsw") as storage:
        storage.close()  # this process pushes nothing: it ends when the queue is empty
        await Worker("converter", storage, convert, data=[storage]).run()


async def follow(storage: SqliteStorage[str], book: TaskId) -> None:
    progress = await storage.progress_of(book)  # None, until something was reported
    while progress is None or progress["page"] < 3:
        await trio.sleep(0.05)
        progress = await storage.progress_of(book)
    print("three pages or more, of", progress["of"])


async def main() -> None:
    async with SqliteStorage("books.db", str, driver="apsw") as storage, trio.open_nursery() as nursery:
        book = await storage.push("middlemarch.txt")
        nursery.start_soon(trio.run_process, [sys.executable, __file__, "work"])
        await follow(storage, book)
        print("workers:", await storage.list_workers())
        print("told to end:", await storage.abort(book))
        result = await storage.wait_for(book)
        print(result.status, repr(result.error))


if __name__ == "__main__":
    trio.run(work if sys.argv[1:] == ["work"] else main)
