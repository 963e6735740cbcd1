"""Fuzzing of journal files: each is opened as documented, or refused, and shows no task that never was."""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import cbor2
import trio
from trio_tasks import BackendError, FileStorage, RetryAfterError, Status, Worker
from trio_tasks._backends.file.records import FRAME_SIZE, HEADER_SIZE, Frame, frame, header, read_salt, scan
from trio_tasks.testing import run_seeded

from tests._logging_off import logging_off
from tests.fuzz._corrupt import corrupted
from tests.fuzz._exercise import put_schedules, use
from tests.fuzz._expected_logs import foreseen

_NAME = "tasks.journal"
_TASKS = 12
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 5, 6, 7, -1, 2**31, 2**63, -(2**70)),
    *(0.5, 1e13, 1e300, -1e300, math.inf, -math.inf, math.nan),
    *("", "1", "default", b"", b"1", b"\xff", [], [1], {}, {1: 2}),
]
_USER = 1000
"""The seed of who opens it afterwards: the ids that it makes are others."""


@cache
def _written(seed: int) -> bytes:
    """Write a journal with tasks in every state."""

    async def write(path: Path) -> None:
        async def handle(n: int) -> int:
            if n % 3 == 0:
                raise RetryAfterError("again", 60.0)
            return n

        async with FileStorage(path, int) as storage:
            for n in range(_TASKS):
                await storage.push(n, delay=30.0 * (n % 5 == 4), priority=n % 2)
            with trio.move_on_after(5):
                await Worker("w", storage, handle).run()
            await storage.push(_TASKS)
            await put_schedules(storage)
            await storage.receive()

    with TemporaryDirectory() as directory:
        run_seeded(write, Path(directory, _NAME), seed=seed)
        return Path(directory, _NAME).read_bytes()


def fuzz_journal(random: Random) -> None:
    """Damage and open a whole journal."""
    data = corrupted(_written(random.randrange(8)), random)
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = Path(directory, _NAME)
        path.write_bytes(data)
        with logging_off():
            run_seeded(_use, path, data, random.random() < 0.5, seed=_USER)


def fuzz_entries(random: Random) -> None:
    """Open a journal of intact records with unusual content."""
    data = _written(random.randrange(8))
    salt = read_salt(data[: HEADER_SIZE + FRAME_SIZE], _NAME, repair=False)
    payloads = [found.payload for found in scan(BytesIO(data), salt) if isinstance(found, Frame)]
    for _ in range(random.choice((1, 1, 2, 5))):
        number = random.randrange(len(payloads))
        payloads[number] = random.choice((_altered, _altered, corrupted))(payloads[number], random)
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory, foreseen():
        path = Path(directory, _NAME)
        frames = [frame(salt, number, payload) for number, payload in enumerate(payloads, 1)]
        path.write_bytes(b"".join((header(salt), *frames)))
        run_seeded(use, path, lambda path: FileStorage(path, int, synchronous="NORMAL"), seed=_USER)


def _altered(payload: bytes, random: Random) -> bytes:
    """Return the record with one field changed."""
    try:
        record = cbor2.loads(payload)
    except (cbor2.CBORError, ValueError):  # it was altered already
        return payload
    place = record
    while isinstance(place, list) and place:
        index = random.randrange(len(place))
        if isinstance(place[index], list) and place[index] and random.random() < 0.9:
            place = place[index]
            continue
        way = random.randrange(8)
        if way == 0:
            del place[index]
        elif way == 1:
            place.insert(index, random.choice(_VALUES))
        else:
            place[index] = random.choice(_VALUES)
        break
    return bytes(cbor2.dumps(record))


async def _use(path: Path, data: bytes, repair: bool) -> None:
    try:
        async with FileStorage(path, int, repair=repair) as storage:
            seen = {task.parts.id: task.args for task in await storage.list_tasks(limit=1000)}
            assert all(n in range(_TASKS + 1) for n in seen.values()), seen
            assert len(seen) <= _TASKS + 1
            if storage.recovery is not None:
                assert storage.recovery.kept_as.exists(), "what was dropped is kept"
            new = await storage.push(99)
            counts = await storage.metrics()
            assert counts["waiting"] >= 1, counts
    except BackendError:
        assert path.read_bytes() == data, "it is left alone"  # noqa: ASYNC240  nobody waits: it is small
        return
    async with FileStorage(path, int) as storage:  # what was recovered stays so
        assert storage.recovery is None
        again = {task.parts.id: task.args for task in await storage.list_tasks(limit=1000)}
        assert again == {**seen, new: 99}, (seen, again)
        task = await storage.fetch_by_id(new)
        assert task is not None
        assert task.parts.status is Status.Pending
