"""The part of a process pool that runs in its processes: it finds a function by its name, and calls it."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import signal
import sys
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from .._logging import catch_errors, line_of
from .._tasks.errors import AbortError
from .portable_errors import PortableError, freeze

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from types import TracebackType


class FunctionPlace(NamedTuple):
    """The place at which a process finds a function.

    Attributes:
      module: the name of the module.
      name: the name of the function in it, which may be one inside of a class.
    """

    module: str
    name: str

    def find(self) -> Any:
        """Return the function, without what a router made of it.

        Raises:
          AttributeError, ImportError: it is not there.
        """
        found: Any = import_module(self.module)
        for each in self.name.split("."):
            found = inspect.getattr_static(found, each) if isinstance(found, type) else getattr(found, each)
        found = found.__func__ if isinstance(found, staticmethod) else found
        return getattr(found, "process_function", found)

    def __str__(self) -> str:
        return self.name if self.module == "__main__" else f"{self.module}.{self.name}"


class CallEnd(NamedTuple):
    """The end of a call.

    Attributes:
      result: the result, pickled; None after an error.
      error: the error; None if there is a result.
    """

    result: bytes | None
    error: list[PortableError] | None = None


def prepare() -> None:
    """Prepare a new process of a pool.

    It ends with the process that has started it, even in the middle of a call. It ignores SIGTERM, which is sent to all
    processes of a service when that is to stop: a call may go on until its attempt is cancelled, and then it is killed.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Thread(target=_end_with_parent, name="trio_tasks: wait for the end of the parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def call(place: FunctionPlace, arguments: bytes) -> CallEnd:
    """Call a function with pickled arguments, by name."""
    with catch_errors() as caught:
        try:
            return _call(place, arguments)
        except (KeyboardInterrupt, BaseExceptionGroup) as error:  # the function interrupts itself: SIGINT is ignored
            return _failed(error)
    assert caught.error is not None
    return _failed(caught.error)


def _failed(error: BaseException) -> CallEnd:
    return CallEnd(None, freeze(error.with_traceback(_without_ours(error.__traceback__))))


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the frame of the function on; all of it if there is none."""
    rest = traceback
    while rest is not None and rest.tb_frame.f_code.co_filename == __file__:
        rest = rest.tb_next
    return traceback if rest is None else rest


def _call(place: FunctionPlace, arguments: bytes) -> CallEnd:
    function = _found(place)
    try:
        given = pickle.loads(arguments)
    except Exception as error:  # unpickling may raise anything
        raise TypeError(f"the arguments of {place} cannot be read in its process: {line_of(error)}") from error
    result = function(**given)
    if inspect.iscoroutine(result):
        result.close()  # or Python would warn that it was never awaited
        raise AbortError(TypeError(f"{place} returned a coroutine, which nothing awaits in a process"))
    try:
        return CallEnd(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # pickling may raise anything
        why = f"the result of {place} cannot be sent from its process: {line_of(error)}"
        raise AbortError(TypeError(why)) from error


def _found(place: FunctionPlace) -> Any:
    try:
        return place.find()
    except (AttributeError, ImportError) as error:
        main = sys.modules["__main__"]
        told = getattr(main, "__file__", None) if place.module == "__main__" else place.module
        raise ImportError(
            f"{place} is not found in {told} when a process imports it: define it at the top level, and not under "
            "`if __name__ == '__main__':`"
        ) from error
