"""Tests of unusual paths: relative ones after a chdir, and invalid ones, which are refused with a clear error."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, FileStorage, SqliteStorage

STORAGES = [FileStorage, SqliteStorage]


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def link(path: Path, target: str) -> None:
    path.symlink_to(target)


def cut_off(path: Path) -> None:
    """The last byte of it, as after a crash."""
    os.truncate(path, path.stat().st_size - 1)


def names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


@pytest.mark.parametrize("storage_type", STORAGES)
@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
async def test_a_relative_path_is_where_it_was_when_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_type: Callable[..., Any], when: str
) -> None:
    here, there = make_directory(tmp_path / "here"), make_directory(tmp_path / "there")
    monkeypatch.chdir(here)
    storage = storage_type("tasks", str)
    if when == "before it is opened":
        monkeypatch.chdir(there)
    async with storage:
        await storage.push("a")
        monkeypatch.chdir(there)
        await storage.push("b")
        if storage_type is SqliteStorage:
            with closing(sqlite3.connect(here / "tasks", isolation_level=None)) as connection:
                storage.push_in(connection, "c")
    assert "tasks" in names(here)
    assert names(there) == set()
    async with storage_type(here / "tasks", str) as storage:
        assert (await storage.metrics())["pushed"] == (3 if storage_type is SqliteStorage else 2)


@pytest.mark.parametrize("storage_type", STORAGES)
@pytest.mark.parametrize("path", ["", ":memory:", b"tasks", None, 5, 1.5])
def test_what_is_no_path_is_refused_where_it_is_given(storage_type: Callable[..., Any], path: Any) -> None:
    with pytest.raises(TypeError, match="path must be the path of a file"):
        storage_type(path, str)


@pytest.mark.parametrize("storage_type", STORAGES)
def test_a_path_with_a_nul_is_refused_where_it_is_given(tmp_path: Path, storage_type: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="path must not contain a NUL"):
        storage_type(f"{tmp_path}/tasks\0.db", str)


def test_an_sqlite_file_whose_name_is_not_utf_8_is_refused_where_it_is_given(tmp_path: Path) -> None:
    """SQLite cannot return such a path, and apsw cannot open it."""
    with pytest.raises(ValueError, match="the path of an SQLite file"):
        SqliteStorage(tmp_path / os.fsdecode(b"\xff.db"), str)


@pytest.mark.parametrize("name", [b"\xff.journal", "jörnal".encode(), b"two\nlines \x1b[31m"])
async def test_a_journal_may_have_any_name_and_is_told_escaped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: bytes
) -> None:
    path = tmp_path / os.fsdecode(name)
    async with FileStorage(path, str) as storage:
        await storage.push("a")
        await storage.push("b")
        with pytest.raises(BackendError) as caught:
            await FileStorage(path, str).__aenter__()
    cut_off(path)
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        async with FileStorage(path, str) as storage:
            assert (await storage.metrics())["waiting"] == 1
            assert storage.recovery is not None
    for text in (str(caught.value), caplog.records[-1].getMessage(), str(storage.recovery), repr(storage)):
        assert text.isprintable(), text
        text.encode()


@pytest.mark.parametrize("storage_type", STORAGES)
@pytest.mark.parametrize("name", ["100% ?mode=ro&#1.db", "jörnal 'x' \"y\".db", "a;b=c:d.db"])
async def test_no_character_of_a_name_has_a_meaning(
    tmp_path: Path, storage_type: Callable[..., Any], name: str
) -> None:
    async with storage_type(tmp_path / name, str) as storage:
        await storage.push("a")
    async with storage_type(tmp_path / name, str) as storage:
        assert (await storage.metrics())["waiting"] == 1
    assert names(tmp_path) <= {name, f"{name}.lock"}


@pytest.mark.parametrize("storage_type", STORAGES)
async def test_a_loop_of_symbolic_links_is_told(tmp_path: Path, storage_type: Callable[..., Any]) -> None:
    link(tmp_path / "a", "b")
    link(tmp_path / "b", "a")
    with trio.fail_after(60), pytest.raises(BackendError, match="symbolic links"):
        async with storage_type(tmp_path / "a", str):
            raise AssertionError("it has opened")
    assert names(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("storage_type", STORAGES)
async def test_a_link_leads_to_the_file(tmp_path: Path, storage_type: Callable[..., Any]) -> None:
    make_directory(tmp_path / "real")
    link(tmp_path / "link", "real/tasks")
    for expected in (1, 2):
        async with storage_type(tmp_path / "link", str) as storage:
            await storage.push("a")
            assert (await storage.metrics())["waiting"] == expected
    assert names(tmp_path) == {"real", "link"}, "what stands beside it stands beside the file"
