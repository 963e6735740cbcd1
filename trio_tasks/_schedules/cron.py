"""Cron expressions in time zones, and a channel of their times for one process."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import dropwhile
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import trio

from .._checks import check_moment, check_sync, check_text
from .._clock import moment_at, wall_now
from .._concurrency.virtual_time import epoch_clock
from .._printing import quoted
from .schedule import UTC, Firing, IntervalSpec, every, in_zone, seconds_to_sleep, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set
    from zoneinfo import ZoneInfo

    from .._clock import EpochClock

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = "minute, hour, day of the month, month, day of the week"
_RANGES = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, or L for the last one, and a day that one of its months has",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, where 0 and 7 are Sunday, or SUN to SAT",
}
"""The values of each field, by the names that cronsim gives to the fields, in their order."""
_LONGEST = 1000
_YEARS = 50
"""Years without a time after which no more is expected."""
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_PROBE = timedelta(days=7)
"""The distance at which changes of a zone's offset are looked for; no zone has changed it back within it."""


@final
@dataclass(frozen=True, repr=False)
class CronSpec:
    """The times of a cron expression in a time zone; :func:`cron` makes one.

    Args:
      expression: five fields.
      zone: the name of the time zone.
      calendar: a function that returns True for the dates on which the times count; None: all of them.
    """

    expression: str
    zone: str
    calendar: Callable[[date], bool] | None = None

    def on(self, calendar: Callable[[date], bool]) -> CronSpec:
        """Make times that are the same, but only on the dates for which a function returns True.

        >>> cron("0 18 * * *", zone="America/New_York").on(is_trading_day)

        Args:
          calendar: a function that is given a date in the zone, and returns a bool.

        Raises:
          TypeError, ValueError: it is no such function, or returns True for no such date in the next 50 years.
        """
        check_sync(calendar, "calendar", "calendar(date) -> bool")
        before = self.calendar
        both = calendar if before is None else _Both(before, calendar)
        return _checked(replace(self, calendar=both))

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first time after the moment, with the offset of the zone; None if there is none in 50 years."""
        moment = _in_utc(moment)
        if not 1 < moment.year < 9998:
            return None
        found = self._next_fixed(moment) if self._is_fixed else self._next_matching(moment)
        return None if found is None else in_zone(found, self._tzinfo)

    def latest_until(self, moment: datetime) -> datetime | None:
        """Return the last time that is not after the moment, likewise; None if there is none in 50 years."""
        moment = _in_utc(moment)
        if not 1 < moment.year < 9998:
            return None
        found = self._latest_fixed(moment) if self._is_fixed else self._latest_matching(moment)
        return None if found is None else in_zone(found, self._tzinfo)

    def explain(self) -> str:
        """Return the expression in English."""
        return _parse(self.expression).explain()

    @property
    def _tzinfo(self) -> tzinfo:
        return zone_of(self.zone)

    @property
    def _is_fixed(self) -> bool:
        """True if the times are times of day: then each is kept where the clocks change, as by Debian's cron."""
        return _parse(self.expression).is_fixed

    # Fixed times. One that the clocks leave out is moved to the end of the gap; one that comes twice counts once.

    def _next_fixed(self, moment: datetime) -> datetime | None:
        local = moment.astimezone(self._tzinfo).replace(tzinfo=None)
        return next((each for each in map(self._resolve, self._walk(local)) if each > moment), None)

    def _latest_fixed(self, moment: datetime) -> datetime | None:
        aware = moment.astimezone(self._tzinfo)
        # In the second of two equal hours, the first one is over.
        first = aware.replace(fold=0).utcoffset()
        repeated = (first or timedelta()) - (aware.utcoffset() or timedelta())
        local = aware.replace(tzinfo=None, microsecond=0) + _SECOND + repeated
        return next((each for each in map(self._resolve, self._walk(local, -1)) if each <= moment), None)

    def _resolve(self, local: datetime) -> datetime:
        """Return the moment at which clocks in the zone show a time first, or from which on they show later ones."""
        early = local.replace(tzinfo=self._tzinfo, fold=1).astimezone(UTC)
        late = local.replace(tzinfo=self._tzinfo, fold=0).astimezone(UTC)
        if early >= late:  # it comes once, or twice
            return late
        return _change(early, late, self._tzinfo)

    # Times that match as the clocks show them, however often they do. While the offset of the zone stays the same, its
    # clocks run as any other clock does.

    def _next_matching(self, moment: datetime) -> datetime | None:
        local = (moment + _offset(moment, self._tzinfo)).replace(tzinfo=None)
        last_year = moment.year + _YEARS
        while moment.year <= last_year:
            found = next(self._walk(local), None)
            if found is None:
                return None
            match = found.replace(tzinfo=UTC) - _offset(moment, self._tzinfo)
            change = self._first_change(moment, match)
            if change is None:
                return match
            moment = change
            local = (change + _offset(change, self._tzinfo)).replace(tzinfo=None) - _SECOND
        return None

    def _latest_matching(self, moment: datetime) -> datetime | None:
        first_year = moment.year - _YEARS
        while moment.year >= first_year:
            local = (moment + _offset(moment, self._tzinfo)).replace(tzinfo=None, microsecond=0) + _SECOND
            found = next(self._walk(local, -1), None)
            if found is None:
                return None
            match = found.replace(tzinfo=UTC) - _offset(moment, self._tzinfo)
            change = self._last_change(match, moment)
            if change is None:
                return match
            moment = change - _SECOND
        return None

    def _first_change(self, begin: datetime, end: datetime) -> datetime | None:
        """Return the first moment after ``begin``, up to ``end``, from which on the zone has another offset."""
        if self._tzinfo is UTC:
            return None
        offset = _offset(begin, self._tzinfo)
        while begin < end:
            probe = min(begin + _PROBE, end)
            if _offset(probe, self._tzinfo) != offset:
                return _change(begin, probe, self._tzinfo)
            begin = probe
        return None

    def _last_change(self, begin: datetime, end: datetime) -> datetime | None:
        if self._tzinfo is UTC:
            return None
        offset = _offset(end, self._tzinfo)
        while begin < end:
            probe = max(end - _PROBE, begin)
            if _offset(probe, self._tzinfo) != offset:
                return _change(probe, end, self._tzinfo)
            end = probe
        return None

    def _walk(self, local: datetime, direction: Literal[1, -1] = 1) -> Iterator[datetime]:
        """Yield the times that match after a local time, or before it, without regard to changes of the clocks."""
        fields, first = _parse(self.expression), local.date()
        for day in _days(fields, first, direction):
            times = fields.times(day, direction, local.hour if day == first else None)
            if day == first:
                times = dropwhile(lambda time: (time <= local) if direction > 0 else (time >= local), times)
            found = next(times, None)
            if found is not None and (self.calendar is None or _is_on(self.calendar, day)):
                yield found
                yield from times

    def __str__(self) -> str:
        """Return the call of :func:`cron` that makes it."""
        on = "" if self.calendar is None else f".on({name_of(self.calendar)})"
        return f"cron({self.expression!r}, zone={self.zone!r}){on}"

    def __repr__(self) -> str:
        return f"<CronSpec {self}>"


def cron(expression: str, *, zone: str | ZoneInfo) -> CronSpec:
    """Make the times of a cron expression.

    >>> cron("30 2 * * *", zone="Europe/Berlin")  # each night at half past two

    Fields may have ``*``, lists, ranges, steps, names such as ``MON`` and ``JAN``, ``L`` for the last day of the month,
    and ``FRI#2`` for the second Friday. If both days are restricted, one of them suffices.

    Where the clocks of the zone change, a time of day is kept: one that is left out comes at the end of the gap, one
    that the clocks show twice comes the first time. An expression whose minute or hour begins with ``*`` comes whenever
    the clocks show a time that matches.

    Args:
      expression: minute, hour, day of the month, month, and day of the week; or ``@hourly``, ``@daily``, ``@midnight``,
        ``@weekly``, ``@monthly``, ``@yearly``, ``@annually``.
      zone: the name of a time zone, such as ``"Europe/Berlin"`` or ``"UTC"``; or a ``zoneinfo.ZoneInfo``.

    Raises:
      TypeError, ValueError: the expression or the zone is wrong, or there is no such date.
      ModuleNotFoundError: cronsim is not installed; it comes with ``trio_tasks[cron]``.
    """
    fields = _fields_of(check_text(expression, "a cron expression"))
    return _checked(CronSpec(" ".join(fields).upper(), _zone_name(zone)))


def _in_utc(moment: datetime) -> datetime:
    """Check a moment, and return it in UTC; of one that is beyond the calendar there, only the year counts."""
    try:
        return check_moment(moment, "the moment").astimezone(UTC)
    except OverflowError:
        return moment.replace(tzinfo=UTC)


_CRON_TEXT = re.compile(r"cron\('([^']*)', zone='([^']*)'\)")
_EVERY_TEXT = re.compile(r"every\((seconds|minutes|hours|days)=([\d.e+]+)\)")


def spec_of(text: str) -> CronSpec | IntervalSpec | None:
    """Make times of their text again; None if that is not possible, as with a calendar."""
    if (found := _CRON_TEXT.fullmatch(text)) is not None:
        return CronSpec(found[1], found[2])
    if (found := _EVERY_TEXT.fullmatch(text)) is not None:
        return every(**{found[1]: float(found[2])})
    return None


def _fields_of(expression: str) -> list[str]:
    if expression.startswith("@"):
        if expression.lower() not in _ALIASES:
            raise ValueError(f"a cron expression may be one of {', '.join(_ALIASES)}, not {quoted(expression)}")
        return _ALIASES[expression.lower()].split()
    if len(expression) > _LONGEST:
        raise ValueError(f"a cron expression must have {_LONGEST} characters or less, not {len(expression)}")
    fields = expression.split()
    if len(fields) != 5:
        hint = "; for times within a minute, use every(seconds=...)" if len(fields) == 6 else ""
        raise ValueError(
            f"a cron expression has 5 fields ({_FIELDS}), not {len(fields)} as {quoted(expression)} has{hint}"
        )
    return fields


def _zone_name(zone: object) -> str:
    if isinstance(zone, str):
        zone_of(zone)
        return zone
    name = "UTC" if zone is UTC else getattr(zone, "key", None)
    if not isinstance(zone, tzinfo) or not isinstance(name, str):
        raise TypeError(f"zone must be the name of a time zone, such as 'Europe/Berlin', not {quoted(zone)}")
    return _zone_name(name)


def _checked(spec: CronSpec) -> CronSpec:
    """Return the times if there are any."""
    if spec.next_after(wall_now()) is None:
        raise ValueError(f"{spec} has no time in the next {_YEARS} years")
    return spec


class _Fields(NamedTuple):
    """A cron expression, as cronsim has read it."""

    minutes: Sequence[int]
    hours: Sequence[int]
    months: Set[int]
    is_fixed: bool
    match_day: Callable[[date], bool]
    explain: Callable[[], str]

    def times(self, day: date, direction: Literal[1, -1], first: int | None) -> Iterator[datetime]:
        """Yield the times of a day that matches, from the first to the last or back, beginning with an hour."""
        for hour in self.hours[::direction]:
            if first is not None and (hour - first) * direction < 0:
                continue
            for minute in self.minutes[::direction]:
                yield datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001  as the clocks show it


@lru_cache(2048)
def _parse(expression: str) -> _Fields:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise ModuleNotFoundError(
            "cron() needs cronsim, which is not installed: pip install 'trio_tasks[cron]'", name="cronsim"
        ) from None
    try:
        read = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001  the fields do not depend on it
    except CronSimError as error:
        what = str(error).removeprefix("Bad ")
        told = f"the cron expression {quoted(expression)} is wrong: its {what} cannot be"
        if what in _RANGES:
            field = expression.split()[[*_RANGES].index(what)]
            told += f" {quoted(field)}; it must be from {_RANGES[what]}"
        raise ValueError(told) from None
    is_fixed = not any(field.startswith("*") for field in expression.split()[:2])
    return _Fields(
        tuple(sorted(read.minutes)), tuple(sorted(read.hours)), read.months, is_fixed, read.match_day, read.explain
    )


def _days(fields: _Fields, day: date, direction: Literal[1, -1]) -> Iterator[date]:
    """Yield the days that match from one on, or back from it, for as many years as are searched."""
    first_year = day.year
    while 1 < day.year < 9999 and abs(day.year - first_year) <= _YEARS:
        if day.month in fields.months:
            if fields.match_day(day):
                yield day
            day += direction * _DAY
        elif direction > 0:
            day = (day.replace(day=1) + 32 * _DAY).replace(day=1)
        else:
            day = day.replace(day=1) - _DAY


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    """Return what the clocks of the zone are ahead of UTC at a moment."""
    return moment.astimezone(zone).utcoffset() or timedelta()


def _change(begin: datetime, end: datetime, zone: tzinfo) -> datetime:
    """Return the first second after ``begin`` from which on the zone has not the offset of ``begin`` any more; it has
    another one at ``end``.
    """
    offset, low, high = _offset(begin, zone), 0, int((end - begin).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(begin + middle * _SECOND, zone) == offset:
            low = middle
        else:
            high = middle
    return begin + high * _SECOND


@final
class Cron(trio.abc.ReceiveChannel[Firing]):
    """Times of a schedule in one process, as a channel; it does not know of times that passed before it was made.

    >>> worker = Worker("reports", Cron("0 3 * * *", zone="UTC"), write_report)

    ``receive`` waits for the next time, and returns a :class:`Firing`, which is what the worker's handler is given.
    Nothing is stored: each process with such a channel gets each time. For a schedule that is kept in a storage, and
    fired once over all processes, use a stored one.

    The times are those of the wall clock, from the first ``receive`` on. If several have passed while nobody received,
    or since the clock was set forward, the last of them is returned, at once. If the clock is set back, no time comes
    again.

    Args:
      times: a cron expression, or what :func:`cron` or :func:`every` returns.
      zone: the time zone of an expression, as for :func:`cron`.

    Raises:
      TypeError, ValueError: the expression or the zone is wrong.
    """

    def __init__(self, times: str | CronSpec | IntervalSpec, *, zone: str | ZoneInfo | None = None) -> None:
        if isinstance(times, str):
            if zone is None:
                raise TypeError("Cron needs the time zone of the expression, such as zone='UTC'")
            self._spec: CronSpec | IntervalSpec = cron(times, zone=zone)
        elif zone is not None or not isinstance(times, (CronSpec, IntervalSpec)):
            raise TypeError(
                f"Cron takes a cron expression and a zone, or times alone, not {quoted(times)}, zone={zone!r}"
            )
        else:
            self._spec = times
        self._clock: EpochClock | None = None
        self._since: datetime | None = None
        self._previous: datetime | None = None
        self._closed = trio.Event()

    async def receive(self) -> Firing:
        """Wait for the next time, and return it.

        Raises:
          trio.EndOfChannel: the channel was closed, or no time will come any more.

        If it is cancelled, the time is not lost: the next call returns it.
        """
        await trio.lowlevel.checkpoint()
        if self._clock is None or self._since is None:
            self._clock = epoch_clock()
            self._since = moment_at(self._clock.read())
        while not self._closed.is_set():
            due = self._spec.next_after(self._previous or self._since)
            if due is None:
                break
            now = self._clock.read()
            if due.timestamp() <= now:
                return self._take(due, moment_at(now))
            with trio.move_on_after(seconds_to_sleep(due.timestamp() - now)):
                await self._closed.wait()
        raise trio.EndOfChannel

    def _take(self, due: datetime, now: datetime) -> Firing:
        latest = self._spec.latest_until(now) or due
        firing = Firing(max(due, latest, key=datetime.timestamp), self._previous, str(self._spec))
        self._previous = firing.time
        return firing

    async def aclose(self) -> None:
        """Close the channel: calls of ``receive`` that wait raise ``trio.EndOfChannel``, and so do later ones."""
        self._closed.set()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        state = ", closed" if self._closed.is_set() else ""
        return f"<Cron {self._spec}{state}>"


@final
@dataclass(frozen=True)
class _Both:
    """A calendar of the dates that are in two others."""

    first: Callable[[date], bool]
    second: Callable[[date], bool]

    def __call__(self, day: date) -> bool:
        return _is_on(self.first, day) and _is_on(self.second, day)


def _is_on(calendar: Callable[[date], object], day: date) -> bool:
    found = calendar(day)
    if found is None or hasattr(found, "__await__"):
        raise TypeError(f"calendar must return True or False for a date, not {quoted(found)}")
    return bool(found)


def name_of(calendar: Callable[[date], bool]) -> str:
    """Return the name of a calendar, for people."""
    if isinstance(calendar, _Both):
        return f"{name_of(calendar.first)}).on({name_of(calendar.second)}"
    name = getattr(calendar, "__qualname__", None) or type(calendar).__qualname__
    return str(name)
