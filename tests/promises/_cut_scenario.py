"""A program that is cancelled before its k-th step, for each k, in a run of its own.

The scenario has a bounded storage and its pusher, a monitor with two slots on it, and tasks that succeed, fail and are
tried again, wait, have children, shield their clean-up and hide a cancellation behind an error. When the cut has had
its effect, a successor finishes what is left, and the checker says whether anything was lost, or done twice.
"""

from __future__ import annotations

import sys
from typing import Any

import trio
from trio_tasks import (
    Backend,
    MemoryStorage,
    Monitor,
    Outcome,
    Pipe,
    Released,
    RetryAfterError,
    Task,
    TaskBuilder,
    Worker,
)
from trio_tasks._backends.channel import as_backend
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.testing._exploration.steps import StepCounter

from tests._attempt_checker import AttemptChecker, run_isolated

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

DO = {
    "everything": "cancel all there is",
    "pusher": "cancel the one who pushes",
    "monitor": "cancel the monitor",
    "worker": "have its worker stop",
    "pause": "pause its worker for a while",
    "shutdown": "have the monitor shut down",
    "timeout": "have the monitor's time be up at once",
    "abort": "abort whatever runs",
    "revoke": "take away whatever lease there is",
    "close": "close the storage",
}
ENDS = ("everything", "pusher", "monitor", "timeout", "close")


class Slow(Backend[str]):
    """A storage whose operations take time."""

    def __init__(self, storage: MemoryStorage[str]) -> None:
        self._storage = storage

    async def receive(self) -> Task[str]:
        await trio.sleep(0.125)
        return await self._storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep(0.125)
        self._storage.settle_nowait(task, outcome)


class Scenario:
    """One run of the scenario.

    Args:
      over: what lies between the worker and the storage: ``"memory"`` (nothing), ``"slow"`` or ``"pipe"``; or
          ``"channel"``, which is there in place of the storage.
      what: what the cut is; a key of :data:`DO`.
      step: before which of its steps it comes.
    """

    def __init__(self, over: str, what: str, step: int) -> None:
        self.checker = AttemptChecker()
        self._over = over
        self._sends = over in ("pipe", "channel")
        self._step = step
        self._step_counter = StepCounter(
            step, getattr(self, f"_cut_{what}"), lambda task: self._is_on and task is not None
        )
        self._is_on = False
        self._calm = False

    def run(self) -> None:
        """Run the scenario in a trio run of its own, in virtual time."""
        run_isolated(f"the program cut before step {self._step}", self._main, self._step_counter)

    @property
    def was_cut(self) -> bool:
        """True if the run took that many steps."""
        return self._step_counter.was_reached

    async def _main(self) -> None:
        self.storage = MemoryStorage[str](2)
        self._send, self._receive = trio.open_memory_channel[Task[str]](1)
        self._backend = self._open()
        self._first_is_over, self._pusher_is_over = trio.Event(), trio.Event()
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live)
                await self._first_is_over.wait()
                self._is_on, self._calm = False, True
                successor = Worker("successor", self._backend, self._handle, on_event=self.checker.on_event)
                nursery.start_soon(successor.run)
                await self._pusher_is_over.wait()
                self._close()
            if self._over != "channel":
                await self.checker.audit(self.storage)
        if self.checker.unfinished or self.storage.statistics().waiting:
            self.checker.faults.append(f"the backend has ended, and {self.checker.unfinished} are not finished")

    def _open(self) -> Backend[str]:
        if self._over == "pipe":
            return Pipe(self._receive, self.storage)
        if self._over == "channel":
            return as_backend(self._receive)
        return Slow(self.storage) if self._over == "slow" else self.storage

    def _close(self) -> None:
        if self._sends:
            self._send.close()
        else:
            self.storage.close()

    async def _live(self) -> None:
        self.monitor = Monitor(shutdown_timeout=0.5)
        self.monitor.register(
            Worker("first", self._backend, self._handle, concurrency=2, on_event=self.checker.on_event)
        )
        self._is_on = True
        with trio.CancelScope() as self.everything:
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self._push)
                try:
                    async with trio.open_nursery() as first:
                        first.start_soon(self.monitor.run)
                        await trio.sleep(8)
                        self.monitor.shutdown()
                finally:
                    self._first_is_over.set()

    async def _push(self) -> None:
        try:
            with trio.CancelScope() as self.pushing:
                for args in ("hide", "fail", "succeed", "family", "shield"):
                    await self._push_one(TaskBuilder(args).run_after(2.0 if args == "succeed" else 0.0).build())
        except trio.ClosedResourceError:
            pass
        finally:
            self._pusher_is_over.set()

    async def _push_one(self, task: Task[str]) -> None:
        checker, task_id = self.checker, task.parts.id
        checker.refused.add(task_id)  # until it is done
        checker.will_push(task)
        await (self._send.send(task) if self._sends else self.storage.push_task(task))
        checker.refused.discard(task_id)
        checker.pushed.add(task_id)

    async def _handle(self, task: Task[str]) -> str:
        if not self._calm:
            try:
                await getattr(self, f"_{task.args}")(task)
            except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
                if any(isinstance(each, trio.Cancelled) for each in leaves(error)):
                    self.checker.cancelled.add(task.parts.id)
                raise
        return task.args

    async def _succeed(self, task: Task[str]) -> None:
        await trio.sleep(0.25)

    async def _fail(self, task: Task[str]) -> None:
        await trio.sleep(0.25)
        if task.parts.attempt < 3:
            raise RetryAfterError("again", 1)

    async def _family(self, task: Task[str]) -> None:
        async def child() -> None:
            self.checker.children[task.parts.id] += 1
            try:
                await trio.sleep(0.5)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.25)
                self.checker.children[task.parts.id] -= 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)

    async def _shield(self, task: Task[str]) -> None:
        try:
            await trio.sleep(10)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.25)

    async def _hide(self, task: Task[str]) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            self.checker.cancelled.add(task.parts.id)
            raise ValueError("the clean-up failed") from None  # noqa: ASYNC104  that it hides the cancellation is the point

    # Cuts

    def _cut_everything(self) -> None:
        self.everything.cancel()

    def _cut_pusher(self) -> None:
        if hasattr(self, "pushing"):
            self.pushing.cancel()

    def _cut_monitor(self) -> None:
        self.monitor.cancel_scope.cancel()

    def _cut_worker(self) -> None:
        for context in self.monitor.workers:
            context.stop()

    def _cut_pause(self) -> None:
        async def resume_later() -> None:
            await trio.sleep(1)
            for context in contexts:
                context.resume()

        contexts = self.monitor.workers
        for context in contexts:
            context.pause()
        self.nursery.start_soon(resume_later)

    def _cut_shutdown(self) -> None:
        self.monitor.shutdown()

    def _cut_timeout(self) -> None:
        self.monitor.shutdown()
        self.monitor.cancel_scope.deadline = trio.current_time()

    def _cut_abort(self) -> None:
        queue = getattr(self._backend, "_queue", self.storage._queue)  # `abort` itself is async
        for context in self.monitor.workers:
            for task in context.running_tasks:
                if queue.ledger.abort(task.parts.id, "aborted"):
                    self.checker.aborted.add(task.parts.id)

    def _cut_revoke(self) -> None:
        for context in self.monitor.workers:
            for task in context.running_tasks:
                assert task.parts.holder is not None
                task.parts.holder.revoke(Released("its lease was taken away"))

    def _cut_close(self) -> None:
        self._close()
