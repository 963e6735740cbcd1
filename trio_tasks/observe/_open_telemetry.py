"""Spans of OpenTelemetry: one for each push, and one for each attempt, linked to its push."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio
from opentelemetry import context as otel_context, propagate, trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, StatusCode

from .. import SuspendError, Task
from .._concurrency.exception_groups import is_a, leaves
from .._logging import catch_errors, log, log_and_suppress
from .._printing import class_name, escaped, quoted
from ..layers import Trace
from ._log_fields import worker_and_queue
from ._names import (
    ATTEMPT,
    ENDED,
    ERROR_TYPE,
    PROCESS_SPAN,
    PROCESSED,
    QUEUE,
    SEND_SPAN,
    SENT,
    TASK_ID,
    TASK_NAME,
    WORKER,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from ..abc import Handler

A = TypeVar("A")
R = TypeVar("R")


def carry_trace(task: Task[A], queue: str | None = None) -> Task[A]:
    """Put the trace that is under way where a task is pushed into the metadata of the task: for ``on_push=``.

    >>> storage = SqliteStorage("orders.db", Order, on_push=carry_trace)

    A span of the kind "producer" tells of the push, if the trace is sampled, and the metadata names it: under
    ``traceparent`` and ``tracestate``, or what else the global propagator writes. :class:`OpenTelemetry` reads it in
    the worker. It takes the global tracer provider, and may be called in any thread. If the tracer or the propagator
    raises an error, that is logged, and the task is pushed as it is.

    Args:
      task: the task.
      queue: the name of its queue, which storages give; the span has the name ``send QUEUE``.
    """
    with catch_errors() as caught:
        carrier = _carrier(task, queue)
        return task.with_metadata(carrier) if carrier else task
    log.error("task %s: its trace could not be put into its metadata", escaped(task.parts.id), exc_info=caught.error)
    return task


def _carrier(task: Task[Any], queue: str | None) -> dict[str, str]:
    """Make a span for the push, and return the fields that name it."""
    carrier: dict[str, str] = {}
    current = trace.get_current_span().get_span_context()
    if current.is_valid and not current.trace_flags.sampled:
        propagate.inject(carrier)
    else:
        attributes: dict[str, AttributeValue] = {**SENT, TASK_ID: task.parts.id}
        if task.parts.name is not None:
            attributes[TASK_NAME] = task.parts.name
        tracer = trace.get_tracer("trio_tasks")
        if queue is not None:
            attributes[QUEUE] = queue
        name = SEND_SPAN % (queue or task.parts.name or "task")
        span = tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        propagate.inject(carrier, trace.set_span_in_context(span))
        span.end()
    return carrier


@final
class OpenTelemetry:
    """Put a span of OpenTelemetry around each attempt: a layer.

    >>> Worker("orders", storage, ship, layers=[OpenTelemetry()])

    Args:
      parent: True makes the attempt a part of the trace in which its task was pushed; see :func:`carry_trace`. False
          begins a new trace for each attempt, which suits tasks that are delayed for days. The span is linked to the
          push either way.
      tracer_provider: the provider of the tracer. Default: the global one, as it is when the layer is made.

    The span has the kind "consumer", and the name ``process QUEUE``. It is the current span of the handler, of the
    children in its nursery, and of its thread. An attempt that raises has the status "error" and the exception; one
    that is suspended or cancelled has not, and ``trio_tasks.ended`` says so. Args and results are not in it.

    If ``parent`` is true, and the trace of the push is not sampled, no span is made, whatever the sampler would say. An
    error of the tracer, of a sampler or of an exporter is logged, and harms no attempt.
    """

    __slots__ = ("_parent", "_trace", "_tracer")

    def __init__(self, *, parent: bool = True, tracer_provider: TracerProvider | None = None) -> None:
        if not isinstance(parent, bool):
            raise TypeError(f"parent must be True or False, not {quoted(parent)}")
        self._parent = parent
        self._tracer: Tracer = trace.get_tracer("trio_tasks", tracer_provider=tracer_provider)
        self._trace = Trace(self._span)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt within a span."""
        return await self._trace(handler, task)

    def _span(self, task: Task[Any]) -> AbstractContextManager[object]:
        with catch_errors() as caught:
            return self._begin(task)
        log.error("task %s: no span could be begun for its attempt", escaped(task.parts.id), exc_info=caught.error)
        return nullcontext()

    def _begin(self, task: Task[Any]) -> AbstractContextManager[object]:
        """Begin a span for the attempt; without one where the trace is not sampled."""
        pushed_in: Context = propagate.extract(task.parts.metadata, otel_context.Context())
        pushed: SpanContext = trace.get_current_span(pushed_in).get_span_context()
        if self._parent and pushed.is_valid and not pushed.trace_flags.sampled:
            return _CurrentSpan(NonRecordingSpan(pushed), pushed_in)
        attributes: dict[str, AttributeValue] = {
            **PROCESSED,
            TASK_ID: task.parts.id,
            ATTEMPT: int(task.parts.attempt),
        }
        if task.parts.name is not None:
            attributes[TASK_NAME] = task.parts.name
        worker, queue = worker_and_queue(task)
        attributes.update({name: value for name, value in ((WORKER, worker), (QUEUE, queue)) if value is not None})
        within = pushed_in if self._parent else otel_context.Context()
        span = self._tracer.start_span(
            PROCESS_SPAN % (queue or task.parts.name or "task"),
            within,
            SpanKind.CONSUMER,
            attributes,
            [Link(pushed)] if pushed.is_valid else (),
        )
        return _CurrentSpan(span, within)

    def __repr__(self) -> str:
        return f"OpenTelemetry(parent={self._parent})"


@final
class _CurrentSpan:
    """A context manager in which a span is the current one; it says how the block ended, and ends the span."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: Context) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, context)
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        with log_and_suppress("the span of an attempt could not be ended"):
            if self._span.is_recording():
                _tell_end(self._span, error)
            self._span.end()


def _tell_end(span: Span, error: BaseException | None) -> None:
    """Say in the span how the attempt ended."""
    if error is None:
        span.set_attribute(ENDED, "succeeded")
        return
    failures = [each for each in leaves(error) if not (is_a(each, trio.Cancelled) or is_a(each, KeyboardInterrupt))]
    if not failures:
        span.set_attribute(ENDED, "was cancelled")
    elif all(is_a(each, SuspendError) for each in failures):
        span.set_attribute(ENDED, "was suspended")
    else:
        span.set_attribute(ERROR_TYPE, class_name(failures[0] if len(failures) == 1 else error))
        span.set_status(StatusCode.ERROR)
        span.record_exception(error)
