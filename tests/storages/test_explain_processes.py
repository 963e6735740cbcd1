"""Explanations, workers and pauses from another process than that of the workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from trio_tasks import Explanation, FileStorage, SqliteStorage, Status, Task, WorkerInfo
from trio_tasks._backends.sqlite.driver import connect

from tests.storages._child import NEVER, Child, be_explained, child, fill_journal


class Asking:
    """A store that another process works on, as it is seen from here.

    Args:
      storage: a handle of this process.
      process: the other one.
    """

    def __init__(self, storage: Any, process: Child) -> None:
        self.storage = storage
        self.process = process
        self._queues: dict[str, Any] = {}

    def queue(self, name: str) -> Any:
        if name not in self._queues:
            self._queues[name] = self.storage.share(queue=name)
        return self._queues[name]

    async def push(self, queue: str, args: float, **options: Any) -> str:
        task_id: str = await self.queue(queue).push(args, **options)
        return task_id

    async def explain(
        self, queue: str, task_id: str, kind: str, is_right: Callable[[Explanation], object] = bool
    ) -> Explanation:
        """Ask until it is explained so: the other process may need a moment to get there."""
        found: Explanation | None = None
        with trio.move_on_after(60):
            while found is None or found.kind != kind or not is_right(found):
                found = await self.queue(queue).explain(task_id)
                await trio.sleep(0.005)
            return found
        raise AssertionError(f"it was not explained as {kind}: {found!r}")

    async def worker(self, queue: str, *, fresh: bool) -> WorkerInfo:
        [info] = await self.queue(queue).workers(fresh=fresh)
        assert isinstance(info, WorkerInfo)
        return info

    def now(self) -> float:
        now: float = self.storage._loop.engine.now()
        return now


def name_by_metadata(task: Task[float]) -> Task[float]:
    name = task.parts.metadata.get("name")
    if isinstance(name, str):
        task.parts.terms = replace(task.parts.terms, name=name)
    return task


@asynccontextmanager
async def asking(path: Path) -> AsyncGenerator[Asking, None]:
    async with SqliteStorage[float](path, float, poll_interval=NEVER, on_push=name_by_metadata) as storage:
        async with child(be_explained, path) as process:
            await process.hear_of("works")
            yield Asking(storage, process)


async def test_each_case_is_explained_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with asking(path) as asked:
        process = asked.process
        # Unknown; finished.
        assert "is not known" in str(await asked.explain("slot", "nothing", "unknown"))
        done, dead = await asked.push("rate", 0.0), await asked.push("breaker", -1.0)
        found = await asked.explain("rate", done, "finished")
        assert (found.status, found.worker, found.attempt) == (Status.Done, "rate", 1)
        assert found.finished_at is not None
        assert "is done in its attempt 1 by worker 'rate', " in str(found)
        found = await asked.explain("breaker", dead, "finished")
        assert (found.status, found.error) == (Status.Killed, "AbortError: no luck")
        assert str(found).endswith("ago: AbortError: no luck")
        # Running.
        running = await asked.push("slot", 3600.0)
        found = await asked.explain("slot", running, "running", lambda each: each.line)
        assert (found.worker, found.pid, found.is_worker_alive) == ("slot", process.process.pid, True)
        assert found.line.endswith("in sleep_or_end: await trio.sleep(seconds)")
        assert found.started_at is not None and found.told_at is not None and found.last_beat is not None
        assert found.started_at <= found.told_at <= found.as_of
        # Suspended; waiting for its time; in a queue that is paused.
        suspended = await asked.push("limit", -2.0)
        found = await asked.explain("limit", suspended, "suspended")
        assert (found.reason, found.until is not None) == ("the server rests", True)
        assert "is suspended for 60 min more, until 2" in str(found)
        later = await asked.push("limit", 0.0, delay=9000.0)
        assert "waits for 2 hours more" in str(await asked.explain("limit", later, "delayed"))
        await asked.queue("nobody's").pause()
        nowhere = await asked.push("nobody's", 0.0)
        assert 'queue "nobody\'s" is paused' in str(await asked.explain("nobody's", nowhere, "paused"))
        # No worker; none that knows the name.
        await asked.queue("nobody's").resume()
        found = await asked.explain("nobody's", nowhere, "no_worker")
        assert str(found).endswith('no worker is alive on queue "nobody\'s"')
        await process.tell("names")  # or it would take the task, and a Router would suspend it
        await process.hear_of("done")
        unknown = await asked.push("names", 0.0, metadata={"name": "video.resize"})
        found = await asked.explain("names", unknown, "no_worker", lambda each: each.known_names)
        assert str(found).endswith(
            "no worker alive on queue 'names' knows tasks named 'video.resize': worker 'names' knows 'resize'"
        )
        # The gate of each worker.
        await process.tell("paused")
        await process.hear_of("done")
        await asked.push("limit", 3600.0)
        for queue, gate in {
            "paused": "paused",
            "limit": "ConcurrencyLimit: 1 of 1 permits are taken",
            "rate": "RateLimit: 1 of 1 in 3600 s are used, the next in ",
            "breaker": "CircuitBreaker: open, trials begin in ",
            "own": "the tide is low",
        }.items():
            held = await asked.push(queue, 0.0)
            found = await asked.explain(queue, held, "held_by_gate")
            [(worker, words)] = found.gates
            assert (worker, words[: len(gate)]) == (queue, gate)
            assert f"is ready, but the intake of no worker on queue {queue!r} is open: worker {queue!r} ({gate}" in str(
                found
            )
        # Its place in the order.
        first, second = await asked.push("slot", 0.0), await asked.push("slot", 0.0)
        found = await asked.explain("slot", second, "waiting")
        assert (found.ahead, found.first, found.busy, found.slots) == (1, (first,), 1, 1)
        assert f"1 task goes first, the next one {first}, on queue 'slot', where worker 'slot' receives" in str(found)
        # The process is killed.
        process.process.kill()
        await process.process.wait()
        found = await asked.explain("slot", running, "running", lambda each: not each.is_worker_alive)
        assert "that worker is not alive any more; the last sign of life" in str(found)
        assert found.worker == "slot"
        await asked.explain("slot", second, "no_worker")
        assert [each.is_alive for each in await asked.queue("slot").workers()] == [False]
        assert await asked.queue("slot").list_workers() == []


async def test_a_state_is_as_fresh_as_it_says(tmp_path: Path) -> None:
    """And a worker that cannot be woken gives no new one, but honours a pause, and a resumption, when it polls."""
    path = tmp_path / "tasks.db"
    async with asking(path) as asked:
        with trio.fail_after(60):
            asked_at, info = asked.now(), await asked.worker("slot", fresh=True)
            while info.as_of.timestamp() < asked_at:  # its machine may be slow; it does not tell of itself otherwise
                asked_at, info = asked.now(), await asked.worker("slot", fresh=True)
        assert (await asked.worker("slot", fresh=False)).as_of == info.as_of, "it has not been asked again"
        async with SqliteStorage[float](path, float, queue="slot", read_only=True) as view:
            with trio.fail_after(60):
                asked_at, [info] = asked.now(), await view.workers(fresh=True)
                while info.as_of.timestamp() < asked_at:
                    asked_at, [info] = asked.now(), await view.workers(fresh=True)

        connection = connect("sqlite3", str(path), "mode=rw")
        polls = "num IN (SELECT session FROM trio_tasks_worker WHERE queue = 'polling')"
        connection.execute(f"UPDATE trio_tasks_session SET address = NULL WHERE {polls}")
        connection.close()
        info = await asked.worker("polling", fresh=False)
        assert (await asked.worker("polling", fresh=True)).as_of == info.as_of
        for queue in ("polling", "rate"):  # the second one never polls, and is woken
            await asked.queue(queue).pause()
            task_id = await asked.push(queue, 0.0)
            await asked.explain(queue, task_id, "paused")
            assert (await asked.queue(queue).metrics())["waiting"] == 1
            await asked.queue(queue).resume()
            found = await asked.explain(queue, task_id, "finished")
            assert found.worker == queue


async def test_a_journal_that_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.journal"
    async with child(fill_journal, path) as process:
        ids = dict[str, str]()
        while (line := await process.hear()) != "end":
            name, task_id = line.split()
            ids[name] = task_id
        async with FileStorage[float](path, float, read_only=True) as view:
            other: Any = view.share(queue="other")
            assert (await view.explain("nothing")).kind == "unknown"
            found = {
                name: await (other if name == "paused" else view).explain(task_id) for name, task_id in ids.items()
            }
            kinds = {name: each.kind for name, each in found.items()}
            assert kinds == {name: "finished" if name in ("done", "killed") else name for name in ids}
            assert (found["running"].worker, found["running"].workers) == ("writer", None)
            assert (found["done"].worker, found["killed"].error) == ("writer", "AbortError: no luck")
            assert found["suspended"].reason == "the server rests"
            assert "waits for 60 min more" in str(found["delayed"])
            assert "queue 'other' is paused" in str(found["paused"])
            assert str(found["waiting"]).endswith("whose workers cannot be seen from here")
            assert await view.workers() == []
        await process.tell("end")
        await process.hear_all()
