"""Tests of task options, by TaskBuilder or by keywords: each wrong value is refused at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from trio.testing import MockClock
from trio_tasks._clock import use_wall_clock
from trio_tasks._contracts.sink import make_tasks
from trio_tasks._tasks.call import Call
from trio_tasks._tasks.outcome import Status
from trio_tasks._tasks.task import Task, TaskBuilder, TaskOptions, make_task, options_for_many
from trio_tasks._tasks.task_id import TaskId

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


class Tracer:
    pass


def test_every_word_of_it() -> None:
    tracer = Tracer()
    with use_wall_clock(NOON.timestamp):
        task = (
            TaskBuilder("my-task")
            .id("task-123")
            .attempts(3)
            .timeout(30)
            .priority(5)
            .run_in_minutes(10)
            .metadata(tenant="acme")
            .data(tracer)
            .unique("key", on_conflict="raise")
            .expires_in(3600)
            .build()
        )
    parts, terms = task.parts, task.parts.terms
    assert task.args == "my-task"
    assert parts.id == "task-123"
    assert isinstance(parts.id, TaskId)
    assert (parts.attempts, parts.timeout, parts.priority) == (3, 30.0, 5)
    assert (terms.delay, parts.run_at) == (600.0, NOON + timedelta(minutes=10))
    assert (terms.unique, terms.on_conflict, terms.expires_in) == ("key", "raise", 3600.0)
    assert (parts.delay, parts.unique, parts.on_conflict, parts.expires_in) == (600.0, "key", "raise", 3600.0)
    assert parts.metadata == {"tenant": "acme"}
    assert parts.extensions[Tracer] is tracer
    assert (parts.attempt, parts.status) == (0, Status.Pending)


def test_nothing_has_to_be_said() -> None:
    task = TaskBuilder(None).build()
    assert task.args is None
    assert not task.parts.has_extensions
    assert task.parts.run_at is None


@pytest.mark.parametrize(
    ("say", "seconds"),
    [
        (lambda builder: builder.run_in_seconds(5), 5),
        (lambda builder: builder.run_after(5), 5),
        (lambda builder: builder.run_in_minutes(1.5), 90),
        (lambda builder: builder.run_in_hours(2), 7200),
    ],
    ids=["seconds", "after", "minutes", "hours"],
)
def test_a_delay_may_be_given_in_several_units(
    say: Callable[[TaskBuilder[str]], TaskBuilder[str]], seconds: float
) -> None:
    with use_wall_clock(NOON.timestamp):
        task = say(TaskBuilder("args")).build()
    assert task.parts.terms.delay == seconds
    assert task.parts.run_at == NOON + timedelta(seconds=seconds)


def test_of_a_delay_and_a_moment_the_last_one_counts() -> None:
    moment = NOON + timedelta(days=1)
    task = TaskBuilder("args").run_in_hours(1).run_at(moment).build()
    assert (task.parts.terms.delay, task.parts.run_at) == (0.0, moment)
    with use_wall_clock(NOON.timestamp):
        task = TaskBuilder("args").run_at(moment).run_in_hours(1).build()
    assert (task.parts.terms.delay, task.parts.run_at) == (3600.0, NOON + timedelta(hours=1))
    task = TaskBuilder("args").run_at(moment).run_in_seconds(0).build()
    assert (task.parts.terms.delay, task.parts.run_at) == (0.0, None)


def test_metadata_and_data_add_up() -> None:
    task = TaskBuilder("args").metadata({"a": 1, "b": 1}, b=2).metadata(c=3).data(5).data("text").build()
    assert task.parts.metadata == {"a": 1, "b": 2, "c": 3}
    assert (task.parts.extensions[int], task.parts.extensions[str]) == (5, "text")


def test_a_builder_builds_several_tasks_which_share_nothing_that_changes() -> None:
    builder = TaskBuilder("args").data(5).priority(3)
    one, other = builder.build(), builder.build()
    assert one.parts.id < other.parts.id
    one.parts.extensions.insert("text")
    assert str not in other.parts.extensions
    assert builder.metadata(a=1).build().parts.metadata == {"a": 1}
    assert one.parts.metadata == {}


def test_what_is_set_after_a_task_was_built_is_not_in_it() -> None:
    builder = TaskBuilder("args").priority(3).metadata(a=1)
    one = builder.build()
    other = builder.attempts(2).priority(4).metadata(b=2).build()
    assert (one.parts.priority, one.parts.terms.attempts, dict(one.parts.metadata)) == (3, None, {"a": 1})
    assert (other.parts.priority, other.parts.terms.attempts, dict(other.parts.metadata)) == (4, 2, {"a": 1, "b": 2})


def test_a_builder_with_the_options_of_a_call_keeps_those_that_are_not_set_again() -> None:
    call: Call = Call("send", {}, options={"priority": 3, "attempts": 2, "metadata": {"a": 1}})
    task = TaskBuilder(call).attempts(5).metadata(b=2).build()
    assert (task.parts.priority, task.parts.terms.attempts, dict(task.parts.metadata)) == (3, 5, {"a": 1, "b": 2})
    assert Task(call).parts.terms.attempts == 2


async def test_tasks_of_one_push_share_what_does_not_change(autojump_clock: MockClock) -> None:
    """What is made for each of them is the id, the moment at which it is ready, and its data."""
    options: TaskOptions = {"priority": 3, "delay": 5, "metadata": {"a": 1}, "data": [5]}
    one, other = (task.parts for task in await make_tasks([1, 2], options))
    assert one.terms is other.terms
    assert one.metadata is other.metadata
    assert one.id < other.id
    assert None not in (one.run_at, other.run_at)
    one.extensions.insert("text")
    assert str not in other.extensions


async def test_each_call_of_one_push_keeps_its_own_options(autojump_clock: MockClock) -> None:
    calls: list[Any] = [Call("send", {}, options={"priority": n, "timeout": n}) for n in (1, 2)]
    tasks = await make_tasks([*calls, 3], {"timeout": 9})
    assert [task.parts.name for task in tasks] == ["send", "send", None]
    assert [(task.parts.priority, task.parts.timeout) for task in tasks] == [(1, 9), (2, 9), (0, 9)]


def test_a_builder_tells_for_what_it_is() -> None:
    assert repr(TaskBuilder("args")) == "<TaskBuilder for <str>>"


BAD: dict[str, tuple[Callable[[TaskBuilder[str]], object], str]] = {
    "empty id": (lambda b: b.id(""), "a task's id must not be an empty string"),
    "id of another type": (lambda b: b.id(5), "a task's id must be a string, not 5"),  # type: ignore[arg-type]  # this is the point
    "no attempts": (lambda b: b.attempts(0), "attempts must be 1 or more, not 0"),
    "half an attempt": (lambda b: b.attempts(1.5), "attempts must be a whole number, not 1.5"),  # type: ignore[arg-type]  # this is the point
    "no timeout": (lambda b: b.timeout(0), "timeout must be more than 0 seconds, not 0"),
    "endless timeout": (lambda b: b.timeout(math.inf), "timeout must be a finite number of seconds, not inf"),
    "half a priority": (lambda b: b.priority(0.5), "priority must be a whole number, not 0.5"),  # type: ignore[arg-type]  # this is the point
    "delay into the past": (lambda b: b.run_after(-1), "the delay must be 0 or more seconds, not -1"),
    "delay NaN": (lambda b: b.run_in_seconds(math.nan), "the delay must be a finite number of seconds, not nan"),
    "delay in words": (lambda b: b.run_in_minutes("ten"), "minutes must be a number of seconds, not 'ten'"),  # type: ignore[arg-type]  # this is the point
    "hours beyond floats": (lambda b: b.run_in_hours(1e308), "the delay must be a finite number of seconds, not inf"),
    "delay as timedelta": (lambda b: b.run_after(timedelta(1)), "the delay must be a number of seconds, not "),  # type: ignore[arg-type]  # this is the point
    "naive moment": (lambda b: b.run_at(datetime(2026, 11, 23)), "run_at must have a time zone, as "),  # noqa: DTZ001  this is the point
    "moment as a number": (lambda b: b.run_at(5), "run_at must be a datetime.datetime, not 5"),  # type: ignore[arg-type]  # this is the point
    "metadata no mapping": (lambda b: b.metadata([1]), "metadata must be a mapping .* not "),  # type: ignore[arg-type]  # this is the point
    "metadata by number": (lambda b: b.metadata({5: 1}), "names in metadata must be strings, not 5"),  # type: ignore[dict-item]  # this is the point
    "empty key": (lambda b: b.unique(""), "unique must not be an empty string"),
    "key of another type": (lambda b: b.unique(5), "unique must be a string, not 5"),  # type: ignore[arg-type]  # this is the point
    "unknown conflict": (lambda b: b.unique("k", on_conflict="fight"), "on_conflict must be 'skip', 'replace', '"),  # type: ignore[arg-type]  # this is the point
    "expires at once": (lambda b: b.expires_in(0), "expires_in must be more than 0 seconds, not 0"),
}


@pytest.mark.parametrize(("say", "message"), BAD.values(), ids=BAD)
def test_each_wrong_value_is_refused_where_it_is_given(say: Callable[[TaskBuilder[str]], object], message: str) -> None:
    builder = TaskBuilder("args")
    with pytest.raises((TypeError, ValueError), match=message):
        say(builder)
    assert builder.build().parts.terms == Task("args").parts.terms


@pytest.mark.parametrize("delay", [60.0, 3600.0])
def test_a_task_that_would_expire_before_it_is_ready_is_refused_when_it_is_built(delay: float) -> None:
    for builder in (TaskBuilder(1).expires_in(60).run_after(delay), TaskBuilder(1).run_after(delay).expires_in(60)):
        message = f"^expires_in must be more than the delay, which is {delay:g} s, and not 60 s: the task would expire"
        with pytest.raises(ValueError, match=message):
            builder.build()
        assert builder.expires_in(delay + 1).build().parts.expires_in == delay + 1


# By keywords


def test_without_keywords_it_is_a_plain_task() -> None:
    assert make_task("args", {}).args == "args"


def test_each_keyword_is_the_method_of_its_name() -> None:
    tracer = Tracer()
    options: TaskOptions = {
        "id": "task-123", "attempts": 3, "timeout": 30, "priority": 5, "delay": 600, "metadata": {"tenant": "acme"},
        "data": [tracer], "on_conflict": "replace", "unique": "key", "expires_in": 3600,
    }  # fmt: skip
    parts = make_task("args", options).parts
    terms = parts.terms
    assert (parts.id, parts.attempts, parts.timeout, parts.priority) == ("task-123", 3, 30.0, 5)
    assert (terms.delay, terms.unique, terms.on_conflict, terms.expires_in) == (600.0, "key", "replace", 3600.0)
    assert parts.metadata == {"tenant": "acme"}
    assert parts.extensions[Tracer] is tracer


def test_a_moment_by_keyword() -> None:
    assert make_task("args", {"run_at": NOON}).parts.run_at == NOON


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prio": 5}, "push has no option 'prio'; it takes attempts, data, deadline, delay, "),
        ({"run_after": 5}, "push has no option 'run_after'"),
        ({"build": 5}, "push has no option 'build'"),
        ({"delay": 5, "run_at": NOON}, "a delay or a run_at, not both"),
        ({"on_conflict": "raise"}, "on_conflict needs unique="),
        ({"delay": -1}, "the delay must be 0 or more seconds"),
        ({"attempts": 0}, "attempts must be 1 or more"),
        ({"id": ""}, "a task's id must not be an empty string"),
        ({"unique": "key", "on_conflict": "fight"}, "on_conflict must be "),
        ({"metadata": "text"}, "metadata must be a mapping"),
        ({"data": "text"}, r"data must be a list of values, such as \[tracer\], not 'text'"),
        ({"data": 5}, r"data must be a list of values, such as \[tracer\], not 5"),
    ],
    ids=repr,
)
def test_a_wrong_option_is_refused(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_task("args", options)


def test_options_for_many_are_checked_beforehand_and_can_be_used_again() -> None:
    options = options_for_many({"priority": 5, "data": iter([5])})
    for n in (1, 2):
        parts = make_task(n, options).parts
        assert parts.priority == 5
        assert parts.extensions[int] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "task-123"}, "push_bulk and push_stream take no id"),
        ({"priority": "high"}, "priority must be a whole number, not 'high'"),
        ({"data": 5}, "data must be a list of values"),
        ({"prio": 5}, "push has no option 'prio'"),
    ],
    ids=repr,
)
def test_a_wrong_option_for_many_is_refused(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        options_for_many(options)


def test_a_copy_of_a_builder_is_changed_alone() -> None:
    builder = TaskBuilder(1).attempts(3).data("first")
    other = copy.copy(builder).attempts(5).priority(2).data("second")
    task, changed = builder.build(), other.build()
    assert (task.parts.terms.attempts, task.parts.terms.priority, task.parts.extensions[str]) == (3, 0, "first")
    assert (changed.parts.terms.attempts, changed.parts.terms.priority) == (5, 2)
    assert changed.parts.extensions[str] == "second"
