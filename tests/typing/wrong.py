"""Code that type checkers must refuse: each marked line is exactly one error, in mypy and in pyright.

A marker on a line that is no error is an error itself (``warn_unused_ignores``, and
``reportUnnecessaryTypeIgnoreComment``); so the checkers are the test. Never run.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from trio_tasks import (
    Attempt,
    Cron,
    Injected,
    MemoryStorage,
    Router,
    SqliteStorage,
    Task,
    Worker,
    WorkerBuilder,
    cron,
    every,
)
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


tasks = Router()


@tasks.task(queue="emails")
async def send_email(to: str, subject: str = "hello", *, attempt: Attempt = Injected) -> int:
    """An async function of a router."""
    return len(to)


@tasks.task
def resize(path: Path, width: int) -> str:
    """A sync one."""
    return str(path)


async def named_tasks_refused() -> None:
    """One error each."""
    tasks.task(attemps=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no such option
    tasks.task(timeout="long")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # not a number
    tasks.task(process="yes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # not a bool
    send_email.bind(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another type
    send_email.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # one is missing
    send_email.bind("a", subjekt="hi")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a misspelt name
    resize.bind("a", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a text for a path
    resize.bind(Path("a"), 3, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # too many
    await resize(Path("a"), 3)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # it is sync
    await send_email("a", attempt="first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not an attempt
    async with tasks.open("sqlite:///tasks.db") as queues:
        await queues.push(send_email)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the function itself
        await queues.push("send_email")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no call
        await queues.push(send_email.bind("a"), dealy=3.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no such option
        sync_of_str(await send_email.result(queues, "id"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the result is an int
        sync_of_str(await queues.call(send_email.bind("a")))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is an int, too
        queues.make_workers({"emails": "8"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # not a number
        queues.monitor({"emails": 8}, shutdown_timeout="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number


async def in_ten_minutes(day: date) -> bool:
    """No calendar: it is async."""
    return True


async def schedules_refused() -> None:
    """One error each."""
    call, times = send_email.bind("a"), every(minutes=5)
    every(minutes="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
    every(weeks=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no such unit
    cron("0 3 * * *")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the zone is missing
    cron("0 3 * * *", zone=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no zone
    cron("0 3 * * *", zone="UTC").on(True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no function
    cron("0 3 * * *", zone="UTC").on(in_ten_minutes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is async
    Cron(5, zone="UTC")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no times
    Worker("w", Cron("0 3 * * *", zone="UTC"), of_int)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]  # a handler of other args
    tasks.schedule("name", call, "0 3 * * *")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no times, but a text
    tasks.schedule("name", send_email, times)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the function itself
    tasks.schedule("name", call, times, missed="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such policy
    tasks.schedule("name", call, times, jiter=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a misspelt name
    tasks.schedule("name", call, times, attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
    async with tasks.open("sqlite:///tasks.db") as queues:
        schedules = queues.schedules
        await schedules.put("name", call)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the times are missing
        await schedules.put("name", call, times, overlap=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such policy
        await schedules.put("name", call, times, within="long")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
        await schedules.put("name", call, times, atempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a misspelt name
        schedules.declare("name", call, times, limit="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
        await schedules.pause(call)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the times are missing


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
