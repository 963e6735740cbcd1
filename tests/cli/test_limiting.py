"""Transcripts of the command that shows and sets limits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from trio_tasks import Limits, Rate, open_url

from tests.cli._command import KINDS, WILD, call, filled

everywhere = pytest.mark.parametrize("kind", KINDS)
NOTHING = {"concurrency": None, "per_key": None, "rate": None, "rate_per_key": None, "weight": None}


@everywhere
def test_limits_are_set_and_shown(kind: str, tmp_path: Path) -> None:
    """What is not given is not limited any more; a program finds the same limits."""
    url = filled(kind, tmp_path)
    limits = partial(call, "limits", "--url", url)
    assert limits("--no-json").out.splitlines() == ["emails: no limits", "sms: no limits"]
    given = "--concurrency", "50", "--per-key", "2", "--rate", "100/min", "--rate-per-key", "3/1.5h", "--weight", "2"
    assert limits("emails", *given, "--no-json").out == (
        "emails: at most 50 at once, at most 100 begun within 60 s, at most 2 at once of each key, "
        "at most 3 begun within 90 min of each key, weight 2 of each key\n"
    )
    wanted = Limits(concurrency=50, per_key=2, rate=Rate(100, per=60), rate_per_key=Rate(3, per=5400), weight=2)

    async def found() -> list[Limits | None]:
        async with open_url(url, queue="emails") as storage:
            return [await storage.get_limits(), await storage.get_limits(key=WILD)]

    assert trio.run(found) == [wanted, None]
    assert limits("emails", "--concurrency", "3").records == [
        {"queue": "emails", "key": None, **NOTHING, "concurrency": 3, "weight": 1.0}
    ]
    assert limits("emails", "--rate", "5/86401", "--rate-per-key", "5/7d", "--no-json").out == (
        "emails: at most 5 begun within 86401 s, at most 5 begun within 7 d of each key\n"
    )
    assert limits("emails", "--none", "--no-json").out == "emails: no limits\n"
    assert trio.run(found) == [None, None]
    assert limits("sms").records == [{"queue": "sms", "key": None, **NOTHING}]


@everywhere
def test_a_key_has_limits_of_its_own(kind: str, tmp_path: Path) -> None:
    """They stand in place of those that the queue has for each key."""
    url = filled(kind, tmp_path)
    limits = partial(call, "limits", "--url", url, "--no-json", "emails", "--key", WILD)
    shown = "emails, key evil\\n\\x1b[31mid\\u202e:"
    assert limits().out == f"{shown} as the queue says for each key\n"
    assert limits("--per-key", "5", "--weight", "0.5").out == f"{shown} at most 5 at once, weight 0.5\n"
    assert limits().out == f"{shown} at most 5 at once, weight 0.5\n"
    of_all = call("limits", "--url", url, "--no-json").out.splitlines()
    assert of_all == ["emails: no limits", f"{shown} at most 5 at once, weight 0.5", "sms: no limits"]
    assert limits("--weight", "1").out == f"{shown} no limits\n"
    assert limits("--none").out == f"{shown} as the queue says for each key\n"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["emails", "--rate", "5"], 2, "'5' is no rate such as 100/60s, 100/min, 5/1.5h"),
        (["emails", "--rate", "0/s"], 2, "is no rate such as 100/60s, 100/min, 5/1.5h: n must be 1 or more"),
        (["emails", "--rate", "5/0s"], 2, "per must be more than 0"),
        (["emails", "--per-key", "0"], 2, "0 is not in the range"),
        (["emails", "--weight", "nan"], 2, "weight must be from 0.001 to 1000, not nan"),
        (["emails", "--none", "--per-key", "2"], 2, "give limits or --none, not both"),
        (["--per-key", "2"], 2, "name the queue"),
        (["--key", "acme"], 2, "name the queue"),
        (["emails", "--key", "acme", "--concurrency", "2"], 2, "limit of a whole queue; for one key give per_key"),
        (["emails", "--key", ""], 2, "key must not be an empty string"),
        (["nothing", "--per-key", "2"], 3, "the storage has no queue 'nothing': the queues are emails, sms"),
    ],
)
def test_wrong_limits_are_refused(arguments: list[str], status: int, told: str, tmp_path: Path) -> None:
    """The message says what would be right, and no limit is changed."""
    url = filled("sqlite", tmp_path)
    ended = call("limits", "--url", url, *arguments)
    assert (ended.status, ended.out) == (status, "")
    assert told in ended.err.replace("\n", " ")
    assert call("limits", "--url", url, "--no-json").out.splitlines() == ["emails: no limits", "sms: no limits"]
