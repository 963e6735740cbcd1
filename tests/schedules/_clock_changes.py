"""The times of schedules where clocks change: the cases that the tests check and the documentation shows."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from trio_tasks import CronSpec, IntervalSpec, cron, every

BERLIN = "Europe/Berlin"


class Change(NamedTuple):
    """A change of the clocks of a zone.

    Args:
      title: what happens.
      zone: the zone.
      begin: the local time from which on times are listed.
      end: the local time up to which they are.
    """

    title: str
    zone: str
    begin: str
    end: str

    def moment(self, text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(self.zone))


SPRING = Change("02:00 to 03:00 is left out", BERLIN, "2026-03-29 00:00", "2026-03-29 04:30")
AUTUMN = Change("02:00 to 03:00 comes twice", BERLIN, "2026-10-25 01:30", "2026-10-25 04:30")
MIDNIGHT = Change("00:00 to 01:00 is left out", "Asia/Beirut", "2026-03-28 12:00", "2026-03-29 12:00")
HALF_GAP = Change("02:00 to 02:30 is left out", "Australia/Lord_Howe", "2026-10-04 00:00", "2026-10-04 04:00")
HALF_TWICE = Change("01:30 to 02:00 comes twice", "Australia/Lord_Howe", "2026-04-05 01:00", "2026-04-05 04:00")
NO_DAY = Change("December 30 is left out", "Pacific/Apia", "2011-12-29 12:00", "2011-12-31 12:00")


class Case(NamedTuple):
    """The times of one schedule around a change: with the offset of the zone, as ``29 03:00+02:00``."""

    change: Change
    spec: CronSpec | IntervalSpec
    times: tuple[str, ...]


CASES = (
    Case(SPRING, cron("30 2 * * *", zone=BERLIN), ("29 03:00+02:00",)),
    Case(SPRING, cron("15,45 2 * * *", zone=BERLIN), ("29 03:00+02:00",)),
    Case(SPRING, cron("*/20 2 * * *", zone=BERLIN), ()),
    Case(SPRING, cron("0 */2 * * *", zone=BERLIN), ("29 04:00+02:00",)),
    Case(SPRING, every(hours=1), ("29 01:00+01:00", "29 03:00+02:00", "29 04:00+02:00")),
    Case(AUTUMN, cron("30 2 * * *", zone=BERLIN), ("25 02:30+02:00",)),
    Case(
        AUTUMN,
        cron("*/20 2 * * *", zone=BERLIN),
        (
            "25 02:00+02:00", "25 02:20+02:00", "25 02:40+02:00",
            "25 02:00+01:00", "25 02:20+01:00", "25 02:40+01:00",
        ),
    ),
    Case(AUTUMN, every(hours=1), ("25 02:00+02:00", "25 02:00+01:00", "25 03:00+01:00", "25 04:00+01:00")),
    Case(MIDNIGHT, cron("@daily", zone="Asia/Beirut"), ("29 01:00+03:00",)),
    Case(HALF_GAP, cron("15 2 * * *", zone="Australia/Lord_Howe"), ("04 02:30+11:00",)),
    Case(HALF_TWICE, cron("45 1 * * *", zone="Australia/Lord_Howe"), ("05 01:45+11:00",)),
    Case(
        HALF_TWICE,
        cron("*/20 1,2 * * *", zone="Australia/Lord_Howe"),
        (
            "05 01:20+11:00", "05 01:40+11:00", "05 01:40+10:30",
            "05 02:00+10:30", "05 02:20+10:30", "05 02:40+10:30",
        ),
    ),
    Case(NO_DAY, cron("0 12 30 12 *", zone="Pacific/Apia"), ("31 00:00+14:00",)),
    Case(NO_DAY, cron("0 */8 * * *", zone="Pacific/Apia"), ("29 16:00-10:00", "31 00:00+14:00", "31 08:00+14:00")),
)  # fmt: skip


def shown(moment: datetime, zone: str) -> str:
    """Return a moment as the cases have it."""
    text = moment.astimezone(ZoneInfo(zone)).isoformat(" ", "minutes")
    return text[8:]
