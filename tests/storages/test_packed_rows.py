"""Rows that stay packed until they are looked at: they are as they would be, had all been made when the journal was
loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import cbor2
import pytest
import trio
from trio_tasks import BackendError, Failed, FileStorage, Released, Retried, Succeeded
from trio_tasks._backends.durable.engine import Query, State
from trio_tasks._backends.file import packed
from trio_tasks._backends.file.compaction import Compaction
from trio_tasks._backends.file.loading import finish_loading, load_record
from trio_tasks._backends.file.operations import Operations
from trio_tasks._backends.file.records import HEADER_SIZE, Frame, scan
from trio_tasks._backends.file.rows import GONE, Row
from trio_tasks._backends.file.state import JournalState

from tests._scale import scaled

QUEUE = "default"


def payloads(path: Path) -> list[bytes]:
    """Return the records of a journal, finished or not."""
    data = path.read_bytes()
    salt = data[HEADER_SIZE : HEADER_SIZE + 8]  # with which the first record begins
    return [found.payload for found in scan(BytesIO(data), salt) if isinstance(found, Frame)]


def loaded(records: list[bytes], *, pack: bool) -> JournalState:
    """Load records, with rows packed or not."""
    state = JournalState()
    for record in records:
        load_record(state, record, pack=pack)
    finish_loading(state)
    state.commit()
    return state


async def write(path: Path, random: Random, *, is_fair: bool = False) -> None:
    """Write a journal with tasks of many kinds."""
    async with FileStorage(path, int, synchronous="NORMAL") as storage:
        ids: list[Any] = []
        for _ in range(random.randrange(3, 9)):
            terms: list[dict[str, Any]] = [{}, {}, {}, {"priority": 1}, {"delay": 1e6}, {"expires_in": 1e6}]
            options = random.choice([*terms, {"deadline": 1e6}, {"key": "a"}] if is_fair else terms)
            ids += await storage.push_bulk(range(random.choice((1, 7, 30))), **options)
            for task_id in random.sample(ids, min(random.choice((0, 0, 3)), len(ids))):
                if random.random() < 0.5:
                    await random.choice((storage.cancel, storage.discard))(task_id)
                else:
                    await storage.reschedule(task_id, delay=random.choice((0.0, 1e5)))
            for _ in range(random.choice((0, 0, 5))):
                if (await storage.metrics())["waiting"]:
                    task = await storage.receive()
                    outcome = random.choice((Succeeded(1), Failed(ValueError()), Retried(OSError(), 0.0), Released()))
                    await storage.settle(task, outcome)


def seen(state: JournalState, random: Random) -> list[Any]:
    """Return all that can be read of a state, in a random order of the questions."""
    operations, now = Operations(state), state.time
    queue = state.queues[QUEUE]

    def rows() -> list[Any]:
        found, after = [], 0
        while True:
            read = operations.transfer.read(QUEUE, after, 7, now)
            found += read.rows
            if read.after is None:
                return found
            after = read.after

    def pages(*, newest_first: bool, limit: int) -> list[Any]:
        found, after = [], None
        while True:
            page = operations.search(QUEUE, Query([*State], newest_first=newest_first, after=after, limit=limit), now)
            found += page.rows
            if page.next is None:
                return found
            after = page.next

    ids = sorted(queue.ids)
    some = random.sample(ids, min(3, len(ids)))
    questions: list[Callable[[], Any]] = [
        rows,
        lambda: pages(newest_first=False, limit=5),
        lambda: pages(newest_first=True, limit=11),
        lambda: operations.metrics(QUEUE, now),
        lambda: operations.audit(QUEUE, now),
        lambda: [operations.locate(QUEUE, each, now) for each in some],
        lambda: [operations.find(QUEUE, each, now) for each in some[:1]],
        lambda: [row.key for row in queue.ready(now)],
        lambda: queue.oldest_waiting(now),
        lambda: state.weight,
    ]
    order = random.sample(range(len(questions)), len(questions))
    answers = {number: questions[number]() for number in order}
    return [answers[number] for number in sorted(answers)]


def taken(state: JournalState) -> list[int]:
    """Return the keys of all ready rows, in the order in which they are claimed."""
    queue, keys = state.queues[QUEUE], []
    while (row := queue.pop_ready(state.time)) is not None:
        keys.append(row.key)
        row.state = GONE
    return keys


def compacted(state: JournalState, path: Path) -> list[bytes]:
    """Return the records of a shorter journal with this state."""
    compaction = Compaction(path, state, ahead=False)
    compaction.carry_over(float("inf"))
    own_path = compaction._own_path
    records = payloads(own_path)
    compaction.abandon()
    return records


@pytest.mark.parametrize("is_fair", [False, True])
@pytest.mark.parametrize("seed", range(max(12, scaled(100))))
async def test_packed_rows_are_seen_claimed_and_copied_as_others_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int, is_fair: bool
) -> None:
    random = Random(seed)
    monkeypatch.setattr(packed, "LEAST", 1)
    monkeypatch.setattr(packed, "MOST", random.choice((3, 1000)))
    await write(path := tmp_path / "tasks.journal", random, is_fair=is_fair)
    records = payloads(path)
    for _ in range(2):
        packs, makes = loaded(records, pack=True), loaded(records, pack=False)
        assert seen(packs, Random(seed)) == seen(makes, Random(seed))
        records = compacted(packs, path)
        again = loaded(records, pack=True)
        assert seen(again, Random(seed)) == seen(makes, Random(seed))
        assert taken(loaded(records, pack=True)) == taken(packs) == taken(makes)


async def test_rows_that_only_wait_stay_packed_until_they_are_claimed(tmp_path: Path) -> None:
    path = tmp_path / "tasks.journal"
    async with FileStorage(path, int) as storage:
        ids = await storage.push_bulk(range(4000))
    state = loaded(payloads(path), pack=True)
    before = len(state.packed)
    assert before >= 2000
    assert seen(state, Random(0))[3]["waiting"] == 4000
    assert len(state.packed) >= before - 2000  # some were looked up
    assert Operations(state).find(QUEUE, ids[-1], state.time) is not None
    assert len(taken(state)) == 4000
    assert len(state.packed) == 0


def test_a_row_that_changes_while_a_snapshot_is_written_is_not_written_as_it_was(tmp_path: Path) -> None:
    trio.run(_push_many, path := tmp_path / "tasks.journal")
    state = loaded(payloads(path), pack=True)
    compaction = Compaction(path, state, ahead=False)
    compaction.carry_over(1)
    assert not compaction.is_whole
    for row in [*state.queues[QUEUE].ready(state.time)]:
        made = state.row(row.key)
        assert made is not None
        made.attempt = 7
    compaction.carry_over(float("inf"))
    records = payloads(compaction._own_path)
    compaction.abandon()
    attempts = [row.attempt for row in loaded(records[1:], pack=False).rows.values()]
    assert len(attempts) > 1000
    assert {*attempts} == {7}


async def _push_many(path: Path) -> None:
    async with FileStorage(path, int, synchronous="NORMAL") as storage:
        await storage.push_bulk(range(3000))


ODD: list[Any] = [None, True, 0, -1, 1.5, float("nan"), 10**400, "x", "", b"x", [1], ["x", 1]]


@pytest.mark.parametrize("field", range(packed.ROW))
def test_an_odd_field_is_judged_as_in_a_row_of_its_own(field: int) -> None:
    def judged(record: bytes, *, pack: bool) -> str:
        try:
            state = loaded([record], pack=pack)
        except BackendError as error:
            return str(error)
        names = [name for name in Row.__slots__ if name != "queue"]
        return repr([[getattr(row, name) for name in names] for _, row in state.rows_after(-(2**63))])

    for value in ODD:
        record = cbor2.dumps(_record_with(field, value))
        assert judged(record, pack=True) == judged(record, pack=False), value


def _record_with(field: int, value: Any) -> list[Any]:
    """Make a record of 20 rows that wait, one of which has this value in a field."""
    record = _record(range(1, 21), 2.0)
    record[4][9 * packed.ROW + field] = value
    return record


def _record(keys: range, since: float, payload: bytes = b"x") -> list[Any]:
    """Make a record of rows that wait since this moment, one after the other."""
    rows: list[Any] = []
    for number, key in enumerate(keys):
        rows += (key, 0, f"id-{key}", payload, None, 0, None, 0, 0, since + number, None, 0, *[None] * 5, False)
    facts = [each for key in keys for each in (key, None, 1.0, None)]
    return [100.0, 100, 1, [0, QUEUE, *[20, 0, 0, 0, 0, 0, 20]], rows, [], [], [], [], [], facts]


FIRST = _record(range(1, 41, 2), 2.0)
LATER = {
    "behind": _record(range(41, 61), 30.0),
    "the same rows again": _record(range(11, 71, 2), 12.0, b"y"),
    "keys between": _record(range(2, 42, 2), 30.0),
    "moments between": _record(range(41, 61), 5.5),
    "one moment between": _record(range(41, 42), 5.5),
    "before": _record(range(41, 61), -30.0),
}


LAST = _record(range(71, 91), 75.0)
"""Behind all of them, so that the others stay packed: of the last ones of a queue the rows are made."""


@pytest.mark.parametrize("more", [[], [LAST]], ids=["alone", "more behind"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("later", LATER)
def test_records_may_overlap(later: str, turned: bool, more: list[Any]) -> None:
    records = [cbor2.dumps(each) for each in [*[FIRST, LATER[later]][:: -1 if turned else 1], *more]]
    packs, makes = loaded(records, pack=True), loaded(records, pack=False)
    assert len(packs.packed) > 0 or later != "behind"
    assert seen(packs, Random(0)) == seen(makes, Random(0))
    assert taken(loaded(records, pack=True)) == taken(packs) == taken(makes)
