"""Tests of the queues of a router: pushing, looking and acting over several queues, and their workers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    AbortError,
    Call,
    Data,
    DecodeError,
    DuplicateTaskError,
    FileStorage,
    HandlerSignatureError,
    Injected,
    Limits,
    MemoryStorage,
    Monitor,
    Queues,
    Router,
    SqliteStorage,
    Status,
    Task,
    TaskFunction,
    UnknownTaskError,
)
from trio_tasks.testing import Cut, explore_cancellations
from typing_extensions import assert_type


@dataclass(frozen=True)
class Receipt:
    to: str


class Encoder:
    """What only functions of one queue need."""


tasks = Router()


@tasks.task(queue="emails")
async def send(to: str) -> Receipt:
    await trio.lowlevel.checkpoint()
    return Receipt(to)


@tasks.task(queue="video", unique="{path}")
def resize(path: Path) -> Path:
    return path / "small"


@tasks.task
async def add(a: int, b: int = 1) -> int:
    await trio.lowlevel.checkpoint()
    return a + b


@tasks.task
async def wrong(n: int) -> int:
    """It does not return what it says."""
    await trio.lowlevel.checkpoint()
    return "text"  # type: ignore[return-value]  # that is the mistake


Open = Callable[[], AbstractAsyncContextManager[Queues]]


@pytest.fixture(params=["memory", "sqlite", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    def make() -> Any:
        if request.param == "memory":
            return MemoryStorage[Call[object]]()
        return f"{request.param}:///{tmp_path}/tasks"

    return lambda: tasks.open(make())


@asynccontextmanager
async def working(queues: Queues, **options: Any) -> AsyncGenerator[Monitor, None]:
    async with queues.monitor({"emails": 2, "video": 1, "default": 2}, **options) as monitor:
        yield monitor
        monitor.shutdown()


async def test_each_call_goes_to_the_queue_of_its_function(opened: Open) -> None:
    async with opened() as queues:
        assert [*queues] == ["default", "emails", "video"]
        assert len(queues) == 3
        ids = await queues.push_bulk([send.bind("a"), add.bind(1), send.bind("b"), resize.bind(Path("/a"))])
        for name, theirs in {"emails": [ids[0], ids[2]], "default": [ids[1]], "video": [ids[3]]}.items():
            assert [task.parts.id for task in await queues[name].list_tasks()] == theirs
        assert await queues.push_bulk([]) == []
        again = await queues.push_or_get(resize.bind(Path("/a")))
        assert (again.id, again.is_new) == (ids[3], False)
        whole = await queues.push_task(Task(add.bind(5)))
        async with working(queues):
            assert await send.result(queues, ids[0]) == Receipt("a")
            assert await add.result(queues, ids[1]) == 2
            assert await resize.result(queues, ids[3]) == Path("/a/small")
            assert await add.result(queues, whole) == 6
        assert await queues.list_queues() == ["default", "emails", "video"]


async def test_a_result_of_another_type_is_refused(tmp_path: Path) -> None:
    async with tasks.open(f"sqlite:///{tmp_path}/tasks") as queues:
        task_id = await queues.push(wrong.bind(1))
        async with working(queues):
            with pytest.raises(DecodeError, match="the result of wrong must be int, not str"):
                await wrong.result(queues, task_id)
            with pytest.raises(UnknownTaskError):
                await wrong.result(queues, "nothing")


async def test_the_verbs_for_one_task_find_it_in_all_queues(opened: Open) -> None:
    async with opened() as queues:
        task_id = await queues.push(resize.bind(Path("/a")), delay=60)
        assert (await queues.explain(task_id)).kind == "delayed"
        assert (await queues.explain("nothing")).kind == "unknown"
        task = await queues.fetch_by_id(task_id)
        assert task is not None
        assert task.args == resize.bind(Path("/a"))
        assert await queues.fetch_by_id("nothing") is None
        assert await queues.update(Task(resize.bind(Path("/b")), task.parts))
        assert await queues.reschedule(task_id, 70)
        assert await queues.progress_of(task_id) is None
        assert not await queues.abort(task_id)
        assert await queues.cancel(task_id)
        assert not await queues.cancel(task_id)
        assert (await queues.wait_for(task_id)).status is Status.Killed
        assert await queues.resume_by_id(task_id)
        assert await queues.discard(task_id)
        assert not await queues.discard(task_id)
        for verb in (queues.progress_of, queues.wait_for):
            with pytest.raises(UnknownTaskError):
                await verb("nothing")


async def test_several_ids_are_looked_for_in_all_queues(opened: Open) -> None:
    async with opened() as queues:
        ids = await queues.push_bulk([send.bind("a"), add.bind(1), resize.bind(Path("/a"))], delay=60)
        some = [ids[2], "nothing", ids[0], ids[2]]
        found = await queues.fetch_by_id(some)
        assert [task and task.parts.id for task in found] == [ids[2], None, ids[0], ids[2]]
        with pytest.raises(UnknownTaskError, match="'nothing'"):
            await queues.wait_for(some)
        report = await queues.reschedule(some, 70)
        assert (report.changed, dict(report.refused)) == ((ids[2], ids[0]), {"nothing": "no such task is known"})
        assert (await queues.abort(ids)).changed == ()
        report = await queues.cancel(ids)
        assert (report.changed, bool(report), report.verb) == (tuple(ids), True, "cancelled")
        report = await queues.cancel([*ids, "nothing"])
        assert [*report.refused.values()] == ["it was killed"] * 3 + ["no such task is known"]
        assert [each.status for each in await queues.wait_for([ids[1], ids[0]])] == [Status.Killed] * 2
        assert (await queues.resume_by_id([ids[1]])).changed == (ids[1],)
        assert (await queues.discard(iter(ids))).changed == tuple(ids)
        assert (await queues.discard([])).changed == ()
        assert await queues.fetch_by_id([]) == []
        assert await queues.wait_for([]) == []
        for verb in (queues.cancel, queues.fetch_by_id, queues.wait_for):
            wrong: Any = [5]
            with pytest.raises(TypeError, match=r"ids\[0\] must be a string"):
                await verb(wrong)


async def test_the_verbs_for_many_tasks_are_about_all_queues(opened: Open) -> None:
    async with opened() as queues:
        ids = await queues.push_bulk([send.bind("a"), send.bind("b"), add.bind(1), resize.bind(Path("/a"))])
        assert {name: each["waiting"] for name, each in (await queues.metrics()).items()} == {
            "default": 1,
            "emails": 2,
            "video": 1,
        }
        assert all((await queues.audit()).values())
        listed = [task.parts.id async for task in every_page(queues, limit=1)]
        assert sorted(listed) == sorted(ids)
        assert [task.parts.id async for task in every_page(queues, limit=2, newest_first=True)] == [
            ids[2],
            ids[1],
            ids[0],
            ids[3],
        ]
        assert len(await queues.list_tasks(queue="emails", limit=9)) == 2
        assert [each.parts.name for each in await queues.list_tasks(name="resize", queue="video")] == ["resize"]
        for after in ("nothing", "emails/x", "other/", 5):
            with pytest.raises((ValueError, TypeError), match="after"):
                await queues.list_tasks(after=after)  # type: ignore[arg-type]  # one is no text
        assert await queues.cancel_all(name="send") == 2
        assert await queues.retry_all(Status.Killed) == 2
        assert await queues.cancel_all() == 4
        assert await queues.discard_all(name="add") == 1
        assert await queues.vacuum() == 3
        assert await queues.resume_abandoned() == 0
        assert await queues.throughput() == {"default": [], "emails": [], "video": []}


async def every_page(queues: Queues, **options: Any) -> AsyncGenerator[Task[Any], None]:
    """List the tasks page by page."""
    after: str | None = None
    while True:
        page = await queues.list_tasks(after=after, **options)
        for task in page:
            yield task
        if page.next is None:
            return
        after = page.next


async def test_queues_are_paused_by_name_or_all(opened: Open) -> None:
    async with opened() as queues:
        await queues.pause("emails")
        assert [await queues.is_paused(name) for name in queues] == [False, True, False]
        await queues.pause()
        assert [await queues.is_paused(name) for name in queues] == [True, True, True]
        await queues.resume("video")
        await queues.resume()
        assert [await queues.is_paused(name) for name in queues] == [False, False, False]


async def test_queues_have_limits_of_their_own(opened: Open) -> None:
    limits, own = Limits(concurrency=9), Limits(per_key=5, weight=2)
    async with opened() as queues:
        await queues.set_limits("emails", limits)
        await queues.set_limits("emails", own, key="acme")
        assert [await queues.get_limits(name) for name in queues] == [None, limits, None]
        assert [await queues.get_limits(name, key="acme") for name in queues] == [None, own, None]
        await queues.set_limits("emails", None)
        assert await queues.get_limits("emails") is None
        with pytest.raises(KeyError, match="no function has the queue 'other'"):
            await queues.set_limits("other", limits)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file"])
async def test_limits_of_queues_are_given_where_they_are_opened(kind: str, tmp_path: Path) -> None:
    """They are those of the queues that have none yet: what was set later is kept, also over a restart."""
    limits, own = {"emails": Limits(concurrency=9), "default": Limits(per_key=2)}, Limits(concurrency=3)
    url = f"{kind}:///{tmp_path}/tasks"
    async with tasks.open(MemoryStorage[Call[object]]() if kind == "memory" else url, limits=limits) as queues:
        assert [await queues.get_limits(name) for name in queues] == [limits["default"], limits["emails"], None]
        await queues.set_limits("emails", own)
    if kind != "memory":
        async with tasks.open(url, limits=limits) as queues:
            assert [await queues.get_limits(name) for name in queues] == [limits["default"], own, None]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            {"email": Limits()},
            "limits are given for 'email', which no function has as its queue: default, emails, video",
        ),
        ({"emails": 5}, "the limits of 'emails' must be Limits, such as Limits(per_key=2), not 5"),
        (Limits(), 'limits must be limits by the names of queues, such as {"emails": Limits(per_key=2)}, not Limits()'),
    ],
)
def test_wrong_limits_are_refused_where_queues_are_opened(limits: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(told)):
        tasks.open("memory://", limits=limits)


async def test_workers_have_the_names_of_their_queues(opened: Open) -> None:
    async with opened() as queues:
        async with working(queues, version="1.4"):
            while len(await queues.list_workers()) < 3:  # noqa: ASYNC110  there is no event for it
                await trio.sleep(0.01)
            assert sorted(await queues.list_workers()) == ["default", "emails", "video"]
            assert {(each.name, each.queue, each.slots) for each in await queues.workers()} == {
                ("default", "default", 2),
                ("emails", "emails", 2),
                ("video", "video", 1),
            }
        recipes = queues.make_workers({"emails": 3}, version="1.4")
        assert [(each.name, each.concurrency, each.version) for each in recipes] == [("emails", 3, "1.4")]


async def test_closed_queues_let_their_workers_end(opened: Open) -> None:
    async with opened() as queues:
        await queues.push(add.bind(1))
        queues.close()
        report = await queues.monitor({"default": 1, "emails": 1}).run()
        assert sum(each.succeeded for each in report.workers) == 1
        with pytest.raises(trio.ClosedResourceError):
            await queues.push(add.bind(1))


async def test_a_task_is_pushed_in_a_transaction_of_the_user(tmp_path: Path) -> None:
    async with tasks.open(SqliteStorage(tmp_path / "tasks.db")) as queues:
        connection = sqlite3.connect(tmp_path / "tasks.db")
        queues.push_in(connection, add.bind(1), id="gone")
        connection.rollback()
        queues.push_in(connection, resize.bind(Path("/a")), id="a", priority=3)
        connection.commit()
        connection.close()
        queues.wake()
        task = await queues.fetch_by_id("a")
        assert task is not None
        assert (task.parts.name, task.parts.priority, task.parts.unique) == ("resize", 3, "/a")
        assert await queues.fetch_by_id("gone") is None
    async with tasks.open(FileStorage(tmp_path / "tasks.journal")) as queues:
        queues.wake()
        with pytest.raises(TypeError, match="push_in needs a SqliteStorage"):
            queues.push_in(connection, add.bind(1))


STORAGES: dict[str, Callable[[Path], Any]] = {
    "url": lambda path: f"sqlite:///{path}/a.db",
    "storage": lambda path: SqliteStorage(path / "a.db"),
    "typed": lambda path: SqliteStorage(path / "a.db", Call, codec=tasks, lease=5.0),
    "other queue": lambda path: FileStorage(path / "a.journal", queue="other"),
    "memory url": lambda path: "memory://",
    "typed memory": lambda path: MemoryStorage(type=Call, codec=tasks),
}


@pytest.mark.parametrize("name", STORAGES)
async def test_any_storage_that_is_not_open_can_be_opened(name: str, tmp_path: Path) -> None:
    async with tasks.open(STORAGES[name](tmp_path)) as queues:
        task_id = await queues.push(add.bind(1, b=2))
        async with working(queues):
            assert await add.result(queues, task_id) == 3
        if name == "typed":
            assert queues["default"].lease == queues["video"].lease == 5.0  # type: ignore[union-attr]  # it is a stored one


async def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="open takes a URL, or a storage that is not open yet"):
        tasks.open(5)
    with pytest.raises(TypeError, match="give the option 'lease' to the storage"):
        tasks.open(MemoryStorage(), lease=5)
    with pytest.raises(ValueError, match="must begin with one of"):
        tasks.open("nothing://")
    async with SqliteStorage(tmp_path / "a.db") as storage:
        with pytest.raises(ValueError, match="open here already"):
            tasks.open(storage)
    queues = tasks.open(MemoryStorage())
    async with queues:
        with pytest.raises(RuntimeError, match="has been opened already"):
            async with queues:
                pass
    assert repr(queues).startswith("<Queues default, emails, video on <MemoryStorage")


async def test_what_cannot_be_pushed_is_refused() -> None:
    other = Router().task(name="other")(add.__wrapped__)
    async with tasks.open(MemoryStorage()) as queues:
        for value, text in [
            (5, "must be a Call, which bind"),
            (add, "write add.bind"),
            (other.bind(1), "no function 'other'"),
        ]:
            with pytest.raises((TypeError, ValueError), match=text):
                await queues.push(value)  # type: ignore[arg-type]  # that is the mistake
            with pytest.raises((TypeError, ValueError), match=text):
                await queues.push_bulk([add.bind(1), value])  # type: ignore[list-item]  # the same
        with pytest.raises(TypeError, match="takes a list of calls"):
            await queues.push_bulk(5)  # type: ignore[arg-type]  # the same
        with pytest.raises(TypeError, match="push_task takes a Task"):
            await queues.push_task(add.bind(1))  # type: ignore[arg-type]  # the same
        with pytest.raises(TypeError, match="has no option 'dealy'"):
            await queues.push(add.bind(1), dealy=3)  # type: ignore[call-arg]  # the same
        assert (await queues.metrics())["default"]["pushed"] == 0
        with pytest.raises(KeyError, match="no function has the queue 'nothing'"):
            queues["nothing"]
        with pytest.raises(KeyError, match="no function has the queue 'nothing'"):
            queues.monitor({"nothing": 1})
        with pytest.raises(TypeError, match="a number of slots for each queue"):
            queues.make_workers(["emails"])  # type: ignore[arg-type]  # the same
        with pytest.raises(TypeError, match="the slots of 'emails' must be a whole number"):
            queues.make_workers({"emails": "8"})  # type: ignore[dict-item]  # the same
        with pytest.raises(TypeError, match="shutdown_time"):
            queues.monitor({"emails": 8}, shutdown_time=8)  # type: ignore[call-arg]  # the same


async def test_a_function_that_is_defined_later_has_its_queue() -> None:
    router = Router()
    async with router.open(MemoryStorage()) as queues:
        assert [*queues] == ["default"]
        late: TaskFunction[..., Any, Any] = router.task(queue="late")(add.__wrapped__)
        task_id = await queues.push(late.bind(1))
        async with queues.monitor({"late": 1}) as monitor:
            assert await late.result(queues, task_id) == 2
            monitor.shutdown()


async def test_data_must_be_there_for_the_queues_that_are_run() -> None:
    """A task of another queue's function is left to other workers if data lacks what it needs."""
    router = Router()
    router.task(queue="emails")(send.__wrapped__)

    @router.task(queue="video")
    async def encode(n: int, encoder: Data[Encoder] = Injected) -> None:
        await trio.lowlevel.checkpoint()

    async with router.open(MemoryStorage()) as queues:
        with pytest.raises(HandlerSignatureError, match=r"'encoder: .*' is not in data"):
            queues.make_workers({"video": 1})
        [worker] = queues.make_workers({"emails": 1})
        task_id = await queues["emails"].push(encode.bind(1))
        report = await worker.run_until_idle()
        assert report.suspended == 1
        explanation = await queues.explain(task_id)
        assert "is not in data" in explanation.reason
        [able] = queues.make_workers({"emails": 1}, data=[Encoder()])
        assert await queues.reschedule(task_id, 0)
        assert (await able.run_until_idle()).succeeded == 1


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/tasks.db", "file:///{}/tasks"])
async def test_a_call_is_pushed_and_awaited(url: str, tmp_path: Path) -> None:
    held, router = trio.Event(), Router()

    @router.task
    async def hold(n: int) -> int:
        if n:
            return n
        held.set()
        await trio.sleep_forever()
        raise AssertionError

    @router.task
    async def refuse(n: int) -> int:
        await trio.lowlevel.checkpoint()
        raise AbortError(f"no {n}")

    async with router.open(url.format(tmp_path)) as queues, queues.monitor({"default": 2}) as monitor:
        assert_type(await queues.call(hold.bind(5)), int)
        assert await queues.call(hold.bind(5), id="a") == 5
        with pytest.raises(AbortError, match="no 5"):
            await queues.call(refuse.bind(5))
        with pytest.raises(ValueError, match="this router has no function"):
            await queues.call(add.bind(5))
        with pytest.raises(DuplicateTaskError):
            await queues.call(hold.bind(5), id="a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queues.call, hold.bind(0))
            await held.wait()
            [running] = await queues.list_tasks(Status.Running)
            nursery.cancel_scope.cancel()
        assert await queues.fetch_by_id(running.parts.id) is None
        monitor.shutdown()


async def test_a_cancelled_call_leaves_the_task_of_another_one() -> None:
    router = Router()

    @router.task(unique="once")
    async def hold() -> None:
        await trio.sleep_forever()

    async with router.open(MemoryStorage()) as queues:
        task_id = await queues.push(hold.bind())
        for expected in ([task_id], []):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queues.call, hold.bind())
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert [task.parts.id for task in await queues.list_tasks(Status.Pending)] == expected
            await queues.cancel(task_id)  # so the next call makes a task of its own


def test_a_call_that_is_cancelled_at_any_moment_leaves_no_task() -> None:
    async def scenario(cut: Cut) -> None:
        async with tasks.open(MemoryStorage()) as queues:
            with cut:
                async with queues.monitor({"default": 1}, log=None) as monitor:
                    await queues.call(add.bind(1))
                    monitor.shutdown()
            assert not await queues.list_tasks(Status.Pending)
            assert not await queues.list_tasks(Status.Running)

    assert explore_cancellations(scenario).cuts > 5


def test_a_cancellation_between_two_queues_leaves_each_task_as_it_was_or_changed() -> None:
    """What goes over several queues has done some of them, when it is cancelled, and none by halves."""
    calls = [send.bind("a"), add.bind(1), send.bind("b"), resize.bind(Path("/a"))]

    async def scenario(cut: Cut) -> None:
        async with tasks.open(MemoryStorage()) as queues:
            with cut:
                await queues.push_bulk(calls)
            waiting = [each["waiting"] for each in (await queues.metrics()).values()]
            assert sorted(waiting) in ([0, 0, 0], [0, 0, 2], [0, 1, 2], [1, 1, 2])
            await queues.push_bulk(calls)
            before = [task.parts.id async for task in every_page(queues)]
            with cut("then"):
                await queues.cancel_all()
                await queues.retry_all()
                await queues.pause()
            assert sorted([task.parts.id async for task in every_page(queues)]) == sorted(before)
            assert all((await queues.audit()).values())

    assert explore_cancellations(scenario).cuts > 5
