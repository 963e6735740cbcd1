"""Tests that cancel workers at every moment while deadlines pass: none is forgotten, and each is inherited whole."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from trio_tasks import DeadlineError, RetryAfterError, Status, Task, Worker
from trio_tasks.testing import Cut, explore_cancellations

from tests.cuts.test_programs import STORAGES

pytestmark = pytest.mark.searching

ENDS = {"hang": Status.Killed, "parent": Status.Done, "child": Status.Killed}


def handler_for(storage: Any) -> Any:
    async def handle(task: Task[str]) -> None:
        if task.args == "parent":
            if task.parts.attempt == 1:
                raise RetryAfterError("not yet", 1)
            await storage.push("child", deadline="inherit")
            await trio.sleep(1)
        else:
            await trio.sleep_forever()

    return handle


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
def test_deadlines_pass_while_workers_are_cut_at_every_moment(kind: str) -> None:
    async def scenario(cut: Cut) -> None:
        async with STORAGES[kind]() as storage:
            await storage.push("hang", deadline=2)
            parent = await storage.push("parent", deadline=10)
            worker = Worker("worker", storage, handler_for(storage), concurrency=2, log=None)
            with cut:
                await worker.run_until(four_seconds)
            assert (await storage.metrics())["running"] == 0, "a task is running without a worker"
            await worker.run_until(twelve_seconds)
            tasks = await storage.list_tasks()
            assert {each.args for each in tasks} == {*ENDS}
            [end] = {round(each.parts.deadline, 3) for each in tasks if each.args != "hang"}
            assert round((await storage.fetch_by_id(parent)).parts.deadline, 3) == end
            for each in tasks:
                assert each.parts.status is ENDS[each.args], each
                if each.parts.status is Status.Killed:
                    assert isinstance(each.parts.context.error, DeadlineError)
                    assert each.parts.finished <= each.parts.deadline + 0.1
            assert await storage.audit()
            assert Counter(each.args for each in tasks)["parent"] == 1

    async def four_seconds() -> None:
        await trio.sleep(4)

    async def twelve_seconds() -> None:
        await trio.sleep(12)

    assert explore_cancellations(scenario).cuts > 20
