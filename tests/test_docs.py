"""Tests of the pages in docs/: plain Markdown that a code host can show, with current code and valid links."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests import docs_fences
from tests.docs_fences import DOCS, ROOT, part_of

PAGES = [*docs_fences.pages(), ROOT / "CHANGELOG.md"]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

FENCE = re.compile(r"^( *)(`{3,})(.*)\n((?s:.*?))^\1\2$", re.MULTILINE)
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
SPHINX = re.compile(r":[a-z:-]+:`|^ *\.\. [\w-]+::|^ *:::|\{[\w:-]+\}`|^\([\w-]+\)=$|\]\[|^\[[^\]^]+\]: ", re.MULTILINE)
NOTE = "made from the code. Read them in the built site"


def without_code(text: str) -> str:
    """The text of a page without its fences, comments and inline code."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)
    return CODE.sub("", text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that a code host gives to the headings of a page, and MyST too."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").replace("\\", "")
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug + (f"-{number}" if number else "") for slug, last in found.items() for number in range(last + 1)}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def sphinx_only(text: str) -> list[str]:
    """What only Sphinx understands: directives, roles, labels, reference links."""
    fences = [language.strip() for _, _, language, _ in FENCE.findall(text) if language.startswith("{")]
    return fences + SPHINX.findall(without_code(text)) + re.findall(r":[a-z:]+:`", FENCE.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert not broken_links(page, page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_plain_markdown(page: Path) -> None:
    """Except the reference: its descriptions are made from the code, and each page says so at its beginning."""
    text = page.read_text("utf-8")
    found = sphinx_only(text)
    if page.is_relative_to(DOCS / "reference") and "{eval-rst}" in found:
        assert set(found) == {"{eval-rst}"}
        assert NOTE in "".join(text.splitlines()[:3])
        return
    assert not found


def crooked_rows(text: str) -> list[str]:
    """The rows of tables that have another number of cells than the head."""
    crooked, cells = [], 0
    for line in FENCE.sub("", text).splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if count and cells and count != cells:
            crooked.append(line)
        cells = (cells or count) if count else 0
    return crooked


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_row_of_a_table_has_a_cell_for_each_column(page: Path) -> None:
    assert not crooked_rows(page.read_text("utf-8"))


def test_code_outputs_tables_and_drawings_are_up_to_date() -> None:
    stale = [path for path, text in docs_fences.expected() if not path.is_file() or path.read_text("utf-8") != text]
    assert not stale, "run: python -m tests.docs_fences --write"


@pytest.mark.parametrize("page", docs_fences.pages(), ids=NAMES[:-1])
def test_a_page_links_to_the_program_that_it_shows(page: Path) -> None:
    text = page.read_text("utf-8")
    links = {(page.parent / link).resolve() for link in LINK.findall(without_code(text)) if ":" not in link}
    shown = {block.name for block in docs_fences.blocks(text) if block.kind == "example"}
    assert not {name for name in shown if not {DOCS / "examples" / name, ROOT / name} & links}


def test_files_named_for_contributors_exist() -> None:
    pages = [DOCS / "contributing" / "inside.md", DOCS / "contributing" / "pages.md"]
    named = {
        path for page in pages for path in re.findall(r"`((?:trio_tasks|tests|docs)/[\w/.]+)`", page.read_text("utf-8"))
    }
    assert len(named) > 25
    assert not {path for path in named if not (ROOT / path).exists() and not path.endswith("NAME.out")}


def test_there_is_no_other_markup() -> None:
    assert not list(DOCS.rglob("*.rst"))
    assert len(PAGES) > 50


def test_these_tests_see_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` · c\n\n# Two\n\n# Two\n", "utf-8")
    assert anchors(page) == {"a-b--c", "two", "two-1"}
    text = "[a](page.md#two-1) [b](gone.md) [c](#gone) `[d](code.md)` [e](https://example.com) ![f](gone.svg)"
    assert broken_links(page, text) == ["gone.md", "#gone", "gone.svg"]
    assert sphinx_only("```{note}\nx\n```\n\n:doc:`a` {ref}`b`\n\n.. note::\n\n(label)=\n\n[a][b]") != []
    assert sphinx_only("```python\nx: dict[str, int] = {}\n```\n\n`a[0][1]` and [a](b.md)") == []
    assert part_of("import a\n\n# About b.\n\n\n@c\ndef b(): ...\n\nd = 1\n", "b") == "# About b.\n\n\n@c\ndef b(): ..."
    table = "| a | b |\n| --- | --- |\n| `c|d` | e |\n| `c\\|d` | e |\n\n| f |"
    assert crooked_rows(table) == ["| `c|d` | e |"]
    block = next(docs_fences.blocks("<!-- example: hello.py -->\n```python\nold\n```\n"))
    assert block.body == "```python\nold\n```"
    assert block.fresh().startswith("```python\nimport trio\n")
