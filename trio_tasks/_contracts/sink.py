"""The interface for pushing tasks: ``push_task`` is to be implemented, and four other methods call it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, final

import trio

from .._checks import check_callable, check_sync, check_unicode
from .._printing import quoted
from .._tasks.errors import DuplicateTaskError
from .._tasks.task import Task, make_task, options_for_many, task_maker
from .storage_events import Pushed

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._tasks.task import Parts, TaskOptions
    from .._tasks.task_id import TaskId

A = TypeVar("A")

OnPush = Union[Callable[[Task[Any]], Task[Any]], Iterable[Callable[[Task[Any]], Task[Any]]]]  # noqa: UP007  read by get_type_hints on 3.10

BATCH_SIZE = 512
"""The number of tasks that are made, or put in, in one go before other trio tasks run."""


@final
class PushHooks:
    """The functions that a storage calls with each task before it is pushed; see ``on_push=`` of the storages.

    Args:
      on_push: a sync function, or several; each takes a task, and returns the task to push instead. One with a
          parameter ``queue`` is given the name of the queue by that keyword.
      queue: that name; None if it is not known yet.

    Raises:
      TypeError: it is neither.
    """

    __slots__ = ("_calls", "_functions")

    def __init__(self, on_push: OnPush, queue: str | None = None) -> None:
        several = [on_push] if callable(on_push) or not isinstance(on_push, Iterable) else [*on_push]
        self._functions: tuple[Callable[..., Any], ...] = tuple(
            check_sync(each, "on_push", "on_push(task), which returns a task") for each in several
        )
        self._calls = tuple(partial(each, queue=queue) if _takes_queue(each) else each for each in self._functions)

    def of_queue(self, queue: str) -> PushHooks:
        """Return the same for a queue."""
        return PushHooks(self._functions, queue) if self._functions else self

    def __call__(self, task: Task[A]) -> Task[A]:
        """Return the task to be pushed in place of this one.

        Raises:
          TypeError: a function returned something else than a task.
        """
        for function, call in zip(self._functions, self._calls, strict=True):
            task = call(task)
            if not isinstance(task, Task):
                raise TypeError(f"on_push: {_name_of(function)} must return a Task, and returned {quoted(task)}")
        return task

    def __bool__(self) -> bool:
        return bool(self._functions)

    def __eq__(self, other: object) -> bool:
        return self._functions == other._functions if isinstance(other, PushHooks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._functions)

    def __repr__(self) -> str:
        return f"[{', '.join(map(_name_of, self._functions))}]"


class TaskSink(ABC, Generic[A]):
    """A backend into which tasks can be pushed."""

    @abstractmethod
    async def push_task(self, task: Task[A]) -> TaskId:
        """Push a whole task; return its id.

        Returns:
          the task's id; or, where the task has a unique key and is to be skipped, the id of the one which has it.

        Raises:
          DuplicateTaskError: the id is known already, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: nothing more may be pushed here.

        If it is cancelled, nothing was pushed; a stored backend may not be able to tell, and there the same task can
        be pushed again, since its id makes it count once.
        """

    async def push(self, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Make a task of ``args``, and push it; return its id.

        >>> task_id = await storage.push(Email(to="b@example.com"), delay=600, attempts=3)

        Args:
          args: the value that the handler is given.
          id: the id of the task, a text that is new to the storage. Default: a new id, ordered by time.
          attempts: the most attempts of the task, an int of 1 or more, the first included. Default: that of the
              worker's retry policy (5).
          retry_for: the seconds, more than 0, from the begin of the first attempt after which an error is not retried,
              whatever attempts are left. Default: no limit.
          timeout: the seconds that an attempt may take, more than 0; an attempt that takes longer is cancelled, and has
              failed with ``trio.TooSlowError``. Default: no limit.
          priority: an int; tasks with a higher one are received first. Default: 0.
          delay: the seconds from now until the task is ready. Default: 0. Not together with ``run_at``.
          run_at: the datetime, with a time zone, from which on the task is ready. Default: at once.
          key: a text, the key of the group to which the task belongs, such as the name of a tenant. ``list_tasks`` and
              the verbs for many tasks find tasks by it. Default: none.
          metadata: a mapping from names to plain values, stored with the task: ``task.parts.metadata``. Default: empty.
          data: an iterable of values for attempts in this process, one of each type: ``task.parts.extensions[Tracer]``.
              They are not stored. Default: none.
          unique: a text; at most one task holds this key at a time. Default: no key.
          unique_until: the end of the time for which the task holds the ``unique`` key: ``"start"``, when a worker
              takes it for the first time; ``"end"``, when it is finished; ``"forgotten"``, when it is finished and not
              remembered any more. Default: ``"end"``. Not together with ``unique_for``.
          unique_for: the seconds from now, more than 0, for which the ``unique`` key is held instead: whatever becomes
              of the task in that time, finished included, and not longer, even if it still waits. Default: no such
              time.
          on_conflict: the behaviour if the ``unique`` key is taken. ``"skip"`` pushes nothing, and returns the id of
              the task that has it; ``"replace"`` kills that task if it still waits; ``"update"`` gives that task, if it
              still waits, the args, the time, the priority and the other options of this one, and returns its id;
              ``"raise"`` raises. A finished task is neither replaced nor updated: its id is returned.
              Default: ``"skip"``.
          expires_in: the seconds until the task expires, more than 0 and more than the delay, also that of a
              ``run_at``; a task that has not begun by then is killed with ``TaskExpiredError``. Default: never.
          deadline: the seconds until the deadline of the task, more than 0 and more than the delay; or ``"inherit"``:
              that of the trio task that pushes, ``trio.current_effective_deadline()``, if it has one (in an attempt,
              without the scopes around its worker). A task that is not finished by then is killed with
              ``DeadlineError``, whether it waits or runs. None: no deadline. Default: None, unless the storage was made
              with ``deadline="inherit"``.

        Raises:
          TypeError, ValueError: a keyword is unknown, or its value is wrong, or the args cannot be stored.
          DuplicateTaskError: the id is known already, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: nothing more may be pushed here.

        If it is cancelled: see :meth:`push_task`.
        """
        return await self.push_task(make_task(args, options, self))

    async def push_or_get(self, args: A, **options: Unpack[TaskOptions]) -> Pushed:
        """Make a task of ``args``, and push it; return its id, or the id of the task that has its unique key.

        The result also says which of the two it is.

        >>> pushed = await storage.push_or_get(Report(day), unique=f"report {day}")
        >>> if not pushed.is_new:
        ...     print("it is under way already, as", pushed.id)

        The keywords, the errors and the effect of a cancellation are the same as for :meth:`push`.
        """
        task = make_task(args, options, self)
        task_id = await self.push_task(task)
        return Pushed(task_id, task_id == task.parts.id)

    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and push them in this order; return their ids.

        The keywords are those of :meth:`push`, without ``id``. Every task is made, and every option checked, before the
        first is put in. If it is cancelled, those put in so far stay in.

        Raises:
          DuplicateTaskError: one is a duplicate, as a function of ``on_push`` may make it; all others are pushed before
            it is raised.
        """
        ids: list[TaskId] = []
        duplicate: DuplicateTaskError | None = None
        for task in await make_tasks(many, options, self):
            try:
                ids.append(await self.push_task(task))
            except DuplicateTaskError as error:
                duplicate = duplicate or error
        if duplicate is not None:
            raise duplicate
        return ids

    async def push_stream(self, source: trio.abc.ReceiveChannel[A], **options: Unpack[TaskOptions]) -> int:
        """Push the args that come out of a channel until it ends; return how many there were.

        If it is cancelled, at most the one item that was being pushed is lost to both sides; a :class:`Pipe` keeps
        even that one.
        """
        options = options_for_many(options, self)
        _check_channel(source)
        pushed, make = 0, task_maker(options)
        async for args in source:
            await self.push_task(make(args))
            pushed += 1
        if not pushed:
            await trio.lowlevel.checkpoint()
        return pushed

    async def push_all(self, source: trio.abc.ReceiveChannel[Task[A]]) -> int:
        """Push the whole tasks that come out of a channel until it ends; return how many there were."""
        _check_channel(source)
        pushed = 0
        async for task in source:
            await self.push_task(task)
            pushed += 1
        if not pushed:
            await trio.lowlevel.checkpoint()
        return pushed


async def make_tasks(many: Iterable[A], options: TaskOptions, sink: object = None) -> list[Task[A]]:
    """Make a task of each of the args, with the same options; other trio tasks may run in between."""
    options = options_for_many(options, sink)
    if not hasattr(many, "__iter__"):
        raise TypeError(f"push_bulk takes a list of args, not {type(many).__name__}")
    source, make = iter(many), task_maker(options)
    tasks: list[Task[A]] = []
    while stretch := [make(args) for args in islice(source, BATCH_SIZE)]:
        tasks += stretch
        await trio.lowlevel.checkpoint()
    if len(tasks) > 1 and options.get("on_conflict") == "raise":
        raise DuplicateTaskError(
            "push_bulk of several tasks with one unique key needs on_conflict='skip', 'replace' or 'update', "
            "not 'raise'"
        )
    if not tasks:
        await trio.lowlevel.checkpoint()
    return tasks  # noqa: ASYNC910  the loop has ended in one


def _takes_queue(function: Callable[..., Any]) -> bool:
    try:
        return "queue" in signature(function).parameters
    except (TypeError, ValueError):  # some functions that are written in C have none
        return False


def _name_of(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def _check_channel(source: object) -> None:
    check_callable(getattr(source, "receive", None), "the source's receive", "in a trio.abc.ReceiveChannel")


def check_task(task: Task[A], verb: str = "push_task") -> Task[A]:
    """Return the value if it is a Task, else raise TypeError for this verb."""
    if not isinstance(task, Task):
        remedy = "; push(args) makes one of plain args" if verb == "push_task" else ""
        raise TypeError(f"{verb} takes a Task, not {type(task).__name__}{remedy}")
    return task


def check_storable(parts: Parts) -> None:
    """Raise ValueError if these parts cannot be stored."""
    terms = parts.terms
    if not -(2**63) <= terms.priority < 2**63:
        raise ValueError(f"priority must fit in 64 bits to be stored, not {terms.priority}")
    if not parts.id.isascii():
        check_unicode(parts.id, "a task's id")
    if terms.unique is not None:
        check_unicode(terms.unique, "a unique key")
    if terms.key is not None:
        check_unicode(terms.key, "a key")
