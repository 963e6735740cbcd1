"""Tasks, workers, attempts and limits as records, which are what commands write as JSON; and as texts."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .. import Limits, Rate, Status, StoredTaskInfo
from .output import age, as_json, lines_of, moment_shown, printable, span

if TYPE_CHECKING:
    from .. import PastAttempt, RunningTask, Task, WorkerInfo
    from .output import Record

_LONGEST_VALUE = 2000
"""Characters of args, results and other values that are shown to people; all of them are in the JSON."""


def limits_record(limits: Limits | None) -> Record:
    """Return the fields of limits as JSON has them; all None if there are none."""
    record: Record = {}
    for each in fields(Limits):
        value = None if limits is None else getattr(limits, each.name)
        record[each.name] = {"n": value.n, "per": value.per} if isinstance(value, Rate) else value
    return record


def summary_of(task: Task[Any], queue: str) -> Record:
    """Return what a list says of a task."""
    parts = task.parts
    info: Any = parts.context
    error, error_attempt = _error_of(task)
    return {
        "queue": queue,
        "id": str(parts.id),
        "name": parts.name,
        "status": parts.status.name,
        "attempt": int(parts.attempt),
        "attempts": parts.attempts,
        "priority": parts.priority,
        "run_at": parts.run_at,
        "pushed_at": parts.pushed_at,
        "started_at": parts.started_at,
        "finished_at": parts.finished_at,
        "worker": info.worker if isinstance(info, StoredTaskInfo) else None,
        "key": parts.key,
        "unique": parts.unique,
        "metadata": dict(parts.metadata),
        "error": error,
        "error_attempt": error_attempt,
    }


def details_of(task: Task[Any], queue: str) -> Record:
    """Return all that is known of a task."""
    parts = task.parts
    record = summary_of(task, queue)
    record |= {
        "timeout": parts.timeout,
        "retry_for": parts.retry_for,
        "expires_in": parts.expires_in,
        "deadline_at": parts.deadline_at,
        "args": task.args,
        "result": None,
        "progress": None,
        "traceback": None,
        "history": [],
        "unreadable": None if parts.unfit is None else str(parts.unfit),
    }
    info: Any = parts.context
    for name, read in (("result", _result), ("progress", _progress), ("history", _history), ("traceback", _trace)):
        try:
            record[name] = read(info)
        except Exception as error:  # what is stored does not fit the codec, or is damaged
            record["unreadable"] = record["unreadable"] or str(error)
    return record


def _result(info: StoredTaskInfo) -> Any:
    return info.result


def _progress(info: StoredTaskInfo) -> Any:
    return info.progress


def _history(info: StoredTaskInfo) -> list[Record]:
    return [attempt_record(each) for each in info.history]


def _trace(info: StoredTaskInfo) -> str | None:
    return getattr(info.error, "traceback", None)


def _error_of(task: Task[Any]) -> tuple[str | None, int | None]:
    """Return the latest error of a task in one line, and the number of its attempt; None for what there is not."""
    info: Any = task.parts.context
    if not isinstance(info, StoredTaskInfo) or task.parts.status is Status.Done:
        return None, None
    try:
        if info.history:
            return info.history[-1].error, info.history[-1].attempt
        error = info.error
        return None if error is None else f"{type(error).__name__}: {error}".partition("\n")[0], None
    except Exception as error:  # what is stored is damaged
        return f"the error cannot be read: {error}", None


def is_dead(record: Record) -> bool:
    """Return True for a dead letter: its error is its end, and not one of an attempt before."""
    return record["status"] in (Status.Failed.name, Status.Killed.name)


def attempt_record(past: PastAttempt) -> Record:
    """Return what is known of an attempt that did not succeed."""
    return {
        "attempt": past.attempt,
        "became": past.became,
        "ended_at": datetime.fromtimestamp(past.ended_at, timezone.utc),
        "seconds": past.seconds,
        "worker": past.worker,
        "version": past.version,
        "error": past.error,
        "traceback": past.traceback,
    }


def worker_record(worker: WorkerInfo) -> Record:
    """Return what is known of a worker."""
    return {
        "name": worker.name,
        "queue": worker.queue,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "is_alive": worker.is_alive,
        "slots": worker.slots,
        "busy": worker.busy,
        "intake": worker.intake,
        "since": worker.since,
        "as_of": worker.as_of,
        "last_beat": worker.last_beat,
        "running": [_running_record(each) for each in worker.running],
    }


def _running_record(running: RunningTask) -> Record:
    return {
        "id": running.id,
        "name": running.name,
        "attempt": running.attempt,
        "since": running.since,
        "line": running.line,
    }


# For people


def details_shown(record: Record) -> str:
    """Return the details of a task as text: a line for each thing that is known."""
    lines = [f"{name:<9} {text}" for name, text in _facts_of(record) if text]
    return "\n".join([*lines, *history_shown(record["history"])])


def history_shown(history: list[Record]) -> list[str]:
    """Return the lines for the attempts that did not succeed, each with its error, and its traceback if it is kept."""
    lines: list[str] = []
    rounds = _rounds(history)
    seen: str | None = None
    for number, attempts in enumerate(rounds, start=1):
        if len(rounds) > 1:
            again = ", after it was made to wait again" if number > 1 else ""
            lines += ["", f"round {number} of {len(rounds)}{again}"]
        for past in attempts:
            trace = ["the same error and traceback as before"] if past["traceback"] == seen else _trace_shown(past)
            lines += [_attempt_shown(past), *(f"          {line}" for line in trace)]
            seen = past["traceback"] or None
    return lines


def _rounds(history: list[Record]) -> list[list[Record]]:
    """Return the attempts in parts: a finished task that waits again has all of its attempts again, from the first."""
    rounds: list[list[Record]] = []
    latest = 0
    for past in history:
        if not rounds or past["attempt"] <= latest:
            rounds.append([])
        rounds[-1].append(past)
        latest = past["attempt"]
    return rounds


def _facts_of(record: Record) -> list[tuple[str, str]]:
    attempts = record["attempts"]
    tried = f"attempt {record['attempt']}{f' of {attempts}' if attempts else ''}"
    wanted = {name: record[name] for name in ("timeout", "retry_for", "expires_in") if record[name] is not None}
    options = [f"{name} {span(seconds)}" for name, seconds in wanted.items()]
    options += [f"priority {record['priority']}"] if record["priority"] else []
    return [
        ("id", printable(record["id"])),
        ("queue", printable(record["queue"])),
        ("name", printable(record["name"] or "")),
        ("status", f"{record['status']}, {tried}"),
        ("options", ", ".join(options)),
        ("key", printable(record["key"] or "")),
        ("unique", printable(record["unique"] or "")),
        ("pushed", _moment(record["pushed_at"])),
        ("run at", _moment(record["run_at"])),
        ("started", _moment(record["started_at"])),
        ("finished", _moment(record["finished_at"])),
        ("deadline", _moment(record["deadline_at"])),
        ("worker", printable(record["worker"] or "")),
        ("args", value_shown(record["args"])),
        ("metadata", value_shown(record["metadata"]) if record["metadata"] else ""),
        ("progress", value_shown(record["progress"]) if record["progress"] is not None else ""),
        ("result", value_shown(record["result"]) if record["status"] == "Done" else ""),
        ("error", printable(f"{_attempt_of_error(record)}{record['error']}" if record["error"] else "")),
        ("unreadable", printable(record["unreadable"] or "")),
    ]


def _attempt_of_error(record: Record) -> str:
    """Return the words that say of which attempt an error was, if the task goes on."""
    return "" if is_dead(record) or record["error_attempt"] is None else f"in attempt {record['error_attempt']}: "


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment_shown(moment)


def value_shown(value: Any) -> str:
    """Return a value as JSON, cut to what people read."""
    text = as_json({"": value})[5:-1]
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


_ENDED = {
    "retried": ("failed", "; retried"),
    "failed": ("failed", "; not retried"),
    "killed": ("was killed", ""),
    "lost": ("was lost with its worker or its lease", ""),
    "unreadable": ("could not be read", "; it does not count"),
}
"""For what became of an attempt: how it ended, and what followed."""


def _attempt_shown(past: Record) -> str:
    ended, follows = _ENDED.get(past["became"], (past["became"], ""))
    took = "" if past["seconds"] is None else f" after running {span(past['seconds'])}"
    worker = f", worker '{printable(past['worker'])}'" if past["worker"] else ""
    return f"attempt {past['attempt']}{worker}, {ended} {age(past['ended_at'])}{took}{follows}"


def _trace_shown(past: Record) -> list[str]:
    """Return the lines of the traceback of an attempt, which end with the error; the error alone if there is none."""
    lines, error = lines_of(past["traceback"]), printable(past["error"])
    return lines if any(error in line for line in lines) else [*lines, error]
