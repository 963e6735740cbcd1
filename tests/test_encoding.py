"""Tests of MemoryStorage with a type or codec, which checks values as stored storages do, and without."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    EncodeError,
    Failed,
    FileStorage,
    JsonCodec,
    MemoryStorage,
    Retried,
    SqliteStorage,
    Status,
    Succeeded,
    Task,
    UnsettledError,
    Worker,
)

ROOT = Path(__file__).parents[1]


@dataclass
class Mail:
    to: str
    copies: list[str]


@dataclass
class Receipt:
    number: int


Opened = AbstractAsyncContextManager[Any]


@asynccontextmanager
async def in_memory(type: Any, **options: Any) -> AsyncGenerator[Any, None]:
    yield MemoryStorage[Any](type=type, **options)


STORAGES: dict[str, Callable[..., Opened]] = {
    "memory": in_memory,
    "shared": lambda type, **options: MemoryStorage[Any]().share(type, queue="mail", **options),
    "file": FileStorage.temporary,
    "sqlite": lambda type, **options: SqliteStorage(options.pop("directory") / "tasks.db", type, **options),
}


@pytest.fixture(params=STORAGES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Opened]:
    """Opens a storage of each kind."""
    where = {"directory": tmp_path} if request.param == "sqlite" else {}
    return lambda type, **options: STORAGES[request.param](type, **where, **options)


WRONG: list[tuple[Any, dict[str, Any]]] = [
    (Mail("a", [1]), {}),  # type: ignore[list-item]  # which is what is wrong
    (Receipt(1), {}),
    ("a@example.com", {}),
    (Mail("a", []), {"metadata": {"key": object()}}),
    (Mail("a", []), {"priority": 2**63}),
    (Mail("a", []), {"unique": "\ud800"}),
    (Mail("a", []), {"id": "\ud800"}),
]


@pytest.mark.parametrize(
    ("args", "options"), WRONG, ids=["item", "class", "text", "metadata", "priority", "unique", "id"]
)
async def test_what_a_stored_queue_refuses_is_refused(
    opened: Callable[..., Opened], args: Any, options: dict[str, Any]
) -> None:
    async with opened(Mail) as storage:
        with pytest.raises((TypeError, ValueError)):
            await storage.push(args, **options)
        with pytest.raises((TypeError, ValueError)):
            await storage.push_bulk([Mail("first", []), args], **{"metadata": {"a": {1, 2}}, **options})
        assert await storage.list_tasks() == []


async def test_each_attempt_is_given_a_value_of_its_own(opened: Callable[..., Opened]) -> None:
    async with opened(Mail) as storage:
        pushed = Mail("a", ["b"])
        task_id = await storage.push(pushed, metadata={"note": ["kept"]})
        pushed.copies.append("changed later")
        for attempt in (1, 2):
            task = await storage.receive()
            assert (task.args, task.parts.attempt) == (Mail("a", ["b"]), attempt)
            assert dict(task.parts.metadata) == {"note": ["kept"]}
            task.args.copies.append("changed by the handler")
            await storage.settle(task, Retried(ValueError("again")))
        found = await storage.fetch_by_id(task_id)
        assert found.args == Mail("a", ["b"])
        assert [each.args for each in await storage.list_tasks(Status.Pending)] == [Mail("a", ["b"])]
        await storage.update(Task(Mail("c", []), found.parts))
        assert (await storage.receive()).args == Mail("c", [])


async def test_results_are_checked_and_come_back_by_their_type(opened: Callable[..., Opened]) -> None:
    async with opened(int, result_type=Receipt) as storage:
        ids = await storage.push_bulk(range(3))
        first, second, third = [await storage.receive() for _ in ids]
        receipt = Receipt(7)
        await storage.settle(first, Succeeded(receipt))
        result = await storage.wait_for(ids[0])
        assert (result.result, result.result is receipt) == (receipt, False)
        found = await storage.fetch_by_id(ids[0])
        assert found.parts.context.result == receipt
        with pytest.raises(UnsettledError):
            await storage.settle(second, Succeeded("no receipt"))
        await storage.settle(second, Failed(ValueError("no")))
        await storage.settle(third, Succeeded(None))
        assert (await storage.wait_for(ids[2])).result is None


async def test_a_worker_fails_a_task_whose_result_cannot_be_stored(opened: Callable[..., Opened]) -> None:
    async def handle(number: int) -> Any:
        return object() if number else number

    async with opened(int) as storage:
        ids = await storage.push_bulk(range(2))
        storage.close()
        await Worker("w", storage, handle).run()
        assert [(await storage.wait_for(each)).status for each in ids] == [Status.Done, Status.Failed]


async def test_progress_is_plain(opened: Callable[..., Opened]) -> None:
    async with opened(int) as storage:
        task_id = await storage.push(1)
        task = await storage.receive()
        with pytest.raises(EncodeError, match=r"progress|args"):
            await storage.report_progress(task, object())
        done = [1]
        await storage.report_progress(task, {"done": done})
        done.append(2)
        assert await storage.progress_of(task_id) == {"done": [1]}


async def test_another_codec_is_used(opened: Callable[..., Opened]) -> None:
    async with opened(Mail, codec=JsonCodec) as storage:
        await storage.push(Mail("a", []))
        assert (await storage.receive()).args == Mail("a", [])
        with pytest.raises(EncodeError):
            await storage.push(Mail("a", [b"bytes"]))  # type: ignore[list-item]  # which is what is wrong


async def test_what_waits_for_room_is_checked_first(autojump_clock: MockClock) -> None:
    storage = MemoryStorage(1, type=Mail)
    await storage.push(Mail("a", []))
    with pytest.raises(EncodeError):
        await storage.push(5)  # type: ignore[arg-type]  # which is what is wrong
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.push, Mail("b", []))
        await trio.sleep(1)
        assert (await storage.receive()).args == Mail("a", [])
    received: list[Any] = []

    async def receive() -> None:
        received.append((await storage.receive()).args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await trio.sleep(1)
        await storage.push(Mail("c", []))
    assert sorted(each.to for each in received) == ["b", "c"]


class Unreadable:
    """A codec that cannot decode."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode(self, value: Any) -> bytes:
        return b"payload"

    def decode(self, payload: bytes) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")], ids=repr)
async def test_what_cannot_be_decoded_is_unfit(error: BaseException) -> None:
    storage = MemoryStorage[Any](codec=Unreadable(error))
    await storage.push(1)
    task = await storage.receive()
    assert (task.args, task.parts.unfit) == (b"payload", error)
    await storage.settle(task, Failed(ValueError("unfit")))
    [dead] = await storage.list_tasks(Status.Failed)
    assert (dead.args, dead.parts.unfit) == (b"payload", error)


async def test_an_interrupted_decoding_gives_the_task_back() -> None:
    codec = Unreadable(KeyboardInterrupt())
    storage = MemoryStorage[Any](codec=codec)
    await storage.push(1)
    with pytest.raises(KeyboardInterrupt):
        storage.receive_nowait()
    assert (storage.statistics().waiting, storage.statistics().running) == (1, 0)


async def test_a_shared_queue_has_the_options_of_its_neighbour() -> None:
    storage = MemoryStorage(type=Mail, codec=JsonCodec, max_buffer_size=1)
    numbers = storage.share(int, queue="numbers")
    with pytest.raises(EncodeError):
        await numbers.push("1")  # type: ignore[arg-type]  # which is what is wrong
    numbers.push_nowait(1)
    with pytest.raises(trio.WouldBlock):
        numbers.push_nowait(2)
    anything = storage.share(queue="anything")
    with pytest.raises(EncodeError):
        await anything.push(object())


async def test_the_terms_and_the_moment_are_kept() -> None:
    storage = MemoryStorage(type=int)
    moment = datetime.now(timezone.utc) + timedelta(hours=1)
    task_id = await storage.push_task(Task.builder(1).run_at(moment).attempts(3).priority(2).build())
    found = await storage.fetch_by_id(task_id)
    assert found is not None
    assert (found.parts.run_at, found.parts.attempts, found.parts.priority) == (moment, 3, 2)


async def test_without_a_type_any_object_goes_through_as_it_is() -> None:
    storage = MemoryStorage[Any]()
    args, result, progress = object(), object(), object()
    task_id = await storage.push(args, priority=2**70, metadata={"anything": storage})
    task = await storage.receive()
    assert task.args is args
    await storage.report_progress(task, progress)
    assert await storage.progress_of(task_id) is progress
    await storage.settle(task, Succeeded(result))
    assert (await storage.wait_for(task_id)).result is result
    assert math.isfinite(trio.current_time())


def test_memory_needs_no_other_library() -> None:
    script = """
import sys
sys.modules["msgspec"] = sys.modules["cbor2"] = sys.modules["sqlite3"] = None
import trio
from trio_tasks import MemoryStorage, Retried, Succeeded

async def main():
    storage = MemoryStorage[object](queue="mail")
    sms = storage.share(queue="sms")
    for each in (storage, sms):
        task_id = await each.push(object())
        task = await each.receive()
        await each.report_progress(task, object())
        await each.settle(task, Retried(ValueError("again")))
        await each.settle(await each.receive(), Succeeded(object()))
        assert (await each.fetch_by_id(task_id)).parts.context.history
    try:
        MemoryStorage(type=int)
    except ImportError:
        print("needs it now")

trio.run(main)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "needs it now\n"), run.stderr
