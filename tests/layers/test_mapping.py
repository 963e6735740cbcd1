"""Tests of the layers MapArgs, MapResult and MapError."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import AbortError, MemoryStorage, Task, Worker
from trio_tasks.layers import MapArgs, MapError, MapResult


async def double(task: Task[int]) -> int:
    return task.args * 2


def failing(error: BaseException) -> Callable[[Task[Any]], Any]:
    async def fail(task: Task[Any]) -> None:
        raise error

    return fail


async def test_args_are_mapped_and_the_parts_are_the_same() -> None:
    seen: list[Task[int]] = []

    async def look(task: Task[int]) -> int:
        seen.append(task)
        return task.args

    task = Task("21")
    assert await MapArgs(int)(look, task) == 21
    assert seen[0].parts is task.parts
    assert task.args == "21", "the task itself is left as it is"


async def test_args_that_cannot_be_mapped_are_the_attempts_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await MapArgs(int)(double, Task("many"))


async def test_results_are_mapped() -> None:
    assert await MapResult(str)(double, Task(21)) == "42"


async def test_a_result_that_cannot_be_mapped_is_the_attempts_error() -> None:
    with pytest.raises(ZeroDivisionError):
        await MapResult[int, int](lambda n: 1 // n)(double, Task(0))


async def test_errors_are_mapped_and_kept_as_the_cause() -> None:
    error = KeyError("x")
    with pytest.raises(LookupError, match="mapped") as caught:
        await MapError(lambda error: LookupError("mapped"))(failing(error), Task(1))
    assert caught.value.__cause__ is error


async def test_a_mapped_error_may_have_a_cause_of_its_own() -> None:
    error, cause = KeyError("x"), ValueError("the real one")
    with pytest.raises(AbortError) as caught:
        await MapError(lambda error: AbortError(cause))(failing(error), Task(1))
    assert caught.value.__cause__ is cause
    assert caught.value.__context__ is error


async def test_an_error_that_is_left_alone_passes_as_it_is() -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:
        await MapError(lambda error: error)(failing(error), Task(1))
    assert caught.value is error
    assert caught.value.__cause__ is None


async def test_what_cannot_be_raised_is_refused() -> None:
    wrong: Any = lambda error: None  # noqa: E731  it is what a forgotten return looks like
    with pytest.raises(TypeError, match="must return an exception, not None") as caught:
        await MapError(wrong)(failing(KeyError("x")), Task(1))
    assert isinstance(caught.value.__context__, KeyError)


async def test_a_cancellation_is_not_mapped(autojump_clock: trio.testing.MockClock) -> None:
    mapped: list[Exception] = []

    async def sleep(task: Task[int]) -> None:
        await trio.sleep_forever()

    def note(error: Exception) -> Exception:
        mapped.append(error)
        return error

    with trio.move_on_after(1) as scope:
        await MapError(note)(sleep, Task(1))
    assert scope.cancelled_caught
    assert not mapped


async def test_all_three_in_a_worker(autojump_clock: trio.testing.MockClock) -> None:
    """From the outside in: errors, results, args. An abort is one also if it was another error first."""
    storage = MemoryStorage[str]()
    ids = await storage.push_bulk(["21", "many"])
    storage.close()

    async def handler(n: int) -> int:
        return n * 2

    layers: list[Any] = [MapError(AbortError), MapResult(str), MapArgs(int)]
    untyped: Any = handler
    report = await Worker("w", storage, untyped, layers=layers).run()
    assert (report.succeeded, report.killed) == (1, 1)
    assert (await storage.wait_for(ids[0])).unwrap() == "42"
    left = await storage.fetch_by_id(ids[1])
    assert left is not None
    assert left.args == "many", "the backend keeps the args that it had"


async def test_what_changes_a_type_goes_around_the_handler(autojump_clock: trio.testing.MockClock) -> None:
    """Typed from end to end: a backend of strings, a handler of numbers, a result that is text."""
    storage = MemoryStorage[str]()
    task_id = await storage.push("21")
    storage.close()
    handler = partial(MapArgs[str, int](int), partial(MapResult[int, str](str), double))
    await Worker("w", storage, handler).run()
    assert (await storage.wait_for(task_id)).unwrap() == "42"


@pytest.mark.parametrize("layer", [MapArgs, MapResult, MapError])
def test_wrong_functions_are_refused(layer: Callable[[Any], object]) -> None:
    async def not_awaited(value: Any) -> Any:
        return value

    class NotAwaited:
        async def __call__(self, value: Any) -> Any:
            return value

    with pytest.raises(TypeError, match="fn must be callable, as fn"):
        layer(3)
    for wrong in (not_awaited, NotAwaited()):
        with pytest.raises(TypeError, match=r"fn must be a plain function, .* is async"):
            layer(wrong)


def test_they_show_themselves() -> None:
    assert [repr(each) for each in (MapArgs(int), MapResult(str))] == [
        "<MapArgs by <class 'int'>>",
        "<MapResult by <class 'str'>>",
    ]
    assert repr(MapError(AbortError)) == "<MapError by <class 'trio_tasks.AbortError'>>"
