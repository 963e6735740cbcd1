"""The keywords of a worker, for type checkers: three overloads share them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from ._abc import Layer
from ._backoff import RetryPolicy
from ._events import Listener


class WorkerOptions(TypedDict, total=False):
    """What :class:`Worker` takes by keyword; it says what each is."""

    concurrency: int
    layers: Iterable[Layer]
    data: Iterable[object]
    retry: RetryPolicy
    on_event: Listener | Iterable[Listener] | None
    settle_timeout: float
