"""Tests of calls that change a task at the same time: none of them undoes what another one has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Killed, Limits, Succeeded, Task, TaskBuilder
from trio_tasks._backends.durable.engine import Engine
from trio_tasks._contracts.backend import INTERFACES
from trio_tasks._contracts.sink import TaskSink

from tests._storages import STORAGES

CONFLICT: dict[str, Any] = {"unique": "key", "on_conflict": "update", "attempts": 9, "priority": 7, "key": "acme"}


@pytest.mark.parametrize("kind", STORAGES)
async def test_an_update_beside_a_push_that_updates_keeps_its_options(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        for number in range(12):
            await storage.push(1, id=f"a{number}", unique=f"key {number}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(storage.update, TaskBuilder(9).id(f"a{number}").metadata(n=number).build())
                task = TaskBuilder(2).unique(f"key {number}", on_conflict="update").attempts(9).priority(7).key("acme")
                nursery.start_soon(storage.push_task, task.build())
            found = await storage.fetch_by_id(f"a{number}")
            assert (found.parts.attempts, found.parts.priority, found.parts.key) == (9, 7, "acme")
            assert (found.args, dict(found.parts.metadata)) in [(9, {"n": number}), (2, {})]
            assert [task.parts.id for task in await storage.list_tasks(key="acme")] == [
                f"a{each}" for each in range(number + 1)
            ]


@pytest.mark.parametrize("kind", ["file", "sqlite"])
@pytest.mark.parametrize("change", ["a push", "a claim", "nothing"])
async def test_what_changes_between_the_two_steps_of_an_update_stays(
    kind: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        task_id = await storage.push(1, unique="key")
        engine, changes, received = storage._loop.engine, [change], list[Task[int]]()
        find = engine.find

        async def find_and_let_others_go_on(*args: Any) -> Any:
            stored = await find(*args)
            monkeypatch.undo()
            other: Any = {"a push": lambda: storage.push(2, **CONFLICT), "a claim": claim, "nothing": trio.sleep}
            if (what := changes.pop()) != "nothing":
                storage._loop._engine_lock.release()  # the update has not come to its second step
                await other[what]()
                await storage._loop._engine_lock.acquire()
            return stored

        async def claim() -> None:
            received.append(await storage.receive())

        monkeypatch.setattr(engine, "find", find_and_let_others_go_on)
        is_changed = await storage.update(TaskBuilder(9).id(task_id).metadata(n=1).build())
        found = await storage.fetch_by_id(task_id)
        assert is_changed == (change != "a claim")
        assert (found.args, dict(found.parts.metadata)) == ((9, {"n": 1}) if is_changed else (1, {}))
        assert found.parts.attempts == (9 if change == "a push" else None)
        for task in received:
            await storage.settle(task, Succeeded(None))


READING = {
    "find", "find_each", "locate", "search", "metrics", "audit", "minutes", "schedules", "queues", "workers", "inspect",
    "now", "take_killed", "listen", "read_rows", "get_limits", "list_limits", "needs_polling", "longest",
    "knows_workers",
}  # fmt: skip
"""The methods of an engine that change nothing."""
SETS_UP = {"open", "aclose", "ask_workers", "register", "renew"}
WRITING = {name for name in vars(Engine) if not name.startswith("_")} - READING - SETS_UP
LOOKS = {
    "fetch_by_id", "wait_for", "events", "list_tasks", "list_workers", "workers", "list_queues", "metrics", "audit",
    "explain", "progress_of", "throughput", "attempt_totals", "is_paused", "list_schedules", "make_template",
    "wait_for_schedules", "export_tasks", "get_limits", "list_limits",
}  # fmt: skip
"""The verbs that change nothing."""
OTHER = {
    "call",
    "push_all",
    "push_stream",
    "register_worker",
    "unregister_worker",
    "receive_nowait",
    "settle_nowait",
    "feed",
}
"""The verbs that call the others here, or are for workers, or not there on stored storages."""
CONDITIONAL = {"update"}
"""The verbs that read first, and write only if that is so still."""


def verbs(
    storage: Any, waiting: str, running: Task[int], dead: str, exported: list[Any]
) -> dict[str, Callable[[], Any]]:
    """A call of each verb that changes something."""
    return {
        "push": lambda: storage.push(1, **CONFLICT),
        "push_task": lambda: storage.push_task(TaskBuilder(1).unique("key").build()),
        "push_or_get": lambda: storage.push_or_get(1, **CONFLICT),
        "push_bulk": lambda: storage.push_bulk([1, 2], **CONFLICT),
        "set_metadata": lambda: storage.set_metadata(running, {"n": 1}),
        "report_progress": lambda: storage.report_progress(running, 1),
        "update": lambda: storage.update(TaskBuilder(9).id(waiting).build()),
        "reschedule": lambda: storage.reschedule(waiting, 1000.0),
        "resume_by_id": lambda: storage.resume_by_id(dead),
        "abort": lambda: storage.abort(running.parts.id),
        "cancel": lambda: storage.cancel(waiting, running=True),
        "discard": lambda: storage.discard(waiting),
        "retry_all": lambda: storage.retry_all(key="acme"),
        "cancel_all": lambda: storage.cancel_all(key="acme"),
        "discard_all": lambda: storage.discard_all(key="acme"),
        "vacuum": lambda: storage.vacuum(older_than=5.0),
        "resume_abandoned": lambda: storage.resume_abandoned(),
        "import_tasks": lambda: storage.import_tasks(exported),
        "set_schedules": lambda: storage.set_schedules([]),
        "set_limits": lambda: storage.set_limits(Limits(per_key=2)),
        "pause": lambda: storage.pause(),
        "resume": lambda: storage.resume(),
    }


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_no_verb_decides_by_what_it_has_read_in_another_transaction(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        dead = await storage.push(1, key="acme")
        await storage.settle(await storage.receive(), Killed(ValueError("no")))
        await storage.push(2)
        running = await storage.receive()
        waiting = await storage.push(3, unique="key")
        exported = await storage.export_tasks()
        calls: list[str] = []

        def watched(name: str) -> Callable[..., Any]:
            method: Any = getattr(storage._loop.engine, name)

            async def call(*args: Any, **kwargs: Any) -> Any:
                calls.append(name)
                return await method(*args, **kwargs)

            return call

        for name in WRITING | {"find", "find_each", "locate", "search", "metrics", "audit"}:
            monkeypatch.setattr(storage._loop.engine, name, watched(name))
        wrong: dict[str, list[str]] = {}
        for verb, call in verbs(storage, waiting, running, dead, exported).items():
            calls.clear()
            await call()
            first_write = next((n for n, each in enumerate(calls) if each in WRITING), 0)
            assert calls, verb
            if READING & {*calls[:first_write]}:
                wrong[verb] = calls.copy()
        assert wrong.keys() == CONDITIONAL, wrong


def test_each_verb_is_called_above_or_changes_nothing() -> None:
    every = {name for each in (TaskSink, *INTERFACES) for name, it in vars(each).items() if callable(it)}
    known = {*verbs(None, "", Task(1), "", [])} | LOOKS | OTHER
    assert {name for name in every if not name.startswith("_")} == known
