"""The state table: what each event does to a task, on every storage.

A state is a stage of a task's life as a storage has it, and an event is something that happens to the task. What is not
in :data:`TABLE` changes nothing: an answer is False then, a push of a known id raises :class:`DuplicateTaskError`, and
an outcome for a task that is not running raises :class:`LeaseLostError`.

The sets and maps of states that the storages need are made from this table, and ``tests/test_states.py`` holds the
ledger, the SQL and the journal against it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, final

from .._tasks.outcome import Failed, Killed, Released, Retried, Status, Succeeded, Suspended

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._tasks.task import UniqueUntil


@final
class TaskState(Enum):
    """The state of a task in a storage."""

    UNKNOWN = "unknown"
    """Never pushed, or forgotten."""
    WAITING = "waiting"
    """Ready to be claimed."""
    DELAYED = "delayed"
    """Waiting for its time: pushed with a delay, retried, suspended or rescheduled."""
    RUNNING = "running"
    """Claimed by a worker. Until the attempt begins, its own process shows it as ``Status.Queued``."""
    ABORTING = "aborting"
    """Running, and to be killed unless this attempt finishes it."""
    REPLACED = "replaced"
    """Running while another task has its unique key: it may finish, but does not wait again."""
    WITHDRAWN = "withdrawn"
    """Running, and to be forgotten unless this attempt finishes it: its ``call`` was cancelled."""
    DONE = "done"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def status(self) -> Status | None:
        """The status that users see; None for a task that is not known."""
        return STATUSES.get(self)

    @property
    def waits(self) -> bool:
        """True if it waits to be claimed, or for its time."""
        return self in _WAITING

    @property
    def runs(self) -> bool:
        """True if a worker has it."""
        return self in _RUNNING

    @property
    def is_final(self) -> bool:
        """True if it is finished, and remembered."""
        return self in _FINAL


@final
class TaskEvent(Enum):
    """Something that happens to a task; those at the top are the outcomes of attempts."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    FAILED = "failed"
    KILLED = "killed"
    RELEASED = "released"
    SUSPENDED = "suspended"

    PUSH = "push"
    """It is pushed."""
    CLAIM = "claim"
    """A worker asks for a task, and this one is next."""
    LEASE_LOST = "lease lost"
    """Its lease ran out, or its process died: it is an orphan. There are no leases in memory."""

    DUE = "due"
    """Its delay is over."""
    EXPIRE = "expire"
    """The time within which it had to be started, ``expires_in``, is over, or its deadline is."""
    FORGET = "forget"
    """The time for which it is kept is over."""

    CANCEL = "cancel"
    ABORT = "abort"
    CANCEL_RUNNING = "cancel, running=True"
    REPLACE = "replace"
    """Another task is pushed with its unique key, and ``on_conflict="replace"``."""
    UPDATE_BY_PUSH = "push, on_conflict=update"
    """Another task is pushed with its unique key, and ``on_conflict="update"``. A running task is left alone."""
    RESCHEDULE = "reschedule"
    UPDATE = "update"
    RESUME = "resume_by_id"
    DISCARD = "discard"
    WITHDRAW = "cancelled call"
    """The ``call`` that had pushed it is cancelled."""
    VACUUM = "vacuum"


@final
class AttemptChange(Enum):
    """The change of the number of attempts."""

    UNCHANGED = "="
    COUNTED = "+1"
    TAKEN_BACK = "-1"
    RESET = "0"


@final
class KeyChange(Enum):
    """The change of the unique key, if the task has one. Most that free it do so for some tasks only: :data:`FREED`."""

    AS_BEFORE = "as before"
    TAKEN = "taken"
    """Not if it is held for a time (``unique_for``): that begins with the push alone."""
    BEGUN = "begun"
    ENDED = "ended"
    FORGOTTEN = "forgotten"
    HANDED_OVER = "handed over"
    """The task that is pushed takes it."""


@final
class Retention(Enum):
    """The time for which a finished task is remembered, unless it is discarded or vacuumed before that."""

    AS_RESULT = "`keep_results`"
    AS_DEAD = "`keep_dead`"
    """In memory: until it is discarded or vacuumed."""
    UNTIL_VACUUMED = "until vacuumed"


class Change(NamedTuple):
    """The effect of an event on a task."""

    state: TaskState
    """The state after it."""
    counter: str | None = None
    """The number of ``metrics()`` that grows by one."""
    attempt: AttemptChange = AttemptChange.UNCHANGED
    key: KeyChange = KeyChange.AS_BEFORE
    kept: Retention | None = None
    """Of finished tasks."""


_WAITING = TaskState.WAITING, TaskState.DELAYED
_RUNNING = TaskState.RUNNING, TaskState.ABORTING, TaskState.REPLACED, TaskState.WITHDRAWN
_UNWANTED = TaskState.ABORTING, TaskState.REPLACED
_COMING_BACK = TaskEvent.RETRIED, TaskEvent.RELEASED, TaskEvent.SUSPENDED, TaskEvent.LEASE_LOST
_FINAL = TaskState.DONE, TaskState.FAILED, TaskState.KILLED
STATUSES: Mapping[TaskState, Status] = {
    **dict.fromkeys(_WAITING, Status.Pending),
    **dict.fromkeys(_RUNNING, Status.Running),
    TaskState.DONE: Status.Done,
    TaskState.FAILED: Status.Failed,
    TaskState.KILLED: Status.Killed,
}
"""The status of a task in each state, as users see it."""

_COUNTED, _TAKEN_BACK, _RESET = AttemptChange.COUNTED, AttemptChange.TAKEN_BACK, AttemptChange.RESET
_TAKEN, _KEY_ENDED, _KEY_FORGOTTEN = KeyChange.TAKEN, KeyChange.ENDED, KeyChange.FORGOTTEN
_HANDED_OVER = KeyChange.HANDED_OVER
_DONE = Change(TaskState.DONE, "succeeded", key=_KEY_ENDED, kept=Retention.AS_RESULT)
_FAILED = Change(TaskState.FAILED, "failed", key=_KEY_ENDED, kept=Retention.AS_DEAD)
_KILLED = Change(TaskState.KILLED, "killed", key=_KEY_ENDED, kept=Retention.AS_DEAD)
_ENDED = Change(TaskState.KILLED, "killed", key=_KEY_ENDED, kept=Retention.UNTIL_VACUUMED)
"""It is killed by something else than the outcome of its attempt."""
_FORGOTTEN = Change(TaskState.UNKNOWN, "killed", key=_KEY_FORGOTTEN)

RULES: tuple[tuple[tuple[TaskState, ...], TaskEvent, Change], ...] = (
    ((TaskState.UNKNOWN,), TaskEvent.PUSH, Change(TaskState.DELAYED, "pushed", key=_TAKEN)),
    ((TaskState.DELAYED,), TaskEvent.DUE, Change(TaskState.WAITING)),
    ((TaskState.WAITING,), TaskEvent.CLAIM, Change(TaskState.RUNNING, attempt=_COUNTED, key=KeyChange.BEGUN)),
    # The outcome of an attempt
    (_RUNNING, TaskEvent.SUCCEEDED, _DONE),
    ((TaskState.RUNNING,), TaskEvent.RETRIED, Change(TaskState.DELAYED, "retried")),
    (_RUNNING, TaskEvent.FAILED, _FAILED),
    (_RUNNING, TaskEvent.KILLED, _KILLED),
    ((TaskState.RUNNING,), TaskEvent.RELEASED, Change(TaskState.WAITING, "released", _TAKEN_BACK)),
    ((TaskState.RUNNING,), TaskEvent.SUSPENDED, Change(TaskState.DELAYED, "suspended", _TAKEN_BACK)),
    ((TaskState.RUNNING,), TaskEvent.LEASE_LOST, Change(TaskState.WAITING)),
    # A task that is not wanted any more may finish, but does not wait again
    (_UNWANTED, TaskEvent.RETRIED, _ENDED),
    (_UNWANTED, TaskEvent.RELEASED, _ENDED._replace(attempt=_TAKEN_BACK)),
    (_UNWANTED, TaskEvent.SUSPENDED, _ENDED._replace(attempt=_TAKEN_BACK)),
    (_UNWANTED, TaskEvent.LEASE_LOST, _ENDED),
    *(((TaskState.WITHDRAWN,), event, _FORGOTTEN) for event in _COMING_BACK),
    # Interventions, and what time brings
    (_WAITING, TaskEvent.EXPIRE, _ENDED),
    (_WAITING, TaskEvent.CANCEL, _ENDED),
    (_WAITING, TaskEvent.REPLACE, _ENDED._replace(key=_HANDED_OVER)),
    ((TaskState.RUNNING,), TaskEvent.REPLACE, Change(TaskState.REPLACED, key=_HANDED_OVER)),
    ((TaskState.ABORTING,), TaskEvent.REPLACE, Change(TaskState.ABORTING, key=_HANDED_OVER)),
    ((TaskState.WITHDRAWN,), TaskEvent.REPLACE, Change(TaskState.WITHDRAWN, key=_HANDED_OVER)),
    (_RUNNING, TaskEvent.ABORT, Change(TaskState.ABORTING)),
    (_WAITING, TaskEvent.CANCEL_RUNNING, _ENDED),
    (_RUNNING, TaskEvent.CANCEL_RUNNING, Change(TaskState.ABORTING)),
    (_WAITING, TaskEvent.UPDATE_BY_PUSH, Change(TaskState.DELAYED)),
    (_WAITING, TaskEvent.RESCHEDULE, Change(TaskState.DELAYED)),
    ((TaskState.WAITING,), TaskEvent.UPDATE, Change(TaskState.WAITING)),
    ((TaskState.DELAYED,), TaskEvent.UPDATE, Change(TaskState.DELAYED)),
    (_FINAL, TaskEvent.RESUME, Change(TaskState.WAITING, "resumed", _RESET, _TAKEN)),
    (_FINAL, TaskEvent.FORGET, Change(TaskState.UNKNOWN, key=_KEY_FORGOTTEN)),
    (_WAITING, TaskEvent.DISCARD, _FORGOTTEN),
    (_FINAL, TaskEvent.DISCARD, Change(TaskState.UNKNOWN, key=_KEY_FORGOTTEN)),
    (_FINAL, TaskEvent.VACUUM, Change(TaskState.UNKNOWN, key=_KEY_FORGOTTEN)),
    (_WAITING, TaskEvent.WITHDRAW, _FORGOTTEN),
    ((TaskState.RUNNING, TaskState.REPLACED, TaskState.WITHDRAWN), TaskEvent.WITHDRAW, Change(TaskState.WITHDRAWN)),
)
"""The rules, each for one state or several. Of those with a delay (:data:`DELAYABLE`), a delay of 0 leads to
``WAITING`` in place of ``DELAYED``. ``RESUME`` needs a unique key that is free, or held by the task itself; ``REPLACE``
and ``UPDATE_BY_PUSH`` need one that the task holds."""

FREED: Mapping[KeyChange, frozenset[UniqueUntil]] = {
    KeyChange.BEGUN: frozenset(("start",)),
    KeyChange.ENDED: frozenset(("start", "end")),
    KeyChange.FORGOTTEN: frozenset(("start", "end", "forgotten")),
    KeyChange.HANDED_OVER: frozenset(("start", "end", "forgotten")),
}
"""For each change that frees unique keys, the values of ``unique_until`` with which it does. A key that is held for a
time is only handed over; else it is free when its time is over, and not before."""

DELAYABLE = frozenset(
    (TaskEvent.PUSH, TaskEvent.RETRIED, TaskEvent.SUSPENDED, TaskEvent.UPDATE_BY_PUSH, TaskEvent.RESCHEDULE)
)
"""The events that come with a delay."""

TABLE: Mapping[tuple[TaskState, TaskEvent], Change] = {
    (state, event): change for states, event, change in RULES for state in states
}
"""The effect of each event in each state; what is not in it changes nothing."""

OUTCOMES: Mapping[type, Change] = {
    kind: TABLE[TaskState.RUNNING, TaskEvent[kind.__name__.upper()]]
    for kind in (Succeeded, Retried, Failed, Killed, Released, Suspended)
}
"""The effect of each outcome on a running task."""

COUNTERS = tuple(dict.fromkeys(change.counter for _, _, change in RULES if change.counter is not None))
"""The counters of ``metrics()`` that only grow, in the order of the rules."""


def frees_key(change: KeyChange, until: UniqueUntil | None) -> bool:
    """Return True if the change frees the unique key of a task that holds it until then; None: for a time."""
    return change is KeyChange.HANDED_OVER if until is None else until in FREED.get(change, ())


def change_of(state: TaskState, event: TaskEvent, delay: float = 0.0) -> Change | None:
    """The effect of the event, with this delay if it comes with one; None if it changes nothing."""
    change = TABLE.get((state, event))
    if change is not None and change.state is TaskState.DELAYED and event in DELAYABLE and delay <= 0:
        return change._replace(state=TaskState.WAITING)
    return change
