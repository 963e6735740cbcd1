"""Every example is run, and says what is kept beside it; and every line of Python on a page comes out of one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"

DEMO = "hash_tree"  # has a test of its own
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != DEMO)
TESTS = [name for name in PROGRAMS if name.startswith("test_")]  # run by pytest
SCRIPTS = [name for name in PROGRAMS if name not in TESTS]

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
INCLUDED = re.compile(r"^ *\.\. literalinclude:: +(\S+)$", re.MULTILINE)
DIRECTIVE = re.compile(r"^( *)\.\. (code|code-block|sourcecode)::(.*)$")
LANGUAGES = {"sh", "ini", "text"}  # that may be typed on a page, since there is no program to take them from
PYTHON = re.compile(r"^\s*(>>>|import \w|from [\w.]+ import|(async )?(def|with|for) .*:|class \w+.*:|await |@\w)")

UNLOGGED = ROOT / "tests" / "_unlogged"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory of its own, with every warning an error, and without the records of failed attempts."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{UNLOGGED}", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip


def normal(output: str) -> list[str]:
    """The lines, without what differs from run to run: fresh ids, where the files are, and whether a worker has had
    the time to say that it is idle, which trio leaves open."""
    output = UUID.sub("…", output.replace(f"{EXAMPLES}{os.sep}", ""))
    return [line.rstrip() for line in output.splitlines() if not line.endswith(" Idle()")]


def pages() -> Iterator[tuple[str, str]]:
    """Each page of the documentation, and the README: its path, and its text."""
    for path in [*sorted(DOCS.rglob("*.rst")), ROOT / "README.md"]:
        if not path.is_relative_to(DOCS / "_build"):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def typed_by_hand(text: str) -> list[str]:
    """The lines of a page that are code, and that no program is behind."""
    found: list[str] = []
    block: int | None = None  # how far what leads in a block is indented, while one goes on
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if block is not None and PYTHON.match(line):
            found.append(line.strip())
        directive = DIRECTIVE.match(line)
        if directive is not None:
            block = indent
            if directive[3].strip() not in LANGUAGES:
                found.append(line.strip())
        elif line.rstrip().endswith("::") and not line.lstrip().startswith(".."):
            block = indent
        elif line.lstrip().startswith(">>>"):
            found.append(line.strip())
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_says_what_is_kept_beside_it(name: str, tmp_path: Path) -> None:
    finished = run(str(EXAMPLES / f"{name}.py"), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    assert normal(finished.stdout) == normal((EXAMPLES / f"{name}.out").read_text("utf-8"))


@pytest.mark.parametrize("name", TESTS)
def test_an_example_that_is_a_test_passes(name: str) -> None:
    finished = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / f"{name}.py"), cwd=ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^\d+ passed in", finished.stdout, re.MULTILINE), finished.stdout


def test_there_are_examples_and_nothing_is_kept_beside_one_that_is_gone() -> None:
    assert SCRIPTS
    assert TESTS
    assert {path.stem for path in EXAMPLES.glob("*.out")} == set(SCRIPTS)


def test_every_example_stands_on_a_page() -> None:
    shown = {Path(found).name for path, text in pages() for found in INCLUDED.findall(text)}
    assert not {f"{name}.py" for name in PROGRAMS} - shown


@pytest.mark.parametrize(("path", "text"), list(pages()), ids=[path for path, _ in pages()])
def test_no_page_has_code_that_is_not_run(path: str, text: str) -> None:
    if path.endswith(".rst"):
        assert not typed_by_hand(text)
        return
    sources = [source.read_text("utf-8") for source in EXAMPLES.glob("*.py")]
    blocks: list[tuple[str, str]] = re.findall(r"^```(.*)\n((?s:.*?))^```$", text, re.MULTILINE)
    assert [language for language, _ in blocks if language == "python"], f"{path} has no example"
    assert not [block for language, block in blocks if language not in LANGUAGES and block not in sources]


def test_the_readme_begins_with_hello() -> None:
    hello = (EXAMPLES / "hello.py").read_text("utf-8")
    assert f"```python\n{hello}```" in (ROOT / "README.md").read_text("utf-8")


def test_these_tests_see_code_that_is_typed_by_hand() -> None:
    assert typed_by_hand("So::\n\n   import trio\n\nand so on") == ["import trio"]
    assert typed_by_hand(".. code-block:: python\n\n   x = 1\n") == [".. code-block:: python"]
    assert typed_by_hand(".. code-block:: sh\n\n   nox -s demo\n\nimport trio, and so on") == []
    assert typed_by_hand("::\n\n    pushed = settled + released + still there\n") == []
    assert typed_by_hand(">>> 1 + 1\n2") == [">>> 1 + 1"]
    assert normal("a Idle()\nat " + str(EXAMPLES / "b.py") + ":1  \n") == ["at b.py:1"]
