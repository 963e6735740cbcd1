"""Code that type checkers must refuse: each marked line is exactly one error, in mypy and in pyright.

A marker on a line that is no error is an error itself (``warn_unused_ignores``, and
``reportUnnecessaryTypeIgnoreComment``); so the checkers are the test. Never run.
"""

from __future__ import annotations

from trio_tasks import MemoryStorage, SqliteStorage, Task, Worker, WorkerBuilder
from trio_tasks.abc import Handler


async def of_int(n: int) -> str:
    """For a storage of ints."""
    return str(n)


async def of_str(text: str) -> str:
    """For a storage of strings."""
    return text


async def of_task_of_str(task: Task[str]) -> str:
    """For a storage of strings."""
    return task.args


def sync_of_str(text: str) -> str:
    """For a storage of strings."""
    return text


async def layer_to_bytes(handler: Handler[int, str], task: Task[int]) -> bytes:
    """A layer whose result is not the handler's."""
    return (await handler(task)).encode()


async def refused() -> None:
    """One error each."""
    storage = MemoryStorage[int]()
    Worker("w", storage, of_str)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  # a handler of other args
    Worker("w", storage, of_task_of_str)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  # of other tasks
    Worker("w", storage, sync_of_str)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  # of other args
    Worker("w", storage, of_int, layers=[layer_to_bytes])  # type: ignore[arg-type, misc]  # pyright: ignore[reportCallIssue, reportArgumentType]  # a layer of another result
    WorkerBuilder("w").backend(storage).build(of_str)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  # of other args
    await storage.push("21")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # args of another type
    await storage.push(21, delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
    await storage.push(21, dealy=3.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no such option
    await storage.push_task(Task("21"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another task
    await storage.push_bulk(["21"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # other args
    await of_str((await storage.wait_for("id", int)).unwrap())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an int
    await storage.wait_for("id", 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # no type
    SqliteStorage("tasks.db", int, lase=5.0)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no such option
