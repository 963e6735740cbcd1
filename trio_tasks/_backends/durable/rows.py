"""A task as it is looked up: with what is kept of its attempts."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, final

from ..._codecs.codec import CborCodec
from ..._logging import catch_errors
from ..._printing import escaped
from ..._tasks.outcome import Status, TaskResult
from ..._tasks.task import Parts, Task, attempt_number
from ..._tasks.task_id import stored_id
from ..._tasks.task_info import StoredTaskInfo
from .encoding import decode_error, decode_history, decode_options, moment_of
from .engine import SettlementKind, State, StoredRow

if TYPE_CHECKING:
    from ..._tasks.task_info import PastAttempt
    from .engine import Settlement
    from .queue import QueueState

_STATUS = {
    State.WAITING: Status.Pending,
    State.DELAYED: Status.Pending,
    State.RUNNING: Status.Running,
    State.DONE: Status.Done,
    State.FAILED: Status.Failed,
    State.KILLED: Status.Killed,
}
ENDS = {SettlementKind.SUCCEEDED: State.DONE, SettlementKind.FAILED: State.FAILED, SettlementKind.KILLED: State.KILLED}
STATES = {status: [state for state in State if _STATUS[state] is status] for status in Status}
STATES[Status.Queued] = STATES[Status.Running]
PLAIN = CborCodec()
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@final
class Filed(StoredTaskInfo):
    """What a task that was looked up has as its ``parts.context``."""

    __slots__ = ("_queue", "_stored")

    def __init__(self, stored: StoredRow, queue: QueueState) -> None:
        self._stored = stored
        self._queue = queue

    @property
    def history(self) -> tuple[PastAttempt, ...]:
        """The attempts that did not succeed, the oldest first."""
        return decode_history(self._stored.history)

    @property
    def error(self) -> BaseException | None:
        """What the latest attempt failed with, if the task failed, was killed, or waits to be retried."""
        has_one = self._stored.state is not State.DONE and self._stored.result is not None
        return decode_error(self._stored.result) if has_one else None

    @property
    def result(self) -> Any:
        """The value that its handler returned; None if it is not done."""
        if self._stored.state is not State.DONE or self._stored.result is None:
            return None
        return self._queue.results.decode(self._stored.result)

    @property
    def progress(self) -> Any:
        """The progress last reported of the attempt under way, or of the last one."""
        return None if self._stored.progress is None else PLAIN.decode(self._stored.progress)

    @property
    def worker(self) -> str | None:
        """The name of the worker that has it in hand, or had it last."""
        return self._stored.worker

    def __repr__(self) -> str:
        return f"<kept of task {escaped(self._stored.id)}: {self._stored.state.name}>"


def shown(stored: StoredRow, queue: QueueState) -> Task[Any]:
    """The task that is stored here. If its payload does not decode any more, its args are the payload."""
    parts = Parts(stored_id(stored.id), attempt=attempt_number(stored.attempt))
    parts.status = _STATUS[stored.state]
    if stored.state is State.RUNNING and stored.id in queue.unbegun():
        parts.status = Status.Queued
    parts.context = Filed(stored, queue)
    args: Any = stored.payload
    with catch_errors() as caught:
        parts.run_at = moment_of(stored.run_at, stored.options)
        parts.terms, parts.metadata = decode_options(stored.options)
        args = queue.codec.decode(stored.payload)
    parts.unfit = caught.error
    return Task(args, parts)


def result_of(stored: StoredRow, queue: QueueState) -> TaskResult[Any]:
    """How the finished task ended."""
    task_id = stored_id(stored.id)
    if stored.state is State.DONE:
        return TaskResult(task_id, Status.Done, Filed(stored, queue).result)
    return TaskResult(task_id, _STATUS[stored.state], error=decode_error(stored.result))


def result_of_ending(task_id: str, ending: Settlement, queue: QueueState) -> TaskResult[Any]:
    """The result of a task of which the store keeps nothing."""
    stored = StoredRow(task_id, ENDS[ending.kind], 0, b"", None, None, ending.result, None, None, None)
    return result_of(stored, queue)
