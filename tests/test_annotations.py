"""Tests of annotations that are strings, as under `from __future__ import annotations`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ForwardRef, Optional, TypeVar

import pytest
import trio
from trio_tasks._handlers.adapter import Data, HandlerSignatureError, adapt
from trio_tasks._tasks import task as _task
from trio_tasks._tasks.task import Attempt, Task

if TYPE_CHECKING:
    from decimal import Decimal

    from trio_tasks._tasks.task import Task as TaskForTypes, Task as Whole
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")


class Mailer:
    pass


class User:
    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    async def from_task(cls, task: Task[Any]) -> User:
        return cls(f"user of {task.args}")


def refusal(handler: Callable[..., Any], *data: object) -> str:
    """What is said when this handler is adapted."""
    with pytest.raises(HandlerSignatureError) as caught:
        adapt(handler, data=data)
    return str(caught.value)


async def everything(
    n: int, attempt: Attempt, mailer: Data[Mailer], user: User, nursery: trio.Nursery, *, task: Task[int]
) -> list[object]:
    nursery.start_soon(trio.lowlevel.checkpoint)
    return [n, attempt, mailer, user.name, task]


async def test_all_of_them_are_read() -> None:
    task, mailer = Task(3), Mailer()
    assert await adapt(everything, data=[mailer])(task) == [3, 0, mailer, "user of 3", task]


class Service:
    class Inner:
        pass

    async def send(self, n: int, mailer: Data[Mailer], user: User) -> list[object]:
        return [n, mailer, user.name]

    @classmethod
    async def send_by_class(cls, n: int, mailer: Data[Mailer], user: User) -> list[object]:
        return [n, mailer, user.name]

    @staticmethod
    async def send_without_self(n: int, mailer: Data[Mailer], user: User) -> list[object]:
        return [n, mailer, user.name]

    async def __call__(self, n: int, mailer: Data[Mailer], user: User) -> list[object]:
        return [n, mailer, user.name]


def logged(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return await function(*args, **kwargs)

    return wrapper


send = Service.send_without_self

mailer_of_lambda = Mailer()
CALLABLES: dict[str, Callable[..., Any]] = {
    "function": send,
    "method": Service().send,
    "classmethod": Service.send_by_class,
    "classmethod of an object": Service().send_by_class,
    "object": Service(),
    "partial": functools.partial(send),
    "partial of a method": functools.partial(Service().send),
    "partial of an object": functools.partial(Service()),
    "partial of an unbound method": functools.partial(Service.send, Service()),
    "decorated": logged(send),
    "decorated twice": logged(logged(send)),
    "decorated method": logged(Service().send),
    "decorated partial": logged(functools.partial(send)),
    "partial of a decorated one": functools.partial(logged(send)),
    "decorated sync": functools.lru_cache(lambda n: [n, mailer_of_lambda, "user of 3"]),
}


@pytest.mark.parametrize("handler", CALLABLES.values(), ids=CALLABLES)
async def test_those_of_whatever_can_be_called_are_read(handler: Callable[..., Any]) -> None:
    assert await adapt(handler, data=[mailer_of_lambda])(Task(3)) == [3, mailer_of_lambda, "user of 3"]


async def test_a_decorator_in_another_module_does_not_hide_the_names_of_this_one() -> None:
    namespace: dict[str, Any] = {}
    source = """
import functools
def decorate(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)
    return wrapper
"""
    exec(source, namespace)
    mailer = Mailer()
    assert await adapt(namespace["decorate"](send), data=[mailer])(Task(3)) == [3, mailer, "user of 3"]


# Names that are known to type checkers alone


async def test_the_args_may_be_of_a_type_that_only_checkers_know() -> None:
    async def handler(price: Decimal, attempt: Attempt) -> Decimal:
        return price

    assert await adapt(handler)(Task(3)) == 3


async def test_a_whole_task_may_be_of_args_that_only_checkers_know() -> None:
    async def handler(task: Task[Decimal]) -> Decimal:
        return task.args

    async def by_module(task: _task.Task[list[Decimal]]) -> list[Decimal]:
        return task.args

    assert adapt(handler) is handler
    assert adapt(by_module) is by_module


async def test_a_whole_task_may_be_half_evaluated() -> None:
    async def handler(task: Any) -> Any:
        return task

    for annotation in (Task["Missing"], ForwardRef("Task[Missing]")):  # type: ignore[name-defined]  # missing is the point
        handler.__annotations__["task"] = annotation
        assert adapt(handler) is handler
    handler.__annotations__["task"] = list["Missing"]  # type: ignore[name-defined]  # noqa: F821  missing is the point
    assert await adapt(handler)(Task(3)) == 3


async def test_a_forward_reference_is_named_as_it_was_written() -> None:
    async def handler(n: int, further: int) -> None: ...

    handler.__annotations__["further"] = ForwardRef("Missing[int]")
    assert "its parameter 'further: Missing[int]' cannot be evaluated" in refusal(handler)


async def test_an_unreadable_annotation_of_the_args_does_no_harm() -> None:
    async def handler(n: int) -> int:
        return n

    for annotation in ("not python", "1 / 0", "Missing.Task.Inner", "int | Decimal", "Missing[int] | None", "", " int"):
        handler.__annotations__["n"] = annotation
        assert await adapt(handler)(Task(3)) == 3


async def test_a_task_that_only_checkers_know_is_refused_since_one_cannot_tell() -> None:
    async def handler(task: TaskForTypes[int]) -> None: ...

    async def renamed(task: Whole[int]) -> object:
        return task

    handler.__annotations__["task"] = "Task[Missing]"
    assert adapt(handler) is handler, "Task itself is known here"
    for annotation in ("missing.Task[int]", "missing.Task"):
        handler.__annotations__["task"] = annotation
        message = refusal(handler)
        assert (
            f"'task: {annotation}' cannot be evaluated, so it may or may not be the task: import Task outside of"
            in message
        )
    # One by another name cannot be told from args.
    assert await adapt(renamed)(Task(3)) == 3


async def test_the_result_may_be_of_a_type_that_only_checkers_know() -> None:
    async def handler(n: int, attempt: Attempt) -> Decimal | missing.Type:  # type: ignore[name-defined]  # noqa: F821  missing is the point
        return attempt

    assert await adapt(handler)(Task(3)) == 0


async def test_a_further_parameter_of_a_type_that_only_checkers_know_is_refused_by_name() -> None:
    async def handler(n: Decimal, attempt: Attempt, price: Data[Decimal]) -> None: ...

    message = refusal(handler)
    assert "its parameter 'price: Data[Decimal]' cannot be evaluated (name 'Decimal' is not defined)" in message


async def test_so_is_one_that_has_a_default() -> None:
    async def handler(n: int, price: Data[Decimal] | None = None) -> None: ...

    assert "its parameter 'price: Data[Decimal] | None' cannot be evaluated" in refusal(handler)


async def test_why_it_cannot_be_read_is_the_cause() -> None:
    async def handler(n: int, price: Decimal) -> None: ...

    with pytest.raises(HandlerSignatureError) as caught:
        adapt(handler)
    assert isinstance(caught.value.__cause__, NameError)


@pytest.mark.parametrize("annotation", ["not python", "1 / 0", "Mailer.Missing", "Mailer[int]", "5"])
async def test_what_cannot_be_evaluated_is_refused_by_name(annotation: str) -> None:
    async def handler(n: int, further: int) -> None: ...

    handler.__annotations__["further"] = annotation
    assert f"its parameter 'further: {annotation}' cannot be " in refusal(handler)


# Names of a local scope


async def test_names_of_the_function_around_it_are_read_while_that_runs() -> None:
    class LocalMailer:
        pass

    class LocalUser(User):
        pass

    async def handler(n: int, mailer: Data[LocalMailer], user: LocalUser) -> list[object]:
        return [mailer, type(user)]

    class LocalService:
        async def send(self, n: int, mailer: Data[LocalMailer], user: LocalUser) -> list[object]:
            return [mailer, type(user)]

    mailer = LocalMailer()
    for each in (handler, LocalService().send, functools.partial(handler), logged(handler)):
        assert await adapt(each, data=[mailer])(Task(3)) == [mailer, LocalUser]


async def test_names_of_all_functions_around_it_are_read_and_the_nearest_goes_first() -> None:
    class Mailer:
        pass

    class Clock:
        pass

    def inside() -> list[object]:
        class Clock:
            pass

        async def handler(n: int, mailer: Data[Mailer], clock: Data[Clock]) -> list[object]:
            return [type(mailer), type(clock)]

        return [adapt(handler, data=[Mailer(), Clock()]), Clock]

    attempt, inner_clock = inside()
    assert callable(attempt)
    assert await attempt(Task(3)) == [Mailer, inner_clock]


async def test_names_that_the_function_closes_over_are_read_after_the_one_around_it_has_returned() -> None:
    def make() -> Callable[..., Any]:
        class LocalMailer:
            pass

        async def handler(n: int, mailer: Data[LocalMailer] | None) -> type[object]:
            return LocalMailer

        return handler

    handler = make()
    assert (await adapt(handler)(Task(3))).__name__ == "LocalMailer"


async def test_names_that_are_gone_are_refused() -> None:
    def make() -> Callable[..., Any]:
        class LocalMailer:
            pass

        async def handler(n: int, mailer: Data[LocalMailer]) -> None: ...

        return handler

    assert "'mailer: Data[LocalMailer]' cannot be evaluated (name 'LocalMailer' is not defined)" in refusal(make())


async def test_names_in_the_calling_frame_are_not_read() -> None:
    class LocalMailer:
        pass

    handler = _handler_of_a_name_that_its_caller_has()
    assert "cannot be evaluated (name 'LocalMailer' is not defined)" in refusal(handler, LocalMailer())


def _handler_of_a_name_that_its_caller_has() -> Callable[..., Any]:
    async def handler(n: int, mailer: Data[LocalMailer]) -> None: ...  # type: ignore[name-defined]  # noqa: F821  missing is the point

    return handler


async def test_a_closure_without_a_value_yet_does_no_harm() -> None:
    async def handler(n: int, attempt: Attempt) -> int:
        return later

    attempt = adapt(handler)
    later = 5
    assert await attempt(Task(3)) == 5


# Spellings


async def test_quoted_and_aliased_annotations_are_read() -> None:
    async def handler(n: int, one: Data["Mailer"], two: "Optional[Attempt]", three: "Data['Mailer']") -> list[object]:  # noqa: UP037, UP045  quotes are the point
        return [one, two, three]

    mailer = Mailer()
    assert await adapt(handler, data=[mailer])(Task(3)) == [mailer, 0, mailer]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with 3.12")
async def test_aliases_by_a_type_statement_are_read() -> None:
    namespace: dict[str, Any] = {"Data": Data, "Mailer": Mailer, "Task": Task}
    source = """
type Mail = Data[Mailer]
type IntTask = Task[int]
async def handler(task: IntTask, mailer: Mail):
    return task, mailer
"""
    exec(compile(source, "aliases", "exec", dont_inherit=True), namespace)
    mailer, task = Mailer(), Task(3)
    assert await adapt(namespace["handler"], data=[mailer])(task) == (task, mailer)
