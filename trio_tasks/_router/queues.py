"""The queues of a router's functions, over one storage."""

# A string is an iterable of strings, and one id all the same: the overload for one id comes first.
# mypy: disable-error-code=overload-overlap

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, cast, final, overload

import trio

from .._checks import check_count, check_text
from .._codecs.codec import Codec
from .._concurrency.background import run_and_cancelling
from .._contracts.backend import StoreSchedules, WaitForCompletion
from .._contracts.bulk import UNKNOWN, ChangeReport, check_ids
from .._contracts.layer import Dispatch, Dispatcher
from .._contracts.listing import Page
from .._contracts.sink import TaskSink
from .._monitor import Monitor, MonitorOptions
from .._printing import quoted
from .._tasks.call import Call
from .._tasks.errors import UnknownTaskError
from .._tasks.limits import Limits
from .._tasks.outcome import Status, TaskResult
from .._tasks.task import Task
from .._tasks.task_id import TaskId, stored_id
from .._worker.worker import Worker
from .resources import Resource, opened
from .routes import Routes, Unknown

if TYPE_CHECKING:
    import logging
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .._backends.urls import AnyStorage
    from .._contracts.context import Listener
    from .._contracts.explanation import Explanation
    from .._contracts.layer import Layer
    from .._contracts.listing import TaskFilters
    from .._contracts.metrics import AttemptTotals, Balance, Minute, QueueMetrics
    from .._contracts.storage_events import Pushed
    from .._contracts.worker_info import WorkerInfo
    from .._schedules.schedules import Schedules
    from .._tasks.retry import RetryPolicy
    from .._tasks.task import TaskOptions
    from .table import FunctionTable

R = TypeVar("R")
T = TypeVar("T")


class CodecAndHandler(Dispatcher, Codec, Protocol):
    """The interface of a router, for its queues."""

    unknown: Unknown
    """What becomes of tasks of unknown names."""


class QueueWorkerOptions(TypedDict, total=False):
    """The keyword options of :meth:`Queues.make_workers`: those of a :class:`Worker`, but for its concurrency."""

    lend: int
    layers: Iterable[Layer[Any, Any]]
    data: Iterable[object]
    retry: RetryPolicy
    on_event: Listener | Iterable[Listener] | None
    version: str | None
    settle_timeout: float
    log: logging.Logger | None


class QueueMonitorOptions(MonitorOptions, total=False):
    """The keyword options of :meth:`Queues.monitor`: those of a :class:`Monitor`, and of its workers."""

    lend: int
    layers: Iterable[Layer[Any, Any]]
    data: Iterable[object]
    retry: RetryPolicy
    version: str | None
    settle_timeout: float
    log: logging.Logger | None


@final
class Queues(WaitForCompletion):
    """The queues of the functions of a :class:`Router`, over one storage. ``tasks.open(...)`` makes them.

    >>> async with tasks.open("sqlite:///shop.db") as queues:
    ...     task_id = await queues.push(send_email.bind("a@example.com"))
    ...     async with queues.monitor({"emails": 8}, shutdown_timeout=30) as monitor:
    ...         ...

    They are open within the block. A call goes to the queue of its function. Methods that take the id of a task look
    for it in all queues, so they cost a look at each. ``queues["emails"]`` is the storage of one queue.

    Args:
      table: the functions.
      router: their router, which is the codec and the handler.
      storage: a URL, or a storage that is not open yet.
      options: those of the storage, with a URL.
      limits: the limits of queues that have none yet.
    """

    def __init__(
        self,
        table: FunctionTable,
        router: CodecAndHandler,
        storage: Any,
        options: Mapping[str, Any],
        limits: Mapping[str, Limits],
    ) -> None:
        self._table = table
        self._router = router
        self._storages: dict[str, AnyStorage[Call[Any]]] = {}
        self._stack: AsyncExitStack | None = None
        self._schedules: Schedules | None = None
        names = table.queues
        self._limits = _checked_limits(limits, names)
        if isinstance(storage, str):
            from .._backends.urls import open_url

            is_memory = storage.partition(":")[0].lower() == "memory"
            typed: dict[str, Any] = {} if is_memory else {"type": Call, "codec": router}
            self._base: Any = open_url(storage, queue=names[0], **{**typed, **options})
        elif options:
            raise TypeError(f"give the option {min(options)!r} to the storage, where it is made")
        else:
            self._base = _checked(storage)
        for name in names:
            self._share(name)

    def _share(self, name: str) -> AnyStorage[Call[Any]]:
        base = self._base
        limits = {"limits": self._limits[name]} if name in self._limits else {}
        if base.heartbeat_interval is None:  # in memory, where calls are handed over as they are
            args_type = None if base.args_type is Any else base.args_type
            storage: Any = base.share(args_type, queue=name, **limits)
        else:
            storage = base.share(Call, queue=name, codec=self._router, **limits)
        self._storages[name] = storage
        return self._storages[name]

    # Opening and closing

    async def __aenter__(self) -> Self:
        """Open the storage."""
        if self._stack is not None:
            raise RuntimeError(f"{self!r} has been opened already; call open() again")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._base)
            stack.callback(self.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None
        return await self._stack.__aexit__(kind, error, trace)  # noqa: ASYNC102  the storage shields itself

    def close(self) -> None:
        """Refuse further pushes. Workers on a queue end once it is empty."""
        self._base.close()
        for storage in self._storages.values():
            storage.close()

    def __getitem__(self, name: str) -> AnyStorage[Call[Any]]:
        """Return the storage of a queue.

        Raises:
          KeyError: no function of the router has this queue.
        """
        found = self._storages.get(name)
        if found is not None:
            return found
        if name in self._table.queues:  # its function was defined after this was made
            return self._share(name)
        raise KeyError(f"no function has the queue {name!r}; the queues are {', '.join(self._storages)}")

    def __iter__(self) -> Iterator[str]:
        """The names of the queues."""
        return iter(self._storages)

    def __len__(self) -> int:
        return len(self._storages)

    @property
    def task_names(self) -> frozenset[str] | None:
        """The names of the tasks that the router knows; see :attr:`Router.task_names`."""
        return self._router.task_names

    def __repr__(self) -> str:
        return f"<Queues {', '.join(self._storages)} on {self._base!r}>"

    # Pushing

    def _storage_of(self, call: Call[Any]) -> AnyStorage[Call[Any]]:
        return self[self._table.function_of(call).queue]

    async def push(self, call: Call[Any], **options: Unpack[TaskOptions]) -> TaskId:
        """Push a call to the queue of its function; return the id of the task.

        >>> task_id = await queues.push(send_email.bind("a@example.com"), delay=60)

        The keywords, the errors and the effect of a cancellation are the same as for :meth:`TaskSink.push`. They go
        before the options of the function.

        Raises:
          TypeError: it is no :class:`Call`.
          ValueError: the router has no such function.
        """
        return await self._storage_of(call).push(call, **options)

    async def push_or_get(self, call: Call[Any], **options: Unpack[TaskOptions]) -> Pushed:
        """Push a call, or find the task that has its unique key; see :meth:`TaskSink.push_or_get`."""
        return await self._storage_of(call).push_or_get(call, **options)

    async def call(self, call: Call[R], **options: Unpack[TaskOptions]) -> R:
        """Push a call, wait until its task is finished, and return its result.

        >>> length = await queues.call(send_email.bind("a@example.com"))

        The keywords are those of :meth:`push`.

        Raises:
          BaseException: the error of the task, if it has failed or was killed; or what :meth:`push` raises.
          DecodeError: the result is not of the return type.

        If it is cancelled, so is the task, in whatever process it runs, and it returns once that has ended: see
        :meth:`MemoryStorage.call`.
        """
        storage: Any = self._storage_of(call)  # the overloads of its two classes are not alike to a type checker
        return cast("R", self._table.function_of(call).result_of(await storage.call(call, **options)))

    async def push_task(self, task: Task[Call[Any]]) -> TaskId:
        """Push a whole task to the queue of its function; see :meth:`TaskSink.push_task`."""
        if not isinstance(task, Task):
            raise TypeError(f"push_task takes a Task, not {quoted(task)}; push(call) makes one")
        return await self._storage_of(task.args).push_task(task)

    async def push_bulk(self, calls: Iterable[Call[Any]], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Push many calls with the same options, each to the queue of its function; return their ids in this order.

        One queue follows the other. Every call must be of a function of the router, or none is pushed. What else is
        wrong with a call, or a cancellation, leaves those of the queues before it pushed.
        """
        if not hasattr(calls, "__iter__"):
            raise TypeError(f"push_bulk takes a list of calls, not {type(calls).__name__}")
        by_queue: dict[str, list[tuple[int, Call[Any]]]] = {}
        number = 0
        for number, call in enumerate(calls, start=1):
            by_queue.setdefault(self._table.function_of(call).queue, []).append((number, call))
        ids: dict[int, TaskId] = {}
        for queue, numbered in by_queue.items():
            pushed = await self[queue].push_bulk([call for _, call in numbered], **options)
            ids.update(zip((each for each, _ in numbered), pushed, strict=True))
        if not by_queue:
            await trio.lowlevel.checkpoint()
        return [ids[each] for each in range(1, number + 1)]  # noqa: ASYNC910  each push is a checkpoint

    def push_in(self, connection: object, call: Call[Any], **options: Unpack[TaskOptions]) -> TaskId:
        """Push inside a transaction of your own, in any thread; see :meth:`SqliteStorage.push_in`.

        Raises:
          TypeError: the storage has no transactions that one can push in.
        """
        storage: Any = self._storage_of(call)
        if not hasattr(storage, "push_in"):
            raise TypeError(f"push_in needs a SqliteStorage, and these are queues of a {type(storage).__name__}")
        task_id: TaskId = storage.push_in(connection, call, **options)
        return task_id

    def wake(self) -> None:
        """Tell all workers to look for new tasks now; call it after committing a transaction that used
        :meth:`push_in`.
        """
        wake = getattr(self._base, "wake", None)
        if wake is not None:
            wake()

    # One task, in whatever queue it is

    async def _until(self, accept: Callable[[T], bool], ask: Callable[[Any], Awaitable[T]]) -> T:
        """Ask one queue after the other; return the first answer that is accepted, or the last one."""
        *others, last = self._storages.values()
        for storage in others:
            answer = await ask(storage)
            if accept(answer):
                return answer
        return await ask(last)

    @overload
    async def wait_for(self, task_id: str, type: type[R]) -> TaskResult[R]: ...
    @overload
    async def wait_for(self, task_id: str, type: None = None) -> TaskResult[Any]: ...
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: type[R]) -> list[TaskResult[R]]: ...
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: None = None) -> list[TaskResult[Any]]: ...
    async def wait_for(self, task_id: str | Iterable[str], type: Any = None) -> TaskResult[Any] | list[TaskResult[Any]]:
        """Wait until the task is finished, and return its :class:`TaskResult`; of several tasks a list, in this order.

        Args:
          task_id: the id of the task, or several in an iterable.
          type: a class that the result is an instance of.

        Raises:
          UnknownTaskError: no queue knows the task.
        """
        given = check_ids(task_id)
        if not isinstance(given, str):
            return await self._wait_for_all(given, type)
        for storage in [*self._storages.values()]:
            in_queue: Any = storage  # the overloads of its two classes are not alike to a type checker
            try:
                found: TaskResult[Any] = await in_queue.wait_for(given, type)
                return found
            except UnknownTaskError:
                continue
        raise UnknownTaskError(given)

    async def _wait_for_all(self, ids: list[str], type: Any) -> list[TaskResult[Any]]:
        """Wait for several tasks, one queue after the other; none is awaited if one is unknown."""
        left = [*dict.fromkeys(ids)]
        found: dict[str, TaskResult[Any]] = {}
        waits: list[tuple[Any, list[str]]] = []
        for storage in [*self._storages.values()]:
            there = [str(task.parts.id) for task in await storage.fetch_by_id(left) if task is not None]
            waits.append((storage, there))
            left = [each for each in left if each not in {*there}]
        if left:
            raise UnknownTaskError(*left)
        for storage, there in waits:
            found.update(zip(there, await storage.wait_for(there, type), strict=True))
        return [found[each] for each in ids]  # noqa: ASYNC910  there is one queue at least

    @overload
    async def fetch_by_id(self, task_id: str) -> Task[Call[Any]] | None: ...
    @overload
    async def fetch_by_id(self, ids: Iterable[str], /) -> list[Task[Call[Any]] | None]: ...
    async def fetch_by_id(self, task_id: str | Iterable[str]) -> Task[Call[Any]] | list[Task[Call[Any]] | None] | None:
        """Return the task of this id, unfinished or remembered; None if no queue knows it. Of several ids in an
        iterable, return a list, in their order.
        """
        given = check_ids(task_id)
        if isinstance(given, str):
            return await self._until(lambda task: task is not None, lambda storage: storage.fetch_by_id(given))
        found: dict[str, Task[Call[Any]]] = {}
        for storage in [*self._storages.values()]:
            left = [each for each in dict.fromkeys(given) if each not in found]
            found.update((str(task.parts.id), task) for task in await storage.fetch_by_id(left) if task is not None)
        return [found.get(each) for each in given]  # noqa: ASYNC910  there is one queue at least

    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task of this id is, and why it does not run now."""
        return await self._until(lambda found: found.kind != "unknown", lambda storage: storage.explain(task_id))

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no queue knows the task.
        """
        for storage in [*self._storages.values()]:
            try:
                return await storage.progress_of(task_id)
            except UnknownTaskError:
                continue
        raise UnknownTaskError(task_id)

    async def _change(self, verb: str, ids: str | Iterable[str], *args: Any, **options: Any) -> Any:
        """Call the method of each queue until one has changed the task; of several tasks, make one report."""
        given = check_ids(ids)
        if isinstance(given, str):
            return await self._until(bool, lambda storage: getattr(storage, verb)(given, *args, **options))
        left, changed, refused, participle = [*dict.fromkeys(given)], set[str](), dict[str, str](), ""
        for storage in [*self._storages.values()]:
            report: ChangeReport = await getattr(storage, verb)(left, *args, **options)
            participle = report.verb
            changed.update(report.changed)
            refused.update(report.refused)
            left = [each for each in left if report.refused.get(each) == UNKNOWN]
        in_order = tuple(stored_id(each) for each in dict.fromkeys(given) if each in changed)
        return ChangeReport(in_order, {each: refused[each] for each in given if each not in changed}, participle)  # noqa: ASYNC910  there is one queue at least

    @overload
    async def cancel(self, task_id: str, *, running: bool = False) -> bool: ...
    @overload
    async def cancel(self, ids: Iterable[str], /, *, running: bool = False) -> ChangeReport: ...
    async def cancel(self, task_id: str | Iterable[str], *, running: bool = False) -> bool | ChangeReport:
        """Kill the waiting task of this id, or one that runs, too; False if there is none.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, and so do the next four. Where an id is in
        several queues, the first of them counts.
        """
        return cast("bool | ChangeReport", await self._change("cancel", task_id, running=running))

    @overload
    async def abort(self, task_id: str) -> bool: ...
    @overload
    async def abort(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def abort(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Cancel the attempt under way at this task, which is then settled as killed; False if there is none."""
        return cast("bool | ChangeReport", await self._change("abort", task_id))

    @overload
    async def discard(self, task_id: str) -> bool: ...
    @overload
    async def discard(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def discard(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs."""
        return cast("bool | ChangeReport", await self._change("discard", task_id))

    @overload
    async def reschedule(self, task_id: str, delay: float) -> bool: ...
    @overload
    async def reschedule(self, ids: Iterable[str], /, delay: float) -> ChangeReport: ...
    async def reschedule(self, task_id: str | Iterable[str], delay: float) -> bool | ChangeReport:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits."""
        return cast("bool | ChangeReport", await self._change("reschedule", task_id, delay))

    @overload
    async def resume_by_id(self, task_id: str) -> bool: ...
    @overload
    async def resume_by_id(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def resume_by_id(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Make the finished task of this id wait again, with all of its attempts; False if there is none."""
        return cast("bool | ChangeReport", await self._change("resume_by_id", task_id))

    async def update(self, task: Task[Call[Any]]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""
        return await self._until(bool, lambda storage: storage.update(task))

    # Many tasks

    async def list_tasks(
        self,
        status: Status | None = None,
        *,
        queue: str | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[TaskFilters],
    ) -> Page[Task[Call[Any]]]:
        """Return at most ``limit`` tasks that pass the filters, as ``list_tasks`` of the storages does.

        One queue follows the other, in the order of their names; a page has tasks of one queue.

        Args:
          status: the status of the tasks.
          queue: the name of the queue; default: all.
          newest_first: list each queue in the opposite order.
          after: the ``next`` of the page before.
          limit: the number of tasks on the page.
          filters: see :class:`TaskFilters`.

        Raises:
          ValueError: ``after`` is not the cursor of this list.
        """
        names = sorted(self._storages) if queue is None else [queue]
        place, inner = 0, None
        if after is not None:
            name, _, cursor = check_text(after, "after").rpartition("/")
            if name not in names:
                raise ValueError(f"after must be the `next` of a page of the same list; {quoted(after)} is not")
            place, inner = names.index(name), cursor or None
        while True:
            page = await self[names[place]].list_tasks(
                status, newest_first=newest_first, after=inner, limit=limit, **filters
            )
            if page.next is not None:
                return Page(page, next=f"{names[place]}/{page.next}", is_partial=page.is_partial)
            place, inner = place + 1, None
            if place == len(names):
                return page
            if page:
                return Page(page, next=f"{names[place]}/", is_partial=page.is_partial)

    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Make all dead letters of all queues wait again that pass the filters; return how many there were."""
        return await self._sum(lambda storage: storage.retry_all(status, **filters))

    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Kill all waiting tasks of all queues that pass the filters; return how many there were."""
        return await self._sum(lambda storage: storage.cancel_all(status, **filters))

    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Forget all finished tasks of all queues that pass the filters; return how many there were."""
        return await self._sum(lambda storage: storage.discard_all(status, **filters))

    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        """Forget all finished tasks of all queues; return how many there were."""
        return await self._sum(lambda storage: storage.vacuum(older_than=older_than, status=status))

    async def resume_abandoned(self) -> int:
        """Make the orphans of all queues wait again at once; return how many there were."""
        return await self._sum(lambda storage: storage.resume_abandoned())

    async def _sum(self, ask: Callable[[Any], Awaitable[int]]) -> int:
        return sum((await self._each(ask)).values())

    async def _each(self, ask: Callable[[Any], Awaitable[T]]) -> dict[str, T]:
        """Ask each queue; return the answers by the names of the queues."""
        return {name: await ask(storage) for name, storage in [*self._storages.items()]}  # noqa: ASYNC910  there is one queue at least

    # Queues

    async def list_queues(self) -> list[str]:
        """Return the names of all queues of the storage, also of those that no function has."""
        return sorted(await self._base.list_queues())

    async def metrics(self) -> dict[str, QueueMetrics]:
        """Return the counters of each queue."""
        return await self._each(lambda storage: storage.metrics())

    async def audit(self) -> dict[str, Balance]:
        """Compare the counters of each queue with its tasks."""
        return await self._each(lambda storage: storage.audit())

    async def throughput(
        self, since: datetime | None = None, until: datetime | None = None, *, name: str | None = None
    ) -> dict[str, list[Minute]]:
        """Return the attempts of each queue, added up for each minute and name; see ``throughput`` of the storages."""
        return await self._each(lambda storage: storage.throughput(since, until, name=name))

    def attempt_totals(self) -> dict[str, list[AttemptTotals]]:
        """Return the sums of all attempts of each queue that this process has settled; see the storages."""
        return {name: storage.attempt_totals() for name, storage in self._storages.items()}

    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        """Return the workers on all queues, in any process; see ``workers`` of the storages."""
        found: dict[str, list[WorkerInfo]] = await self._each(lambda storage: storage.workers(fresh=fresh))
        return [each for workers in found.values() for each in workers]

    async def list_workers(self) -> list[str]:
        """Return the names of the workers that run on the queues, in any process."""
        found: dict[str, list[str]] = await self._each(lambda storage: storage.list_workers())
        return [each for workers in found.values() for each in workers]

    async def pause(self, queue: str | None = None) -> None:  # noqa: ASYNC910  there is one queue at least
        """Give out no more tasks of this queue, or of all, in any process, until :meth:`resume`."""
        for name in self._chosen(queue):
            await self[name].pause()

    async def resume(self, queue: str | None = None) -> None:  # noqa: ASYNC910  there is one queue at least
        """Give out tasks of this queue, or of all, again."""
        for name in self._chosen(queue):
            await self[name].resume()

    async def is_paused(self, queue: str) -> bool:
        """Return True if the queue is paused."""
        return await self[queue].is_paused()

    async def set_limits(self, queue: str, limits: Limits | None, *, key: str | None = None) -> None:
        """Replace the limits of a queue, or of one key in it; None removes them.

        >>> await queues.set_limits("emails", Limits(concurrency=50, per_key=2))
        >>> await queues.set_limits("emails", Limits(per_key=5), key="acme")
        """
        await self[queue].set_limits(limits, key=key)

    async def get_limits(self, queue: str, *, key: str | None = None) -> Limits | None:
        """Return the limits of a queue, or those that one key in it has of its own; None if there are none."""
        return await self[queue].get_limits(key=key)

    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return all limits of a queue, under None, and those that keys in it have of their own, by key."""
        return await self[queue].list_limits()

    def _chosen(self, queue: str | None) -> list[str]:
        return [*self._storages] if queue is None else [queue]

    # Schedules

    @property
    def schedules(self) -> Schedules:
        """The schedules of the store: those of the router, and those that are put at run time.

        >>> await queues.schedules.put(
        ...     "report-42", report.bind(42), cron("0 9 * * MON", zone="UTC")
        ... )
        >>> await queues.schedules.pause("nightly")

        Raises:
          TypeError: the storage cannot store schedules.
        """
        if self._schedules is None:
            from .._schedules.schedules import Schedules  # most programs have none

            schedules = Schedules(*self._storages.values(), queue_of=lambda call: self._table.function_of(call).queue)
            schedules.declare_all(self._table.schedules)
            self._schedules = schedules
        return self._schedules

    def _run_schedules(self) -> AbstractAsyncContextManager[object]:
        """Run a scheduler beside a block, if the storage can store schedules."""
        if not all(isinstance(each, StoreSchedules) for each in self._storages.values()):
            return nullcontext()
        return run_and_cancelling(self.schedules.run)

    # Workers

    def make_workers(
        self, concurrency: Mapping[str, int], **options: Unpack[QueueWorkerOptions]
    ) -> list[Worker[Call[Any], Any]]:
        """Make a worker for each of these queues, by the name of the queue.

        >>> for worker in queues.make_workers({"emails": 8, "video": 2}, data=[mailer]):
        ...     monitor.register(worker)

        Args:
          concurrency: by queue, the most attempts that may run at once.
          options: those of :class:`Worker`, but ``concurrency``. What the functions of these queues need must be among
              the data; a function of another queue whose task is found here, and lacks data, is left to other workers.

        Raises:
          KeyError: there is no such queue.
          HandlerSignatureError: data lacks a value that a function of one of the queues needs.
        """
        return self._workers(concurrency, None, options)

    def _workers(
        self, concurrency: Mapping[str, int], shared: _SharedResources | None, options: Mapping[str, Any]
    ) -> list[Worker[Call[Any], Any]]:
        if not isinstance(concurrency, Mapping):
            raise TypeError(f"give a number of slots for each queue, as in {{'default': 8}}, not {quoted(concurrency)}")
        make: Any = Worker
        handler = _QueueHandler(self._table, self._router, frozenset(concurrency), shared)
        return [
            make(name, self[name], handler, concurrency=check_count(slots, f"the slots of {name!r}"), **options)
            for name, slots in concurrency.items()
        ]

    def monitor(self, concurrency: Mapping[str, int], **options: Unpack[QueueMonitorOptions]) -> Monitor:
        """Make a monitor with a worker for each of these queues, which also fires the schedules.

        >>> async with queues.monitor(
        ...     {"emails": 8, "video": 2}, data=[settings], shutdown_timeout=30
        ... ):
        ...     await serve_http(queues)
        >>> await queues.monitor({"emails": 8}).run_with_signal()

        The resources that the functions need are opened once for all of them, before the first worker starts, and
        closed after the last one has ended.

        Args:
          concurrency: by queue, the most attempts that may run at once.
          options: those of :class:`Monitor`, such as ``shutdown_timeout=30``; and of :class:`Worker`, such as ``data``,
              as for :meth:`make_workers`. ``on_event`` is that of the monitor.

        Raises:
          KeyError: there is no such queue.
          HandlerSignatureError: data lacks a value that a function of one of the queues needs.
        """
        shared = _SharedResources()
        of_monitor: Any = {name: value for name, value in options.items() if name in MonitorOptions.__annotations__}
        of_workers = {name: value for name, value in options.items() if name not in of_monitor}
        of_monitor["around"] = [shared.open, self._run_schedules, *of_monitor.get("around", ())]
        monitor = Monitor(**of_monitor)
        for worker in self._workers(concurrency, shared, of_workers):
            monitor.register(worker)
        return monitor


def _checked_limits(limits: object, names: Sequence[str]) -> dict[str, Limits]:
    """Return the limits of queues, by their names."""
    given = cast("Mapping[Any, Any]", limits)
    if not isinstance(limits, Mapping):
        told = 'limits must be limits by the names of queues, such as {"emails": Limits(per_key=2)}'
        raise TypeError(f"{told}, not {quoted(limits)}")
    for name, value in given.items():
        if name not in names:
            raise ValueError(
                f"limits are given for {quoted(name)}, which no function has as its queue: {', '.join(names)}"
            )
        if not isinstance(value, Limits):
            raise TypeError(
                f"the limits of {quoted(name)} must be Limits, such as Limits(per_key=2), not {quoted(value)}"
            )
    return {**given}


def _checked(storage: object) -> object:
    given: Any = storage
    if not (isinstance(given, TaskSink) and callable(getattr(storage, "share", None))):
        raise TypeError(f"open takes a URL, or a storage that is not open yet, not {quoted(storage)}")
    return storage


@final
class _SharedResources:
    """The resources that all workers of a monitor share; they are opened around its runs."""

    def __init__(self) -> None:
        self._needed: dict[type, Resource] = {}
        self._data: tuple[object, ...] = ()
        self._values: Mapping[type, Any] = {}

    def add(self, routes: Routes, table: FunctionTable) -> None:
        """Add what these functions need."""
        self._needed = {kind: each for kind, each in table.resources.items() if kind in {*self._needed, *routes.needed}}
        self._data = (*routes.data,)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Open the resources for the block."""
        async with opened(self._needed.values(), self._data) as self._values:
            yield

    @asynccontextmanager
    async def give(self) -> AsyncGenerator[Mapping[type, Any], None]:
        """Give the values to a worker."""
        yield self._values


@final
class _QueueHandler:
    """The handler of a router for the workers of some queues."""

    def __init__(
        self,
        table: FunctionTable,
        router: CodecAndHandler,
        queues: Collection[str],
        shared: _SharedResources | None,
    ) -> None:
        self._table = table
        self._router = router
        self._queues = queues
        self._shared = shared

    @property
    def task_names(self) -> frozenset[str] | None:
        """The names of the tasks of the router."""
        return self._router.task_names

    def for_worker(self, data: Sequence[object], args_type: Any) -> Dispatch:
        """Make the handler of a worker."""
        routes = Routes(self._table, self._router.unknown, data, args_type, self._queues)
        if self._shared is None:
            return Dispatch(routes, routes.open_resources)
        self._shared.add(routes, self._table)
        return Dispatch(routes, self._shared.give)

    def __repr__(self) -> str:
        return repr(self._router)
