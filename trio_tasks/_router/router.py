"""The router: functions with names, which is a codec of their calls, and a handler of their tasks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, final, overload

from .._checks import check_name
from .._codecs.codec import CborCodec, DecodeError, EncodeError
from .._contracts.layer import Dispatch, Handler
from .._handlers.adapter import check_function
from .._printing import quoted
from .._tasks.call import Call, make_call
from .._tasks.task import Task
from .function import FunctionOptions, TaskFunction
from .resources import Resource
from .routes import Routes, Unknown, why_unknown
from .table import FunctionTable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._schedules.cron import CronSpec
    from .._schedules.schedule import IntervalSpec
    from .._schedules.schedules import ScheduleOptions
    from .._tasks.limits import Limits
    from .queues import Queues

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_DEEPEST = 64 + 2
"""Levels of a stored call: those of an argument, and two around it."""


@final
class TaskDecorator:
    """The decorator that ``tasks.task(...)`` with options returns."""

    def __init__(self, make: Callable[[Callable[..., Any]], TaskFunction[..., Any, Any]]) -> None:
        self._make = make

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> TaskFunction[..., Any, Any]:
        return self._make(function)


@final
class Router:
    """Functions with names. Their calls are pushed to storages, and run by workers.

    >>> tasks = Router()
    >>> @tasks.task(queue="emails", attempts=8)
    ... async def send_email(to: str, *, mailer: Data[Mailer] = Injected) -> int: ...
    >>> async with tasks.open("sqlite:///shop.db") as queues:
    ...     task_id = await queues.push(send_email.bind("a@example.com"))

    A router is also a codec and a handler of calls: ``SqliteStorage("shop.db", Call, codec=tasks)``,
    ``Worker("w", storage, tasks)``. Nothing is global: two routers know nothing of each other.

    Args:
      prefix: a text before the names of its functions, such as ``"billing."``. Default: none.
      unknown: what to do with a task whose name or version no function here has. ``"suspend"``, the default, puts it
          back uncounted, for 5 seconds first and up to 300, for a program that has one; in a stored storage it fails
          after ``unreadable_after``. ``"fail"`` makes it a dead letter at once. An async function is called with the
          :class:`Call`, whose arguments are plain values, in place of the function.
    """

    def __init__(self, prefix: str = "", unknown: Unknown = "suspend") -> None:
        self.prefix = check_name(prefix, "prefix") if prefix != "" else ""
        """The text before the names of its functions."""
        if unknown not in ("suspend", "fail") and not inspect.iscoroutinefunction(unknown):
            raise TypeError(f"unknown must be 'suspend', 'fail' or an async function (call), not {quoted(unknown)}")
        self.unknown: Unknown = unknown
        """What becomes of tasks of unknown names."""
        self._table = FunctionTable()
        self._envelope: CborCodec | None = None
        self._own_handler: Handler[Any, Any] | None = None

    # Defining

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskFunction[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> TaskFunction[P, R, R]: ...
    @overload
    def task(self, /, **options: Unpack[FunctionOptions]) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Unpack[FunctionOptions]) -> Any:
        """Add a function, which can still be called as it is. Its parameters are the arguments of its tasks; those with
        the default ``Injected`` are filled in by the worker, by their annotations.

        Args:
          name: the name of its tasks, without the prefix. Default: the name of the function.
          aliases: former names, with their prefix: stored tasks of these names are run by the function, too.
          queue: the queue to which :class:`Queues` push it. Default: ``"default"``.
          version: the version of its arguments, to be raised when a stored argument has to be read differently.
          upgrade: by former version, a function from its arguments (a dict of plain values) to those of the next one.
          retry: the policy for errors of this function, in place of that of the worker.
          layers: middleware around the function, inside the layers of the worker, the outermost first; no gates.
          process: True for a sync function that runs in a process, and not in a thread, with the extra ``cpu``: it is
              killed when its attempt is cancelled. It must be at the top level of a module; its arguments and its
              result are pickled; ``Attempt``, ``TaskId``, ``Metadata``, ``Status`` and ``Firing`` can be filled in.
          options: further ones are those of ``push``, for all its tasks. A keyword at the push goes before them; they
              go before what the worker says. ``unique`` and ``key`` are templates of arguments:
              ``"resize {path}"``. There is no ``id``.

        Raises:
          HandlerSignatureError: a parameter cannot be stored or filled in; the message names it.
          ValueError: another function has the name.
          TypeError: an option is unknown, or its value is none.
        """

        def add(function: Callable[..., Any]) -> TaskFunction[..., Any, Any]:
            if isinstance(function, TaskFunction):  # of another router
                function = function.__wrapped__
            check_function(function)
            name = options.get("name")
            given = _name_of(function) if name is None else check_name(name, "name")
            made: TaskFunction[..., Any, Any] = TaskFunction(function, self.prefix + given, options)
            self._table.add([made], [] if made.place is None else [_processes()])
            return made

        return TaskDecorator(add) if function is None else add(function)

    def resource(self, function: F) -> F:
        """Add a value that is opened with each run, before its first attempt, and closed after its last one.

        >>> @tasks.resource
        ... async def mailer() -> AsyncIterator[Mailer]:
        ...     async with Mailer("localhost") as mailer:
        ...         yield mailer

        Functions get it by ``Data[Mailer] = Injected``. It is opened if a function needs it; once for all workers of
        :meth:`Queues.monitor`, and for each run of any other worker. A value of its type among the ``data`` of the
        worker goes before it. Its own parameters are ``Data[...]``, too: of the data, or of resources defined before.

        Args:
          function: an async generator function that yields once, or a function that returns an async context manager.
              The annotation says the type of the value.

        Raises:
          HandlerSignatureError: the annotation is missing, or a parameter cannot be filled in.
          ValueError: there is a resource of this type.
        """
        self._table.add([], [Resource(function)])
        return function

    def schedule(
        self,
        name: str,
        call: Call[Any],
        times: CronSpec | IntervalSpec,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Add a schedule: a call that is pushed at each of some times.

        >>> tasks.schedule(
        ...     "nightly", report.bind(), cron("30 2 * * *", zone="Europe/Berlin"), jitter=300
        ... )

        :meth:`Queues.monitor` stores the schedule and fires it: each time once over all processes. A function with a
        parameter ``firing: Firing = Injected`` is told which time it is run for.

        Args:
          name: its name.
          call: what ``bind`` of a function of this router returns.
          times: what :func:`cron` or :func:`every` returns.
          options: ``missed``, ``within``, ``limit``, ``overlap``, ``jitter`` and those of the tasks; see
            :meth:`Schedules.put`.

        Raises:
          TypeError, ValueError: an argument is wrong, or the name is taken.
        """
        from .._schedules.schedules import define  # most routers have no schedule

        function = self._table.function_of(call)
        self._table.add_schedule(name, define(name, call, times, function.queue, options))

    def include(self, router: Router) -> None:
        """Add all functions, resources and schedules of another router, under their names there, and those that it
        gets later.

        >>> tasks.include(billing)  # billing = Router(prefix="billing.")

        Raises:
          ValueError: a name is taken, or the router includes this one.
        """
        if not isinstance(router, Router):
            raise TypeError(f"include takes a Router, not {quoted(router)}")
        self._table.include(router._table)

    # Looking

    @property
    def task_names(self) -> frozenset[str] | None:
        """The names of the tasks that it can handle, former names included; None if ``unknown`` takes all others."""
        return frozenset(self._table.functions) if self.unknown == "suspend" else None

    @property
    def functions(self) -> dict[str, TaskFunction[..., Any, Any]]:
        """Its functions, by their names."""
        return {each.name: each for each in self._table.functions.values()}

    # A codec

    def encode(self, value: Any) -> bytes:
        """Encode a call.

        Raises:
          EncodeError: it is no call of a function of this router, or an argument cannot be stored.
        """
        if not _is_call(value):
            raise EncodeError(f"args must be a Call, which bind() of a function makes, not {type(value).__name__}")
        return self._encode(value)

    def _encode(self, call: Call[Any]) -> bytes:
        if call.problem is not None:  # it was read, and goes back as it was
            fields = {"task": call.name, "v": call.version, "args": call.arguments}
            return self._plain_codec.encode(fields)
        function = self._table.functions.get(call.name)
        if function is None:
            raise EncodeError(f"this router has no function {quoted(call.name)}, so nothing would run the task")
        return function.encode(call)

    def decode(self, payload: bytes) -> Call[Any]:
        """Decode a call that :meth:`encode` has made, of this version of the program or another one.

        Raises:
          DecodeError: no function here has its name or version, and ``unknown`` is ``"suspend"``; or the arguments are
              not those of the function.
        """
        name, version, args = _fields_of(self._plain_codec.decode(payload))
        function = self._table.functions.get(name)
        if function is not None and function.leads_from(version):
            return function.decode(version, args, name)
        why = why_unknown(name, version, function)
        if self.unknown == "suspend":
            raise DecodeError(why)
        return make_call(name, args, version, problem=why)

    @property
    def _plain_codec(self) -> CborCodec:
        if self._envelope is None:
            self._envelope = CborCodec(max_depth=_DEEPEST)
        return self._envelope

    # A handler

    def for_worker(self, data: Sequence[object], args_type: Any) -> Dispatch:
        """Make the handler of a worker; see :class:`Routes`."""
        routes = Routes(self._table, self.unknown, data, args_type)
        return Dispatch(routes, routes.open_resources)

    def __call__(self, task: Task[Call[Any]]) -> Awaitable[Any]:
        """Run the function of a task, without any data.

        Raises:
          HandlerSignatureError: a function needs data or a resource: a worker has them.
        """
        if self._own_handler is None:
            self._own_handler = self.for_worker((), Any).handler  # it finds functions that are added later
        return self._own_handler(task)

    # Queues

    def open(self, storage: Any, *, limits: Mapping[str, Limits] | None = None, **options: Any) -> Queues:
        """Make the queues of the functions over one storage; open them with ``async with``.

        >>> async with tasks.open("sqlite:///shop.db") as queues:
        ...     await queues.push(send_email.bind("a@example.com"))

        Args:
          storage: a URL, as for :func:`open_url`; or a storage that is not open yet, such as ``MemoryStorage()``.
          limits: the limits of queues, by their names: ``{"emails": Limits(per_key=2)}``. They are stored for each
              queue that has none; later :meth:`Queues.set_limits` changes them.
          options: those of the storage, with a URL: ``lease=60``.

        Raises:
          TypeError, ValueError: as :func:`open_url` does; or options are given beside a storage; or no function has a
            queue of ``limits``.
        """
        from .queues import Queues

        return Queues(self._table, self, storage, options, limits or {})

    def __repr__(self) -> str:
        prefix = f" {self.prefix!r}" if self.prefix else ""
        return f"<Router{prefix}: {len(self.functions)} functions>"


_FIELDS = {"task", "v", "args"}


def _fields_of(plain: Any) -> tuple[str, int, dict[str, Any]]:
    """Return the name, the version and the arguments of a stored call."""
    if type(plain) is dict and cast("dict[str, Any]", plain).keys() == _FIELDS:
        fields = cast("dict[str, Any]", plain)
        name, version, args = fields["task"], fields["v"], fields["args"]
        if type(name) is str and type(version) is int and type(args) is dict:
            return name, version, cast("dict[str, Any]", args)
    raise DecodeError("args cannot be decoded: the payload is no call of a function with a name")


def _processes() -> Resource:
    from .processes import PROCESSES  # most programs have none

    return PROCESSES


def _is_call(value: object) -> bool:
    return isinstance(value, Call)


def _name_of(function: object) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"give {quoted(function)} a name: @tasks.task(name='...')")
    return name
