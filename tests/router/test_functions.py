"""Tests of the functions of a router: their names, their parameters, and the calls that they make."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
import trio
from trio_tasks import (
    Attempt,
    Call,
    Data,
    EncodeError,
    HandlerSignatureError,
    Injected,
    MemoryStorage,
    RetryPolicy,
    Router,
    Task,
    TaskBuilder,
    TaskFunction,
    TaskId,
    WorkerContext,
)
from trio_tasks.layers import RateLimit, Timeout


class Mailer:
    """A value given as data."""


class Session:
    """An extractor."""

    @classmethod
    async def from_task(cls, task: Task[Any]) -> Session:
        await trio.lowlevel.checkpoint()
        return cls()


class Options(TypedDict):
    deep: bool


@dataclass
class Point:
    x: int
    y: int


tasks = Router()


@tasks.task(queue="emails", attempts=8, timeout=30)
async def send_email(
    to: str, subject: str = "hello", *, mailer: Data[Mailer] = Injected, attempt: Attempt = Injected
) -> int:
    """Send an email."""
    await trio.lowlevel.checkpoint()
    return len(to + subject)


@tasks.task(
    name="video.resize",
    aliases=["resize"],
    queue="video",
    unique="{path} {width}",
    key="{owner}",
    on_conflict="replace",
    version=2,
    upgrade={1: lambda args: {**args, "width": 640}},
)
def resize(path: Path, owner: str, width: int = 320) -> str:
    return f"{path} {owner} {width}"


def test_a_function_says_what_it_is() -> None:
    assert send_email.name == "send_email"
    assert (resize.name, resize.aliases, resize.queue, resize.version) == ("video.resize", ("resize",), "video", 2)
    assert send_email.__doc__ == "Send an email."
    assert dict(send_email.options) == {"attempts": 8, "timeout": 30}
    assert repr(resize).startswith("<TaskFunction video.resize: ")
    assert tasks.task_names == frozenset(["send_email", "video.resize", "resize"])
    assert tasks.functions == {"send_email": send_email, "video.resize": resize}


async def test_it_is_still_a_function() -> None:
    assert await send_email("a", mailer=Mailer(), attempt=Attempt(1)) == 6
    assert resize(Path("/a"), "ada") == "/a ada 320"
    with pytest.raises(TypeError, match=r"called directly needs a value for 'mailer'"):
        await send_email("a", attempt=Attempt(1))
    with pytest.raises(AttributeError, match=r"Injected, which has no 'send'"):
        Injected.send("a")


def test_a_call_has_its_arguments_by_name() -> None:
    call = send_email.bind("a@example.com", subject="hi")
    assert (call.name, dict(call.args), call.version) == ("send_email", {"to": "a@example.com", "subject": "hi"}, 1)
    assert call == send_email.bind(subject="hi", to="a@example.com")
    assert call != send_email.bind("a@example.com")
    assert hash(call) == hash(send_email.bind("a@example.com", subject="hi"))
    assert repr(call) == "<Call send_email(to=<str>, subject=<str>)>"
    with pytest.raises(AttributeError, match=r"never changes"):
        call.name = "other"
    with pytest.raises(AttributeError, match=r"never changes"):
        del call.name
    with pytest.raises(TypeError, match=r"does not support item assignment"):
        call.args["to"] = "b"  # type: ignore[index]  # it is read-only


def test_a_call_that_was_made_by_hand_is_the_same() -> None:
    assert Call("send_email", {"to": "a"}) == send_email.bind("a")
    made: Task[Call[Any]] = TaskBuilder(Call[Any]("x", {}, options={"attempts": 3})).build()
    assert (made.parts.name, made.parts.attempts) == ("x", 3)


bind_resize: Any = resize.bind  # type checkers refuse all of these calls
bind_email: Any = send_email.bind

WRONG_CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "type": (
        lambda: bind_resize(Path("/a"), "o", width="wide"),
        EncodeError,
        "args of video.resize.width must be int, not str",
    ),
    "bool": (lambda: bind_resize(Path("/a"), "o", True), EncodeError, "width must be int, not bool"),
    "path": (lambda: bind_resize("/a", "o"), EncodeError, "args of video.resize.path must be Path, not str"),
    "missing": (lambda: bind_resize(Path("/a")), TypeError, "misses the argument 'owner'"),
    "unknown": (
        lambda: bind_resize(Path("/a"), "o", heigth=3),
        TypeError,
        "no parameter 'heigth'; it takes path, owner",
    ),
    "twice": (lambda: bind_resize(Path("/a"), "o", path=Path()), TypeError, "was given the argument 'path' twice"),
    "many": (lambda: bind_resize(Path("/a"), "o", 3, 4), TypeError, "takes 3 arguments by position, not 4"),
    "injected": (lambda: bind_email("a", mailer=Mailer()), TypeError, "takes no 'mailer': a worker fills it in"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    make, kind, text = WRONG_CALLS[name]
    with pytest.raises(kind, match=text):
        make()


def value_cases() -> list[tuple[Any, list[Any], list[Any]]]:
    return [
        (int, [1], [True, "1", 1.0, None]),
        (float, [1.5, 2], [True, "1"]),
        (bytes, [b"a"], ["a"]),
        (int | None, [1, None], ["1"]),
        (int | str | None, [1, "a", None], [1.5]),
        (Any, [1, object()], []),
        (object, [1], []),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (list[int], [[], [1]], [["a"], (1,), "a"]),
        (dict[str, list[int]], [{"a": [1]}], [{"a": ["b"]}, {1: [1]}]),
        (dict[Any, Any], [{1: 2}], [[]]),
        (tuple[int, str], [(1, "a")], [(1,), ("a", 1)]),
        (tuple[int, ...], [(), (1, 2)], [("a",)]),
        (set[str], [{"a"}], [{1}, ["a"]]),
        (Point, [Point(1, 2)], [(1, 2), {"x": 1}]),
        (Options, [{"deep": True}], [[]]),
        (type(None), [None], [0]),
        (TaskId | None, [], []),
    ]


@pytest.mark.parametrize("number", range(len(value_cases()) - 1))
def test_arguments_are_checked_by_their_annotation(number: int) -> None:
    annotation, right, wrong = value_cases()[number]

    def function(value: Any) -> None:
        """Do nothing."""

    function.__annotations__["value"] = annotation
    bind: Any = Router().task(function).bind
    for value in right:
        assert bind(value).args["value"] is value
    for value in wrong:
        with pytest.raises(EncodeError, match=r"args of function.value must be"):
            bind(value)


def test_the_options_of_a_function_are_those_of_its_tasks() -> None:
    parts = Task(send_email.bind("a")).parts
    assert (parts.name, parts.attempts, parts.timeout) == ("send_email", 8, 30.0)
    parts = TaskBuilder(send_email.bind("a")).attempts(2).build().parts
    assert (parts.name, parts.attempts, parts.timeout) == ("send_email", 2, 30.0)
    parts = Task(resize.bind(Path("/a"), "o")).parts
    assert (parts.unique, parts.on_conflict, parts.key) == ("/a 320", "replace", "o")
    assert resize.bind(Path("/a"), "o", 5).options == {
        "unique": "/a 5",
        "key": "o",
        "on_conflict": "replace",
    }
    parts = TaskBuilder(resize.bind(Path("/a"), "o")).unique("mine").build().parts
    assert (parts.unique, parts.on_conflict, parts.key) == ("mine", "skip", "o")
    assert TaskBuilder(resize.bind(Path("/a"), "o")).key("p").build().parts.key == "p"
    function = Router().task(key="of {to}")(send_email.__wrapped__)
    assert (function.bind("a").options["key"], function.unique) == ("of a", None)


async def test_a_keyword_at_the_push_goes_before_them() -> None:
    storage = MemoryStorage[Call[object]]()
    router = Router()
    function = router.task(priority=5, metadata={"a": 1, "b": 1}, retry=RetryPolicy(attempts=7), delay=60)(plain)
    await storage.push(function.bind(1), priority=1, metadata={"b": 2}, run_at=later())
    [task] = await storage.list_tasks()
    assert (task.parts.priority, task.parts.attempts, dict(task.parts.metadata)) == (1, 7, {"a": 1, "b": 2})
    assert task.parts.run_at == later()
    await storage.push(resize.bind(Path("/a"), "o"), id="first")
    assert await storage.push(resize.bind(Path("/a"), "o"), on_conflict="skip") == "first"


def later() -> Any:
    from datetime import datetime, timezone

    return datetime(2100, 1, 1, tzinfo=timezone.utc)


async def plain(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


# Signatures


def star(*paths: str) -> None:
    """Arguments without names."""


def stars(**options: int) -> None:
    """Arguments without parameters."""


def positional(path: str, /) -> None:
    """An argument that cannot be passed by name."""


def without_default(path: str, mailer: Data[Mailer]) -> None:
    """Data without the default."""


def attempt_without_default(path: str, attempt: Attempt) -> None:
    """An attempt without the default."""


def optional_without_default(path: str, mailer: Data[Mailer] | None = None) -> None:
    """Data with another default."""


def extractor_without_default(session: Session) -> None:
    """An extractor without the default."""


def nursery_in_thread(path: str, nursery: trio.Nursery = Injected) -> None:
    """A nursery in a sync function."""


def injected_number(path: str, n: int = Injected) -> None:
    """Nothing to fill it in by."""


def injected_unannotated(path: str, n=Injected) -> None:  # type: ignore[no-untyped-def]  # that is the mistake
    """Nothing to fill it in by, either."""


def unannotated(path: str, n=5) -> None:  # type: ignore[no-untyped-def]  # that is the mistake
    """An argument of any type, by mistake."""


def undefined(path: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821  that is the mistake
    """An annotation that is not there."""


def undefined_injected(path: str, mailer: Data[Nowhere] = Injected) -> None:  # type: ignore[name-defined]  # noqa: F821  that is the mistake
    """An annotation that is not there."""


async def generator(path: str) -> AsyncIterator[str]:
    """No result."""
    yield path


SIGNATURES: dict[str, tuple[Any, str]] = {
    "star": (star, r"its parameter '\*paths' has no names to store"),
    "stars": (stars, r"its parameter '\*\*options' has no names to store"),
    "positional": (positional, "its parameter 'path' is positional-only"),
    "data": (without_default, r"'mailer: Data\[Mailer\]' is filled in by the worker: give it the default `Injected`"),
    "attempt": (
        attempt_without_default,
        "'attempt: Attempt' is filled in by the worker: give it the default `Injected`",
    ),
    "optional": (optional_without_default, "'mailer: .*' is filled in by the worker: give it the default `Injected`"),
    "extractor": (extractor_without_default, "'session: Session' is filled in by the worker"),
    "nursery": (nursery_in_thread, "'nursery: trio.Nursery' asks for a nursery, which the thread"),
    "number": (injected_number, r"'n: int' cannot be filled in: annotate it as Data\[...\]"),
    "unannotated": (injected_unannotated, "its parameter 'n' cannot be filled in"),
    "unannotated argument": (unannotated, "its parameter 'n' has no annotation, by which its values are checked"),
    "undefined": (undefined, "'path: Nowhere' cannot be evaluated .*: define or import the name"),
    "undefined data": (undefined_injected, "'mailer: .*Nowhere.*' cannot be evaluated"),
    "generator": (generator, "it is a generator function"),
    "class": (Mailer, "it is a class"),
    "no function": (5, "must be a function"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_bad_signatures_are_refused_when_the_program_is_imported(name: str) -> None:
    function, text = SIGNATURES[name]
    router = Router()
    with pytest.raises(HandlerSignatureError, match=text):
        router.task(function)
    assert not router.functions


WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"atempts": 3}, "Router.task has no option 'atempts'"),
    "key": ({"key": "{path}"}, r"key of plain names \{path\}, which is no argument"),
    "id": ({"id": "a"}, "Router.task has no option 'id'"),
    "attempts": ({"attempts": 0}, "attempts must be 1 or more"),
    "timeout": ({"timeout": "long"}, "timeout must be a number of seconds"),
    "template": ({"unique": "{path}"}, r"unique of plain names \{path\}, which is no argument"),
    "braces": ({"unique": "{n"}, "unique must be a template"),
    "conflict": ({"on_conflict": "raise"}, "on_conflict needs unique="),
    "queue": ({"queue": ""}, "queue must not be an empty string"),
    "name": ({"name": ""}, "name must not be an empty string"),
    "aliases": ({"aliases": "old"}, "aliases must be a list of former names"),
    "version": ({"version": 0}, "version must be 1 or more"),
    "upgrade": ({"upgrade": {1: dict}}, "leads to version 2, and the function has version 1"),
    "no upgrade": ({"upgrade": [dict]}, "upgrade must be a dict from versions to functions"),
    "retry": ({"retry": 5}, "retry must be a RetryPolicy"),
    "layers": ({"layers": [Timeout]}, "each of layers must be"),
    "gate": ({"layers": [RateLimit(1, per=1)]}, "has a gate"),
    "both": ({"delay": 5, "run_at": later()}, "a delay or a run_at, not both"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_options_are_refused_when_the_program_is_imported(name: str) -> None:
    options, text = WRONG_OPTIONS[name]
    with pytest.raises((TypeError, ValueError), match=text):
        Router().task(**options)(plain)


def test_a_key_that_cannot_be_made_is_refused_by_bind() -> None:
    function = Router().task(unique="{n.x}")(plain)
    with pytest.raises(EncodeError, match=r"unique of plain, '{n.x}', cannot be made: AttributeError"):
        function.bind(1)
    blank: Any = Router().task(unique="{text}")(lambda_of_text())
    with pytest.raises(EncodeError, match=r"must not be an empty string"):
        blank.bind("")


def lambda_of_text() -> Any:
    def of_text(text: str) -> None:
        """Do nothing."""

    return of_text


def test_two_functions_of_one_name_are_refused_by_their_places() -> None:
    router = Router()
    router.task(plain)
    both = r"two functions have the name 'plain': .*test_functions.plain in line \d+ and .*of_text in line \d+"
    with pytest.raises(ValueError, match=both):
        router.task(name="plain")(lambda_of_text())
    with pytest.raises(ValueError, match=r"two functions have the name 'plain'"):
        router.task(aliases=["plain"])(lambda_of_text())
    assert router.functions.keys() == {"plain"}


def test_two_functions_of_one_name_in_one_module_are_told_apart() -> None:
    text = (
        "tasks = Router()\n@tasks.task\ndef f(n: int) -> int:\n    return n\n"
        "@tasks.task\ndef f(n: int) -> int:\n    return -n\n"
    )
    place: dict[str, Any] = {"__name__": "__main__", "Router": Router}
    with pytest.raises(ValueError, match=r"the name 'f': __main__\.f in line 2 and __main__\.f in line 5"):
        exec(text, place)  # since no checker takes two functions of one name in a module


def test_one_template_in_a_queue_is_not_for_two_functions() -> None:
    router = Router()
    router.task(unique="{n}")(plain)

    def other(n: int) -> None:
        """Do nothing."""

    with pytest.raises(ValueError, match=r"have the same unique='{n}' in one queue"):
        router.task(unique="{n}")(other)
    assert router.task(unique="other {n}")(other).unique == "other {n}"


def test_a_function_without_a_name_needs_one() -> None:
    router = Router()
    with pytest.raises(TypeError, match=r"a name: @tasks.task"):
        router.task(lambda: None)
    made: TaskFunction[[], int, int] = router.task(name="f")(lambda: 5)
    assert made.bind() == Call("f", {})


# Routers


def test_a_prefix_belongs_to_the_router_that_is_included() -> None:
    billing, shop = Router(prefix="billing."), Router()
    charge = billing.task(plain)
    shop.include(billing)
    late = billing.task(name="late")(lambda_of_text())
    assert (charge.name, late.name) == ("billing.plain", "billing.late")
    assert shop.task_names == billing.task_names == frozenset(["billing.plain", "billing.late"])
    with pytest.raises(ValueError, match=r"two functions have the name 'billing.plain'"):
        shop.task(name="billing.plain")(lambda_of_text())
    shop.task(name="taken")(lambda_of_text())
    with pytest.raises(ValueError, match=r"two functions have the name"):
        billing.task(name="x", aliases=["taken"])(plain)
    assert "billing.x" not in billing.functions
    with pytest.raises(ValueError, match=r"cannot include itself"):
        billing.include(shop)
    with pytest.raises(ValueError, match=r"cannot include itself"):
        shop.include(shop)
    with pytest.raises(TypeError, match=r"include takes a Router"):
        shop.include(plain)  # type: ignore[arg-type]  # that is the mistake


def test_nothing_is_global() -> None:
    """Two routers in a process have functions of the same name, and know nothing of each other."""
    first, second = Router(), Router()
    one, two = first.task(plain), second.task(plain)
    assert one is not two
    assert first.functions["plain"] is one
    assert second.functions["plain"] is two
    three = second.task(name="again")(one)  # a function of another router is the function itself
    assert three.bind(1).name == "again"
    assert "again" not in first.functions


def test_what_a_router_is_made_of_is_checked() -> None:
    with pytest.raises(TypeError, match=r"prefix must be a string"):
        Router(prefix=5)  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(TypeError, match=r"unknown must be 'suspend', 'fail' or an async function"):
        Router(unknown="drop")  # type: ignore[arg-type]  # that is the mistake
    assert repr(Router(prefix="a.")) == "<Router 'a.': 0 functions>"


WITHOUT_LIBRARIES = """
import sys
for each in ("msgspec", "cbor2", "pydantic"):
    sys.modules[each] = None
import trio
from dataclasses import dataclass
from trio_tasks import Call, MemoryStorage, Router, Worker

@dataclass
class Point:
    x: int

tasks = Router()

@tasks.task
async def double(point: Point) -> int:
    return point.x * 2

async def main():
    async with tasks.open(MemoryStorage()) as queues:
        task_id = await queues.push(double.bind(Point(21)))
        async with queues.monitor({"default": 1}) as monitor:
            print(await double.result(queues, task_id))
            monitor.shutdown()

trio.run(main)
"""


def test_tasks_in_memory_need_no_library() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARIES], capture_output=True, text=True, check=False)
    assert run.stdout == "42\n", run.stderr


def test_a_context_is_filled_in_by_its_annotation() -> None:
    async def watch(n: int, context: WorkerContext = Injected) -> None:
        """Do nothing."""

    assert Router().task(watch).routed.injected == ("context",)
