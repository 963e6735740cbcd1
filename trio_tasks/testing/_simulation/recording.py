"""Recordings of events: the worker, the time and the content of each, as values that can be compared between runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final, overload

import trio

from ..._contracts.events import Custom, Error, Event, Release, Success

if TYPE_CHECKING:
    from ..._contracts.context import WorkerContext

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST = 400
"""Characters of a value's ``repr`` that are kept."""


@final
@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded event: its worker, its time and its content. Two are equal if all their attributes but the event
    itself are.

    Attributes:
      time: the time on trio's clock.
      worker: the name of the worker that emitted it; empty for a note of your own.
      kind: the class of the event.
      task_id: the id of the event's task; None if the event has no task.
      attempt: the number of that task's attempt, counted from 1.
      args: the args of that task, as text.
      text: the content, as text: the result, the outcome, the reason, or the value of a ``Custom``.
      event: the event itself. The ``parts`` of its task may have changed since.
    """

    time: float
    worker: str
    kind: type[Event]
    task_id: str | None = None
    attempt: int | None = None
    args: str = ""
    text: str = ""
    event: Event = field(default=Custom(None), compare=False, repr=False)

    def __str__(self) -> str:
        about = "" if self.task_id is None else f"{self.task_id} {self.args}, attempt {self.attempt}"
        line = f"{self.time:12.3f} s  {self.worker:<12} {self.kind.__name__:<9} {about}"
        return f"{line}{': ' if about and self.text else ''}{self.text}".rstrip()


@final
class Recording(Sequence[Recorded]):
    """A listener that records all events, in order.

    >>> recording = Recording()
    >>> worker = Worker("emails", storage, send_email, on_event=recording)
    >>> report = await run_until_idle(worker)
    >>> [each.text for each in recording.of(Success)]
    ['42']

    It may listen to any number of workers and monitors, and is a sequence of :class:`Recorded`. It keeps everything,
    so it is for tests.
    """

    def __init__(self) -> None:
        self._all: list[Recorded] = []

    def __call__(self, context: WorkerContext, event: Event) -> None:
        """Record an event."""
        self._all.append(_recorded_event(context.name, event))

    def note(self, remark: object) -> None:
        """Record a remark of your own among the events, as a ``Custom`` event; a text is kept as it is."""
        text = remark if isinstance(remark, str) else as_text(remark)
        self._all.append(Recorded(trio.current_time(), "", Custom, text=text, event=Custom(remark)))

    def of(self, *kinds: type[Event], task_id: str | None = None, worker: str | None = None) -> list[Recorded]:
        """List the recorded events of these classes, or all; optionally only those of one task or worker."""
        return [
            each
            for each in self._all
            if (not kinds or each.kind in kinds)
            and (task_id is None or each.task_id == task_id)
            and (worker is None or each.worker == worker)
        ]

    @overload
    def __getitem__(self, index: int) -> Recorded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Recorded]: ...
    def __getitem__(self, index: int | slice) -> Recorded | list[Recorded]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"<Recording of {len(self._all)} events>"


def _recorded_event(worker: str, event: Event) -> Recorded:
    task = getattr(event, "task", None)
    about: dict[str, Any] = {}
    if task is not None:
        about = {"task_id": str(task.parts.id), "attempt": int(task.parts.attempt), "args": as_text(task.args)}
    return Recorded(trio.current_time(), worker, type(event), **about, text=_text_of(event), event=event)


def _text_of(event: Event) -> str:
    if isinstance(event, Success):
        return as_text(event.result)
    if isinstance(event, Error):
        return as_text(event.outcome)
    if isinstance(event, Release):
        return event.reason
    return as_text(event.value) if isinstance(event, Custom) else ""


def as_text(value: object) -> str:
    """Return the ``repr`` of a value, shortened, and without addresses, which differ from run to run."""
    try:
        text = _ADDRESS.sub("", repr(value))
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
