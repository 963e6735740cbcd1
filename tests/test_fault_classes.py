"""Tests of the page of fault classes: the tests that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "contributing" / "faults.md"
GUARD = re.compile(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`")


def missing_guards(text: str) -> list[str]:
    """The guards named in the text whose file or test function does not exist."""
    missing = []
    for path, test in GUARD.findall(text):
        source = (ROOT / path).read_text("utf-8") if (ROOT / path).is_file() else None
        if source is None or (test and not re.search(rf"\bdef {test}\b", source)):
            missing.append(f"{path}::{test}" if test else path)
    return missing


def test_each_guard_on_the_page_exists() -> None:
    assert not missing_guards(PAGE.read_text("utf-8"))


def test_a_guard_that_does_not_exist_is_found() -> None:
    assert missing_guards("`tests/test_fault_classes.py::test_gone` `tests/test_gone.py`") == [
        "tests/test_fault_classes.py::test_gone",
        "tests/test_gone.py",
    ]
