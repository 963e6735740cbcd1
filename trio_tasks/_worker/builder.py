"""A builder of workers, whose methods can be chained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

from .._checks import check_name
from .worker import Worker

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    import trio

    from .._contracts.backend import Backend
    from .._contracts.context import Listener
    from .._contracts.layer import Layer
    from .._tasks.retry import RetryPolicy
    from .options import AsyncHandler, P, SyncHandler, WholeTaskHandler, WorkerOptions

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


@final
class WorkerBuilder(Generic[A]):
    """A builder of workers: call its methods to set options, then :meth:`build`.

    >>> WorkerBuilder("emails").backend(storage).data(mailer).concurrency(8).build(send_email)

    Values are checked when the worker is built, by :class:`Worker`. A backend must be given.
    """

    __slots__ = ("_backend", "_data", "_layers", "_listeners", "_name", "_options")

    def __init__(self, name: str) -> None:
        self._name = check_name(name, "a worker's name")
        self._backend: object = None
        self._layers: list[Layer[A, Any]] = []
        self._data: list[object] = []
        self._listeners: list[Listener] = []
        self._options: WorkerOptions = {}

    @overload
    def backend(self, backend: Backend[B]) -> WorkerBuilder[B]: ...
    @overload
    def backend(self, backend: trio.abc.ReceiveChannel[B]) -> WorkerBuilder[B]: ...
    def backend(self, backend: trio.abc.ReceiveChannel[Any]) -> WorkerBuilder[Any]:
        """Set the source of tasks: a backend, or any channel of args or of whole tasks."""
        self._backend = backend
        return self

    def data(self, *values: object) -> WorkerBuilder[A]:
        """Add values that the handler may ask for as ``Data[T]``."""
        self._data.extend(values)
        return self

    def layer(self, *layers: Layer[A, Any]) -> WorkerBuilder[A]:
        """Add layers; the first one is outermost."""
        self._layers.extend(layers)
        return self

    def concurrency(self, slots: int) -> WorkerBuilder[A]:
        """Set how many attempts may run at the same time."""
        self._options["concurrency"] = slots
        return self

    def lend(self, slots: int) -> WorkerBuilder[A]:
        """Set how many more attempts may begin while others wait for tasks."""
        self._options["lend"] = slots
        return self

    def retry(self, policy: RetryPolicy) -> WorkerBuilder[A]:
        """Set the policy for errors other than ``AbortError``, ``RetryAfterError``, ``DeferredError`` and
        ``SuspendError``."""
        self._options["retry"] = policy
        return self

    def on_event(self, *listeners: Listener) -> WorkerBuilder[A]:
        """Add listeners, which are called as ``on_event(context, event)``."""
        self._listeners.extend(listeners)
        return self

    def version(self, version: str | None) -> WorkerBuilder[A]:
        """Set the version of the program, which the history of a task has with each attempt that failed."""
        self._options["version"] = version
        return self

    def settle_timeout(self, seconds: float) -> WorkerBuilder[A]:
        """Set the seconds that the backend may take to settle."""
        self._options["settle_timeout"] = seconds
        return self

    def log(self, logger: logging.Logger | None) -> WorkerBuilder[A]:
        """Set the logger for failed attempts and stalls; None for no log."""
        self._options["log"] = logger
        return self

    @overload
    def build(self, handler: WholeTaskHandler[A, R]) -> Worker[A, R]: ...
    @overload
    def build(self, handler: AsyncHandler[A, P, R]) -> Worker[A, R]: ...
    @overload
    def build(self, handler: SyncHandler[A, P, R]) -> Worker[A, R]: ...
    def build(self, handler: Callable[..., Any]) -> Worker[A, Any]:
        """Make the worker; the builder may be used again.

        Raises:
          TypeError, ValueError: as :class:`Worker`, or no backend was given.
        """
        if self._backend is None:
            raise TypeError(f"the worker {self._name!r} has no backend: call .backend(storage) before .build(handler)")
        make: Any = Worker  # all of this was checked by type where it was given
        worker: Worker[A, Any] = make(
            self._name,
            self._backend,
            handler,
            layers=self._layers,
            data=tuple(self._data),
            on_event=tuple(self._listeners),
            **dict[str, Any](**self._options),
        )
        return worker

    def __copy__(self) -> WorkerBuilder[A]:
        other: WorkerBuilder[A] = WorkerBuilder(self._name)
        other._backend = self._backend
        other._layers, other._data, other._listeners = [*self._layers], [*self._data], [*self._listeners]
        other._options = self._options.copy()
        return other

    def __repr__(self) -> str:
        return f"<WorkerBuilder {self._name!r} on {self._backend!r}>"
