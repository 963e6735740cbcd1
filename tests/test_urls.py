"""``open_url``: the storage that a URL names, its options, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import CborCodec, FileStorage, JsonCodec, MemoryStorage, SqliteStorage, Task, open_url


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("sqlite:///tasks.db", SqliteStorage, "tasks.db"),
        ("sqlite:///a%20folder/tasks.db", SqliteStorage, "a folder/tasks.db"),
        ("sqlite:///{here}/absolute.db", SqliteStorage, "absolute.db"),
        ("SQLITE:///tasks.db", SqliteStorage, "tasks.db"),
        ("file://{here}/tasks.journal", FileStorage, "tasks.journal"),
        ("file:///{here}/tasks.journal", FileStorage, "tasks.journal"),
        ("file:tasks.journal", FileStorage, "tasks.journal"),
        ("file:what%3F.journal", FileStorage, "what?.journal"),
    ],
)
async def test_a_url_names_a_file(url: str, kind: type, place: str, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    async with open_url(url.format(here=tmp_path), int, queue="numbers") as storage:
        assert type(storage) is kind
        assert storage.queue == "numbers"
        assert storage.args_type is int
        await storage.push(1)
    assert (tmp_path / place).stat().st_size > 0


def annotated(task: Task[Any]) -> Task[Any]:
    return task.with_metadata(a=1)


@pytest.mark.parametrize("url", ["memory://", "memory:", "memory:///"])
async def test_a_url_of_memory(url: str) -> None:
    async with open_url(url, queue="numbers", on_push=annotated) as storage:
        assert isinstance(storage, MemoryStorage)
        assert storage.queue == "numbers"
        [task] = [await storage.fetch_by_id(await storage.push(object()))]
        assert task is not None
        assert task.parts.metadata == {"a": 1}


def test_options_of_sqlite_in_the_url() -> None:
    options = "queue=q&lease=60&codec=json&keep_results=inf&keep_dead=7.5&unreadable_after=1&synchronous=normal"
    more = "driver=sqlite3&join_existing=1&create=no&read_only=false&allow_triggers=TRUE&poll_interval=0.5&mode=640"
    storage = open_url(f"sqlite:///tasks.db?{options}&{more}", int)
    assert isinstance(storage, SqliteStorage)
    queue, opening = storage._queue, storage._engine.opening
    assert (storage.queue, storage.lease, queue.keep_results, queue.keep_dead) == ("q", 60.0, math.inf, 7.5)
    assert isinstance(queue.codec, JsonCodec)
    assert queue.unreadable_after == 1.0
    assert (opening.synchronous, opening.join_existing, opening.create) == ("NORMAL", True, False)
    assert (opening.read_only, opening.allow_triggers, opening.mode) == (False, True, 0o640)


def test_options_of_a_file_and_of_memory_in_the_url() -> None:
    storage = open_url("file:tasks.journal?queue=q&lease=60&codec=cbor&repair=yes", int)
    assert isinstance(storage, FileStorage)
    assert isinstance(storage._queue.codec, CborCodec)
    in_memory = open_url("memory://?queue=q&max_buffer_size=5&keep_results=3&codec=json", int)
    assert isinstance(in_memory, MemoryStorage)
    assert in_memory.statistics().max_buffer_size == 5
    assert isinstance(open_url("memory://?max_buffer_size=inf"), MemoryStorage)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://user:s3cret@host/0", "must begin with one of sqlite, file, memory"),
        ("tasks.db", "must begin with one of sqlite, file, memory"),
        ("", "must begin with one of sqlite, file, memory"),
        ("sqlite://tasks.db", "a URL of sqlite has no user, password or host: write three slashes"),
        ("sqlite://user:s3cret@host/tasks.db", "a URL of sqlite has no user, password or host"),
        ("file://[s3cret/tasks", "a URL of file has no user, password or host"),
        ("memory://user:s3cret@host", "a URL of memory has no user, password or host"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("file:", "names no file"),
        ("memory:///tasks", "a URL of memory has no path"),
        ("sqlite:///tasks.db#s3cret", "no part after '#'"),
        ("sqlite:///tasks.db?lease", "has options such as"),
        ("sqlite:///tasks.db?leese=60", "a URL of sqlite has no option 'leese'; the options are .*lease"),
        ("memory://?lease=60", "a URL of memory has no option 'lease'"),
        ("file:x?poll_interval=1", "a URL of file has no option 'poll_interval'"),
        ("sqlite:///tasks.db?lease=30&lease=60", "the option 'lease' is in the URL twice"),
        ("sqlite:///tasks.db?lease=soon", "the option 'lease' in the URL must be seconds, or inf, not 'soon'"),
        ("sqlite:///tasks.db?create=perhaps", "'create' in the URL must be true or false"),
        ("sqlite:///tasks.db?mode=9", "'mode' in the URL must be an octal number"),
        ("sqlite:///tasks.db?codec=pickle", "'codec' in the URL must be cbor or json"),
        ("memory://?max_buffer_size=many", "'max_buffer_size' in the URL must be a whole number, or inf"),
        ("sqlite:///tasks.db?lease=-1", "lease must be"),
        ("sqlite:///tasks.db?synchronous=sometimes", "synchronous must be 'FULL', 'NORMAL' or 'OFF'"),
        ("sqlite:///%FF", "codec can't decode"),
    ],
)
def test_a_wrong_url_is_refused_by_what_is_wrong_in_it(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_url(url, int)
    assert "s3cret" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_an_option_in_the_url_and_in_the_call_is_refused() -> None:
    with pytest.raises(ValueError, match="'lease' is given twice"):
        open_url("sqlite:///tasks.db?lease=30", int, lease=60)
    with pytest.raises(ValueError, match="'queue' is given twice"):
        open_url("sqlite:///tasks.db?queue=a", int, queue="b")


def test_what_is_no_url_at_all() -> None:
    wrong: Any = Path("tasks.db")
    with pytest.raises(TypeError, match="open_url takes a text"):
        open_url(wrong)


def test_an_unknown_option_in_the_call_is_refused_by_the_storage() -> None:
    with pytest.raises(TypeError, match="leese"):
        open_url("sqlite:///tasks.db", leese=1)
    with pytest.raises(TypeError, match="leese"):
        open_url("memory://", leese=1)


def test_every_option_that_a_url_may_say_is_one_of_the_storage() -> None:
    from trio_tasks._backends.file.storage import FileOptions
    from trio_tasks._backends.memory import MemoryOptions
    from trio_tasks._backends.sqlite.storage import SqliteOptions
    from trio_tasks._backends.urls import _SCHEMES

    in_code_only = {"result_type", "on_push", "limits"}
    for scheme, kind in {"sqlite": SqliteOptions, "file": FileOptions, "memory": MemoryOptions}.items():
        assert set(_SCHEMES[scheme].options) == {"queue", *kind.__annotations__} - in_code_only, scheme
