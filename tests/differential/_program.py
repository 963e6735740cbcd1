"""Random programs of calls to one queue, and what can be seen of the queue after each call.

A program is made from a seed, and is the same on each storage; what is seen of two storages must be the same, too. In
this there is no model: it finds what two storages do differently where nobody has thought of a rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

import trio
from trio_tasks import (
    AbortError,
    DuplicateTaskError,
    Expired,
    Failed,
    Killed,
    LeaseLostError,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskBuilder,
    UnknownTaskError,
)
from trio_tasks._clock import wall_now

TASKS = 40
"""Ids that a program may use: those of the tasks that it pushes, and some that nobody has."""
EXPECTED = DuplicateTaskError, LeaseLostError, UnknownTaskError, ValueError
OUTCOMES: dict[str, Callable[[], Outcome]] = {
    "succeeded": lambda: Succeeded(1),
    "retried": lambda: Retried(ValueError("again"), 0.0),
    "retried later": lambda: Retried(ValueError("later"), 12.0),
    "failed": lambda: Failed(ValueError("no")),
    "killed": lambda: Killed(AbortError("no more")),
    "suspended": lambda: Suspended(trio.current_time() + 12.0, "why"),
    "suspended for good": lambda: Suspended(math.inf, "held"),
    "released": lambda: Released("not now"),
}
FINAL = Status.Done, Status.Failed, Status.Killed


class Call(NamedTuple):
    """One call of a program."""

    verb: str
    args: tuple[Any, ...] = ()


class Seen(NamedTuple):
    """What was seen of a call, and of the queue after it."""

    call: Call
    answer: Any
    tasks: list[Any]
    lists: list[list[str]]
    metrics: dict[str, Any]
    audit: str
    events: list[str]


class Writer:
    """Makes a program.

    Args:
      seed: of all choices.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._pushed = 0

    def program(self, length: int) -> list[Call]:
        """Return a program of so many calls."""
        return [self._call() for _ in range(length)]

    def _call(self) -> Call:
        random = self._random
        verb = random.choice(
            [*["push"] * 6, "push_bulk", *["receive"] * 3, *["settle"] * 3, *["sleep"] * 3, "cancel", "cancel running",
             "abort", "discard", "resume_by_id", "reschedule", "reschedule", "retry_all", "cancel_all", "discard_all",
             "vacuum", "vacuum older", "list_tasks", "pause", "resume", "explain", "update", "set_metadata",
             "report_progress", "progress_of", "throughput"]
        )  # fmt: skip
        if verb == "push":
            self._pushed += 1
            return Call(verb, (self._pushed, self._options() | {"id": f"t{self._pushed}"}))
        if verb == "push_bulk":
            numbers = range(self._pushed + 1, self._pushed + 1 + random.randrange(4))
            self._pushed += len(numbers)
            return Call(verb, (numbers, self._options()))
        if verb == "settle":
            return Call(verb, (random.randrange(5), random.choice([*OUTCOMES])))
        if verb in ("sleep", "vacuum older"):
            return Call(verb, (random.uniform(1.0, 30.0),))
        if verb in ("cancel", "cancel running", "abort", "discard", "resume_by_id"):
            return Call(verb, (self._one_or_several(),))
        if verb == "reschedule":
            return Call(verb, (self._one_or_several(), random.choice([0.0, 7.0, 33.0])))
        if verb in ("explain", "update", "progress_of"):
            return Call(verb, (self._id(),))
        if verb == "vacuum":
            return Call(verb, (random.choice([None, *FINAL]),))
        if verb in ("retry_all", "cancel_all", "discard_all"):
            return Call(verb, (self._filters(),))
        if verb == "list_tasks":
            status = random.choice([None, Status.Pending, *FINAL])
            return Call(verb, (status, random.random() < 0.5, self._filters()))
        return Call(verb)

    def _id(self) -> str:
        return f"t{self._random.randrange(1, self._pushed + 3)}"

    def _one_or_several(self) -> Any:
        return self._id() if self._random.random() < 0.5 else [self._id() for _ in range(self._random.randrange(4))]

    def _filters(self) -> dict[str, Any]:
        random, filters = self._random, dict[str, Any]()
        if random.random() < 0.4:
            filters["key"] = random.choice("xy")
        if random.random() < 0.3:
            filters["metadata"] = {"m": 1}
        if random.random() < 0.3:
            filters["unique"] = random.choice("ab")
        return filters

    def _options(self) -> dict[str, Any]:
        random, options = self._random, dict[str, Any]()
        if random.random() < 0.6:
            options |= {"unique": random.choice("ab"), "on_conflict": random.choice(["skip", "replace", "update"])}
            how = random.random()
            if how < 0.3:
                options["unique_for"] = random.choice([10.0, 30.0, 100.0])
            elif how < 0.8:
                options["unique_until"] = random.choice(["start", "end", "forgotten"])
        if random.random() < 0.3:
            options["delay"] = random.choice([5.0, 15.0, 40.0])
        elif random.random() < 0.2:
            options["run_at"] = random.choice([-5.0, 15.0])
        for name, values in {"priority": (-1, 0, 5), "key": "xy", "metadata": ({"m": 0}, {"m": 1})}.items():
            if random.random() < 0.3:
                options[name] = random.choice(values)
        if random.random() < 0.2:
            options["expires_in"] = random.choice([8.0, 25.0, 60.0])
        return options


class Runner:
    """Runs a program on one storage.

    Args:
      storage: an open storage of ints.
      events: the channel of its events.
    """

    def __init__(self, storage: Any, events: trio.abc.ReceiveChannel[Any]) -> None:
        self._storage = storage
        self._events = events
        self._held: list[Task[int]] = []
        self._names: dict[str, str] = {}  # of the tasks whose ids the storage has made

    async def run(self, program: list[Call]) -> list[Seen]:
        """Make all calls; return what was seen."""
        return [await self._step(call) for call in program]

    async def _step(self, call: Call) -> Seen:
        answer: Any = None
        try:
            answer = await self._make(call)
        except EXPECTED as error:
            answer = f"{type(error).__name__}: {error}"
        found = await self._storage.fetch_by_id([f"t{number}" for number in range(1, TASKS)])
        lists = [await self._storage.list_tasks(status, limit=1000) for status in (*FINAL, None)]
        metrics = dict(await self._storage.metrics())
        metrics["oldest_waiting"] = round(metrics["oldest_waiting"])
        audit = str(await self._storage.audit())
        named = [[self._named(task.parts.id) for task in tasks if not _has_expired(task)] for tasks in lists[:-1]]
        ids = sorted(self._named(task.parts.id) for task in lists[-1])
        named[-1].sort()  # several that one call has killed may have been delayed or ready, as each storage had it
        shown = [self._plain(_shown(task)) for task in found]
        return Seen(call, self._plain(answer), shown, [*named, ids], metrics, audit, await self._told())

    async def _make(self, call: Call) -> Any:
        verb, args = call
        verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "push": self._push, "push_bulk": self._push_bulk, "receive": self._receive, "settle": self._settle,
            "sleep": trio.sleep, "cancel running": self._cancel_running, "vacuum older": self._vacuum_older,
            "vacuum": self._vacuum, "list_tasks": self._list,
            "retry_all": self._filtered("retry_all"), "cancel_all": self._filtered("cancel_all"),
            "discard_all": self._filtered("discard_all"), "explain": self._explain, "update": self._update,
            "set_metadata": self._set_metadata, "report_progress": self._report, "throughput": self._throughput,
        }  # fmt: skip
        return await (verbs[verb] if verb in verbs else getattr(self._storage, verb))(*args)

    def _filtered(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def call(filters: dict[str, Any]) -> Any:
            return await getattr(self._storage, verb)(**filters)

        return call

    async def _push(self, number: int, options: dict[str, Any]) -> Any:
        pushed = await self._storage.push_or_get(number, **_timed(options))
        return pushed.id, pushed.is_new

    async def _push_bulk(self, numbers: range, options: dict[str, Any]) -> Any:
        ids = await self._storage.push_bulk(numbers, **_timed(options))
        for number, task_id in zip(numbers, ids, strict=True):
            if not re.fullmatch(r"t\d+", task_id):
                self._names.setdefault(task_id, f"bulk {number}")
        return [*ids]

    async def _receive(self) -> Any:
        with trio.move_on_after(1 / 64):
            task = await self._storage.receive()
            self._held.append(task)
            parts = task.parts
            return parts.id, task.args, int(parts.attempt), dict(parts.metadata), parts.run_at is None
        return None

    async def _settle(self, which: int, kind: str) -> Any:
        if self._held:
            await self._storage.settle(self._held.pop(which % len(self._held)), OUTCOMES[kind]())

    async def _cancel_running(self, ids: Any) -> Any:
        return await self._storage.cancel(ids, running=True)

    async def _vacuum(self, status: Status | None) -> Any:
        return await self._storage.vacuum(status=status)

    async def _vacuum_older(self, seconds: float) -> Any:
        return await self._storage.vacuum(older_than=seconds)

    # A delayed task that is due may be listed with those that are ready, or after them, until that was entered; and one
    # that has expired in its order, or after all others.
    async def _list(self, status: Status | None, newest_first: bool, filters: dict[str, Any]) -> Any:
        ids, cursor, more = list[str](), None, True
        while more:
            page = await self._storage.list_tasks(status, newest_first=newest_first, after=cursor, limit=2, **filters)
            ids += [task.parts.id for task in page]
            cursor, more = page.next, page.next is not None
        return ids if status in (Status.Done, Status.Failed) else sorted(map(self._named, ids))

    async def _explain(self, task_id: str) -> Any:
        found = await self._storage.explain(task_id)
        return found.kind, found.ahead

    async def _update(self, task_id: str) -> Any:
        return await self._storage.update(TaskBuilder(77).id(task_id).metadata(m=1).build())

    async def _set_metadata(self) -> Any:
        if self._held:
            await self._storage.set_metadata(self._held[-1], {"z": (1, 2)})
            return dict(self._held[-1].parts.metadata)
        return None

    async def _report(self) -> Any:
        if self._held:
            await self._storage.report_progress(self._held[-1], {"done": 1})

    async def _throughput(self) -> Any:
        minutes, names = await self._storage.throughput(), ("succeeded", "retried", "failed", "killed", "released")
        return {name: sum(getattr(each, name) for each in minutes) for name in (*names, "suspended")}

    async def _told(self) -> list[str]:
        """The events since the call before; an expiry is told when it is entered, which each storage does in time."""
        told: list[str] = []
        with trio.move_on_after(1 / 128):
            while True:
                event = await self._events.receive()
                if not isinstance(event, Expired):
                    told.append(self._plain(event))
        return sorted(told)

    def _named(self, task_id: str) -> str:
        return self._names.get(task_id, str(task_id))

    def _plain(self, answer: Any) -> str:
        """An answer as text, with names for the ids that the storage has made."""
        text = repr(answer) if not hasattr(answer, "verb") else f"{bool(answer)}, {answer}"
        for task_id, name in self._names.items():
            text = text.replace(task_id, name)
        return text


def _timed(options: dict[str, Any]) -> dict[str, Any]:
    if "run_at" not in options:
        return options
    return options | {"run_at": wall_now() + timedelta(seconds=options["run_at"])}


def _has_expired(task: Task[int]) -> bool:
    """True if it has expired: these are listed in the order in which that was entered, or after all others."""
    return "not started within" in repr(task.parts.context.error)


def _shown(task: Task[int] | None) -> Any:
    if task is None:
        return None
    parts, kept = task.parts, task.parts.context
    times = parts.pushed_at, parts.started_at, parts.finished_at, parts.run_at
    error = "expired" if _has_expired(task) else repr(kept.error)
    history = [(each.attempt, each.became) for each in kept.history]
    first = task.args, parts.status.name, int(parts.attempt), parts.terms, dict(parts.metadata)
    return *first, [each is not None for each in times], error, kept.result, history, kept.progress
