"""Tests of cron expressions and intervals: their times, next and previous, also where clocks change."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from trio_tasks import CronSpec, IntervalSpec, cron, every
from trio_tasks._clock import use_wall_clock

from tests._scale import FIRST_SEED, IS_NIGHTLY
from tests.schedules._clock_changes import CASES, Case, shown
from tests.schedules._minutes import Oracle, between

UTC = timezone.utc
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def back_to(spec: CronSpec | IntervalSpec, begin: datetime, end: datetime) -> list[datetime]:
    """Return the same times, found from the last to the first."""
    times, moment = [], end
    while (found := spec.latest_until(moment)) is not None and (at := found.astimezone(UTC)) > begin:
        times.append(at)
        moment = at - MICROSECOND
    return times[::-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.spec} {case.change.begin}")
def test_times_where_clocks_change(case: Case) -> None:
    begin, end = (case.change.moment(text).astimezone(UTC) for text in (case.change.begin, case.change.end))
    found = between(case.spec, begin, end)
    assert [shown(each, case.change.zone) for each in found] == list(case.times)
    assert back_to(case.spec, begin, end) == found


YEARS = [
    ("Europe/Berlin", 2026),
    ("America/New_York", 2026),
    ("Australia/Lord_Howe", 2026),
    ("Asia/Beirut", 2026),
    ("Pacific/Apia", 2011),
]
FIELDS = (
    ("0", "30", "*", "*/20", "*/7", "15,45", "59"),
    ("0", "2", "1-3", "*", "*/2", "0,23", "1,2"),
    ("*", "*", "*/5", "25-31", "13", "30"),
    ("*", "*", "3,4", "9-12"),
    ("*", "*", "0", "1-5", "7"),
)


@pytest.mark.nightly
@pytest.mark.parametrize(("zone", "year"), YEARS)
def test_a_year_of_a_zone_agrees_with_a_look_at_each_minute(zone: str, year: int) -> None:
    """By day, a month of it and one expression; at night, all of it and twelve."""
    random = Random(f"{FIRST_SEED} {zone}")
    for _ in range(12 if IS_NIGHTLY else 1):
        expression = " ".join(random.choice(each) for each in FIELDS)
        begin, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        if not IS_NIGHTLY:
            begin += timedelta(days=random.randrange(330))
            end = begin + timedelta(days=30)
        check(expression, zone, begin, end)


@pytest.mark.parametrize(("zone", "year"), YEARS)
def test_days_around_each_change_agree_with_a_look_at_each_minute(zone: str, year: int) -> None:
    """Including far-away beginnings, whose way leads over changes."""
    day = datetime(year, 1, 1, tzinfo=UTC)
    offsets = [(day + timedelta(days=n)).astimezone(ZoneInfo(zone)).utcoffset() for n in range(366)]
    changes = [day + timedelta(days=n) for n in range(365) if offsets[n] != offsets[n + 1]]
    assert changes
    for change in changes:
        local = change.astimezone(ZoneInfo(zone))
        date_ = f"{local.day - 1},{local.day},{local.day + 1}" if 1 < local.day < 28 else "*"
        for times in ("30 2", "*/20 1,2", "0 */2", "15,45 0-3", "* 1"):
            check(
                f"{times} {date_} {local.month} *",
                zone,
                change - timedelta(days=2),
                change + timedelta(days=3),
                far=True,
            )


def check(expression: str, zone: str, begin: datetime, end: datetime, *, far: bool = False) -> None:
    expected = Oracle(expression, zone).times(begin, end)
    spec = cron(expression, zone=zone)
    found = between(spec, begin, end)
    assert found == expected, f"{expression} in {zone}"
    assert back_to(spec, begin, end) == expected, f"{expression} in {zone}, from the last to the first"
    if far and expected and "*" not in expression.split()[2]:
        assert spec.next_after(begin - timedelta(days=200)) == expected[0]
        assert spec.latest_until(end + timedelta(days=100)) == expected[-1]


def test_times_are_given_with_the_offset_of_the_zone() -> None:
    found = cron("0 3 * * *", zone="Europe/Berlin").next_after(NOON)
    assert found is not None
    assert (found.hour, found.utcoffset()) == (3, timedelta(hours=1))


def test_two_moments_at_which_clocks_show_the_same_differ() -> None:
    spec = cron("*/30 2 * * *", zone="Europe/Berlin")
    times = {spec.next_after(datetime(2026, 10, 25, hour, 10, tzinfo=UTC)) for hour in (0, 1)}
    assert [f"{each:%H:%M%z}" for each in sorted(filter(None, times))] == ["02:30+0200", "02:30+0100"]


def test_a_time_is_not_after_itself() -> None:
    for spec in (every(minutes=5), cron("*/5 * * * *", zone="UTC"), cron("0 12 * * *", zone="Europe/London")):
        assert spec.latest_until(NOON) == NOON
        found = spec.next_after(NOON - MICROSECOND)
        assert found == NOON
        found = spec.next_after(NOON)
        assert found is not None
        assert found > NOON


@pytest.mark.parametrize(
    ("alias", "expression"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
    ],
)
def test_aliases(alias: str, expression: str) -> None:
    assert cron(alias, zone="UTC") == cron(expression, zone="UTC")


def test_what_is_written_alike_is_equal() -> None:
    assert cron(" 0  9 * * mon ", zone="UTC") == cron("0 9 * * MON", zone=ZoneInfo("UTC"))
    assert cron("0 9 * * MON", zone="UTC") != cron("0 9 * * MON", zone="Europe/Berlin")
    assert str(cron("0 9 * * mon", zone="UTC")) == "cron('0 9 * * MON', zone='UTC')"
    assert cron("0 9 * * mon", zone="UTC").explain() == "At 09:00 on Monday"


BAD_EXPRESSIONS: list[tuple[Any, type[Exception], str]] = [
    ("* * * *", ValueError, r"has 5 fields .*, not 4"),
    ("0 0 * * * *", ValueError, r"has 5 fields .*, not 6 .* every\(seconds="),
    ("0 0 30 2 *", ValueError, "its day-of-month cannot be '30'; it must be .* a day that one of its months has"),
    ("1" * 5000 + " * * * *", ValueError, "1000 characters or less"),
    ("* * * * \udcff", ValueError, "day-of-week cannot be .*; it must be from 0 to 7, where 0 and 7 are Sunday"),
    ("22-2 * * * *", ValueError, "minute"),
    ("0 0 * * MON#6", ValueError, "day-of-week"),
    ("*/0 * * * *", ValueError, r"its minute cannot be '\*/0'; it must be from 0 to 59$"),
    ("60 * * * *", ValueError, "its minute cannot be '60'; it must be from 0 to 59$"),
    ("0 24 * * *", ValueError, "its hour cannot be '24'; it must be from 0 to 23$"),
    ("0 0 * JUNE *", ValueError, "its month cannot be 'JUNE'; it must be from 1 to 12, or JAN to DEC$"),
    ("@reboot", ValueError, "one of @yearly"),
    ("", ValueError, "empty"),
    ("  ", ValueError, "has 5 fields .*, not 0"),
    (5, TypeError, "must be a string"),
]


@pytest.mark.parametrize(
    ("expression", "kind", "text"), BAD_EXPRESSIONS, ids=[repr(each[0]) for each in BAD_EXPRESSIONS]
)
def test_bad_expressions_are_refused(expression: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        cron(expression, zone="UTC")


BAD_ZONES: list[tuple[Any, type[Exception], str]] = [
    ("Europe/Nowhere", ValueError, "'Europe/Nowhere' is not known; .* such as 'Europe/Berlin'"),
    ("../UTC", ValueError, "name of a time zone"),
    ("localtime", ValueError, "the same on all machines, such as 'Europe/Berlin'"),
    ("\udcff", ValueError, "name of a time zone"),
    (True, TypeError, "name of a time zone"),
    ("", ValueError, "name of a time zone"),
    (None, TypeError, "name of a time zone"),
    (timezone(timedelta(hours=1)), TypeError, "name of a time zone"),
]


@pytest.mark.parametrize(("zone", "kind", "text"), BAD_ZONES, ids=[repr(each[0]) for each in BAD_ZONES])
def test_bad_zones_are_refused(zone: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        cron("@daily", zone=zone)


def test_intervals() -> None:
    assert every(hours=1, minutes=30) == every(seconds=5400)
    assert repr(every(hours=2)) == "<IntervalSpec every(hours=2)>"
    assert str(every(hours=1, minutes=30)) == "every(minutes=90)"
    assert str(every(seconds=1.5)) == "every(seconds=1.5)"
    assert between(every(hours=6), NOON, NOON + timedelta(days=1)) == [
        NOON + timedelta(hours=6 * n) for n in range(1, 5)
    ]
    assert every(days=1).next_after(datetime.max.replace(tzinfo=UTC)) is None


BAD_INTERVALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "from 1 second to 100 years"),
    ({"seconds": 0}, ValueError, "from 1 second to 100 years"),
    ({"seconds": 0.5}, ValueError, "from 1 second to 100 years"),
    ({"days": 40_000}, ValueError, "from 1 second to 100 years"),
    ({"hours": float("inf")}, ValueError, "finite"),
    ({"hours": -1}, TypeError, "number of hours, 0 or more"),
    ({"minutes": float("nan")}, TypeError, "number of minutes, 0 or more"),
    ({"seconds": "5"}, TypeError, "number of seconds, 0 or more"),
    ({"seconds": True}, TypeError, "number of seconds, 0 or more"),
]


@pytest.mark.parametrize(("keywords", "kind", "text"), BAD_INTERVALS, ids=[repr(each[0]) for each in BAD_INTERVALS])
def test_bad_intervals_are_refused(keywords: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        every(**keywords)


def test_naive_datetimes_are_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001  that is the point
    for spec in (every(minutes=5), cron("@daily", zone="UTC")):
        for compute in (spec.next_after, spec.latest_until):
            with pytest.raises(ValueError, match="time zone"):
                compute(naive)
            with pytest.raises(TypeError, match="datetime"):
                compute(5)  # type: ignore[arg-type]  # the mistake


def test_the_calendar_ends() -> None:
    late, early = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    for spec in (
        cron("@daily", zone="UTC"),
        cron("* * * * *", zone="Europe/Berlin"),
        cron("@daily", zone="Asia/Tokyo"),
    ):
        assert spec.next_after(late) is None
        assert spec.latest_until(early) is None


# Calendars


def is_weekday(day: date) -> bool:
    return day.weekday() < 5


def is_early(day: date) -> bool:
    return day.day < 4


def test_a_calendar_chooses_among_the_dates() -> None:
    spec = cron("0 18 * * *", zone="America/New_York").on(is_weekday)
    friday = datetime(2026, 11, 27, 23, tzinfo=UTC)
    assert spec.next_after(friday) == datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert spec.latest_until(friday + timedelta(days=2)) == friday
    both = spec.on(is_early)
    assert both.next_after(friday) == datetime(2026, 12, 1, 23, tzinfo=UTC)
    assert str(both) == "cron('0 18 * * *', zone='America/New_York').on(is_weekday).on(is_early)"
    assert both == cron("0 18 * * *", zone="America/New_York").on(is_weekday).on(is_early)


def test_a_calendar_is_asked_for_the_date_in_the_zone() -> None:
    asked: list[date] = []

    def note(day: date) -> bool:
        asked.append(day)
        return True

    with use_wall_clock(NOON.timestamp):
        spec = cron("30 0 * * *", zone="Asia/Tokyo").on(note)
    assert spec.next_after(NOON) == datetime(2026, 11, 28, 15, 30, tzinfo=UTC)
    assert asked[0] == date(2026, 11, 29)


def test_a_calendar_without_dates_is_refused() -> None:
    with pytest.raises(ValueError, match="no time in the next 50 years"):
        cron("* * * * *", zone="Europe/Berlin").on(lambda day: False)


async def test_a_calendar_must_be_a_plain_function() -> None:
    async def later(day: date) -> bool:
        return True

    with pytest.raises(TypeError, match="plain function"):
        cron("@daily", zone="UTC").on(later)  # type: ignore[arg-type]  # the mistake
    for wrong in (True, None, 5, "weekdays"):
        with pytest.raises(TypeError, match="callable"):
            cron("@daily", zone="UTC").on(wrong)  # type: ignore[arg-type]  # the same mistake
    first = later(date(2026, 1, 1))
    for calendar in (lambda day: None, lambda day: first):
        with pytest.raises(TypeError, match="must return True or False for a date"):
            cron("@daily", zone="UTC").on(calendar)  # type: ignore[arg-type]  # the same mistake
    first.close()


def test_the_error_of_a_calendar_comes_through() -> None:
    def broken(day: date) -> bool:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        cron("@daily", zone="UTC").on(broken)


# What has to be installed


def test_the_errors_name_what_has_to_be_installed() -> None:
    program = (
        "import sys, trio_tasks, zoneinfo\n"
        "assert 'cronsim' not in sys.modules\n"
        "sys.modules['cronsim'] = None\n"
        "try:\n"
        "    trio_tasks.cron('@daily', zone='UTC')\n"
        "except ModuleNotFoundError as error:\n"
        "    assert \"pip install 'trio_tasks[cron]'\" in str(error), error\n"
        "    assert error.__suppress_context__, 'one traceback'\n"
        "else:\n"
        "    raise AssertionError\n"
        "zoneinfo.reset_tzpath(())\n"
        "sys.modules['tzdata'] = None\n"
        "try:\n"
        "    trio_tasks.cron('@daily', zone='Europe/Berlin')\n"
        "except ValueError as error:\n"
        "    assert 'pip install tzdata' in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
