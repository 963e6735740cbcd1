"""An oracle of cron expressions: it looks at each minute of a year, and has no other idea."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from trio_tasks import CronSpec, IntervalSpec

MINUTE = timedelta(minutes=1)


def field(text: str, low: int, high: int) -> set[int]:
    """Return the numbers of a field of lists, ranges and steps."""
    numbers: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        numbers |= {*range(int(first), int(last or (high if step else first)) + 1, int(step or 1))}
    return numbers


def between(spec: CronSpec | IntervalSpec, begin: datetime, end: datetime) -> list[datetime]:
    """Return the times after the one moment, up to the other, in UTC."""
    times, moment = [], begin
    while (found := spec.next_after(moment)) is not None and (moment := found.astimezone(timezone.utc)) <= end:
        times.append(moment)
    return times


class Oracle:
    """The times of an expression in a zone.

    Args:
      expression: numbers, lists, ranges and steps.
      zone: the zone.
    """

    def __init__(self, expression: str, zone: str) -> None:
        minutes, hours, days, months, weekdays = expression.split()
        self._minutes, self._hours = field(minutes, 0, 59), field(hours, 0, 23)
        self._days, self._months = field(days, 1, 31), field(months, 1, 12)
        self._weekdays = {each % 7 for each in field(weekdays, 0, 7)}
        self._both = days.startswith("*") or weekdays.startswith("*")
        self._is_fixed = not minutes.startswith("*") and not hours.startswith("*")
        self._zone = ZoneInfo(zone)

    def times(self, begin: datetime, end: datetime) -> list[datetime]:
        """Return the times after the one moment, up to the other, in UTC."""
        found = self._fixed(begin, end) if self._is_fixed else self._matching(begin, end)
        return sorted({each for each in found if begin < each <= end})

    def _has(self, day: date) -> bool:
        of_month, of_week = day.day in self._days, (day.weekday() + 1) % 7 in self._weekdays
        return day.month in self._months and ((of_month and of_week) if self._both else (of_month or of_week))

    def _matches(self, local: datetime) -> bool:
        return local.minute in self._minutes and local.hour in self._hours and self._has(local.date())

    def _matching(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        while begin <= end:
            if self._matches(begin.astimezone(self._zone)):
                yield begin
            begin += MINUTE

    def _fixed(self, begin: datetime, end: datetime) -> Iterator[datetime]:
        day = (begin - timedelta(days=2)).date()
        while day <= (end + timedelta(days=2)).date():
            if self._has(day):
                yield from (self._first(day, hour, minute) for hour in self._hours for minute in self._minutes)
            day += timedelta(days=1)

    def _first(self, day: date, hour: int, minute: int) -> datetime:
        """Return the first moment that shows the time; or, if none does, the first one that shows a later time."""
        local = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001  what clocks show
        while True:
            moment = local.replace(tzinfo=self._zone).astimezone(timezone.utc)
            if moment.astimezone(self._zone).replace(tzinfo=None) == local:
                return moment
            local += MINUTE
