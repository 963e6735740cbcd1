"""Tests of TaskSink: the methods that follow from ``push_task``."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked
from trio_tasks import MemoryStorage, Task, TaskId, TaskSink


class ListSink(TaskSink[int]):
    """A minimal sink."""

    def __init__(self, room: float = math.inf) -> None:
        self.tasks: list[Task[int]] = []
        self._room = room

    async def push_task(self, task: Task[int]) -> TaskId:
        while len(self.tasks) >= self._room:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.tasks.append(task)
        return task.parts.id

    @property
    def args(self) -> list[int]:
        return [task.args for task in self.tasks]


SINKS: list[Callable[[], Any]] = [ListSink, MemoryStorage]
each_sink = pytest.mark.parametrize("make", SINKS, ids=["own", "memory"])


def channel_of(*items: Any) -> trio.MemoryReceiveChannel[Any]:
    send, receive = trio.open_memory_channel[Any](math.inf)
    with send:
        for each in items:
            send.send_nowait(each)
    return receive


async def test_push_makes_a_task_of_args_and_options() -> None:
    sink = ListSink()
    task_id = await sink.push(
        5, id="five", attempts=2, timeout=3, priority=4, delay=6, metadata={"a": 1}, data=[1.5], expires_in=7
    )
    (task,) = sink.tasks
    assert task_id == task.parts.id == "five"
    assert task.args == 5
    parts = task.parts
    assert (parts.attempts, parts.timeout, parts.priority) == (2, 3.0, 4)
    assert (parts.terms.delay, parts.terms.expires_in) == (6.0, 7.0)
    assert dict(parts.metadata) == {"a": 1}
    assert parts.extensions[float] == 1.5


async def test_push_bulk_gives_each_task_the_options_and_an_id_of_its_own() -> None:
    sink = ListSink()
    ids = await sink.push_bulk(range(4), priority=3)
    assert sink.args == [0, 1, 2, 3]
    assert [task.parts.id for task in sink.tasks] == ids
    assert len(set(ids)) == 4
    assert all(task.parts.priority == 3 for task in sink.tasks)


@each_sink
async def test_every_task_of_a_bulk_is_given_all_of_the_data(make: Callable[[], Any]) -> None:
    sink = make()
    await sink.push_bulk([1, 2], data=(each for each in [1.5]))
    tasks = sink.tasks if isinstance(sink, ListSink) else await sink.list_tasks()
    assert [task.parts.extensions.get(float) for task in tasks] == [1.5, 1.5]


@each_sink
async def test_a_bulk_with_a_wrong_option_pushes_nothing(make: Callable[[], Any]) -> None:
    sink = make()
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        await sink.push_bulk([1, 2], attempts=0)
    assert not (sink.tasks if isinstance(sink, ListSink) else sink.statistics().pushed)


@each_sink
async def test_a_bulk_cannot_have_one_id(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="take no id"):
        await make().push_bulk([1], id="one")


async def test_a_cancelled_bulk_leaves_in_what_was_put_in() -> None:
    sink = ListSink(room=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.push_bulk, range(5))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sink.args == [0, 1]


@each_sink
async def test_push_stream_takes_args_until_the_channel_ends(make: Callable[[], Any]) -> None:
    sink = make()
    assert await sink.push_stream(channel_of(1, 2, 3), priority=2) == 3
    assert await sink.push_stream(channel_of()) == 0
    tasks = sink.tasks if isinstance(sink, ListSink) else await sink.list_tasks()
    assert [task.args for task in tasks] == [1, 2, 3]
    assert all(task.parts.priority == 2 for task in tasks)


@each_sink
async def test_push_all_takes_whole_tasks(make: Callable[[], Any]) -> None:
    sink = make()
    tasks = [Task(1), Task(2)]
    assert await sink.push_all(channel_of(*tasks)) == 2
    assert [each.args for each in (sink.tasks if isinstance(sink, ListSink) else await sink.list_tasks())] == [1, 2]


@pytest.mark.parametrize("options", [{"attempts": 0}, {"foo": 1}, {"delay": math.nan}, {"id": "one"}], ids=str)
async def test_push_stream_refuses_a_wrong_option_before_it_takes_anything(options: dict[str, Any]) -> None:
    source = channel_of(1, 2)
    with pytest.raises((TypeError, ValueError)):
        await ListSink().push_stream(source, **options)
    assert source.statistics().current_buffer_used == 2


@pytest.mark.parametrize("source", [5, None, [1, 2], range(3)], ids=repr)
@each_sink
async def test_what_is_no_channel_is_refused(make: Callable[[], Any], source: Any) -> None:
    for push in (make().push_stream, make().push_all):
        with pytest.raises(TypeError, match=r"trio\.abc\.ReceiveChannel"):
            await push(source)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"foo": 1}, TypeError, "no option 'foo'; it takes attempts, data, deadline, delay"),
    ({"id": ""}, ValueError, "must not be an empty string"),
    ({"id": 5}, TypeError, "must be a string"),
    ({"attempts": 0}, ValueError, "attempts must be 1 or more"),
    ({"attempts": 1.5}, TypeError, "attempts must be a whole number"),
    ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds"),
    ({"timeout": "5"}, TypeError, "timeout must be a number of seconds"),
    ({"priority": 0.5}, TypeError, "priority must be a whole number"),
    ({"delay": -1}, ValueError, "the delay must be 0 or more seconds"),
    ({"delay": math.nan}, ValueError, "the delay must be a finite number of seconds"),
    ({"delay": math.inf}, ValueError, "the delay must be a finite number of seconds"),
    ({"delay": True}, TypeError, "the delay must be a number of seconds"),
    ({"run_at": 5}, TypeError, r"run_at must be a datetime\.datetime"),
    ({"run_at": datetime(2030, 1, 1)}, ValueError, "run_at must have a time zone"),  # noqa: DTZ001  which is the point
    ({"delay": 1, "run_at": datetime(2030, 1, 1, tzinfo=timezone.utc)}, TypeError, "a delay or a run_at, not both"),
    ({"metadata": 5}, TypeError, "metadata must be a mapping"),
    ({"metadata": {1: 2}}, TypeError, "names in metadata must be strings"),
    ({"data": 5}, TypeError, "data must be"),
    ({"unique": ""}, ValueError, "unique must not be an empty string"),
    ({"unique": "a", "on_conflict": "fight"}, ValueError, "'skip', 'replace', 'update' or 'raise'"),
    ({"on_conflict": "skip"}, TypeError, "on_conflict needs unique="),
    ({"expires_in": 0}, ValueError, "expires_in must be more than 0 seconds"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG, ids=[str(each[0]) for each in WRONG])
@each_sink
async def test_a_wrong_option_is_refused_and_nothing_is_pushed(
    make: Callable[[], Any], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    sink = make()
    with pytest.raises(kind, match=message):
        await sink.push(1, **options)
    assert not (sink.tasks if isinstance(sink, ListSink) else sink.statistics().pushed)


@each_sink
async def test_every_verb_is_a_checkpoint(make: Callable[[], Any]) -> None:
    sink = make()
    with assert_checkpoints():
        await sink.push_task(Task(1))
    with assert_checkpoints():
        await sink.push(1)
    with assert_checkpoints():
        await sink.push_bulk([1, 2])
    with assert_checkpoints():
        await sink.push_bulk([])
    with assert_checkpoints():
        await sink.push_stream(channel_of(1))
    with assert_checkpoints():
        await sink.push_stream(channel_of())
    with assert_checkpoints():
        await sink.push_all(channel_of())


def test_a_sink_must_say_how_a_task_is_pushed() -> None:
    class Nothing(TaskSink[int]):
        pass

    with pytest.raises(TypeError, match="push_task"):
        Nothing()  # type: ignore[abstract]  # which is what the test is about
