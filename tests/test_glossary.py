"""Tests of the project's vocabulary: retired words are used neither in names nor in prose.

``docs/glossary.md`` says what the terms mean. Here are the words that they have replaced, which must not come back.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]

RETIRED = {
    "boss": "monitor model",
    "dice": "random number generator",
    "grip": "lease",
    "grips": "leases",
    "handover": "memory queue",
    "knife": "step counter",
    "lane": "queue state, queue options",
    "lanes": "queues",
    "pump": "exchange loop",
    "scribe": "transaction log",
    "seat": "slot",
    "seats": "slots",
    "shelf": "rows of a queue",
    "shelves": "rows of queues",
    "turnstile": "capacity queue",
    "upkeep": "what runs beside a block",
    "watchman": "quiescence checks",
    "whereabouts": "current line",
}
"""Words that are used nowhere, each with the term to use: neither as a part of a name nor in prose."""

RETIRED_IN_NAMES = {
    "bell": "wake-up socket",
    "bells": "wake-up sockets",
    "bookkeeping": "capabilities, counts",
    "books": "state, checker, counts",
    "crew": "processes",
    "desk": "session, queue",
    "door": "intake state",
    "doors": "intake states",
    "filed": "stored task info",
    "hiring": "starting workers",
    "lull": "idle detector",
    "meddling": "controls",
    "ruins": "what a broken run has left",
    "stir": "mark_changed",
    "strike": "cancel, kill",
    "strikes": "occurs",
    "struck": "cancelled",
    "tend": "match_waiters",
    "traffic": "exchange loop",
    "wish": "requested end",
}
"""Words of English that are no names of things here. A test's name is a sentence, so it counts as prose."""

RETIRED_NAMES = {
    "as_ours": "wrap_error",
    "break_off": "fail",
    "at_hand": "prefetched, by type",
    "for_good": "permanent",
    "goes_by_the_wall": "uses_wall_clock",
    "in_hand": "running (of a task, an attempt), claimed (by a worker)",
    "let_in": "deliver",
    "one_way": "retry_buffer",
    "ran_dry": "mark_drained",
    "say_hello": "renew_session",
    "send_away": "cancel_waiters",
    "standing_still": "spin_detector",
}
"""Names, or parts of names, of several words. A test's name is a sentence: see RETIRED_PHRASES."""

FOR_PEOPLE = frozenset(("anybody", "everybody", "nobody", "somebody", "who", "whoever", "whom"))
"""Words for people: a task, a worker, a process or a caller is none, so no name has them; a test's name neither."""

RETIRED_PHRASES = {
    "in hand": "running (of a task, an attempt), claimed (by a worker)",
}
"""What stands in prose no more, and in no name of a test."""


def _files() -> Iterator[Path]:
    for folder in ("trio_tasks", "tests", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md") and not {"_build", "_static"} & {*path.parts}:
                if path.resolve() != Path(__file__).resolve():
                    yield path
    yield ROOT / "README.md"


def words_of(name: str) -> list[str]:
    """The words of an identifier, split at underscores and at capitals."""
    return [each.lower() for each in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _retired_in_name(name: str) -> list[str]:
    words = words_of(name)
    for_people = [each for each in words if each in FOR_PEOPLE] if len(words) > 1 else []
    if words[:1] == ["test"]:
        return for_people + _retired_in_prose(" ".join(words))
    joined = f"_{'_'.join(words)}_"
    single = [each for each in words if each in RETIRED or each in RETIRED_IN_NAMES]
    return for_people + single + [each for each in RETIRED_NAMES if f"_{each}_" in joined]


def _retired_in_prose(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    phrases = f" {' '.join(words)} "
    return [each for each in words if each in RETIRED] + [each for each in RETIRED_PHRASES if f" {each} " in phrases]


def _may_have_any(text: str) -> bool:
    """Return False if the text has no retired word at all, so that its tokens need no check."""
    words = words_of(text)
    joined = f"_{'_'.join(words)}_"
    return bool({*words} & (RETIRED.keys() | RETIRED_IN_NAMES.keys() | FOR_PEOPLE)) or any(
        f"_{each.replace(' ', '_')}_" in joined for each in (*RETIRED_NAMES, *RETIRED_PHRASES)
    )


def found_in(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The retired words in a file, each with the place."""
    for word in _retired_in_name(path.stem):
        yield word, "the name of the file"
    if not _may_have_any(text):
        return
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            in_name = _retired_in_name(token.string) if token.type == tokenize.NAME else []
            for word in in_name or _retired_in_prose(token.string):
                yield word, f"line {token.start[0]}: {token.line.strip():.100}"
    else:
        for number, line in enumerate(text.splitlines(), 1):
            for word in _retired_in_prose(line):
                yield word, f"line {number}: {line.strip():.100}"


def test_retired_words_are_used_nowhere() -> None:
    terms = {
        **dict.fromkeys(FOR_PEOPLE, "the name of the thing"),
        **RETIRED,
        **RETIRED_IN_NAMES,
        **RETIRED_NAMES,
        **RETIRED_PHRASES,
    }
    wrong = {
        f"{path.relative_to(ROOT)}, {place}\n    {word!r} is retired: use {terms[word]!r}"
        for path in _files()
        for word, place in found_in(path.relative_to(ROOT), path.read_text("utf-8"))
    }
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("fine.py", "class WorkerSeat:\n    pass\n", "seat"),
        ("fine.py", "def take(seat_number: int) -> None: ...\n", "seat"),
        ("fine.py", "self._lane.stock()\n", "lane"),
        ("fine.py", "class HTTPDesk: ...\n", "desk"),
        ("fine.py", "queue.let_in_one(row)\n", "let_in"),
        ("fine.py", '"""The pump makes exchanges."""\n', "pump"),
        ("fine.py", "x = 1  # off the shelf\n", "shelf"),
        ("fine.py", 'raise ValueError("no seat is free")\n', "seat"),
        ("fine.py", "def test_every_seat_is_free() -> None: ...\n", "seat"),
        ("fine.md", "Each seat runs one task.\n", "seat"),
        ("fine.md", "What the worker had in hand comes back.\n", "in hand"),
        ("fine.py", '"""The tasks that are in\nhand."""\n', "in hand"),
        ("fine.py", "def test_a_task_in_hand_is_kept() -> None: ...\n", "in hand"),
        ("fine.py", "context.tasks_in_hand = 1\n", "in_hand"),
        ("fine.py", "def test_who_waits_is_woken() -> None: ...\n", "who"),
        ("fine.py", "class WakesNobody: ...\n", "nobody"),
        ("_turnstile.py", "", "turnstile"),
    ],
)
def test_a_retired_word_is_found(name: str, text: str, word: str) -> None:
    assert [each for each, _ in found_in(Path(name), text)] == [word]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fine.py", '"""It is refused at the door; the books agree; they take turns."""\n'),
        ("fine.py", "def test_they_take_turns_at_the_door() -> None: ...\n"),
        ("fine.py", "planet = pumpernickel = seated = 1\n"),
        ("fine.md", "One task at a time, in turns.\n"),
        ("fine.py", '"""Nobody who waits is woken."""\ndef test_a_whole_row_whose_key_is_free() -> None: ...\n'),
        ("fine.py", '"""The error in handlers; it was given in by hand, for good."""\n'),
    ],
)
def test_english_is_allowed(name: str, text: str) -> None:
    assert not [*found_in(Path(name), text)]
