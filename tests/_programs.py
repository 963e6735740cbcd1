"""Random programs: everything that may be done to a storage and its workers, in an order that a seed decides.

A program pushes, meddles, and is cut short or wound down; then its books are audited. After that a calm worker does
what is left, and the books are audited again: now nothing may be waiting. ``python -m tests._programs SEED`` tells
what happened in one of them.
"""

from __future__ import annotations

import contextvars
import math
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, TypeVar

import trio
from trio._core import _run as trios_scheduler  # its dice have no public name
from trio_tasks import (
    AbortError,
    Backend,
    DeferredError,
    DuplicateTaskError,
    MemoryStorage,
    Monitor,
    Outcome,
    RetryAfterError,
    RetryPolicy,
    Task,
    TaskBuilder,
    Worker,
    WorkerContext,
    linear,
)
from trio_tasks._groups import leaves

from tests._books import Books, run_apart

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

T = TypeVar("T")

LONG = 1e7
"""Seconds after which a program is stuck."""

_note: contextvars.ContextVar[str | None] = contextvars.ContextVar("_note", default=None)


class OutageError(Exception):
    """The backend is out of order for the moment."""


class RudeError(BaseException):
    """What no ``except Exception`` catches."""


class Shaky(Backend[int]):
    """A storage behind a line that fails now and then, always before anything was taken."""

    def __init__(self, storage: MemoryStorage[int], random: Random) -> None:
        self._storage = storage
        self._random = random

    async def receive(self) -> Task[int]:
        if self._random.random() < 0.1:
            raise OutageError
        return await self._storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self._storage.settle_nowait(task, outcome)


class Moody:
    """A gate that keeps workers waiting, and may have closed by the time that there is a task."""

    def __init__(self, books: Books, random: Random) -> None:
        self._books = books
        self._random = random
        self._admitted: set[Task[Any]] = set()

    async def __call__(self, handler: Callable[[Task[Any]], Awaitable[Any]], task: Task[Any]) -> Any:
        if task not in self._admitted:
            self._books.faults.append(f"{task} was not admitted")
        return await handler(task)

    async def ready(self) -> None:
        await trio.sleep(self._random.choice((0, 0, self._random.random())))

    def admit(self, task: Task[Any]) -> bool:
        if self._random.random() < 0.2:
            self._books.not_admitted += 1
            return False
        self._admitted.add(task)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        self._admitted.remove(task)


class Program:
    """One random program; :meth:`run` it, then look at its books' faults."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.books = Books()
        self.random = self._dice("plan")
        self.storage = MemoryStorage[int](self.random.choice((math.inf, math.inf, 1, 3, 10)), keep_results=10**6)
        self._calm = False
        self._closed = False
        self._ids: list[str] = []
        self._contexts: list[WorkerContext] = []
        self._scopes: list[trio.CancelScope] = []
        self._monitors: list[Monitor] = []
        self._handles = [self.storage]
        self._runs = 0

    def _dice(self, *whose: object) -> Random:
        return Random(f"{self.seed} {whose}")

    def run(self) -> None:
        """Run it, in a trio and a time of its own."""
        trios_scheduler._r.seed(self.seed)
        run_apart(f"the program of seed {self.seed}", self._main)

    async def _main(self) -> None:
        with trio.fail_after(LONG):
            await self._live()
            await self.books.audit(self.storage)
            self._calm = True
            for handle in self._handles:
                handle.close()
            await Worker("calm", self.storage, self._handle, on_event=self.books.hear).run()
            await self.books.audit(self.storage)
        if self.storage.statistics().waiting:
            self.books.faults.append("the storage has ended, and something waits in it")

    async def _live(self) -> None:
        random = self.random
        with trio.CancelScope() as everything:
            async with trio.open_nursery() as nursery:
                for number in range(random.randint(1, 4)):
                    nursery.start_soon(self._push, self._dice("pusher", number))
                for number in range(random.randint(1, 3)):
                    nursery.start_soon(self._employ, self._dice("worker", number), f"worker {number}")
                nursery.start_soon(self._meddle, nursery, self._dice("meddler"))
                await trio.sleep(random.random() * 30)
                if random.random() < 0.3:
                    self._wind_down()
                    await trio.sleep(random.random() * 30)
                self._look()
                everything.cancel()

    def _look(self) -> None:
        """Whoever can be served has been served, at every moment that others see."""
        books = self.storage.statistics()
        if books.pushers_waiting and books.waiting < books.max_buffer_size:
            self.books.faults.append(f"there is room, and somebody waits for room: {books}")
        due = self.storage._desk.ledger.next_due
        if books.receivers_waiting and due is not None and due < trio.current_time():
            self.books.faults.append(f"a task was due at {due:g}, and somebody waits for one: {books}")

    def _wind_down(self) -> None:
        if self.random.random() < 0.5:
            self.storage.close()
            self._closed = True
        for context in self._contexts:
            context.stop()
        for monitor in self._monitors:
            monitor.shutdown()

    # Pushing

    async def _push(self, random: Random) -> None:
        for number in range(random.randint(1, 8)):
            await trio.sleep(random.choice((0, 0, random.random() * 5)))
            try:
                if random.random() < 0.2:
                    await self._push_bulk(random, f"{id(random)} {number}")
                else:
                    await self._push_one(self._task(random), random.choice((math.inf, math.inf, 0, 1)))
            except trio.ClosedResourceError:
                return

    def _task(self, random: Random) -> Task[int]:
        builder = TaskBuilder(random.randrange(1000)).priority(random.choice((0, 0, -1, 5)))
        if random.random() < 0.3:
            builder.run_after(random.random() * 10)
        if random.random() < 0.2:
            builder.expires_in(0.1 + random.random() * 10)
        if random.random() < 0.3:
            builder.attempts(random.randint(1, 4))
        if random.random() < 0.2:
            builder.timeout(0.1 + random.random() * 3)
        if random.random() < 0.2:
            builder.unique(random.choice("ab"), on_conflict=random.choice(("skip", "replace", "raise")))
        return builder.build()

    async def _push_one(self, task: Task[int], patience: float) -> None:
        books, task_id = self.books, task.parts.id
        books.will_push(task)
        books.refused.add(task_id)  # until it says otherwise
        self._ids.append(task_id)
        with trio.move_on_after(patience):
            try:
                answer = await self.storage.push_task(task)
            except DuplicateTaskError:
                return
            if answer == task_id:
                books.refused.discard(task_id)
                books.pushed.add(task_id)

    async def _push_bulk(self, random: Random, name: str) -> None:
        """Of a bulk that is cut short a beginning is stored."""
        size, done = random.randint(0, 4), False
        try:
            with trio.move_on_after(random.choice((math.inf, 1))):
                ids = await self.storage.push_bulk(
                    range(size), metadata={"bulk": name}, delay=random.choice((0.0, 1.0))
                )
                self.books.pushed.update(ids)
                self._ids += ids
                done = True
        finally:
            with trio.CancelScope(shield=True):
                tasks = await self.storage.list_tasks(limit=10**6)
            stored = sorted(task.args for task in tasks if task.parts.metadata.get("bulk") == name)
            if stored != list(range(size if done else len(stored))):
                self.books.faults.append(f"of a bulk of {size}, {stored} are stored")

    # Working

    def _worker(self, random: Random, *, name: str) -> Worker[int, int]:
        backend: Backend[int] = self.storage
        if random.random() < 0.3:
            backend = Shaky(self.storage, random)
        elif random.random() < 0.3 and not self._closed:
            backend = clone = self._handles[0].clone()
            self._handles.append(clone)
        return Worker(
            name,
            backend,
            self._handle,
            concurrency=random.choice((1, 1, 2, 5, 20)),
            layers=[Moody(self.books, random)] if random.random() < 0.2 else [],
            retry=RetryPolicy(random.randint(1, 4), linear(random.choice((0.0, 1.0)))),
            on_event=self.books.hear,
        )

    def _nth_worker(self, random: Random, name: str, attempt: int) -> Worker[int, int]:
        return self._worker(random, name=f"{name}.{attempt}")

    async def _employ(self, random: Random, name: str) -> None:
        try:
            with trio.CancelScope() as scope:
                self._scopes.append(scope)
                if random.random() < 0.4:
                    await self._monitor(random, name)
                else:
                    worker = self._worker(random, name=name)
                    context = worker.prepare()
                    self._contexts.append(context)
                    await worker.run(context)
        except BaseExceptionGroup as group:
            _, rest = group.split(OutageError)
            if rest is not None:
                raise rest from None

    async def _monitor(self, random: Random, name: str) -> None:
        monitor = Monitor(
            shutdown_timeout=random.choice((None, 0, random.random() * 3)),
            should_restart=lambda context, error, attempt: attempt < 4,
            restart_backoff=linear(random.random()),
        )
        self._monitors.append(monitor)
        for number in range(random.randint(1, 2)):
            monitor.register(partial(self._nth_worker, random, f"{name}.{number}"))
        try:
            await monitor.run()
        finally:
            self._contexts += monitor.workers  # none: they have ended
            report = monitor.report
            released = sum(each.released for each in report.workers)
            if len(report.interrupted) > released:
                self.books.faults.append(f"{len(report.interrupted)} were interrupted, {released} released")

    # Handling

    async def _handle(self, task: Task[int]) -> int:
        books, task_id = self.books, task.parts.id
        if _note.get() is not None:
            books.faults.append(f"{task_id} finds a note of {_note.get()}")
        if not self._calm:
            self._runs += 1
            try:
                await self._behave(task, self._dice(task.args, task.parts.attempt, self._runs))
            except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
                if any(isinstance(each, trio.Cancelled) for each in leaves(error)):
                    books.struck.add(task_id)
                raise
        return task.args * 2

    async def _behave(self, task: Task[int], random: Random) -> None:
        if random.random() < 0.6:
            await trio.sleep(random.choice((0, random.random() * 4)))
        well, ill = (self._succeed, self._leave_a_note, self._push_more), (self._fail, self._hide, self._swallow)
        behave = random.choice(
            (*well, self._succeed, self._succeed, *ill, self._have_children, self._shield, self._steer)
        )
        await behave(task, random)

    async def _succeed(self, task: Task[int], random: Random) -> None:
        pass

    async def _fail(self, task: Task[int], random: Random) -> None:
        errors = [
            ValueError("no"),
            RetryAfterError("later", random.random() * 10),
            DeferredError("again"),
            AbortError("never"),
            OSError(),
        ]
        some = random.sample(errors, random.randint(1, 3))
        raise random.choice((some[0], ExceptionGroup("several", some), SystemExit(1), RudeError()))

    async def _have_children(self, task: Task[int], random: Random) -> None:
        children = self.books.children

        async def child(seconds: float, error: Exception | None) -> None:
            children[task.parts.id] += 1
            try:
                await trio.sleep(seconds)
                if error is not None:
                    raise error
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(random.choice((0, seconds)))
                children[task.parts.id] -= 1

        async with trio.open_nursery() as nursery:
            for _ in range(random.randint(0, 3)):
                error = random.choice((None, None, ValueError("a child")))
                nursery.start_soon(child, random.random() * 3, error)
            await trio.sleep(random.random())
            if random.random() < 0.2:
                nursery.cancel_scope.cancel()

    async def _shield(self, task: Task[int], random: Random) -> None:
        try:
            await trio.sleep(random.random() * 10)
        finally:
            with trio.move_on_after(2, shield=True):
                await trio.sleep(random.random() * 3)

    async def _hide(self, task: Task[int], random: Random) -> None:
        """Clean-up that fails: its error stands in front of the cancellation."""
        try:
            await trio.sleep(random.random() * 10)
        except trio.Cancelled:
            self.books.struck.add(task.parts.id)
            raise random.choice((ValueError(), RetryAfterError("later", 1))) from random.choice((None, OSError()))  # noqa: ASYNC104  that it hides the cancellation is the point

    async def _swallow(self, task: Task[int], random: Random) -> None:
        try:
            await trio.sleep(random.random() * 10)
        except trio.Cancelled:  # noqa: ASYNC103, ASYNC104  what not all users know they must not do
            self.books.struck.add(task.parts.id)

    async def _leave_a_note(self, task: Task[int], random: Random) -> None:
        _note.set(task.parts.id)
        await trio.sleep(random.choice((0, random.random())))

    async def _steer(self, task: Task[int], random: Random) -> None:
        context = WorkerContext.of(task)

        async def resume() -> None:
            try:
                await trio.sleep(random.random() * 5)
            finally:
                context.resume()

        if random.random() < 0.3:
            context.stop()
        else:
            context.pause()
            context.track(resume)
        await trio.sleep(random.choice((0, random.random())))

    async def _push_more(self, task: Task[int], random: Random) -> None:
        if self._runs < 200:
            more = self._task(random)
            self.books.will_push(more)
            if self.storage.push_task_nowait(more) == more.parts.id:
                self.books.pushed.add(more.parts.id)

    # Meddling

    async def _meddle(self, nursery: trio.Nursery, random: Random) -> None:
        for _ in range(random.randint(0, 20)):
            await trio.sleep(random.choice((0, random.random() * 3)))
            self._look()
            what = random.choice((self._meddle_with_a_task, self._meddle_with_a_task, self._meddle_with_a_worker))
            await what(random)
            if random.random() < 0.1:
                self._runs += 1
                nursery.start_soon(self._employ, self._dice("another", self._runs), f"another {self._runs}")

    async def _meddle_with_a_task(self, random: Random) -> None:
        storage, books = self.storage, self.books
        task_id = random.choice(self._ids or ["nobody"])
        what = random.choice(("abort", "abort", "cancel", "reschedule", "resume", "wait"))
        if what == "abort" and await storage.abort(task_id):
            books.aborted.add(task_id)
        elif what == "cancel":
            await storage.cancel(task_id)
        elif what == "reschedule":
            delay = random.choice((0.0, random.random() * 10))
            if await storage.reschedule(task_id, delay):
                books.was_rescheduled(task_id, delay)
        elif what == "resume":
            try:
                if await storage.resume_by_id(task_id):
                    books.was_resumed(task_id)
            except DuplicateTaskError:
                pass  # its unique key is taken
        elif what == "wait" and await storage.fetch_by_id(task_id) is not None:
            with trio.move_on_after(random.random()):
                await storage.wait_for(task_id)

    async def _meddle_with_a_worker(self, random: Random) -> None:
        context = random.choice([*self._contexts, *(each for m in self._monitors for each in m.workers), None])
        what = random.random()
        if what < 0.15 and self._scopes:
            random.choice(self._scopes).cancel()
        elif what < 0.25 and self._monitors:
            random.choice(self._monitors).shutdown()
        elif context is not None and what < 0.4:
            context.stop()
        elif context is not None:
            context.pause()
            await trio.sleep(random.choice((0, random.random() * 3)))
            context.resume()


if __name__ == "__main__":
    program = Program(int(sys.argv[1]))
    try:
        program.run()
    finally:
        print(*program.books.history, *program.books.faults, sep="\n")
