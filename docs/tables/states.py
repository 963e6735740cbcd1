"""The table of what each event does to a task, made from the one that the storages are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from trio_tasks._contracts.states import (
    DELAYABLE,
    RULES,
    AttemptChange,
    KeyChange,
    Retention,
    TaskEvent,
    TaskState,
    frees_key,
)
from trio_tasks._tasks.task import UniqueUntil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_tasks._contracts.states import Change

EVENTS = {
    TaskEvent.SUCCEEDED: "`Succeeded`",
    TaskEvent.RETRIED: "`Retried`",
    TaskEvent.FAILED: "`Failed`",
    TaskEvent.KILLED: "`Killed`",
    TaskEvent.RELEASED: "`Released`",
    TaskEvent.SUSPENDED: "`Suspended`",
    TaskEvent.PUSH: "`push`",
    TaskEvent.CLAIM: "claimed by a worker",
    TaskEvent.LEASE_LOST: "its lease ran out, or its process died",
    TaskEvent.DUE: "its delay is over",
    TaskEvent.EXPIRE: "`expires_in`, or its deadline, is over",
    TaskEvent.FORGET: "the time for which it is kept is over",
    TaskEvent.CANCEL: "`cancel`",
    TaskEvent.ABORT: "`abort`",
    TaskEvent.CANCEL_RUNNING: "`cancel(…, running=True)`",
    TaskEvent.REPLACE: '`push` of another one with its key, `on_conflict="replace"`',
    TaskEvent.UPDATE_BY_PUSH: '`push` of another one with its key, `on_conflict="update"`',
    TaskEvent.RESCHEDULE: "`reschedule`",
    TaskEvent.UPDATE: "`update`",
    TaskEvent.RESUME: "`resume_by_id`",
    TaskEvent.DISCARD: "`discard`",
    TaskEvent.VACUUM: "`vacuum`",
    TaskEvent.WITHDRAW: "its `call` is cancelled",
}
ATTEMPTS = {
    AttemptChange.UNCHANGED: "",
    AttemptChange.COUNTED: "+1",
    AttemptChange.TAKEN_BACK: "−1",
    AttemptChange.RESET: "0",
}
KEPT = {
    Retention.AS_RESULT: "for `keep_results`",
    Retention.AS_DEAD: "for `keep_dead`",
    Retention.UNTIL_VACUUMED: "until vacuumed",
}


def rows() -> Iterator[list[str]]:
    """Each rule, in words: event, states, and what follows."""
    for states, event, change in RULES:
        yield [
            EVENTS[event],
            ", ".join(state.value for state in states),
            _state_after(event, change),
            ATTEMPTS[change.attempt],
            f"`{change.counter}`" if change.counter else "",
            _key_after(change.key),
            KEPT[change.kept] if change.kept else "",
        ]


def _state_after(event: TaskEvent, change: Change) -> str:
    is_delayable = event in DELAYABLE and change.state is TaskState.DELAYED
    return "delayed; with no delay: waiting" if is_delayable else change.state.value


def _key_after(change: KeyChange) -> str:
    if change in (KeyChange.TAKEN, KeyChange.HANDED_OVER):
        return change.value
    freed = [f"`{each}`" for each in get_args(UniqueUntil) if frees_key(change, each)]
    return f"freed: {', '.join(freed)}" if freed else ""


def table() -> str:
    """The table, in Markdown."""
    head = ["What happens", "in the state", "leads to", "Attempt", "Counter", "Unique key", "Kept"]
    return "\n".join(" ".join(f"| {' | '.join(row)} |".split()) for row in [head, ["---"] * len(head), *rows()])
