"""The closing report of the command ``run``: as a record, as text, and summed over several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, final

from .output import counted, printable

if TYPE_CHECKING:
    from .. import Report
    from .output import Record

_COUNTS = ("succeeded", "retried", "failed", "killed", "released", "suspended")
_SUMMED = (*_COUNTS, "runs", "restarts")
_JOINED = ("drained", "interrupted", "overrun", "errors")


def report_record(report: Report) -> Record:
    """Return the report of a run."""
    return {
        **{name: sum(getattr(each, name) for each in report.workers) for name in _COUNTS},
        "runs": len(report.workers),
        "restarts": report.restarts,
        "drained": [str(each) for each in report.drained],
        "interrupted": [
            {"id": str(each.task_id), "worker": each.worker, "line": each.where} for each in report.interrupted
        ],
        "overrun": [
            {"id": str(each.task_id), "worker": each.worker, "line": each.where, "seconds": each.seconds}
            for each in report.overrun
        ],
        "errors": [f"{type(each).__name__}: {each}" for each in report.errors],
    }


def report_text(record: Record) -> str:
    """Return a report in words: what became of the attempts, and a line for each that was interrupted or late."""
    processes = f"{counted(record['processes'], 'process')}, " if record.get("processes", 1) > 1 else ""
    counts = f"{record['succeeded']} succeeded, {record['retried']} to be retried, "
    counts += f"{record['failed']} failed, {record['killed']} killed"
    counts += f", {record['released']} put back" if record["released"] else ""
    counts += f", {record['suspended']} suspended" if record["suspended"] else ""
    lines = [f"{processes}attempts: {counts}"]
    if record["drained"] or record["interrupted"]:
        running = f"{len(record['drained'])} finished, {len(record['interrupted'])} interrupted"
        lines.append(f"of those running at shutdown: {running}")
    if record["errors"] or record["restarts"]:
        lines.append(f"workers: {counted(len(record['errors']), 'error')}, {counted(record['restarts'], 'restart')}")
    if record.get("unreported"):
        lines.append(f"not counted: {counted(record['unreported'], 'process')} ended without a report")
    lines += [f"interrupted: {_attempt(each)}, at {printable(each['line'])}" for each in record["interrupted"]]
    lines += [
        f"went on for {each['seconds']:g} s after it was cancelled: {_attempt(each)}, at {printable(each['line'])}"
        for each in record["overrun"]
    ]
    lines += [f"error: {printable(each)}" for each in record["errors"]]
    return "\n".join(lines)


def _attempt(found: Record) -> str:
    process = f" in process {found['process']}" if "process" in found else ""
    return f"task {printable(found['id'])} of worker {printable(found['worker'])!r}{process}"


@final
class ReportsOfProcesses:
    """The reports of several processes, which each writes to a file when it ends; and their sum.

    Args:
      folder: where the files are.
      number: of processes.
    """

    def __init__(self, folder: str, number: int) -> None:
        self._folder = Path(folder)
        self._number = number
        for index in range(number):  # so that a process writes to a file that is there, and to no other
            self.path(index + 1).touch()
        self._found: list[Record] = []
        self._unreported = 0

    def path(self, member: int) -> Path:
        """Return the file for the process of this number, from 1."""
        return self._folder / f"{member}.json"

    def collect(self, member: int) -> None:
        """Take the report of a process that has ended."""
        path = self.path(member)
        try:
            record: Record = json.loads(path.read_text("utf-8"))
            path.write_text("")
        except (OSError, ValueError):  # it was killed, or did not begin
            self._unreported += 1
            return
        if self._number > 1:
            for each in (*record["interrupted"], *record["overrun"]):
                each["process"] = member
        self._found.append(record)

    def sum(self) -> Record | None:
        """Return the sum of all reports; None if there is none."""
        if not self._found:
            return None
        return {
            **{name: sum(each[name] for each in self._found) for name in _SUMMED},
            **{name: [item for each in self._found for item in each[name]] for name in _JOINED},
            "processes": self._number,
            "unreported": self._unreported,
        }
