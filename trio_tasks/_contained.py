"""Errors that are nobody's business but their own: logged, and then the worker goes on."""

from __future__ import annotations

import logging
from typing import Any, final

import trio

from ._groups import is_a, leaves

log = logging.getLogger("trio_tasks")


@final
class contained:  # noqa: N801  it is used as contextlib.suppress is
    """Log whatever is raised in the block, and end it there; ``message`` and ``values`` are for the log.

    Only ``KeyboardInterrupt``, and what is nothing but a cancellation, go on.
    """

    __slots__ = ("_message", "_values")

    def __init__(self, message: str, *values: Any) -> None:
        self._message = message
        self._values = values

    def __enter__(self) -> None:
        """Nothing happens yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Whether the error ends here."""
        if error is None:
            return False
        found = tuple(leaves(error))
        if any(is_a(each, KeyboardInterrupt) for each in found):
            return False
        if all(is_a(each, trio.Cancelled) for each in found):
            return False
        log.error(self._message, *self._values, exc_info=error)
        return True
