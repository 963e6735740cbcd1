"""What happens to a stored schedule: the cases that the tests play and the documentation shows.

Each begins at 12:00 UTC, when nothing is stored. ``step`` by step, programs start and end, and people and clocks act.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from trio_tasks import CronSpec, IntervalSpec, cron, every

Verb = Literal[
    "start", "start newer", "start without", "end", "end newer", "put", "edit", "remove", "pause", "resume", "run now",
    "finish", "set the clock",
]  # fmt: skip
TEN = every(minutes=10)
QUARTER = cron("*/15 * * * *", zone="UTC")


class Story(NamedTuple):
    """One case.

    Args:
      title: what it is about.
      told: what happens, for people.
      steps: the same, for the test: times of an ordinary clock, and verbs. ``start`` is that of a program in whose code
        the schedule stands; ``start newer`` of one where it has other times, ``start without`` of one that lacks it.
      fired: the times that are fired by 13:05 of that clock; with the time at which that is, if it is a later minute.
      settings: those of the schedule.
      orphaned: True if it is orphaned at the end.
    """

    title: str
    told: str
    steps: str
    fired: str
    settings: dict[str, Any] = {}  # noqa: RUF012  a default, which nobody changes
    orphaned: bool = False


EACH = "12:10 12:20 12:30 12:40 12:50 13:00"
GONE = "12:00 start, 12:15 end, 12:55 start"
NOBODY = "no scheduler runs from 12:15 to 12:55"
ALL = {"missed": "all", "overlap": "allow"}
STORIES = (
    Story("first start", "a scheduler starts at 12:05 for the first time", "12:05 start", EACH),
    Story(
        "the grid",
        "the same at 12:17: times are counted from the epoch",
        "12:17 start",
        "12:20 12:30 12:40 12:50 13:00",
    ),
    Story("several processes", "two schedulers run", "12:05 start, 12:06 start", EACH),
    Story("downtime", NOBODY, GONE, "12:10 12:50 (at 12:55) 13:00"),
    Story("downtime", NOBODY, GONE, "12:10 13:00", {"missed": "skip"}),
    Story(
        "downtime", NOBODY, GONE, "12:10 12:20 (at 12:55) 12:30 (at 12:55) 12:40 (at 12:55) 12:50 (at 12:55) 13:00", ALL
    ),
    Story("downtime", NOBODY, GONE, "12:10 12:40 (at 12:55) 12:50 (at 12:55) 13:00", {**ALL, "limit": 2}),
    Story("downtime", NOBODY, GONE, "12:10 12:40 (at 12:55) 12:50 (at 12:55) 13:00", {**ALL, "within": 1000}),
    Story(
        "pause",
        "it is paused at 12:15, and resumed at 12:45",
        "12:05 start, 12:15 pause, 12:45 resume",
        "12:10 12:50 13:00",
    ),
    Story("pause", "the same", "12:05 start, 12:15 pause, 12:45 resume", "12:10 12:50 13:00", ALL),
    Story(
        "run now", "it is paused at 12:15, and run at 12:25", "12:05 start, 12:15 pause, 12:25 run now", "12:10 12:25"
    ),
    Story(
        "edit",
        f"it becomes `{QUARTER}` at 12:35",
        "12:00 start without, 12:05 put, 12:35 edit",
        "12:10 12:20 12:30 12:45 13:00",
    ),
    Story(
        "edit",
        "the same, and no scheduler runs from 12:15 to 12:55: times of before the edit are not missed",
        "12:00 put, 12:05 start without, 12:15 end, 12:35 edit, 12:55 start without",
        "12:10 12:45 (at 12:55) 13:00",
    ),
    Story(
        "overlap",
        "the task of 12:10 is finished at 12:35",
        "12:05 start, 12:35 finish",
        "12:10 12:40",
        {"overlap": "skip"},
    ),
    Story(
        "clock set back",
        "by an hour at 12:25: no time comes a second time",
        "12:05 start, 12:25 set the clock",
        "12:10 12:20",
        {"hours": -1},
    ),
    Story(
        "clock set back",
        "the same, and another program starts then",
        "12:05 start, 12:25 set the clock, 12:30 start",
        "12:10 12:20",
        {"hours": -1},
    ),
    Story(
        "clock set back",
        "the same, and it is edited at 12:30",
        "12:00 put, 12:05 start without, 12:25 set the clock, 12:30 edit",
        "12:10 12:20",
        {"hours": -1},
    ),
    Story(
        "clock set forward",
        "by an hour at 12:25: as after a downtime",
        "12:05 start, 12:25 set the clock",
        "12:10 12:20 13:20 (at 13:25) 13:30 13:40 13:50 14:00",
        {"hours": 1},
    ),
    Story(
        "rolling deploy",
        f"a newer program starts at 12:25, in which it is `{QUARTER}`; the older one goes on",
        "12:05 start, 12:25 start newer",
        "12:10 12:20 12:30 12:45 13:00",
    ),
    Story(
        "rollback",
        "the same, the newer one ends at 12:35, and an older one starts",
        "12:05 start, 12:25 start newer, 12:35 end newer, 12:36 start",
        EACH,
    ),
    Story(
        "gone from the code",
        "the program ends at 12:25, and one starts whose code lacks it",
        "12:05 start, 12:25 end, 12:25 start without",
        "12:10 12:20",
        {},
        True,
    ),
    Story(
        "gone from the code", "the same, but the program goes on beside it", "12:05 start, 12:25 start without", EACH
    ),
    Story(
        "put at run time",
        "it stands in no code, and the program is replaced",
        "12:00 put, 12:05 start without, 12:25 end, 12:25 start without",
        EACH,
    ),
    Story(
        "removed", "at 12:25, while a program runs in whose code it stands", "12:05 start, 12:25 remove", "12:10 12:20"
    ),
    Story(
        "removed",
        "the same, and the program starts again at 12:45",
        "12:05 start, 12:25 remove, 12:45 end, 12:45 start",
        "12:10 12:20 12:50 13:00",
    ),
)


def steps_of(story: Story) -> list[tuple[str, Verb]]:
    """Return the times and the verbs."""
    steps: list[Any] = [tuple(each.split(" ", 1)) for each in story.steps.split(", ")]
    assert {verb for _, verb in steps} <= {*get_args(Verb)}
    return steps


def times_of(story: Story, verb: Verb) -> CronSpec | IntervalSpec:
    """Return the times that the schedule has after a step."""
    return QUARTER if verb in ("start newer", "edit") else TEN
