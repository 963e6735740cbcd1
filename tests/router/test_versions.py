"""Tests of stored calls: of another version of the program, of unknown names, and of damaged payloads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from trio_tasks import (
    AbortError,
    Call,
    CborCodec,
    DecodeError,
    EncodeError,
    Event,
    Killed,
    MemoryStorage,
    Release,
    Router,
    SqliteStorage,
    Status,
    Succeeded,
    Suspended,
    Worker,
    WorkerContext,
)
from trio_tasks.testing import TestWorker, run_once

PROGRAM = Path(__file__).with_name("_version_1.py")
ROOT = PROGRAM.parents[2]


@dataclass(frozen=True)
class Point:
    x: int
    y: int


def version_2(**options: Any) -> Router:
    """The second version of the program in ``_version_1.py``."""
    tasks = Router(**options)

    @tasks.task(name="salute", aliases=["greet"])
    async def greet(name: str) -> str:
        await trio.lowlevel.checkpoint()
        return f"salute {name}"

    @tasks.task(version=3, upgrade={1: two_of_one, 2: three_of_two})
    def resize(path: Path, width: int, quality: int = 80) -> str:
        return f"{path} {width} {quality}"

    @tasks.task
    def report(day: str) -> str:
        return f"report of {day}"

    @tasks.task
    def gain(day: str, copies: int = 2) -> str:
        return f"{day} {copies}"

    @tasks.task(version=2, upgrade={1: lambda args: {"n": args["m"]}})
    def broken(n: int) -> None:
        """Its upgrade fails."""

    return tasks


def two_of_one(args: dict[str, Any]) -> dict[str, Any]:
    return {**args, "path": args["file"]}


def three_of_two(args: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**args, "width": 640}.items() if name != "file"}


@pytest.fixture(scope="module", params=["sqlite", "file"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A store into which the first version of the program has pushed: its kind, and its folder."""
    folder = tmp_path_factory.mktemp("written")
    command = [sys.executable, str(PROGRAM), f"{request.param}:///{folder}/tasks"]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    return request.param, folder


@pytest.fixture
def url(written: tuple[str, Path], tmp_path: Path) -> str:
    """A copy of that store."""
    kind, folder = written
    shutil.copytree(folder, tmp_path / "copy")
    return f"{kind}:///{tmp_path}/copy/tasks"


async def test_a_new_version_of_the_program_runs_what_the_old_one_stored(url: str) -> None:
    tasks = version_2()
    put_back: dict[str, str] = {}

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Release):
            put_back[event.task.parts.id] = event.reason

    async with tasks.open(url) as queues:
        [worker] = queues.make_workers({"default": 4}, on_event=listen)
        await worker.run_until_idle()
        assert {
            each: (await queues.wait_for(each)).result for each in ("greet", "resize", "report without", "gain")
        } == {
            "greet": "salute ada",
            "resize": "/a.png 640 5",
            "report without": "report of tuesday",
            "gain": "monday 2",
        }
        broken = await queues.wait_for("broken")
        assert (broken.status, type(broken.error)) == (Status.Killed, AbortError)
        assert str(broken.error) == "the upgrade of broken from version 1 to 2 failed: KeyError: 'm'"
        assert put_back.keys() == {"gone", "report"}
        assert "no function for tasks of the name 'gone'" in put_back["gone"]
        assert "report has no parameter 'shout' here" in put_back["report"]
        for each in put_back:
            task = await queues.fetch_by_id(each)
            assert task is not None
            assert (task.parts.status, task.parts.attempt, task.parts.name) == (Status.Pending, 0, each.split()[0])
            explanation = await queues.explain(each)
            assert (explanation.kind, each in explanation.reason) == ("suspended", True), explanation
        assert all((await queues.audit()).values())


async def test_what_this_version_does_not_know_is_left_to_the_one_that_does(url: str) -> None:
    """A task of the only attempt is put back by one version, any number of times, and run by the other."""
    for _ in range(3):
        async with version_2().open(url) as queues:
            [worker] = queues.make_workers({"default": 1})
            await worker.run_until_idle()
            assert await queues.reschedule("gone", 0)
    old, paths = Router(), list[Path]()

    @old.task
    async def gone(path: Path) -> None:
        paths.append(path)
        await trio.lowlevel.checkpoint()

    async with old.open(url) as queues:
        [worker] = queues.make_workers({"default": 1})
        await worker.run_until_idle()
        result = await queues.wait_for("gone")
        assert (result.status, paths) == (Status.Done, [Path("/a")])


async def test_unknown_names_become_dead_letters_where_that_is_wanted(url: str) -> None:
    async with version_2(unknown="fail").open(url) as queues:
        [worker] = queues.make_workers({"default": 1})
        await worker.run_until_idle()
        result = await queues.wait_for("gone")
        assert result.status is Status.Killed
        assert "no function for tasks of the name 'gone'" in str(result.error)
        task = await queues.fetch_by_id("gone")
        assert task is not None
        assert (task.args.name, dict(task.args.args)) == ("gone", {"path": "/a"})


async def test_unknown_names_are_given_to_a_function(url: str) -> None:
    async def take(call: Call[Any]) -> object:
        await trio.lowlevel.checkpoint()
        return [call.name, call.version, dict(call.args)]

    async with version_2(unknown=take).open(url) as queues:
        [worker] = queues.make_workers({"default": 1})
        await worker.run_until_idle()
        assert (await queues.wait_for("gone")).result == ["gone", 1, {"path": "/a"}]


async def test_a_task_of_an_unknown_name_fails_at_last(tmp_path: Path) -> None:
    newer, older = version_2(), Router()
    async with newer.open(f"sqlite:///{tmp_path}/tasks") as queues:
        await queues.push(newer.functions["gain"].bind("monday"), id="gain")
    async with older.open(f"sqlite:///{tmp_path}/tasks", unreadable_after=0) as queues:
        [worker] = queues.make_workers({"default": 1})
        await worker.run_until_idle()
        result = await queues.wait_for("gain")
        assert (result.status, type(result.error)) == (Status.Failed, DecodeError)


@pytest.mark.parametrize("written", ["sqlite"], indirect=True)  # a journal is for one process
async def test_two_versions_work_on_one_queue_at_once(url: str, autojump_clock: trio.testing.MockClock) -> None:
    """A renamed task, a changed payload, and tasks that only one of them knows: none is lost."""
    autojump_clock.autojump_threshold = 0.02  # the file is written by a thread
    newer, older, gone = version_2(), Router(), list[Path]()

    @older.task(name="gone")
    async def move(path: Path) -> None:
        gone.append(path)
        await trio.lowlevel.checkpoint()

    older.task(name="greet")(of_name)
    salute = newer.functions["salute"]
    async with older.open(url) as old, newer.open(url) as new:
        late = await new.push_bulk([salute.bind(str(n)) for n in range(5)], attempts=1)
        [worker] = old.make_workers({"default": 2})
        await worker.run_until_idle()  # the older version runs alone, and knows nothing of most tasks
        for task_id, why in {
            late[0]: "no function for tasks of the name 'salute'",
            "gain": "no function for tasks of the name 'gain'",
            "report": "no function for tasks of the name 'report'",
        }.items():
            explanation = await old.explain(task_id)
            assert (explanation.kind, why in explanation.reason) == ("suspended", True), explanation
        for status in (Status.Failed, Status.Killed):
            assert not await old.list_tasks(status)
        async with old.monitor({"default": 2}) as first, new.monitor({"default": 2}) as second:
            ids = ["greet", "resize", "report without", "gain", "gone", *late]
            results = await new.wait_for(ids)
            assert (await new.wait_for("broken")).status is Status.Killed  # it has an upgrade, which fails
            first.shutdown()
            second.shutdown()
        assert [each.status for each in results] == [Status.Done] * len(ids)
        assert gone == [Path("/a")]
        waiting = await new.list_tasks(Status.Pending)
        assert [task.parts.id for task in waiting] == ["report"]
        explanation = await new.explain("report")
        assert (explanation.kind, "cannot be read here" in explanation.reason) == ("suspended", True)


async def of_name(name: str) -> str:
    await trio.lowlevel.checkpoint()
    return f"greet {name}"


# In memory, where nothing is decoded


async def run_for_a_while(storage: Any, handler: Any, seconds: float) -> list[tuple[float, Release]]:
    """Run a worker; return what it put back, and when."""
    put_back: list[tuple[float, Release]] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Release):
            put_back.append((trio.current_time(), event))

    with trio.move_on_after(seconds):
        await Worker("w", storage, handler, on_event=listen).run()
    return put_back


async def test_an_unknown_name_is_suspended_for_longer_each_time(autojump_clock: trio.testing.MockClock) -> None:
    storage, one, other = MemoryStorage[Call[object]](), version_2(), Router()
    task_id = await storage.push(one.functions["gain"].bind("monday"), attempts=1)
    put_back = await run_for_a_while(storage, other, 1000.0)
    times = [at for at, _ in put_back]
    gaps = [round(after - before) for before, after in pairwise(times)]
    assert gaps == [5, 10, 20, 40, 80, 160, 300, 300][: len(gaps)]
    assert len(gaps) >= 7
    assert all("no function for it here" in event.reason for _, event in put_back)
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    assert (task.parts.attempt, task.parts.name) == (0, "gain")
    await storage.reschedule(task_id, 0)
    assert (await TestWorker(storage, one).execute_next())[1] == Succeeded("monday 2")


async def test_a_call_of_another_version_is_unknown() -> None:
    tasks = version_2()
    outcome = await run_once(tasks, Call("resize", {"file": "a"}, version=1))
    assert isinstance(outcome, Suspended)
    assert "resize has version 3 in this program, which cannot read version 1" in outcome.reason
    assert isinstance(await run_once(tasks, Call("nothing", {})), Suspended)
    assert isinstance(await run_once(Router(unknown="fail"), Call("nothing", {})), Killed)


async def test_what_is_no_call_is_a_dead_letter() -> None:
    outcome = await run_once(version_2(), 5)  # type: ignore[arg-type]  # that is the mistake
    assert isinstance(outcome, Killed)
    assert "a Router handles Calls, which bind() makes, not int" in str(outcome.error)


async def test_a_function_that_is_defined_later_is_found() -> None:
    tasks = Router()
    worker = TestWorker(MemoryStorage[Call[object]](), tasks)
    storage: Any = worker._worker.backend

    @tasks.task
    async def late(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n

    await storage.push(late.bind(5))
    assert (await worker.execute_next())[1] == Succeeded(5)


# The form in which calls are stored


def test_a_call_is_stored_by_the_names_of_its_arguments() -> None:
    tasks = version_2()
    resize = tasks.functions["resize"]
    payload = tasks.encode(resize.bind(Path("/a"), width=3))
    assert cbor2.loads(payload) == {"task": "resize", "v": 3, "args": {"path": "/a", "width": 3}}
    assert tasks.decode(payload) == resize.bind(Path("/a"), width=3)
    assert tasks.decode(payload).options == resize.options


async def everything(
    point: Point,
    day: date,
    moment: datetime,
    pairs: dict[int, tuple[str, ...]],
    raw: bytes,
    maybe: Point | None,
    many: list[Point],
    anything: Any,
) -> None:
    """Arguments of many types."""


def test_arguments_come_back_as_their_types() -> None:
    tasks = Router()
    call = tasks.task(everything).bind(
        Point(1, 2),
        date(2030, 1, 1),
        datetime(2030, 1, 1, tzinfo=timezone.utc),
        {1: ("a", "b")},
        b"raw",
        None,
        [Point(3, 4)],
        {"a": [1]},
    )
    assert tasks.decode(tasks.encode(call)) == call


@pytest.mark.parametrize("count", [0, 1, 23, 24, 30, 300])
def test_any_number_of_arguments_is_stored(count: int) -> None:
    names = [f"a{number}: int" for number in range(count)]
    place: dict[str, Any] = {}
    exec(f"def function({', '.join(names)}): pass", place)  # since a function of so many is not to be written
    tasks = Router()
    call = tasks.task(place["function"]).bind(*range(count))
    assert tasks.decode(tasks.encode(call)) == call
    assert len(cbor2.loads(tasks.encode(call))["args"]) == count


def test_what_cannot_be_encoded_is_refused() -> None:
    tasks, resize = version_2(), version_2().functions["resize"]
    for value, text in [
        (5, "args must be a Call, which bind"),
        (Call("nothing", {}), "this router has no function 'nothing'"),
        (Call("resize", {}, version=1), "a call of version 1 of resize, which has version 3 here"),
        (resize.bind(Path("/a\udc80"), 3), "args of resize.path"),
    ]:
        with pytest.raises(EncodeError, match=text):
            tasks.encode(value)
    with pytest.raises(TypeError, match="has no parameter 'x'"):
        tasks.encode(Call("gain", {"x": 1}))
    with pytest.raises(EncodeError, match="cannot be stored"):
        SqliteStorage("a.db")._queue.codec.encode(resize.bind(Path("/a"), 3))
    with pytest.raises(TypeError, match="Call cannot be stored"):
        CborCodec(Call)


PAYLOADS: dict[str, tuple[Any, str]] = {
    "number": (5, "the payload is no call"),
    "list": ([1], "the payload is no call"),
    "fields": ({"task": "gain"}, "the payload is no call"),
    "name": ({"task": 5, "v": 1, "args": {}}, "the payload is no call"),
    "version": ({"task": "gain", "v": "1", "args": {}}, "the payload is no call"),
    "args": ({"task": "gain", "v": 1, "args": []}, "the payload is no call"),
    "missing": ({"task": "gain", "v": 1, "args": {}}, "gain needs 'day', which is not stored"),
    "type": ({"task": "gain", "v": 1, "args": {"day": 5}}, "args of gain.day must be str, not int"),
    "newer": ({"task": "gain", "v": 2, "args": {"day": "a"}}, "gain has version 1 in this program"),
    "older": ({"task": "resize", "v": 0, "args": {}}, "resize has version 3 in this program"),
    "negative": ({"task": "resize", "v": -(2**70), "args": {}}, "resize has version 3 in this program"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_other_payloads_are_refused(name: str) -> None:
    value, text = PAYLOADS[name]
    with pytest.raises(DecodeError, match=text):
        version_2().decode(cbor2.dumps(value))


def test_damaged_payloads_are_refused() -> None:
    for payload in (b"", b"\xff", b"\xa3", tasks_payload()[:-1], tasks_payload() + b"\x00"):
        with pytest.raises(DecodeError):
            version_2().decode(payload)


def tasks_payload() -> bytes:
    tasks = version_2()
    return tasks.encode(tasks.functions["gain"].bind("monday"))


def stop(args: dict[str, Any]) -> dict[str, Any]:
    raise SystemExit


def nothing(args: dict[str, Any]) -> Any:
    """It returns nothing."""


UPGRADES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"stop": stop, "nothing": nothing, "same": dict}


@pytest.mark.parametrize("name", UPGRADES)
async def test_an_upgrade_may_do_anything_wrong(name: str, tmp_path: Path) -> None:
    """The task is a dead letter that says so, whatever the upgrade raises or returns."""
    old, new = Router(), Router()
    old.task(name="f")(of_text)
    new.task(name="f", version=2, upgrade={1: UPGRADES[name]})(of_number)
    async with old.open(f"sqlite:///{tmp_path}/tasks") as queues:
        task_id = await queues.push(old.functions["f"].bind("a"))
    async with new.open(f"sqlite:///{tmp_path}/tasks") as queues:
        found = await queues.fetch_by_id(task_id)
        assert found is not None
        assert new.decode(new.encode(found.args)).args == {"text": "a"}  # it goes back as it was
        [worker] = queues.make_workers({"default": 1})
        await worker.run_until_idle()
        result = await queues.wait_for(task_id)
        assert result.status is Status.Killed
        assert "the upgrade of f from version 1 to 2 failed: " in str(result.error)


async def of_text(text: str) -> None:
    """The old version."""


async def of_number(n: int) -> None:
    """The new version."""


async def test_a_bad_task_fails_alone(tmp_path: Path) -> None:
    """Among many tasks of a batch one has an unknown name, and one a payload that does not decode."""
    tasks = version_2()
    gain = tasks.functions["gain"]
    async with SqliteStorage[Any](tmp_path / "tasks", codec=CborWriter()) as storage:
        await storage.push({"task": "unknown", "v": 1, "args": {}}, id="unknown")
        await storage.push([5], id="damaged")
    async with tasks.open(f"sqlite:///{tmp_path}/tasks") as queues:
        ids = await queues.push_bulk(gain.bind(str(n)) for n in range(20))
        [worker] = queues.make_workers({"default": 4})
        report = await worker.run_until_idle()
        assert (report.succeeded, report.suspended) == (20, 2)
        assert [(await queues.wait_for(each)).result for each in ids[:2]] == ["0 2", "1 2"]


class CborWriter:
    """A codec that writes anything."""

    def encode(self, value: Any) -> bytes:
        return cbor2.dumps(value)

    def decode(self, payload: bytes) -> Any:
        return cbor2.loads(payload)
