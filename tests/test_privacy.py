"""Tests of privacy: logs, errors and reprs show no values of tasks, and escaped names only."""

from __future__ import annotations

import ast
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import cbor2
import pytest
import trio
from trio_tasks import (
    AbortError,
    CborCodec,
    CustomBackend,
    DecodeError,
    DuplicateTaskError,
    EncodeError,
    FileStorage,
    JsonCodec,
    LeaseLostError,
    MemoryStorage,
    Metadata,
    Parts,
    Retried,
    SqliteStorage,
    Succeeded,
    Task,
    TaskBuilder,
    TaskId,
    TaskResult,
    Worker,
    WorkerBuilder,
)
from trio_tasks._printing import SHOW_ARGS, escaped, quoted
from trio_tasks.layers import Filter, Log, LongRunning, Timeout, Trace

PACKAGE = Path(__file__).parents[1] / "trio_tasks"
SECRET = "hunter2"
WILD = "evil\n\x1b[31mid\u202e"
STORAGES = ["memory", "file", "sqlite"]


class Colour(Enum):
    RED = "red"


@dataclass
class Login:
    password: str
    colour: Colour = Colour.RED


@asynccontextmanager
async def opened(kind: str, tmp_path: Path, **options: Any) -> Any:
    if kind == "memory":
        yield MemoryStorage[Any]()
        return
    made: Any = FileStorage if kind == "file" else SqliteStorage
    async with made(tmp_path / "tasks", Login, **options) as storage:
        yield storage


def told(error: BaseException) -> str:
    """All that a log would have of an error."""
    return f"{error} {error!r} " + "".join(traceback.format_exception(type(error), error, error.__traceback__))


# Values


async def run_all_ways(storage: Any, said: list[str]) -> None:
    """Tasks that succeed, fail, are retried, interrupted, filtered out and shed; all that is said of them."""

    async def handler(login: Login) -> str:
        await trio.lowlevel.checkpoint()
        if login.password.endswith("!"):
            raise ValueError("no")
        return login.password

    def listen(context: object, event: object) -> None:
        said.append(f"{context!r} {event!r}")

    ids = [await storage.push(Login(SECRET + end), metadata={"token": SECRET}, attempts=2) for end in ("", "!")]
    storage.close()
    layers: list[Any] = [Log(), Trace(), LongRunning(60), Timeout(9)]
    worker = Worker("w", storage, handler, layers=layers, on_event=listen)
    with trio.fail_after(60):
        report = await worker.run()
    said += [repr(report), str(report), repr(storage), repr(worker)]
    for task_id in ids:
        with_result = await storage.wait_for(task_id)
        task = await storage.fetch_by_id(task_id)
        said += [repr(with_result), repr(task), repr(task.parts), repr(task.parts.metadata), repr(task.parts.context)]


@pytest.mark.parametrize("kind", STORAGES)
async def test_no_value_of_a_task_is_shown(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    async with opened(kind, tmp_path) as storage:
        await run_all_ways(storage, said)
    shown = [*said, caplog.text]
    assert "Succeeded" in "".join(said) or "Success(" in "".join(said)
    assert not [each for each in shown if SECRET in each]


@pytest.mark.parametrize("kind", STORAGES)
async def test_values_are_shown_for_development(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHOW_ARGS, "1")
    said: list[str] = []
    async with opened(kind, tmp_path) as storage:
        await run_all_ways(storage, said)
    assert len([each for each in said if SECRET in each]) > 4


SHOWN: list[object] = [
    Task(SECRET), TaskBuilder(SECRET), TaskBuilder(1).metadata(a=SECRET), Metadata(token=SECRET), Succeeded(SECRET),
    TaskResult.of(TaskId("a"), Succeeded(SECRET)), Task({"password": SECRET}), Task([SECRET]),
]  # fmt: skip


@pytest.mark.parametrize("value", SHOWN, ids=[f"{n} {type(each).__name__}" for n, each in enumerate(SHOWN)])
def test_a_repr_has_the_type_of_a_value(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SECRET not in repr(value)
    assert "<" in repr(value)
    monkeypatch.setenv(SHOW_ARGS, "1")
    assert SECRET in repr(value) or isinstance(value, TaskBuilder)


both = pytest.mark.parametrize("make", [CborCodec, JsonCodec], ids=["cbor", "json"])


@both
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Literal["a", "b"], SECRET), (Login, Login(SECRET, SECRET)), (Login, Login(5)), (int, SECRET),  # type: ignore[arg-type]  # as users do
        (list[int], [SECRET]), (dict[int, int], {SECRET: 1}),
        (dict[str, int], {SECRET + "@example.com": SECRET}), (Any, {f"{SECRET}@": 1j}),
        (Any, [SECRET, 1j]), (Colour, SECRET), (Any, {"a": {(SECRET, 1): 2}}), (Any, [f"{SECRET}\ud800"]),
    ],
    ids=[str(n) for n in range(12)],
)  # fmt: skip
def test_an_encode_error_does_not_quote_the_value(make: Callable[..., Any], kind: Any, value: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        make(kind).encode(value)
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        cbor2.dumps({"password": SECRET, "colour": SECRET}), cbor2.dumps(SECRET), cbor2.dumps({SECRET: SECRET}),
        b"\xc0\x67" + SECRET.encode(), b"\xa2\x67" + SECRET.encode() + b"\x01\x67" + SECRET.encode() + b"\x02",
        cbor2.dumps([SECRET]) + b"\xff", cbor2.dumps(cbor2.CBORTag(4000, SECRET)),
    ],
    ids=[str(n) for n in range(7)],
)  # fmt: skip
def test_a_decode_error_does_not_quote_the_payload(payload: bytes) -> None:
    for codec in (CborCodec(Login), CborCodec(Colour), CborCodec(Literal["a", "b"]), CborCodec(int)):
        with pytest.raises(DecodeError) as caught:
            codec.decode(payload)
        assert SECRET not in told(caught.value)


async def test_wrong_calls_do_not_quote_values() -> None:
    storage = MemoryStorage[Any]()
    calls: list[Callable[[], Any]] = [
        lambda: TaskBuilder(1).metadata([SECRET]),  # type: ignore[arg-type]  # as users do
        lambda: storage.push_task(SECRET),  # type: ignore[arg-type]  # as users do
        lambda: storage.settle(SECRET, Succeeded(1)),  # type: ignore[arg-type]  # as users do
        lambda: storage.push_bulk(5),  # type: ignore[arg-type]  # as users do
        lambda: CustomBackend(receive=lambda: SECRET).receive(),  # type: ignore[arg-type, return-value]  # as users do
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r" not |returned") as caught:
            await call()
        assert SECRET not in str(caught.value)


def test_options_are_quoted_and_cut() -> None:
    with pytest.raises(TypeError, match=r"^priority must be a whole number, not '1'$"):
        TaskBuilder(1).priority("1")  # type: ignore[arg-type]  # as users do
    with pytest.raises(TypeError, match=r"^priority must be a whole number, not 'x{98}…$") as caught:
        TaskBuilder(1).priority("x" * 1000)  # type: ignore[arg-type]  # as users do
    assert len(str(caught.value)) < 140

    class Rude:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert quoted(Rude()) == "a Rude, whose repr raises ZeroDivisionError"
    assert len(quoted("x" * 1000)) == 100


# Names


def test_names_ids_and_keys_have_a_kibibyte_at_most(tmp_path: Path) -> None:
    fits = ["x" * 1024, "é" * 512]
    too_long = ["x" * 1025, "é" * 513]

    async def handler(args: Any) -> None: ...

    makers: list[Callable[[str], object]] = [
        TaskId,
        Parts,
        TaskBuilder(1).id,
        TaskBuilder(1).unique,
        lambda name: Metadata({name: 1}),
        lambda name: SqliteStorage(tmp_path / "tasks.db", queue=name),
        lambda name: FileStorage(tmp_path / "tasks", queue=name),
        lambda name: Worker(name, MemoryStorage[Any](), handler),
        WorkerBuilder,
    ]
    for make in makers:
        for name in fits:
            make(name)
        for name in too_long:
            with pytest.raises(ValueError, match=r"must have 1024 bytes or less in UTF-8, not 102[56]$"):
                make(name)


@pytest.mark.parametrize("kind", STORAGES)
async def test_names_are_shown_escaped(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    attempts = 0

    async def handler(task: Task[Any]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await trio.sleep(0.002)
        if attempts == 2:
            raise ValueError("no")
        await trio.lowlevel.checkpoint()

    def listen(context: object, event: object) -> None:
        said.append(f"{context!r} {event!r}")

    async with opened(kind, tmp_path, **({"queue": WILD} if kind != "memory" else {})) as storage:
        login = Login("a")
        await storage.push(login, id=WILD, unique=WILD, metadata={WILD: 1})
        errors: list[BaseException] = []
        calls: list[Callable[[], Any]] = [
            lambda: storage.push(login, id=WILD),
            lambda: storage.push(login, unique=WILD, on_conflict="raise"),
            lambda: storage.wait_for(WILD + "?"),
        ]
        for call in calls:
            with pytest.raises(Exception) as caught:  # noqa: PT011  each another one, and all are looked at
                await call()
            errors.append(caught.value)
        task = await storage.receive()
        said += [repr(task), repr(task.parts), repr(task.parts.context), repr(task.parts.metadata), repr(task.parts.id)]
        await storage.settle(task, Retried(ValueError("no"), 0.0))
        with pytest.raises(LeaseLostError) as lost:
            await storage.settle(task, Retried(ValueError("no"), 0.0))
        errors.append(lost.value)
        layers: list[Any] = [Log(), Trace(), LongRunning(0.001)]
        worker = Worker(WILD, storage, handler, layers=layers, on_event=listen)
        storage.close()
        said += [repr(storage), repr(worker)]
        report = await worker.run()
        said += [repr(report)]
        found = await storage.fetch_by_id(WILD)
        said += [repr(found), repr(found.parts.context)]
    said += [str(error) for error in errors] + [record.getMessage() for record in caplog.records]
    assert len([each for each in said if "evil" in each]) > 8
    assert not [each for each in said if "\x1b" in each or "\u202e" in each or "evil\n" in each]
    assert [type(each) for each in errors[:2]] == [DuplicateTaskError] * 2


async def test_layers_show_names_escaped() -> None:
    task = Task(1, Parts(WILD))
    layers: list[Any] = [Filter(lambda task: False), Timeout(0.001)]
    for layer in layers:
        with pytest.raises((AbortError, trio.TooSlowError)) as caught:
            await layer(sleep, task)
        assert "evil\\n\\x1b[31mid\\u202e" in str(caught.value)


async def sleep(task: Task[Any]) -> None:
    await trio.sleep(30)


def test_escaped_leaves_what_prints() -> None:
    assert escaped("task-123 é 用户") == "task-123 é 用户"
    assert escaped("a\nb\\n\x1b\ud800") == "a\\nb\\\\n\\x1b\\ud800"
    assert len(escaped("x" * 5000)) == 1025
    assert escaped("no C:\\x é", is_text=True) == "no C:\\x é"
    assert escaped("no\nC:\\x\ud800", is_text=True) == "no\\nC:\\\\x\\ud800"


IDS = {"id", "task_id", "holder", "successor"}


def raw_ids(source: str) -> Iterator[str]:
    """The places in a source where an id is put into a text, or given to the log, as it is."""
    for node in ast.walk(ast.parse(source)):
        found: list[ast.expr] = []
        if isinstance(node, ast.FormattedValue) and node.conversion == -1:
            found = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in LEVELS:
            if "log" in ast.unparse(node.func):
                found = node.args[1:]
        for each in found:
            if isinstance(each, ast.Call) and ast.unparse(each.func) == "str":
                each = each.args[0]
            name = each.attr if isinstance(each, ast.Attribute) else each.id if isinstance(each, ast.Name) else ""
            if name in IDS:
                yield f"line {each.lineno}: {ast.unparse(each)}"


LEVELS = {"debug", "info", "warning", "error", "exception", "log"}


def test_every_id_that_is_printed_is_escaped() -> None:
    assert len(list(raw_ids('f"{a.id} {task_id!r} {escaped(b.id)}"; log.error("%s", parts.id)'))) == 2
    found = {
        str(path.relative_to(PACKAGE)): raw
        for path in PACKAGE.rglob("*.py")
        if "testing" not in path.parts and (raw := list(raw_ids(path.read_text("utf-8"))))
    }
    assert not found
