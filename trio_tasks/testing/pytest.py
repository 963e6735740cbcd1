"""Fixtures and a marker for pytest: name this module in ``pytest_plugins`` of your ``conftest.py``.

>>> pytest_plugins = ["trio_tasks.testing.pytest"]

* The fixture ``tasks``: a new :class:`MemoryStorage`, for code that pushes.
* ``open_sqlite``: ``async with open_sqlite(Email) as storage`` opens a :class:`SqliteStorage` on a file of the test.
* ``task_clock``: virtual time, which jumps over all waiting, so that a month of retries takes milliseconds; for stored
  tasks and sync handlers, too.
* The marker ``redelivery``, and the fixture of the same name: the test is run by :func:`explore_redelivery`. It cancels
  the handler at each moment and delivers its task again; files, databases and noted values are compared with those of
  one clean run. ``@pytest.mark.redelivery(seeds=5)`` does so under five schedules.

A test of these fixtures fails at once if only another fixture of it asks for ``autojump_clock`` or ``mock_clock`` of
pytest-trio: those install a clock only for a test that names them itself, and it would wait in real time.

It is no entry point of pytest, so that it is loaded only where it is asked for. The tests themselves are run by
pytest-trio.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import pytest
import trio

from .. import MemoryStorage, SqliteStorage
from ._exploration.redelivery import Redelivery, explore_redelivery
from ._simulation.virtual_time import virtual_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trio.testing import MockClock

    A = TypeVar("A")

    class OpenSqlite(Protocol):
        """The type of the fixture ``open_sqlite``: it makes a storage that is not open yet, on a new file."""

        @overload
        def __call__(self, type: type[A], *, queue: str = ..., **options: Any) -> SqliteStorage[A]: ...
        @overload
        def __call__(self, type: Any = ..., *, queue: str = ..., **options: Any) -> SqliteStorage[Any]: ...


CLOCKS = ("autojump_clock", "mock_clock")
"""The fixtures of pytest-trio that install another clock."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "redelivery(seeds=1): cancel the handler at each moment, deliver its task again, and compare the traces with a "
        "clean run",
    )


PARAMETERS = pytest.StashKey[tuple[str, ...]]()
"""The names of the parameters of a test, before pytest-trio replaces its function."""
OURS = ("tasks", "open_sqlite")
"""The fixtures of tests whose clock is checked; ``task_clock`` has a check of its own."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test of our fixtures for which a fixture has asked for a clock that pytest-trio does not install."""
    if PARAMETERS not in item.stash or not isinstance(item, pytest.Function):
        return
    asked = [name for name in CLOCKS if name in item.fixturenames] if {*OURS} & {*item.fixturenames} else []
    own = [item.funcargs.get(name) for name in item.stash[PARAMETERS]]
    if asked and not any(isinstance(each, trio.abc.Clock) for each in own):
        pytest.fail(
            f"a fixture of the test asks for {asked[0]}, but the test itself does not: add a parameter {asked[0]} to "
            "the test, or it would wait in real time",
            pytrace=False,
        )


@pytest.fixture
def task_clock(request: pytest.FixtureRequest) -> Iterator[MockClock]:
    """Virtual time for the test: trio's clock and the wall clock jump over all waiting.

    The test itself has to name it: pytest-trio does not see a clock that only another fixture names, and such a test
    would wait for real; so it fails at once.
    """
    if both := [name for name in CLOCKS if name in request.fixturenames]:
        pytest.fail(f"the test asks for {both[0]} and for task_clock: leave {both[0]} out", pytrace=False)
    if "task_clock" not in inspect.signature(request.function).parameters:
        pytest.fail(
            "a fixture of the test asks for task_clock, but the test itself does not: add a parameter task_clock to "
            "the test, or it would wait in real time",
            pytrace=False,
        )
    with virtual_clock() as clock:
        yield clock


@pytest.fixture
def tasks() -> MemoryStorage[Any]:
    """A new storage in memory."""
    return MemoryStorage[Any]()


@pytest.fixture
def open_sqlite(tmp_path: Path) -> OpenSqlite:
    """A function that makes storages on one new SQLite file; enter them with ``async with``.

    A second call opens the same file again, as another process or the next run of the program would.
    """

    def make(type: Any = Any, **options: Any) -> SqliteStorage[Any]:
        return SqliteStorage(tmp_path / "tasks.db", type, **options)

    return make


# Redelivery


@pytest.fixture
def redelivery(request: pytest.FixtureRequest) -> Redelivery | None:
    """The argument of a test with the marker ``redelivery``; each run has one of its own."""
    if request.node.get_closest_marker("redelivery") is None:
        pytest.fail("the fixture redelivery is for tests with @pytest.mark.redelivery", pytrace=False)
    return None  # in its place the test is given one for each run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note the parameters of each test, and turn those with the marker into sync ones, which run it many times; before
    pytest-trio looks at them.
    """
    for item in items:
        if isinstance(item, pytest.Function):
            item.stash[PARAMETERS] = (*inspect.signature(item.obj).parameters,)
        marker = item.get_closest_marker("redelivery")
        if marker is not None and isinstance(item, pytest.Function):
            item.obj = explored_test(item.obj, item.fixturenames, **marker.kwargs)


def explored_test(test: Callable[..., Any], fixtures: list[str], *, seeds: int = 1) -> Callable[..., None]:
    """Return a sync test that explores this async one."""
    if not inspect.iscoroutinefunction(test) or "redelivery" not in inspect.signature(test).parameters:
        raise pytest.UsageError(f"{test.__qualname__}: the marker redelivery is for async tests of `redelivery`")
    if both := [name for name in (*CLOCKS, "task_clock", "nursery") if name in fixtures]:
        raise pytest.UsageError(f"{test.__qualname__}: with the marker redelivery it cannot use {both[0]}")

    @functools.wraps(test)
    def explored(*args: Any, redelivery: None, **values: Any) -> None:
        explore_redelivery(lambda each: test(*args, redelivery=each, **values), seeds=range(seeds))

    del explored.__wrapped__  # pytest-trio would see an async function behind it
    vars(explored)["__signature__"] = inspect.signature(test)  # the fixtures, which pytest reads
    return explored
