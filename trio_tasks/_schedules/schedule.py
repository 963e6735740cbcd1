"""The times of a schedule: a firing, and the times at equal intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, final
from zoneinfo import ZoneInfo

import trio

from .._checks import check_moment, check_seconds
from .._clock import microseconds_of, moment_after
from .._concurrency.virtual_time import is_virtual
from .._printing import quoted

if TYPE_CHECKING:
    from datetime import tzinfo

    from typing_extensions import Self

    from .._tasks.task import Task

UTC = timezone.utc
LONGEST = timedelta(days=36525)
_MICROSECOND = timedelta(microseconds=1)


@cache
def zone_of(name: str) -> tzinfo:
    """Return the time zone of this name.

    Raises:
      ValueError: there is none, or the data of time zones is missing.
    """
    if name == "UTC":  # it needs no data
        return UTC
    if name in ("localtime", "posixrules"):
        raise ValueError(
            f"zone must be a time zone that is the same on all machines, such as 'Europe/Berlin', which {name!r} is not"
        )
    if not re.fullmatch(r"[\w+-]+(/[\w+-]+)*", name, re.ASCII):
        raise ValueError(f"zone must be the name of a time zone, such as 'Europe/Berlin', not {quoted(name)}")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    try:
        ZoneInfo("Europe/Berlin")
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"zone {name!r} cannot be looked up: this machine has no data of time zones; pip install tzdata"
        ) from None
    raise ValueError(f"zone {name!r} is not known; it must be the name of a time zone, such as 'Europe/Berlin'")


def in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Return a moment as the clocks of a zone show it, with their offset of then.

    With the zone itself, Python would take the two moments at which clocks show the same time for one.
    """
    local = moment.astimezone(zone)
    return local.replace(tzinfo=timezone(local.utcoffset() or timedelta()), fold=0)


@final
@dataclass(frozen=True)
class Firing:
    """One time of a schedule, for which a task was made.

    A handler with a parameter of this type is given the firing that its task was made for.

    Args:
      time: the time, with the offset of the schedule's zone: not the time at which the task was made or runs.
      previous: the time that the schedule was fired for before this one; None for the first. So all firings together
        cover each moment once, also where some times were missed.
      schedule: the name of the schedule.
    """

    time: datetime
    previous: datetime | None
    schedule: str

    @classmethod
    async def from_task(cls, task: Task[Any]) -> Self:
        """Return the firing that a task was made for.

        Raises:
          TypeError: the task was not made by a schedule.
        """
        await trio.lowlevel.checkpoint()
        if isinstance(task.args, cls):
            return task.args
        stored: Any = task.parts.metadata.get(METADATA)
        if not hasattr(stored, "keys"):
            raise TypeError(f"task {quoted(task.parts.id)} was not made by a schedule, so it has no Firing")
        return cls._read(stored)

    @classmethod
    def _read(cls, stored: Any) -> Self:
        try:
            zone = zone_of(stored["zone"])
        except ValueError:  # the machine that stored it knew the zone
            zone = UTC
        previous = stored["previous"]
        before = None if previous is None else in_zone(moment_after(previous), zone)
        return cls(in_zone(moment_after(stored["time"]), zone), before, stored["schedule"])


METADATA = "firing"
"""The name under which a task's metadata has its firing."""


def firing_metadata(schedule: str, zone: str, time: int, previous: int | None) -> dict[str, Any]:
    """Return the metadata that :meth:`Firing.from_task` reads; times are microseconds since the epoch."""
    return {METADATA: {"schedule": schedule, "zone": zone, "time": time, "previous": previous}}


@final
@dataclass(frozen=True, repr=False)
class IntervalSpec:
    """Times at equal intervals, counted from the epoch; :func:`every` makes one.

    Args:
      seconds: the interval, from 1 second to 100 years.
    """

    seconds: float

    def __post_init__(self) -> None:
        seconds = check_seconds(self.seconds, "the interval")
        if not 1 <= seconds <= LONGEST.total_seconds():
            raise ValueError(f"the interval must be from 1 second to 100 years, not {self.seconds!r} seconds")
        object.__setattr__(self, "seconds", seconds)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first time after the moment; None if the calendar ends before."""
        return self._time((microseconds_of(check_moment(moment, "the moment")) // self._step + 1) * self._step)

    def latest_until(self, moment: datetime) -> datetime | None:
        """Return the last time that is not after the moment; None if there is none."""
        return self._time(microseconds_of(check_moment(moment, "the moment")) // self._step * self._step)

    @property
    def zone(self) -> str:
        """The zone in which its times are given: always UTC."""
        return "UTC"

    @property
    def _step(self) -> int:
        return timedelta(seconds=self.seconds) // _MICROSECOND

    def _time(self, microseconds: int) -> datetime | None:
        try:
            return moment_after(microseconds)
        except OverflowError:
            return None

    def __str__(self) -> str:
        """Return the call of :func:`every` that makes it."""
        for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
            if self.seconds % length == 0:
                return f"every({unit}={self.seconds // length:.0f})"
        return f"every(seconds={int(self.seconds) if self.seconds % 1 == 0 else self.seconds!r})"

    def __repr__(self) -> str:
        return f"<IntervalSpec {self}>"


def every(*, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> IntervalSpec:
    """Make times at equal intervals.

    >>> every(minutes=5)

    They are counted from the epoch, 1970-01-01 00:00 UTC, so that all processes agree about them: ``every(hours=6)`` is
    0:00, 6:00, 12:00 and 18:00 in UTC. The interval is elapsed time: a day has 24 hours. For a time of day in a time
    zone, use :func:`cron`.

    Args:
      seconds: they are added up with ``minutes``, ``hours`` and ``days``.
      minutes: of 60 seconds.
      hours: of 60 minutes.
      days: of 24 hours.

    Raises:
      TypeError, ValueError: the sum is no number from 1 second to 100 years.
    """
    parts: dict[str, tuple[Any, int]]
    parts = {"seconds": (seconds, 1), "minutes": (minutes, 60), "hours": (hours, 3600), "days": (days, 86400)}
    for name, (value, _) in parts.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise TypeError(f"every() takes a number of {name}, 0 or more, not {quoted(value)}")
    return IntervalSpec(sum(value * length for value, length in parts.values()))


def seconds_to_sleep(seconds: float) -> float:
    """Return the seconds after which to look at the wall clock again, which shows a moment in so many seconds.

    It can be set at any time, so a second at most; virtual time is not.
    """
    return seconds if is_virtual() else min(seconds, 1.0)
