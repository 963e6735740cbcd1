"""Tests of the layers InThread and DjangoConnections, which open something in the thread of a sync handler."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Data, Injected, MemoryStorage, Retried, Router, Succeeded, TaskResult, Worker
from trio_tasks.layers import DjangoConnections, InThread
from trio_tasks.testing import run_once, virtual_clock

user: ContextVar[str] = ContextVar("user", default="nobody")


class Traces:
    """A context manager that notes the thread in which it is opened and closed."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.seen: list[str] = []
        self.threads: set[int] = set()

    @contextmanager
    def opened(self) -> Generator[None, None, None]:
        self.threads.add(threading.get_ident())
        self.seen.append(f"{self.name} opened")
        user.set(self.name)
        try:
            yield
        except Exception as error:
            self.seen.append(f"{self.name} saw {error!r}")
            raise
        finally:
            self.threads.add(threading.get_ident())
            self.seen.append(f"{self.name} closed")


async def result_of(handler: Callable[..., Any], *layers: Any) -> Any:
    outcome = await run_once(handler, 1, layers=layers)
    if isinstance(outcome, Succeeded):
        return outcome.result
    assert isinstance(outcome, Retried)
    raise outcome.error


def look(n: int) -> tuple[int, str]:
    return threading.get_ident(), user.get()


async def test_it_is_opened_and_closed_in_the_thread_of_the_handler() -> None:
    traces = Traces()
    thread, name = await result_of(look, InThread(traces.opened))
    assert thread != threading.get_ident()
    assert traces.threads == {thread}
    assert (name, user.get()) == ("a", "nobody")
    assert traces.seen == ["a opened", "a closed"]


async def test_several_are_nested_as_the_layers_are() -> None:
    outer, inner = Traces("outer"), Traces("inner")
    inner.seen = outer.seen
    await result_of(look, InThread(outer.opened), InThread(inner.opened))
    assert outer.seen == ["outer opened", "inner opened", "inner closed", "outer closed"]


async def test_it_sees_an_error_and_may_suppress_it() -> None:
    def fail(n: int) -> None:
        raise ValueError(n)

    traces = Traces()
    with pytest.raises(ValueError, match="1"):
        await result_of(fail, InThread(traces.opened))
    assert traces.seen == ["a opened", "a saw ValueError(1)", "a closed"]
    assert await result_of(fail, InThread(lambda: suppress(ValueError))) is None


async def test_async_handlers_and_later_attempts_of_the_slot_have_nothing_of_it() -> None:
    traces = Traces()

    async def in_trio(n: int) -> tuple[int, str]:
        return await trio.to_thread.run_sync(look, n)

    assert (await result_of(in_trio, InThread(traces.opened)))[1] == "nobody"
    assert traces.seen == []

    tasks = Router()
    tasks.task(layers=[InThread(traces.opened)])(look)

    @tasks.task
    def plain(n: int) -> str:
        return user.get()

    storage = MemoryStorage[Any]()
    ids = await storage.push_bulk([tasks.functions["look"].bind(1), plain.bind(1), tasks.functions["look"].bind(1)])
    storage.close()
    await Worker("w", storage, tasks, concurrency=1).run()
    results: list[TaskResult[Any]] = await storage.wait_for(ids)
    assert [each.unwrap() if isinstance(each.result, str) else each.unwrap()[1] for each in results] == [
        "a", "nobody", "a",
    ]  # fmt: skip
    assert traces.seen == ["a opened", "a closed"] * 2


async def test_it_surrounds_a_handler_that_needs_no_thread_in_virtual_time() -> None:
    traces = Traces()
    with virtual_clock():
        assert (await result_of(look, InThread(traces.opened)))[1] == "a"
    assert traces.seen == ["a opened", "a closed"]


async def test_the_parameters_of_the_handler_are_filled_in_as_ever() -> None:
    tasks = Router()

    @tasks.task(layers=[InThread(Traces().opened)])
    def add(n: int, *, more: Data[int] = Injected) -> int:
        return n + more

    storage = MemoryStorage[Any]()
    task_id = await storage.push(add.bind(1))
    storage.close()
    await Worker("w", storage, tasks, data=[5]).run()
    assert await add.result(storage, task_id) == 6


async def asynchronous() -> None: ...


def test_what_is_no_plain_function_is_refused() -> None:
    wrong: list[Any] = [5, None, asynchronous]
    for each in wrong:
        with pytest.raises(TypeError, match="open_context must be"):
            InThread(each)
    assert repr(InThread(look)).startswith("<InThread <function look")  # type: ignore[arg-type]  # the repr calls nothing


async def test_the_connections_of_django_are_closed_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/examples/django_shop has it with a database."""
    import django.db

    threads: list[int] = []
    monkeypatch.setattr(django.db, "close_old_connections", lambda: threads.append(threading.get_ident()))
    thread, _ = await result_of(look, DjangoConnections())
    assert threads == [thread, thread] != [threading.get_ident()] * 2
    assert repr(DjangoConnections()) == "<DjangoConnections>"
    monkeypatch.setitem(sys.modules, "django.db", None)
    with pytest.raises(ModuleNotFoundError, match="django"):
        DjangoConnections()


DJANGO = """
import sys, threading, trio
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
django.setup()
from django.db import connection
from trio_tasks import MemoryStorage, Worker
from trio_tasks.layers import DjangoConnections

seen = []

def is_open(raw):
    try:
        return bool(raw.execute("SELECT 1").fetchone())
    except Exception as error:
        return "closed" not in str(error)

def query(n):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        seen.append(connection.connection)
        assert is_open(connection.connection)
    if n == 2:
        raise ValueError

async def run(*layers):
    storage = MemoryStorage()
    await storage.push_bulk([1, 2], attempts=1)
    storage.close()
    await Worker("w", storage, query, concurrency=1, layers=layers).run()
    is_left = [is_open(each) for each in seen]
    [each.close() for each in seen]
    seen.clear()
    return is_left

print(trio.run(run, DjangoConnections()), any(trio.run(run)))
"""


@pytest.mark.real
def test_a_connection_of_django_is_closed_after_the_attempt_and_stays_open_without_the_layer(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", DJANGO, str(tmp_path / "a.db")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.stdout == "[False, False] True\n"
