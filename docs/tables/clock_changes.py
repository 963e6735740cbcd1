"""The table of the times of schedules where clocks change, made from the cases of the tests."""

from __future__ import annotations

from itertools import groupby

from tests.schedules._clock_changes import CASES, Change


def _heading(change: Change) -> str:
    return f"{change.zone}, {change.end[:10]}: {change.title}"


def _times(times: tuple[str, ...]) -> str:
    """The times without their day, which the heading tells; with it, if it is another one."""
    return ", ".join(f"`{text[3:]}`" for text in times) or "not on that day"


def table() -> str:
    """The table, in Markdown."""
    rows = [["Where, when", "Schedule", "Comes at"], ["---"] * 3]
    for change, cases in groupby(CASES, key=lambda case: case.change):
        head = _heading(change)
        for case in cases:
            rows.append([head, f"`{case.spec}`", _times(case.times)])
            head = ""
    return "\n".join(" ".join(f"| {' | '.join(row)} |".split()) for row in rows)
