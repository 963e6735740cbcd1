from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trio_tasks import BackendError
from trio_tasks._backends.file.journal import JournalFile, Recovery, beside, open_journal
from trio_tasks._backends.file.records import FRAME_SIZE, HEADER_SIZE, frame, header

RECORDS = [b"first", b"second record", b"third, the last"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.journal"


def read(path: Path, *, repair: bool = False) -> tuple[list[bytes], Recovery | None]:
    """All records of a journal, and what had to be recovered."""
    found: list[bytes] = []
    journal, recovery = open_journal(path, found.append, repair=repair, ahead=False)
    journal.close()
    return found, recovery


def write(path: Path, *records: bytes, ahead: bool = False) -> JournalFile:
    """Append records, and sync."""
    journal, _ = open_journal(path, lambda _: None, repair=False, ahead=ahead)
    for record in records:
        journal.append(record)
    journal.sync()
    return journal


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ahead", [False, True], ids=["as_needed", "ahead"])
def test_what_was_appended_is_read_again(path: Path, ahead: bool) -> None:
    write(path, *RECORDS, ahead=ahead).close()
    write(path, b"one more", ahead=ahead).close()
    assert read(path) == ([*RECORDS, b"one more"], None)


def test_what_was_reserved_and_never_written_is_no_damage(path: Path, tmp_path: Path) -> None:
    journal = write(path, *RECORDS, ahead=True)
    copy = Path(shutil.copy(path, tmp_path / "copy"))  # as a killed process leaves it
    assert copy.stat().st_size > journal.end
    journal.close()
    assert path.stat().st_size == journal.end
    assert read(copy) == (RECORDS, None)
    assert copy.stat().st_size == journal.end


@pytest.mark.parametrize("zeros", [0, 5000], ids=["cut", "zeros"])
def test_a_record_torn_at_any_byte_is_cut_off_and_kept(path: Path, zeros: int) -> None:
    write(path, *RECORDS).close()
    whole = path.read_bytes()
    last = len(whole) - FRAME_SIZE - len(RECORDS[-1])
    for end in range(last + 1, len(whole)):
        path.write_bytes(whole[:end] + bytes(zeros))
        found, recovery = read(path)
        assert found == RECORDS[:-1]
        assert recovery is not None
        torn = whole[last:end].rstrip(b"\0")  # zeros behind it may be its own, or what was reserved
        assert (recovery.at, recovery.bytes_dropped, recovery.records_dropped) == (last, len(torn), 1)
        assert recovery.is_torn_tail
        assert recovery.kept_as.read_bytes() == torn
        assert recovery.kept_as.name in str(recovery)
        assert path.read_bytes() == whole[:last]
        write(path, RECORDS[-1]).close()
        assert read(path) == (RECORDS, None)


def test_a_journal_that_ends_between_two_records_is_whole(path: Path) -> None:
    write(path, *RECORDS).close()
    os.truncate(path, path.stat().st_size - FRAME_SIZE - len(RECORDS[-1]))
    assert read(path) == (RECORDS[:-1], None)


def test_each_flipped_bit_is_refused_or_recovered_as_promised(path: Path) -> None:
    write(path, *RECORDS).close()
    whole = path.read_bytes()
    last = len(whole) - FRAME_SIZE - len(RECORDS[-1])
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if bit // 8 >= last:
            found, recovery = read(path)
            assert found == RECORDS[:-1]
            assert recovery is not None and recovery.is_torn_tail
            recovery.kept_as.unlink()
            continue
        with pytest.raises(BackendError, match=r"damaged|repair=True"):
            read(path)
        assert path.read_bytes() == flipped
        found, recovery = read(path, repair=True)
        assert found == [each for each in RECORDS if each in flipped[HEADER_SIZE:] and not _hit(each, whole, bit)]
        assert recovery is not None and not recovery.is_torn_tail
        assert recovery.records_dropped == len(RECORDS) - len(found)
        assert recovery.kept_as.read_bytes() == flipped
        recovery.kept_as.unlink()


def _hit(record: bytes, whole: bytes, bit: int) -> bool:
    start = whole.index(record) - FRAME_SIZE
    return start <= bit // 8 < start + FRAME_SIZE + len(record)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_record_that_is_missing_without_a_trace_is_missed(path: Path, missing: int) -> None:
    salt = b"saltsalt"
    frames = [frame(salt, number, record) for number, record in enumerate(RECORDS, 1)]
    del frames[missing]
    path.write_bytes(header(salt) + b"".join(frames))
    with pytest.raises(BackendError, match="damaged"):
        read(path)
    found, recovery = read(path, repair=True)
    assert found == [record for number, record in enumerate(RECORDS) if number != missing]
    assert recovery is not None
    assert (recovery.records_dropped, recovery.bytes_dropped) == (1, 0)


def test_a_journal_inside_a_record_is_not_mistaken_for_records(path: Path, tmp_path: Path) -> None:
    write(path, *RECORDS).close()
    inner = path.read_bytes()
    other = tmp_path / "other"
    write(other, inner).close()
    data = other.read_bytes()
    other.write_bytes(data[:HEADER_SIZE] + b"\xff" + data[HEADER_SIZE + 1 :])
    found, recovery = read(other)
    assert found == []
    assert recovery is not None and recovery.bytes_dropped == len(data) - HEADER_SIZE


def test_a_file_that_is_not_ours_is_refused(path: Path) -> None:
    for content in (b"SQLite format 3\0" + bytes(100), b"x", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(5000)):
        path.write_bytes(content)
        for repair in (False, True):
            with pytest.raises(BackendError, match="not a journal of trio_tasks"):
                read(path, repair=repair)
        assert path.read_bytes() == content


def test_a_file_of_a_later_version_is_refused(path: Path) -> None:
    from struct import pack
    from zlib import crc32

    fields = header(b"saltsalt")[:8] + pack("<HH8s", 2, 0, b"saltsalt")
    path.write_bytes(fields + pack("<I", crc32(fields)))
    with pytest.raises(BackendError, match="format is 2"):
        read(path)


def test_a_header_cut_short_is_refused(path: Path) -> None:
    write(path, *RECORDS).close()
    whole = path.read_bytes()
    for end in range(1, HEADER_SIZE):
        path.write_bytes(whole[:end])
        with pytest.raises(BackendError, match=r"damaged|not a journal"):
            read(path)


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    write(path, *RECORDS).close()
    assert read(path) == (RECORDS, None)


@pytest.mark.parametrize("ahead", [False, True], ids=["as_needed", "ahead"])
@pytest.mark.parametrize("room", [0, 1, 30])
def test_on_a_full_disk_a_record_is_not_there_and_the_next_one_is(path: Path, room: int, ahead: bool) -> None:
    journal = write(path, *RECORDS, ahead=ahead)
    if ahead:
        journal.cut()  # what is reserved already would still be there
    end = journal.end
    with no_file_longer_than(end + room):
        for _ in range(3):
            with pytest.raises(OSError, match="too large"):
                journal.append(b"x" * 100)
            assert journal.end == end == path.stat().st_size
    assert not journal.is_broken
    journal.append(b"there is room again")
    journal.close()
    assert read(path) == ([*RECORDS, b"there is room again"], None)


def test_replacing_a_journal_is_whole_at_every_step(path: Path, tmp_path: Path) -> None:
    old = write(path, *RECORDS)
    steps: list[Path] = []

    def crash() -> None:
        steps.append(shutil.copytree(path.parent, tmp_path.parent / f"{tmp_path.name}-{len(steps)}"))

    new_path = beside(path, "new")
    successor = JournalFile.create(new_path, ahead=False)
    crash()
    successor.append(b"all in one")
    crash()
    os.truncate(shutil.copytree(path.parent, tmp_path.parent / f"{tmp_path.name}-torn") / new_path.name, 30)
    steps.append(tmp_path.parent / f"{tmp_path.name}-torn")
    successor.sync()
    crash()
    before = len(steps)
    successor.put_in_place_of(old, new_path, path)
    crash()
    successor.append(b"and more")
    crash()
    successor.close()
    assert not old.is_open
    for number, step in enumerate(steps):
        found, recovery = read(step / path.name)
        assert found == (RECORDS if number < before else [b"all in one", b"and more"][: number - before + 1])
        assert recovery is None
        assert sorted(each.name for each in step.iterdir()) == [path.name]


def test_what_cannot_be_opened_raises_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="that is a directory"):
        read(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        read(tmp_path / "nowhere" / "tasks.journal")
