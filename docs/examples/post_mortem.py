"""Dead letters that are kept: who tried what, and when; another chance, or none."""

from __future__ import annotations

from datetime import datetime, timezone

import trio
from trio_tasks import RetryPolicy, SqliteStorage, Status, StoredError, Task, Worker, constant

prices: dict[str, int] = {}


class UnknownIsbn(Exception):
    """Of this program, so that no other one knows it."""


async def look_up(isbn: str) -> int:
    if isbn == "no number":
        raise UnknownIsbn(isbn)
    return prices[isbn]


def show(task: Task[str]) -> None:
    kept = task.parts.context
    print(f"{task.args}: {task.parts.status.name}, {kept.error!r}")
    for past in kept.history:
        ended = datetime.fromtimestamp(past.ended_at, timezone.utc)
        assert ended.year > 2000
        print(f"  attempt {past.attempt} by {past.worker}: {past.became}, {past.error}")


async def main() -> None:
    async with SqliteStorage("books.db", str, result_type=int) as storage:
        ids = await storage.push_bulk(["0198", "no number", "0341"])
        worker = Worker("ann", storage, look_up, retry=RetryPolicy(attempts=2, backoff=constant(0)), concurrency=1)
        async with worker.stream():
            for each in ids:
                await storage.wait_for(each)
            for task in await storage.list_tasks(Status.Failed):
                show(task)

            unknown = await storage.fetch_by_id(ids[1])
            assert unknown is not None
            error = unknown.parts.context.error
            assert isinstance(error, StoredError)
            print("from:", error.traceback.splitlines()[-3].strip().partition(", ")[2])

            print("discarded:", await storage.discard(ids[1]))  # nothing will ever come of it
            prices["0198"] = 12
            print("resumed:", await storage.resume_by_id(ids[0]))  # with all of its attempts
            print("result:", (await storage.wait_for(ids[0])).unwrap())
            print("forgotten:", await storage.vacuum())


if __name__ == "__main__":
    trio.run(main)
