"""The audit of a crash trial: it compares the logs of the pushers and workers with the tasks in the file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trio_tasks import Status, Task

_LINE = re.compile(r"(\w+) (\S+) (\d+) (\d+\.\d{6})")


@dataclass
class Ledger:
    """The log of a pusher: batches and numbers that it tried to push, and the ids that the storage acknowledged."""

    tried: list[range] = field(default_factory=list)
    acked: dict[int, str] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)  # pushed twice, and refused the second time

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a log file; a torn last line is ignored."""
        ledger = cls()
        text = path.read_text() if path.exists() else ""
        for line in text.split("\n")[:-1]:
            match line.split(" "):
                case ["try", first, end]:
                    ledger.tried.append(range(int(first), int(end)))
                case ["known", n]:
                    ledger.known.add(int(n))
                case ["ack", first, *ids]:
                    ledger.acked.update(enumerate(ids, int(first)))
                case _:
                    pass
        return ledger

    @property
    def end(self) -> int:
        """The first number that was not tried."""
        return max((batch.stop for batch in self.tried), default=0)

    @property
    def unsure_singles(self) -> list[int]:
        """The numbers that were tried alone and never acknowledged."""
        return [batch[0] for batch in self.tried if len(batch) == 1 and batch[0] not in self.acked]


class Start(NamedTuple):
    """An attempt that began."""

    worker: str
    at: float


@dataclass
class Logs:
    """The logs of the workers, by task id and attempt."""

    starts: dict[tuple[str, int], list[Start]] = field(default_factory=lambda: defaultdict(list))
    claims: dict[tuple[str, int], float] = field(default_factory=dict)  # when it was claimed
    others: dict[str, set[tuple[str, int, str]]] = field(default_factory=lambda: defaultdict(set))  # by kind, with who

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Logs:
        """Read these log files; a torn last line is ignored."""
        logs = cls()
        for path in paths:
            for match in map(_LINE.fullmatch, path.read_text().split("\n")):
                if match is not None:
                    kind, task_id, attempt, at = match.groups()
                    if kind == "start":
                        logs.starts[task_id, int(attempt)].append(Start(path.stem, float(at)))
                    elif kind == "claim":
                        logs.claims[task_id, int(attempt)] = float(at)
                    else:
                        logs.others[kind].add((task_id, int(attempt), path.stem))
        return logs


@dataclass
class Audit:
    """Finds faults, and counts what has happened in ``figures``."""

    stored: list[Task[Any]]
    ledger: Ledger
    logs: Logs
    killed_at: dict[str, float]
    lease: float
    figures: Counter[str] = field(default_factory=Counter[str])

    def faults(self, metrics: Mapping[str, object]) -> Iterator[str]:
        """Return all faults, one sentence each."""
        yield from self._of_pushing()
        yield from self._of_counts(metrics)
        for task in self.stored:
            yield from self._of_attempts(task)
        yield from self._of_settling()

    def _of_pushing(self) -> Iterator[str]:
        """Check that acknowledged pushes are stored, batches are stored whole or not at all, and nothing else is
        stored.
        """
        ids: dict[str, Any] = {task.parts.id: task.args for task in self.stored}
        numbers = Counter(task.args for task in self.stored)
        yield from (f"number {n} is stored {many} times" for n, many in numbers.items() if many > 1)
        for n, task_id in self.ledger.acked.items():
            if ids.get(task_id) != n:
                yield f"number {n} was acknowledged as task {task_id}, and is not there"
        for batch in self.ledger.tried:
            there = sum(n in numbers for n in batch)
            if there not in (0, len(batch)):
                yield f"of the batch {batch}, pushed in one transaction, {there} are there"
            self.figures["unacknowledged and stored"] += there - sum(n in self.ledger.acked for n in batch)
            self.figures["unacknowledged and not stored"] += len(batch) - there
        yield from (f"number {n} was never pushed" for n in numbers if n >= self.ledger.end)

    def _of_counts(self, metrics: Mapping[str, object]) -> Iterator[str]:
        for task in self.stored:
            if task.parts.status is not Status.Done:
                yield f"{task!r} is not done"
        expected = {"pushed": len(self.stored), "succeeded": len(self.stored)}
        expected |= dict.fromkeys(("failed", "killed", "waiting", "delayed", "running"), 0)
        for name, number in expected.items():
            if metrics[name] != number:
                yield f"the storage counts {metrics[name]} {name}, and not {number}"

    def _of_attempts(self, task: Task[Any]) -> Iterator[str]:
        """Check that each attempt but the last is in the history, with a reason for the next one."""
        task_id, last = task.parts.id, int(task.parts.attempt)
        past = {entry.attempt: entry for entry in task.parts.context.history}
        if sorted(past) != list(range(1, last)) or len(task.parts.context.history) != len(past):
            yield f"task {task_id} was settled in attempt {last}, and has a history of {sorted(past)}"
        for attempt in range(1, last + 1):
            starts = self.logs.starts.get((task_id, attempt), [])
            worker = past[attempt].worker if attempt in past else task.parts.context.worker
            if len(starts) > 1:
                yield f"attempt {attempt} of task {task_id} was begun more than once: {starts}"
            if starts and starts[0].worker != worker:
                yield f"attempt {attempt} of task {task_id} is {worker}'s, and was begun by {starts[0].worker}"
            if attempt in past:
                yield from self._of_another(task_id, attempt, past[attempt].became, str(worker))
        if (task_id, last, task.parts.context.worker) not in self.logs.others["end"]:
            yield f"attempt {last} of task {task_id} was settled, and never came to its end"

    def _of_another(self, task_id: str, attempt: int, became: str, worker: str) -> Iterator[str]:
        """Return the reason for another attempt after this one."""
        self.figures[became] += 1
        if became == "retried":
            if (task_id, attempt, worker) not in self.logs.others["raise"]:
                yield f"attempt {attempt} of task {task_id} was retried, and has not raised"
            return
        this = self.logs.starts.get((task_id, attempt))
        following = [start.at for n in (attempt + 1,) for start in self.logs.starts.get((task_id, n), ())]
        killed_at = self.killed_at.get(worker)
        kind = "lost to a kill" if this else "lost to a kill before they began"
        if (task_id, attempt, worker) in self.logs.others["lost"]:
            kind = "lost with the lease"
        elif killed_at is None and not this:  # at hand in a process that stood still, which gives it back, unbegun
            kind = "lost with the lease before it began"
        elif killed_at is None:
            yield f"attempt {attempt} of task {task_id} was taken from {worker}, which neither died nor lost its lease"
        elif following and following[0] < killed_at:
            kind = "lost with the lease, unheard"  # before it was killed, as it would have learned
        self.figures[kind] += 1
        claimed_at = self.logs.claims.get((task_id, attempt))
        if claimed_at is not None and following and (after := following[0] - claimed_at) < 0.8 * self.lease:
            yield f"attempt {attempt + 1} of task {task_id} began {after:.3f} s after the claim before"

    def _of_settling(self) -> Iterator[str]:
        """Check that only the last attempt of a task was told that it is settled."""
        last: dict[str, int] = {task.parts.id: int(task.parts.attempt) for task in self.stored}
        told = Counter(task_id for task_id, _, _ in self.logs.others["settled"])
        yield from (f"task {task_id} was settled {times} times" for task_id, times in told.items() if times > 1)
        for task_id, attempt, worker in self.logs.others["settled"]:
            if (final := last.get(task_id)) != attempt:
                yield f"attempt {attempt} of task {task_id} was settled by {worker}; the last one was {final}"
        starts = [key for key, several in self.logs.starts.items() for _ in several]
        self.figures["attempts begun"] = len(starts)
        yield from (f"task {task_id} was run, and is not there" for task_id, _ in starts if task_id not in last)
