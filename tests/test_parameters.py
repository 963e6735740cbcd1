"""Tests of filling in a handler's parameters, and of the errors if that is impossible.

The annotations in this file are evaluated where they stand; those of test_annotations.py are not.
"""

import abc
import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import (
    Annotated,
    Any,
    NamedTuple,
    NewType,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
    final,
    runtime_checkable,
)

import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Worker
from trio_tasks._contracts.context import WorkerContext
from trio_tasks._handlers.adapter import Data, HandlerSignatureError, adapt
from trio_tasks._tasks.errors import WorkerError
from trio_tasks._tasks.extensions import Extensions, Metadata
from trio_tasks._tasks.outcome import Killed, Released, Status
from trio_tasks._tasks.task import Attempt, Parts, Task, TaskBuilder
from trio_tasks._tasks.task_id import TaskId

T = TypeVar("T")

UserName = NewType("UserName", str)

DATA: Any = Data  # to be subscripted when the program runs


class Mailer:
    pass


class LoudMailer(Mailer):
    pass


class Clock:
    def tick(self) -> float:
        return 1.0


class User:
    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    async def from_task(cls, task: Task[Any]) -> "User":
        return cls(f"user of {task.args}")


@runtime_checkable
class Ticks(Protocol):
    def tick(self) -> float: ...


class TicksUnchecked(Protocol):
    def tick(self) -> float: ...


class Box(dict[str, T]):
    pass


@final
class Slot:
    """A holder of a running task, in place of a worker's slot."""

    worker = "w"

    def __init__(self, context: WorkerContext) -> None:
        self.context = context

    def revoke(self, outcome: Killed | Released) -> bool:
        raise NotImplementedError

    def current_line(self) -> str:
        return "nowhere"


def context_running(task: Task[Any]) -> WorkerContext:
    """Have the task be in the hands of a worker, whose context is returned."""
    context = WorkerContext("worker")
    task.parts.holder = Slot(context)
    return context


def refusal(handler: Callable[..., Any], *data: object) -> str:
    """What is said when this handler is adapted."""
    with pytest.raises(HandlerSignatureError) as caught:
        adapt(handler, data=data)
    return str(caught.value)


# What is at hand


async def test_all_that_is_at_hand_is_filled_in_by_its_annotation() -> None:
    async def handler(
        args: str,
        attempt: Attempt,
        task_id: TaskId,
        parts: Parts,
        metadata: Metadata,
        extensions: Extensions,
        status: Status,
        task: Task[str],
        context: WorkerContext,
    ) -> list[object]:
        return [args, attempt, task_id, parts, metadata, extensions, status, task, context]

    task = TaskBuilder("args").id("task-123").metadata(tenant="acme").build()
    parts = task.parts
    parts.attempt, parts.status = Attempt(7), Status.Running
    context = context_running(task)
    given = await adapt(handler)(task)
    assert given == [
        "args", 7, "task-123", parts, parts.metadata, parts.extensions, Status.Running, task, context
    ]  # fmt: skip
    assert isinstance(given[1], Attempt)
    assert isinstance(given[2], TaskId)


async def test_a_sync_handler_is_given_the_same() -> None:
    def handler(args: str, attempt: Attempt, context: WorkerContext, mailer: Data[Mailer]) -> list[object]:
        return [args, attempt, context, mailer]

    task, mailer = Task("args"), Mailer()
    context = context_running(task)
    assert await adapt(handler, data=[mailer])(task) == ["args", 0, context, mailer]


async def test_each_attempt_is_given_its_own() -> None:
    async def handler(n: int, attempt: Attempt) -> int:
        return attempt

    task, attempt = Task(3), adapt(handler)
    assert await attempt(task) == 0
    task.parts.attempt = Attempt(1)
    assert await attempt(task) == 1


async def test_without_a_worker_there_is_no_context() -> None:
    async def handler(n: int, context: WorkerContext) -> None: ...

    with pytest.raises(WorkerError, match="no worker has claimed task"):
        await adapt(handler)(Task(3))


async def test_an_optional_one_is_filled_in() -> None:
    async def handler(
        n: int, attempt: Attempt | None, task_id: Optional[TaskId] = None, user: User | None = None  # noqa: UP045  both spellings
    ) -> list[object]:  # fmt: skip
        return [attempt, task_id, user and user.name]

    task = Task(3)
    assert await adapt(handler)(task) == [0, task.parts.id, "user of 3"]


async def test_other_annotations_around_one_do_no_harm() -> None:
    async def handler(n: int, attempt: Annotated[Attempt, "for the log"]) -> int:
        return attempt

    assert await adapt(handler)(Task(3)) == 0


# The args


async def test_the_first_parameter_may_be_of_any_type_and_name() -> None:
    async def of_ids(task: TaskId) -> str:
        return task

    async def of_users(attempt: User) -> str:
        return attempt.name

    assert await adapt(of_ids)(Task(TaskId("an id to look up"))) == "an id to look up"
    assert await adapt(of_users)(Task(User("Ada"))) == "Ada"


async def test_a_subscripted_annotated_task_is_a_whole_task() -> None:
    async def handler(task: Annotated[Task[int], "whole"], attempt: Attempt) -> object:
        return task

    task = Task(3)
    assert await adapt(handler)(task) is task


async def test_what_belongs_behind_the_args_is_refused_in_their_place() -> None:
    async def data(mailer: Data[Mailer]) -> None: ...

    async def context(context: WorkerContext, n: int = 0) -> None: ...

    async def nursery(nursery: trio.Nursery) -> None: ...

    for handler in (data, context, nursery):
        assert "comes first, but the first parameter is for the task's args" in refusal(handler, Mailer())


# All kinds of parameters


async def test_every_kind_of_parameter_is_filled_in() -> None:
    async def handler(
        n: int, one: Attempt, gap: str = "gap", two: Data[Mailer] | None = None, /, *rest: int,
        three: Attempt, four: str = "four", **more: Attempt,
    ) -> list[object]:  # fmt: skip
        return [n, one, gap, two, rest, three, four, more]

    mailer = Mailer()
    assert await adapt(handler, data=[mailer])(Task(3)) == [3, 0, "gap", mailer, (), 0, "four", {}]


async def test_what_comes_after_a_gap_is_filled_in() -> None:
    async def handler(n: int, gap: str = "gap", attempt: Attempt = Attempt(9)) -> list[object]:  # noqa: B008  it is immutable
        return [n, gap, attempt]

    assert await adapt(handler)(Task(3)) == [3, "gap", 0]


async def test_a_default_is_kept_where_the_annotation_says_nothing() -> None:
    async def handler(n: int, bare=1, typed: int = 2, *, keyword: str = "3") -> list[object]:  # type: ignore[no-untyped-def]  # bare is the point
        return [n, bare, typed, keyword]

    assert await adapt(handler)(Task(0)) == [0, 1, 2, "3"]


async def test_what_a_partial_has_bound_is_left_alone() -> None:
    async def handler(n: int, mailer: Data[Mailer], attempt: Attempt, clock: Data[Clock]) -> list[object]:
        return [n, mailer, attempt, clock]

    mailer, clock = Mailer(), Clock()
    bound = functools.partial(functools.partial(handler, clock=clock), mailer=mailer)
    assert await adapt(bound, data=[Mailer(), Clock()])(Task(3)) == [3, mailer, 0, clock]


async def test_what_a_partial_has_bound_by_place_is_left_alone() -> None:
    async def handler(mailer: Data[Mailer], n: int, attempt: Attempt) -> list[object]:
        return [mailer, n, attempt]

    mailer = Mailer()
    assert await adapt(functools.partial(handler, mailer))(Task(3)) == [mailer, 3, 0]


async def test_what_has_no_annotation_and_no_default_is_refused() -> None:
    async def handler(n: int, mailer) -> None: ...  # type: ignore[no-untyped-def]  # this is the point

    message = refusal(handler, Mailer())
    assert "its parameter 'mailer' cannot be filled in: annotate it as Data[...], Attempt, " in message
    assert "handler cannot be a handler" in message


@pytest.mark.parametrize(
    "annotation", [int, Clock, "str", list[Attempt], Attempt | TaskId, Any, None, type[Attempt], 5], ids=str
)
async def test_what_the_annotation_does_not_fill_is_refused_by_name(annotation: Any) -> None:
    async def handler(n: int, further: int) -> None: ...

    handler.__annotations__["further"] = annotation
    message = refusal(handler, Mailer())
    assert "its parameter 'further: " in message
    assert "cannot be filled in: annotate it as Data[...]" in message


async def test_a_keyword_only_one_is_refused_by_name() -> None:
    async def handler(n: int, *, further: int) -> None: ...

    assert "'further: int' cannot be filled in" in refusal(handler)


@pytest.mark.parametrize(
    ("annotation", "advice"),
    [
        (Mailer, "write 'further: Data[Mailer]'"),
        ("Mailer", "write 'further: Data[Mailer]'"),
        (Mailer | None, f"write 'further: Data[{__name__}.Mailer | None]'"),
        (Box[int], f"write 'further: Data[{__name__}.Box[int]]'"),
    ],
    ids=str,
)
async def test_what_only_lacks_the_word_data_is_refused_with_that_advice(annotation: Any, advice: str) -> None:
    async def handler(n: int, further: int) -> None: ...

    handler.__annotations__["further"] = annotation
    message = refusal(handler, LoudMailer(), Box[int](), Clock())
    assert advice in message
    assert "data has a" in message


# The type of the args


def test_a_first_parameter_of_another_class_than_the_args_is_refused() -> None:
    async def of_args(email: Mailer) -> None: ...

    async def of_task(task: Task[Mailer]) -> None: ...

    for handler in (of_args, of_task):
        with pytest.raises(HandlerSignatureError) as caught:
            adapt(handler, args_type=Clock)
        assert "for the task's args, which are Clock here" in str(caught.value)
        assert handler.__name__ in str(caught.value)
    with pytest.raises(
        HandlerSignatureError, match=re.escape("if it is meant to come from data, write 'Data[Mailer]'")
    ):
        adapt(of_args, data=[Mailer()], args_type=Clock)


class Pair(NamedTuple):
    left: int
    right: int


class Dict(TypedDict):
    a: int


class Ticking(abc.ABC):
    @abc.abstractmethod
    def tick(self) -> float: ...

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return hasattr(other, "tick")


@pytest.mark.parametrize(
    ("args_type", "first"),
    [
        (Mailer, Mailer),
        (Mailer, LoudMailer),
        (LoudMailer, Mailer),
        (int, object),
        (int, Any),
        (Any, int),
        (int, float),
        (int, complex),
        (float, complex),
        (bytes, bytearray),
        (int, T),
        (int, Mailer | None),
        (int | str, Mailer),
        (list[int], Mailer),
        (Mailer, list[int]),
        (dict, Dict),
        (Dict, Mailer),
        (Clock, Ticks),
        (Clock, TicksUnchecked),
        (Mailer, TicksUnchecked),
        (Clock, Ticking),
        (tuple, Pair),
        (UserName, Mailer),
        (str, UserName),
        (None, Mailer),
        (int, "Missing"),
        (int, inspect.Parameter.empty),
    ],
    ids=str,
)
def test_a_first_parameter_that_may_fit_the_args_is_taken(args_type: Any, first: Any) -> None:
    async def of_args(it: int) -> None: ...

    async def of_task(it: Task[int]) -> None: ...

    if first is inspect.Parameter.empty:
        del of_args.__annotations__["it"]
    else:
        of_args.__annotations__["it"] = first
        if first != "Missing":
            of_task.__annotations__["it"] = Task[first]
    adapt(of_args, args_type=args_type)
    adapt(of_task, args_type=args_type if first != "Missing" else Any)


# Data


async def test_data_is_found_by_its_class() -> None:
    async def handler(n: int, clock: Data[Clock], mailer: Data[Mailer]) -> list[object]:
        return [clock, mailer]

    mailer, clock = Mailer(), Clock()
    assert await adapt(handler, data=[mailer, clock])(Task(3)) == [clock, mailer]


async def test_data_of_the_very_class_goes_before_that_of_a_subclass() -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> object:
        return mailer

    quiet, loud = Mailer(), LoudMailer()
    assert await adapt(handler, data=[loud, quiet])(Task(3)) is quiet
    assert await adapt(handler, data=(loud,))(Task(3)) is loud


async def test_the_same_value_twice_is_one_value() -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> object:
        return mailer

    mailer = Mailer()
    assert await adapt(handler, data=[mailer, mailer])(Task(3)) is mailer


@pytest.mark.parametrize("falsy", [0, "", None, ()])
async def test_falsy_data_counts(falsy: object) -> None:
    async def handler(n: int, value: int) -> object:
        return value

    handler.__annotations__["value"] = DATA[type(falsy)]
    assert await adapt(handler, data=[falsy])(Task(3)) is falsy


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (Mailer | Clock, Clock()),
        (Union[Mailer, Clock], Mailer()),  # noqa: UP007  both spellings
        (dict[str, int], {"a": 1}),
        (Box[int], Box({"a": 1})),
        (Ticks, Clock()),
        (Callable[[int], str], str),
        (type[Mailer], Mailer),
        (UserName, "Ada"),
        (Annotated[Mailer, "annotated"], Mailer()),
        (Optional[Mailer], Mailer()),  # noqa: UP045  both spellings
    ],
    ids=["union", "typing.Union", "generic", "own generic", "protocol", "callable", "class", "NewType",
         "Annotated", "Optional"],
)  # fmt: skip
async def test_data_may_be_asked_for_by_anything_that_names_a_class(wanted: Any, value: object) -> None:
    async def handler(n: int, it: int) -> object:
        return it

    handler.__annotations__["it"] = DATA[wanted]
    assert await adapt(handler, data=[3.5, value])(Task(3)) is value


async def test_data_that_is_not_there_is_refused() -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> None: ...

    message = refusal(handler, Clock(), 3)
    assert f"its parameter 'mailer: Data[{__name__}.Mailer]' is not in data" in message
    assert f"is not in data, which holds {__name__}.Clock, int: give the worker data=[...]" in message
    assert "which holds nothing" in refusal(handler)


async def test_data_of_one_of_several_types_that_is_not_there_is_refused() -> None:
    async def handler(n: int, either: Data[Mailer | Clock]) -> None: ...

    assert f"'either: Data[{__name__}.Mailer | {__name__}.Clock]' is not" in refusal(handler, 3)


async def test_the_class_does_not_stand_for_its_value() -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> None: ...

    assert "is not in data, which holds type" in refusal(handler, Mailer)


@pytest.mark.parametrize("pair", [(Mailer(), Mailer()), (LoudMailer(), LoudMailer())], ids=["class", "subclass"])
async def test_data_that_might_be_either_is_refused_and_both_are_named(pair: tuple[Mailer, Mailer]) -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> None: ...

    message = refusal(handler, *pair)
    assert "'mailer: " in message
    assert f"fits both {pair[0]!r} and {pair[1]!r}" in message


async def test_equal_but_different_data_is_ambiguous() -> None:
    async def handler(n: int, text: Data[list[int]]) -> None: ...

    assert "fits both [1] and [1]" in refusal(handler, [1], [1])


@pytest.mark.parametrize("wanted", [T, Any, TicksUnchecked, "Missing"], ids=str)
async def test_data_must_name_a_class(wanted: Any) -> None:
    async def handler(n: int, it: int) -> None: ...

    handler.__annotations__["it"] = DATA[wanted]
    assert "'it: " in refusal(handler, Clock())


async def test_optional_data_may_be_missing() -> None:
    async def handler(
        n: int,
        one: Data[Mailer] | None,
        two: Optional[Data[Mailer]],  # noqa: UP045  both spellings
        three: Data[Mailer | None],
        four: Data[Mailer] = "default",  # type: ignore[assignment]  # to be seen
        five: Data[Mailer] | None = "default",  # type: ignore[assignment]  # to be seen
    ) -> list[object]:
        return [one, two, three, four, five]

    assert await adapt(handler)(Task(3)) == [None, None, None, "default", "default"]
    mailer = Mailer()
    assert await adapt(handler, data=[mailer])(Task(3)) == [mailer] * 5


async def test_the_tasks_own_extensions_go_before_the_workers_data() -> None:
    async def handler(n: int, mailer: Data[Mailer], clock: Data[Clock], box: Data[Box[int]] | None) -> list[object]:
        return [mailer, clock, box]

    mailer, clock, own, box = Mailer(), Clock(), LoudMailer(), Box[int]()
    attempt = adapt(handler, data=[mailer, clock])
    assert await attempt(Task(3)) == [mailer, clock, None]
    assert await attempt(TaskBuilder(3).data(own, box).build()) == [own, clock, box]
    assert await attempt(Task(3)) == [mailer, clock, None]


async def test_looking_for_data_does_not_make_extensions() -> None:
    async def handler(n: int, mailer: Data[Mailer]) -> object:
        return mailer

    task = Task(3)
    await adapt(handler, data=[Mailer()])(task)
    assert task.parts._extensions is None


# Extractors


class UserOfStatic:
    @staticmethod
    async def from_task(task: Task[Any]) -> "UserOfStatic":
        return UserOfStatic()


class GenericUser(Box[T]):
    @classmethod
    async def from_task(cls, task: Task[Any]) -> "GenericUser[T]":
        return cls()


class Member(User):
    pass


async def test_a_class_that_knows_how_to_come_from_a_task_is_asked_to() -> None:
    async def handler(
        n: int, user: User, member: Member, static: UserOfStatic, generic: GenericUser[int],
        default: User = User("default"),  # noqa: B008  not changed
    ) -> list[object]:  # fmt: skip
        return [user.name, type(member), type(static), type(generic), default.name]

    assert await adapt(handler)(Task(3)) == ["user of 3", Member, UserOfStatic, GenericUser, "user of 3"]


async def test_data_that_knows_how_to_come_from_a_task_is_data() -> None:
    async def handler(n: int, user: Data[User]) -> str:
        return user.name

    assert await adapt(handler, data=[User("given")])(Task(3)) == "given"


class OfInstance:
    async def from_task(self, task: Task[Any]) -> "OfInstance":
        return self


class Sync:
    @classmethod
    def from_task(cls, task: Task[Any]) -> "Sync":
        return cls()


class NoMethod:
    from_task = 3


@pytest.mark.parametrize("kind", [OfInstance, Sync, NoMethod])
async def test_a_from_task_of_another_kind_is_refused(kind: type) -> None:
    async def handler(n: int, it: int) -> None: ...

    handler.__annotations__["it"] = kind
    message = refusal(handler)
    assert f"'it: {__name__}.{kind.__name__}' needs another from_task: `@classmethod async def" in message


# Extractors that ask for more


class Session:
    """An extractor that is opened before an attempt and closed after it."""

    opened = 0

    def __init__(self, mailer: Mailer, attempt: int, said: list[str]) -> None:
        self.mailer, self.attempt, self.said = mailer, attempt, said

    @classmethod
    @asynccontextmanager
    async def from_task(
        cls, task: Task[Any], mailer: Data[Mailer], *, attempt: Attempt, said: Data[list[str]], context: WorkerContext
    ) -> "AsyncGenerator[Session, None]":
        said.append(f"open for {task.args} of {context.name}")
        try:
            yield cls(mailer, attempt, said)
        except BaseException as error:
            said.append(f"told of {type(error).__name__}")
            raise
        finally:
            said.append("close")


class Lookup:
    def __init__(self, mailer: Mailer) -> None:
        self.mailer = mailer

    @classmethod
    async def from_task(cls, task: Task[Any], mailer: Data[Mailer]) -> "Lookup":
        return cls(mailer)


class Forgiving:
    @classmethod
    @asynccontextmanager
    async def from_task(cls, task: Task[Any]) -> "AsyncGenerator[Forgiving, None]":
        with suppress(BaseException):
            yield cls()


class Annotated_:  # noqa: N801  it says how it says so
    def __init__(self) -> None:
        self.closed = False

    @classmethod
    def from_task(cls, task: Task[Any]) -> AbstractAsyncContextManager["Annotated_"]:
        return aclosing(cls())

    async def aclose(self) -> None:
        self.closed = True


async def test_an_extractor_is_given_what_it_asks_for() -> None:
    async def handler(n: int, lookup: Lookup) -> Mailer:
        return lookup.mailer

    mailer = LoudMailer()
    assert await adapt(handler, data=[mailer])(Task(3)) is mailer


@pytest.mark.parametrize("sync", [False, True])
async def test_an_extractor_may_be_closed_when_the_attempt_ends(sync: bool) -> None:
    said: list[str] = []

    async def handler(n: int, session: Session, nursery: trio.Nursery) -> int:
        nursery.start_soon(child)
        said.append(f"attempt {session.attempt}")
        return n

    async def child() -> None:
        await trio.lowlevel.checkpoint()
        said.append("child")

    def in_thread(n: int, session: Session) -> int:
        said.extend([f"attempt {session.attempt}", "child"])
        return n

    task = Task(3)
    context_running(task)
    assert await adapt(in_thread if sync else handler, data=[Mailer(), said])(task) == 3
    assert said == ["open for 3 of worker", "attempt 0", "child", "close"]


async def test_an_extractor_is_told_of_an_error_and_of_a_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    said: list[str] = []

    async def handler(n: int, session: Session) -> None:
        if n == 1:
            raise ValueError("no")
        await trio.sleep_forever()

    attempt = adapt(handler, data=[Mailer(), said])
    tasks = [Task(1), Task(2)]
    for task in tasks:
        context_running(task)
    with pytest.raises(ValueError, match="no"):
        await attempt(tasks[0])
    with trio.move_on_after(1) as scope:
        await attempt(tasks[1])
    assert scope.cancelled_caught
    assert [each for each in said if "open" not in each] == [
        "told of ValueError",
        "close",
        "told of Cancelled",
        "close",
    ]


async def test_an_extractor_does_not_decide_how_the_attempt_ends(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(n: int, forgiving: Forgiving) -> None:
        if n == 1:
            raise ValueError("no")
        await trio.sleep_forever()

    with pytest.raises(ValueError, match="no"):
        await adapt(handler)(Task(1))
    with trio.move_on_after(1) as scope:
        await adapt(handler)(Task(2))
        raise AssertionError("it was cancelled")
    assert scope.cancelled_caught


async def test_what_was_opened_is_closed_if_the_next_extractor_fails() -> None:
    said: list[str] = []

    class Failing:
        @classmethod
        async def from_task(cls, task: Task[Any]) -> "Failing":
            raise KeyError("none")

    async def handler(n: int, session: Session, failing: Failing) -> None:
        raise AssertionError("it is not called")

    task = Task(3)
    context_running(task)
    with pytest.raises(KeyError):
        await adapt(handler, data=[Mailer(), said])(task)
    assert said[-2:] == ["told of KeyError", "close"]


async def test_a_from_task_may_be_annotated_as_giving_a_context_manager() -> None:
    kept: list[Annotated_] = []

    async def handler(n: int, it: Annotated_) -> bool:
        kept.append(it)
        return it.closed

    assert await adapt(handler)(Task(3)) is False
    assert kept[0].closed


async def test_what_an_extractor_asks_for_and_is_not_there_is_refused_by_name() -> None:
    async def handler(n: int, lookup: Lookup) -> None: ...

    message = refusal(handler, Clock())
    assert f"its parameter 'lookup: {__name__}.Lookup' cannot be filled in" in message
    assert f"of Lookup.from_task, its parameter 'mailer: Data[{__name__}.Mailer]' is not in data" in message
    assert "handler cannot be a handler" in message


async def test_an_extractor_cannot_ask_for_another_or_for_a_nursery() -> None:
    class Greedy:
        @classmethod
        async def from_task(cls, task: Task[Any], user: User) -> "Greedy":
            return cls()

    class Nesting:
        @classmethod
        async def from_task(cls, task: Task[Any], nursery: trio.Nursery) -> "Nesting":
            return cls()

    async def handler(n: int, greedy: Greedy) -> None: ...

    async def other(n: int, nesting: Nesting) -> None: ...

    assert "its parameter 'user: " in refusal(handler)
    assert "its parameter 'nursery: " in refusal(other)


async def test_it_is_closed_before_the_task_is_settled() -> None:
    said: list[str] = []
    storage = MemoryStorage[int]()
    await storage.push(3)
    storage.close()

    async def handler(n: int, session: Session) -> None: ...

    def listen(context: WorkerContext, event: object) -> None:
        said.append(type(event).__name__)

    await Worker("w", storage, handler, data=[Mailer(), said], on_event=listen).run()
    assert said[-4:] == ["open for 3 of w", "close", "Success", "Stop"]
