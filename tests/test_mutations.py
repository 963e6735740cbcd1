"""Tests of the mutations: each still applies, the table in the docs lists all, and some are tried."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.mutations._broken import MUTATIONS, Mutation
from tests.mutations._trial import BY_TESTS, MOST_SEEDS, ROOT, broken, try_out

_TABLE = ROOT / "docs" / "explanation" / "proof.md"
_SOON = {
    "no-shield",
    "outermost-error",
    "greedy",
    "intake-goes-on",
    "listener-kills-the-worker",
    "thread-is-abandoned",
    "errors-are-swallowed",
    "known-ids-are-taken",
}
"""Those that are seen within the first few seeds."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_source_in_one_place(mutation: Mutation) -> None:
    source = Path(ROOT, "trio_tasks", mutation.file).read_text("utf-8")
    changed = broken(source, mutation)
    assert changed != source
    ast.parse(changed)


def test_every_promise_has_a_mutation() -> None:
    assert {each.promise for each in MUTATIONS} == set(range(1, 16))
    assert not [name for name, times in Counter(each.name for each in MUTATIONS).items() if times > 1]


def test_the_table_tells_of_each_mutation_which_seed_sees_it() -> None:
    found = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", _TABLE.read_text("utf-8"), re.MULTILINE)
    rows = {(int(promise), what): where for promise, what, where in found}
    assert list(rows) == [(each.promise, each.what) for each in MUTATIONS]
    for (_, what), where in rows.items():
        if where in BY_TESTS:  # no program comes to it, or it is over before one can look
            continue
        proof = re.fullmatch(r"(memory|file|sqlite), seed (\d+)", where)
        assert proof is not None, f"{what}: {where}"
        assert int(proof[2]) < MOST_SEEDS


@pytest.mark.searching
@pytest.mark.timeout(300)  # where the machine is busy with something else
@pytest.mark.parametrize(
    "mutation", [each for each in MUTATIONS if each.name in _SOON], ids=lambda mutation: mutation.name
)
def test_a_mutation_is_seen(mutation: Mutation) -> None:
    """By the programs, not only by the tests of the promise that it breaks."""
    found = try_out(mutation)
    assert found.seed is not None
