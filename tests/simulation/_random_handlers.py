"""Random behaviour of handlers, good and bad, decided by a seed."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

import trio
from trio_tasks import AbortError, DeferredError, RetryAfterError, SuspendError, Task, WorkerContext
from trio_tasks._concurrency.exception_groups import leaves

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._deadline_rules import check_beginning
from tests.simulation._virtual_threads import Threads

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

_note: contextvars.ContextVar[str | None] = contextvars.ContextVar("_note", default=None)


class PlainBaseError(BaseException):
    """An error that ``except Exception`` does not catch."""


class Pusher(Protocol):
    """The interface of an object that pushes more tasks."""

    async def push_more(self, random: Random) -> None: ...


class RandomGate:
    """A gate that makes workers wait, and that may be full after it has said that it is ready."""

    def __init__(self, checker: ClaimChecker, random: Random) -> None:
        self._checker = checker
        self._random = random
        self._admitted: set[Task[Any]] = set()
        self._was_asked = False

    async def __call__(self, handler: Callable[[Task[Any]], Awaitable[Any]], task: Task[Any]) -> Any:
        if task not in self._admitted:
            self._checker.fault(f"{task} was not admitted")
        return await handler(task)

    async def ready(self) -> None:
        await trio.sleep(self._random.choice((0, 0, self._random.random())))
        self._was_asked = True

    def admit(self, task: Task[Any]) -> bool:
        if not self._was_asked:
            self._checker.fault(f"{task} was received without asking whether a gate is ready")
        self._was_asked = False
        if self._random.random() < 0.2:
            return False
        self._admitted.add(task)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        self._admitted.remove(task)


class RandomNowaitGate(RandomGate):
    """A gate that can tell at once that it is open, at times."""

    def ready_nowait(self) -> None:
        if self._random.random() < 0.3:
            raise trio.WouldBlock
        self._was_asked = True


class RandomHandlers:
    """A handler for every attempt of a program.

    Args:
      checker: are told what only a handler knows.
      seed: of the program.
      pusher: pushes more.
      threads: what sync handlers run in.
    """

    def __init__(self, checker: ClaimChecker, seed: int, pusher: Pusher, threads: Threads) -> None:
        self.is_orderly = False
        self._checker = checker
        self._seed = seed
        self._pusher = pusher
        self._threads = threads
        self._runs = 0

    async def handle(self, task: Task[int], nursery: trio.Nursery) -> int:
        self._begin(task)
        if not self.is_orderly:
            random = self._rng(task)
            self._checker.children[task.parts] += 1
            try:
                await self._behave(task, random, nursery)
            except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
                kinds = {type(each) for each in leaves(error)}
                if trio.Cancelled in kinds:
                    self._checker.cancelled.add(task.parts)
                if kinds - {trio.Cancelled, SuspendError}:
                    self._checker.failed.add(task.parts)
                raise
            finally:
                self._checker.children[task.parts] -= 1
        return task.args * 2

    def handle_in_thread(self, task: Task[int]) -> int:
        """Do the same as a sync handler: it takes time, and does not notice a cancellation."""
        self._begin(task)
        if not self.is_orderly:
            random, children, parts = self._rng(task), self._checker.children, task.parts
            children[parts] += 1
            self._threads.last(random.choice((0, random.random() * 8)), lambda: children.subtract([parts]))
            if random.random() < 0.3:
                raise random.choice((ValueError("no"), AbortError("never"), SystemExit(1), PlainBaseError()))
        return task.args * 2

    def _begin(self, task: Task[int]) -> None:
        checker, parts = self._checker, task.parts
        check_beginning(checker, task)
        if _note.get() is not None:
            checker.fault(f"{parts.id} finds a note of {_note.get()}")
        if parts.terms.attempts is not None and parts.attempt > parts.terms.attempts and parts.id not in checker.lost:
            checker.fault(f"{parts.id} runs in attempt {parts.attempt} of {parts.terms.attempts}")

    def _rng(self, task: Task[int]) -> Random:
        self._runs += 1
        return Random(f"{self._seed} {task.args} {task.parts.attempt} {self._runs}")

    async def _behave(self, task: Task[int], random: Random, nursery: trio.Nursery) -> None:
        if random.random() < 0.6:
            await trio.sleep(random.choice((0, random.random() * 4)))
        well, ill = (
            (self._succeed, self._leave_a_note, self._push_more),
            (self._fail, self._hide, self._suppress_cancellation),
        )
        behave = random.choice(
            (*well, self._succeed, self._succeed, *ill, self._have_children, self._shield, self._control_worker)
        )
        if random.random() < 0.1:
            self._leave_to(nursery, task, random)
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
            SuspendError(random.random() * 10, "not yet"),
        ]
        some = random.sample(errors, random.randint(1, 3))
        if random.random() < 0.1:
            some = [SuspendError(random.random() * 10, "a"), SuspendError(random.random() * 10, "b")]
        raise random.choice((some[0], ExceptionGroup("several", some), SystemExit(1), PlainBaseError()))

    async def _have_children(self, task: Task[int], random: Random) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(random.randint(0, 3)):
                error = random.choice((None, None, ValueError("a child")))
                nursery.start_soon(self._child, task, random, random.random() * 3, error)
            await trio.sleep(random.random())
            if random.random() < 0.2:
                nursery.cancel_scope.cancel()

    def _leave_to(self, nursery: trio.Nursery, task: Task[int], random: Random) -> None:
        """Start children that the handler does not wait for."""
        self._checker.may_be_cancelled.add(task.parts)  # when the handler has returned, there is nobody to see it
        for _ in range(random.randint(1, 3)):
            error = random.choice((None, None, ValueError("a child")))
            nursery.start_soon(self._child, task, random, random.random() * 3, error)

    async def _child(self, task: Task[int], random: Random, seconds: float, error: Exception | None) -> None:
        children, parts = self._checker.children, task.parts
        children[parts] += 1
        try:
            await trio.sleep(seconds)
            if error is not None:
                raise error
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(random.choice((0, seconds)))
            children[parts] -= 1

    async def _shield(self, task: Task[int], random: Random) -> None:
        try:
            await trio.sleep(random.random() * 10)
        finally:
            with trio.move_on_after(2, shield=True):
                await trio.sleep(random.random() * 3)

    async def _hide(self, task: Task[int], random: Random) -> None:
        """Clean up with an error, which hides the cancellation."""
        try:
            await trio.sleep(random.random() * 10)
        except trio.Cancelled:
            self._checker.cancelled.add(task.parts)
            raise random.choice((ValueError(), RetryAfterError("later", 1))) from random.choice((None, OSError()))  # noqa: ASYNC104  that it hides the cancellation is the point

    async def _suppress_cancellation(self, task: Task[int], random: Random) -> None:
        try:
            await trio.sleep(random.random() * 10)
        except trio.Cancelled:  # noqa: ASYNC103, ASYNC104  what not all users know they must not do
            self._checker.cancelled.add(task.parts)

    async def _leave_a_note(self, task: Task[int], random: Random) -> None:
        _note.set(task.parts.id)
        await trio.sleep(random.choice((0, random.random())))

    async def _control_worker(self, task: Task[int], random: Random) -> None:
        context = WorkerContext.of(task)

        async def resume() -> None:
            try:
                await trio.sleep(random.random() * 5)
            finally:
                context.resume()

        if random.random() < 0.3:
            self._checker.will_stop(context)
            context.stop()
        else:
            context.pause()
            context.track(resume)
        await trio.sleep(random.choice((0, random.random())))

    async def _push_more(self, task: Task[int], random: Random) -> None:
        if self._runs < 200:
            await self._pusher.push_more(random)
