"""Tests of what pushes, and of what happens later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, SqliteStorage, Success, TaskSink, Worker
from trio_tasks.testing import Recording, advance, assert_pushed, virtual_clock


@dataclass(frozen=True)
class Email:
    to: str
    text: str


async def subscribe(address: str, emails: TaskSink[Email]) -> None:
    """What is tested: a subscriber is welcomed at once, and asked a week later."""
    await emails.push(Email(address, "Welcome!"), priority=1)
    await emails.push(Email(address, "Do you like it?"), delay=7 * 86400, metadata={"campaign": "week"})


async def send(email: Email) -> str:
    return f"to {email.to}: {email.text}"


# The fixture: time stands still until it is advanced, and a file takes no time.


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(autojump=False) as clock:
        yield clock


async def test_two_emails_are_pushed() -> None:
    emails = MemoryStorage[Email]()
    await subscribe("ada@example.com", emails)
    await assert_pushed(emails, count=2)
    await assert_pushed(emails, Email("ada@example.com", "Welcome!"), priority=1)
    await assert_pushed(emails, metadata={"campaign": "week"})


async def test_the_second_is_sent_after_a_week(clock: MockClock, nursery: trio.Nursery, tmp_path: Path) -> None:
    told = Recording()
    async with SqliteStorage(tmp_path / "emails.db", Email, poll_interval=3600, lease=3600) as emails:
        await nursery.start(Worker("emails", emails, send, on_event=told).run)
        await subscribe("ada@example.com", emails)
        await advance(0)
        assert [each.text for each in told.of(Success)] == ["'to ada@example.com: Welcome!'"]
        await advance(7 * 86400)
        assert [each.time for each in told.of(Success)] == [0, pytest.approx(7 * 86400)]
        nursery.cancel_scope.cancel()
