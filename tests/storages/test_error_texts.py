"""Tests of the texts of errors: they name the verb and the mistake, in the same words on each storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import DuplicateTaskError, MemoryStorage, Status, Succeeded, WorkerContext

from tests._storages import STORAGES

ANY = [*STORAGES, "encoded"]


def opened(kind: str, path: Path) -> Any:
    return MemoryStorage(type=int) if kind == "encoded" else STORAGES[kind](path / "tasks")


@pytest.mark.parametrize("kind", ANY)
async def test_what_is_no_task_is_told_by_the_verb(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage:
        more_args: dict[str, list[Any]] = {"update": [], "report_progress": [1], "set_metadata": [{}], "push_task": []}
        for verb, more in more_args.items():
            with pytest.raises(TypeError, match=f"^{verb} takes a Task, not int"):
                await getattr(storage, verb)(5, *more)
        with pytest.raises(TypeError, match=r"^push_task takes a Task, not int; push\(args\) makes one"):
            await storage.push_task(5)


@pytest.mark.parametrize("kind", ["file", "sqlite", "encoded"])
async def test_metadata_that_cannot_be_stored_is_called_so(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage:
        await storage.push(1, metadata={"kept": 1})
        task = await storage.receive()
        with pytest.raises(TypeError, match="metadata") as caught:
            await storage.set_metadata(task, {"bad": object()})
        assert "progress" not in str(caught.value)
        await storage.set_metadata(task, {"pair": (1, 2)})
        found = await storage.fetch_by_id(task.parts.id)
        assert dict(task.parts.metadata) == dict(found.parts.metadata) == {"kept": 1, "pair": [1, 2]}
        await storage.settle(task, Succeeded(None))


@pytest.mark.parametrize("kind", ANY)
async def test_a_filter_that_a_verb_cannot_have_is_told_as_what_it_is(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage:
        for verb in ("retry_all", "discard_all"):
            for delayed in (True, False):
                with pytest.raises(ValueError, match=f"^delayed is about tasks that wait, and {verb} about those of"):
                    await getattr(storage, verb)(delayed=delayed)
        with pytest.raises(ValueError, match=r"^delayed is about tasks that wait, which those of status Status\.Done"):
            await storage.list_tasks(Status.Done, delayed=True)
        assert await storage.cancel_all(delayed=True) == 0


@pytest.mark.parametrize("kind", ANY)
async def test_a_known_id_is_told_in_the_same_words(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage:
        await storage.push(1, id="a")
        with pytest.raises(DuplicateTaskError) as caught:
            await storage.push(1, id="a")
        assert str(caught.value) == "a task with the id 'a' has been pushed already; ids must be new"


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_storage_that_is_closed_says_so(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        pass
    for ask in (storage.metrics, storage.list_tasks, storage.receive, storage.pause):
        with pytest.raises(trio.ClosedResourceError, match="Storage is closed: make a new one to open the store again"):
            await ask()


def test_half_of_a_surrogate_pair_is_named() -> None:
    with pytest.raises(ValueError, match=r"^a worker's name must be encodable as UTF-8, which .* half of a surrogate"):
        WorkerContext("\ud800")
