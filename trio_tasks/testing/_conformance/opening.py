"""Opening the backend under test in any of the ways that a user may give, and the properties of its store."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

from ..._checks import check_callable
from ..._contracts.backend import Backend
from ..._contracts.sink import TaskSink

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


@final
class BackendOpener:
    """Opens handles on the backend under test, one after the other.

    Args:
      open_backend: returns a backend, an awaitable of one, or a context manager, async or not, that gives one.
      args: makes args of a number.
    """

    def __init__(self, open_backend: Callable[[], Any], args: Callable[[int], Any]) -> None:
        self._open_backend = check_callable(open_backend, "open_backend", "a function that opens the backend")
        self.args = check_callable(args, "args", "a function from an int to args")
        self.is_lasting = False
        """True if a later handle finds the tasks that were pushed through an earlier one."""
        self.is_shared = False
        """True if two handles on one store may be open at the same time."""
        self.shows_info = False
        """True if the ``parts.context`` of a task that is looked up is a :class:`StoredTaskInfo`."""

    @asynccontextmanager
    async def handle(self) -> AsyncGenerator[Any, None]:
        """Open a handle, and close it when the block ends.

        Raises:
          TypeError: what was opened is no backend into which one can push.
        """
        given = self._open_backend()
        if inspect.isawaitable(given):
            given = await given
        if hasattr(given, "__aenter__"):  # true for every Backend, since it is a ReceiveChannel
            async with given as backend:
                yield _checked(backend)
        elif hasattr(given, "__enter__"):
            with given as backend:
                yield _checked(backend)
        else:
            yield _checked(given)


def _checked(backend: Any) -> Any:
    if not (isinstance(backend, Backend) and isinstance(backend, TaskSink)):
        raise TypeError(
            f"open_backend must open a Backend that is a TaskSink too (the rules push tasks into it), not {backend!r}"
        )
    return backend
