"""Tests that random programs see the same of each storage. ``TRIO_TASKS_PROGRAMS=5000-5300`` runs other ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage
from trio_tasks.testing import virtual_clock

from tests._scale import seeds

from ._program import Call, Runner, Seen, Writer

pytestmark = [pytest.mark.searching, pytest.mark.nightly]

FIRST, _, LAST = os.environ.get("TRIO_TASKS_PROGRAMS", "").partition("-")
PROGRAMS = range(int(FIRST), int(LAST or FIRST) + 1) if FIRST else seeds(100)
CALLS = 40


async def seen_of(storage: Any, program: list[Call]) -> list[Seen]:
    async with storage.events() as events:
        return await Runner(storage, events).run(program)


@pytest.mark.timeout(60 + 5 * len(PROGRAMS))
def test_each_storage_does_the_same(tmp_path: Path) -> None:
    with virtual_clock() as clock:
        wrong = trio.run(differing, tmp_path, clock=clock)
    assert not wrong, "\n".join(wrong)


async def differing(path: Path) -> list[str]:
    """Run all programs; return what differs."""
    wrong: list[str] = []
    for seed in PROGRAMS:
        program = Writer(seed).program(CALLS)
        expected = await seen_of(MemoryStorage(type=int), program)
        kinds: list[Any] = [FileStorage, SqliteStorage]
        for kind in kinds:
            options: Any = {"lease": 1e6, "synchronous": "NORMAL"}
            async with kind(path / f"{kind.__name__}-{seed}", int, **options) as storage:
                found = await seen_of(storage, program)
            wrong += differences(f"program {seed}: {kind.__name__}", expected, found)
        await trio.lowlevel.checkpoint()
    return wrong


def differences(name: str, expected: list[Seen], found: list[Seen]) -> list[str]:
    """The first call after which two storages were seen to differ, and in what."""
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        told = [f"{name} after call {number}, {one.call}"]
        for field in Seen._fields:
            values = getattr(one, field), getattr(other, field)
            if field == "tasks":
                pairs = zip(*values, strict=True)
                told += [f"  task {n}: {a}\n  it is     {b}" for n, (a, b) in enumerate(pairs, start=1) if a != b]
            elif values[0] != values[1]:
                told.append(f"  {field}: {values[0]}\n  it is     {values[1]}")
        if len(told) > 1:
            return told
    return []
