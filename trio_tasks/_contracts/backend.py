"""The contracts: what a backend and a layer are, and what else a backend may be able to do.

A backend claims a capability by implementing its interface, and is asked with ``isinstance``.
"""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from .._tasks.task import Task

if TYPE_CHECKING:
    from .._tasks.outcome import Outcome, Status, TaskResult
    from .context import WorkerContext

A = TypeVar("A")
R = TypeVar("R")


class Backend(trio.abc.ReceiveChannel[Task[A]], Generic[A]):
    """A source of tasks that wants to know how each of them ended.

    Two methods must be there: ``receive`` and :meth:`settle`. ``receive`` claims the next task and returns it,
    with ``parts.attempt`` counting this attempt; it raises ``trio.EndOfChannel`` when no more will come, and, if it
    is cancelled, has taken nothing. A worker calls it from as many trio tasks at once as it has slots.
    """

    args_type: Any = Any
    """The type of the args, where it is known: a worker then refuses a handler for values of another class."""

    heartbeat_interval: float | None = None
    """Seconds between two calls of :meth:`beat`; None if there is nothing to renew."""

    settles_within_bounds: bool = False
    """True if :meth:`settle` returns or raises in bounded time by itself, and cannot be cancelled: then a worker spares
    itself the scope around each call."""

    @property
    def beats_when_idle(self) -> bool:
        """True if :meth:`beat` is called also while no task is running; otherwise virtual time need not stop for it."""
        return True

    @abstractmethod
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Take note of how the attempt ended: whichever of the six it is, the task is not running any more.

        Raises:
          LeaseLostError: this attempt may not settle the task any more. Nothing changed.
          UnsettledError: this outcome cannot be had; nothing changed, and the worker settles the error in its place.

        A worker calls it shielded and with a deadline. If that cancels it, the task is settled or still running.
        """

    async def beat(self, context: WorkerContext) -> None:
        """Renew the leases on what this worker has claimed.

        Called every :attr:`heartbeat_interval` seconds, from when the intake opens until after the last attempt.
        Where a lease is found lost, call ``task.parts.holder.revoke(Released(reason))``, so that the attempt ends. Do
        so in the step in which you look: once the task is settled, its holder is None.
        If it raises, the worker ends.
        """
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Let go of what it holds; by default nothing."""
        await trio.lowlevel.checkpoint()


class StockedBackend(Backend[A], Generic[A]):
    """A backend that may have tasks at hand, to be given without waiting."""

    @abstractmethod
    def receive_nowait(self) -> Task[A]:
        """The next task; raises ``trio.WouldBlock`` if there is none now, ``trio.EndOfChannel`` if none will come."""


class NowaitBackend(StockedBackend[A], Generic[A]):
    """A backend that can settle without waiting, too; a worker then does so, and is several times as fast."""

    @abstractmethod
    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle as :meth:`~Backend.settle` does, at once."""


class Feeder(ABC):
    """A backend with work to do for as long as a worker's intake is open, such as carrying tasks in from elsewhere."""

    @abstractmethod
    async def feed(self) -> None:
        """Run beside the slots; it is cancelled when intake stops, and may return earlier. If it raises, the worker
        ends."""


class FetchById(ABC):
    """A backend that can show a task by its id."""

    @abstractmethod
    async def fetch_by_id(self, task_id: str) -> Task[Any] | None:
        """The task, unfinished or remembered; None if it is not known."""


class Update(ABC):
    """A backend that can replace what a waiting task holds."""

    @abstractmethod
    async def update(self, task: Task[Any]) -> bool:
        """Give the waiting task of this id the args and metadata of this one; False if none of that id waits."""


class Reschedule(ABC):
    """A backend that can move a waiting task in time."""

    @abstractmethod
    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Have the waiting task be ready in ``delay`` seconds; False if none of that id waits.

        One that is ready keeps its place if ``delay`` is 0.
        """


class Cancel(ABC):
    """A backend that can take a task back, whether it waits or runs."""

    @abstractmethod
    async def cancel(self, task_id: str) -> bool:
        """Kill the waiting task of this id; False if none of that id waits."""

    @abstractmethod
    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, which is then settled as killed; False if there is none.

        It returns as soon as the attempt has been told; :meth:`WaitForCompletion.wait_for` tells when it has ended.
        """


class Progress(ABC):
    """A backend that can keep how far a running task has come, for others to read."""

    @abstractmethod
    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Keep this as the progress of a running task; plain data, which replaces what was reported before.

        Raises:
          LeaseLostError: the task is not running any more. Nothing changed.
        """

    @abstractmethod
    async def progress_of(self, task_id: str) -> Any:
        """The progress that was last reported for the task; None if nothing was.

        Raises:
          UnknownTaskError: no such task is known.
        """


class Discard(ABC):
    """A backend that can forget one finished task."""

    @abstractmethod
    async def discard(self, task_id: str) -> bool:
        """Forget the finished task of this id, such as a dead letter; False if there is none."""


class Vacuum(ABC):
    """A backend that can forget finished tasks."""

    @abstractmethod
    async def vacuum(self) -> int:
        """Forget all finished tasks, dead letters included; returns how many there were."""


class ResumeById(ABC):
    """A backend that can let a dead letter have another try."""

    @abstractmethod
    async def resume_by_id(self, task_id: str) -> bool:
        """Let the failed or killed task of this id wait again, with all of its attempts; False if there is none.

        Raises:
          DuplicateTaskError: its unique key is taken by now.
        """


class ResumeAbandoned(ABC):
    """A backend that can take orphans back at once, rather than when their leases run out."""

    @abstractmethod
    async def resume_abandoned(self) -> int:
        """Let the orphans wait again; returns how many there were."""


class RegisterWorker(ABC):
    """A backend that is told which workers run on it."""

    @abstractmethod
    async def register_worker(self, context: WorkerContext) -> None:
        """Note that this worker starts to receive here."""

    async def unregister_worker(self, context: WorkerContext) -> None:
        """Note that this worker has ended; by default nothing is done.

        When it returns, no task is running that was claimed for this worker and not given to it. A worker calls it
        after its last attempt, shielded and with a deadline, however it ends.
        """
        await trio.lowlevel.checkpoint()


class WaitForCompletion(ABC):
    """A backend that can wait for a task to be finished."""

    @abstractmethod
    async def wait_for(self, task_id: str) -> TaskResult[Any]:
        """Wait until the task has ended; return how.

        Raises:
          UnknownTaskError: no such task is known.

        If it is cancelled, the task goes on.
        """


class ListTasks(ABC):
    """A backend that can list its tasks."""

    @abstractmethod
    async def list_tasks(self, status: Status | None = None, *, limit: int = 100) -> list[Task[Any]]:
        """At most ``limit`` tasks, of this status if one is given.

        Those that wait come first: the ready ones in the order in which they would be received, then the delayed ones
        as they fall due.
        """


class ListWorkers(ABC):
    """A backend that can list the workers that run on it."""

    @abstractmethod
    async def list_workers(self) -> list[str]:
        """List the names of the workers."""


class ListQueues(ABC):
    """A backend with several queues that can list them."""

    @abstractmethod
    async def list_queues(self) -> list[str]:
        """List the names of the queues."""


class Metrics(ABC):
    """A backend that counts its tasks."""

    @abstractmethod
    async def metrics(self) -> dict[str, int]:
        """Numbers by name: ``pushed``, ``succeeded``, ``retried``, ``failed``, ``killed``, ``released``, ``suspended``
        in all; ``waiting`` and ``running`` at present."""


INTERFACES: tuple[type, ...] = tuple(
    each
    for each in vars().values()
    if isinstance(each, ABCMeta) and each.__module__ == __name__ and each is not Backend
)
"""The interfaces above that a backend may implement in addition: nothing repeats this list."""


class PollStrategy(ABC):
    """A rule for when to look again. One object serves one :func:`poll`."""

    @abstractmethod
    async def wait(self) -> None:
        """Return when it is time to look again, after a look that found nothing.

        If it is cancelled, the next thing done is a look, so a signal that it has consumed is not lost.
        """

    def found(self) -> None:
        """Take note that a look found something: a strategy that counts quiet looks starts afresh. Default: nothing."""
