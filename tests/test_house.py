"""Tests of code style: sizes of files and functions, names, handling of exceptions, and the import time."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_floors import imports_of, modules_of

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trio_tasks"

LONGEST_FILE = 900
NEEDS_A_REASON = 600  # lines from which a file is either split or listed here, with the reason
LONG_FILES: dict[str, str] = {
    "trio_tasks/_backends/ledger.py": "one class: all changes of a queue in memory, each in one step",
    "trio_tasks/_backends/file/rows.py": "the rows of a journal, and their indexes, which change together",
    "trio_tasks/_backends/durable/engine.py": "the contract of an engine, and the clock of a store",
    "trio_tasks/_backends/durable/exchange_loop.py": "one loop, its requests, and the batches that it makes of them",
    "trio_tasks/_contracts/groups.py": "lines of ready rows, groups of lines, and the limits that park them: one idea",
    "trio_tasks/_backends/durable/queue.py": "one state: settings, receivers and tasks of a queue here",
    "trio_tasks/_backends/memory.py": "one class, with all capabilities of a queue in memory",
    "trio_tasks/_backends/sqlite/exchange.py": "the transaction that nearly all work is, with its statements",
    "trio_tasks/_router/queues.py": "one class, with the verbs of a storage over several queues",
    "trio_tasks/_tasks/task.py": "a task, its parts, and the builder through which all options go",
    "trio_tasks/_worker/slot.py": "an attempt from begin to settlement, and the slots that lend to one another",
}
SMALL = 150  # lines below which a module with one importer is folded into that one, or listed here, with the reason
SMALL_MODULES: dict[str, str] = {
    "_backends/encoding": "imported only where a queue has a type, since it imports cbor2; tests/test_encoding.py",
    "_backends/wall_clock_queue": "the delayed tasks that a set clock concerns; tests/test_ledger.py",
    "_backends/durable/schedules": "the one place that knows how schedules are encoded, as `rows` is for tasks",
    "_backends/durable/failures": "the errors of an engine, which are not on the way of a task",
    "_backends/file/schedules": "what a journal has beside rows, with a transaction of its own",
    "_backends/file/recovery": "what is done with a journal once, when it is opened",
    "_cli/app": "imported only where click and rich are",
    "_cli/limiting": "the command about limits, as `scheduling` is about schedules; tests/cli/test_limiting.py",
    "_cli/reports": "the closing report of `run`, of one process or several; tests/cli/test_running.py",
    "_cli/scheduling": "the commands about schedules; tests/cli/test_scheduling.py",
    "_cli/serving": "imported by `run` alone, and needs hypercorn; tests/cli/test_running.py",
    "_cli/systemd": "what systemd is told, by one process or several; tests/cli/test_running.py",
    "_backends/sqlite/orphan_watch": "a state of its own, apart from the exchange, which is a long file",
    "_backends/unique_keys": "the holders of keys in memory, apart from the ledger; tests/storages/test_unique_keys.py",
    "_router/child": "what runs in the processes of a pool; tests/router/test_processes.py",
    "observe/_instruments": "imported only where opentelemetry is",
    "observe/_prometheus": "imported only where prometheus_client is",
    "testing/_conformance/rules_deadlines": "one topic of rules, as all others; tests/testing/test_conformance.py",
    "_router/table": "the functions, which a router, its queues and its workers share",
    "_router/value_checks": "judges values by annotations alone, without a library; tests/router/test_functions.py",
    "_worker/misnesting": "reads the private attributes of trio that the package needs",
    "testing/_simulation/scheduler": "sets the private attributes of trio that a seed needs",
}
LONGEST_FUNCTION = 50  # its docstring not counted
FUNCTION_NEEDS_A_REASON = 40  # lines from which a function is listed here, with the reason
LONG_FUNCTIONS: dict[tuple[str, str], str] = {
    ("trio_tasks/_backends/durable/queue.py", "__init__"): "the fields of one state, a line each",
    ("trio_tasks/_backends/file/engine.py", "open"): "undoes each step of opening if a later one fails",
    ("trio_tasks/testing/_conformance/rules_facts.py", "a_failed_attempt_tells_all"): "one rule, told in order",
    ("trio_tasks/_backends/file/exchange.py", "_claim"): "the hot path of the journal: a call more costs each task",
    ("trio_tasks/_worker/worker.py", "__init__"): "twelve options, each checked in a line",
}
SETTLEMENT = ("trio_tasks/_worker/slot.py", "_attempt", 19)  # takes a task to its settlement, in that many lines
NO_NAMES = {"util", "utils", "helper", "helpers", "common", "base", "manager", "managers", "misc"}
PUBLIC_MODULES = ["trio_tasks", "trio_tasks.abc", "trio_tasks.layers", "trio_tasks.testing"]

# What `import trio_tasks` may load beyond `import trio`, by the name of the top-level package.
LOADED = {
    "trio_tasks",
    "dataclasses",
    "datetime",
    "_datetime",
    "random",  # where trio has not loaded it
    "bisect",  # random's, as the next three
    "hashlib",
    "_sha2",
    "_sha512",
}

PRAGMA = re.compile(
    r"#\s*(type:\s*ignore|pyright:\s*ignore|noqa)(?P<code>\[[\w, -]+\]|:\s*[A-Z]+\d+(?:[, ]+[A-Z]+\d+)*)?"
)

Function: typing.TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


def sources(*directories: Path) -> Iterator[tuple[str, str]]:
    """Each Python file below the directories: its path from the root, and its text."""
    for directory in directories:
        for path in sorted(directory.rglob("*.py")):
            yield path.relative_to(directory.parent).as_posix(), path.read_text("utf-8")


def functions(source: str) -> Iterator[Function]:
    """Every function of a file, methods and inner ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def length(function: Function) -> int:
    """The lines of a function from its `def`, without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def catches_everything(source: str) -> list[int]:
    """The lines that say `except:` or `except BaseException`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or re.search(r"\bBaseException\b", ast.unparse(node.type)))
    ]


def unreasoned(source: str) -> list[int]:
    """The lines with a `type: ignore` or `noqa` that lacks its code, or a reason after it."""
    lines = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        pragmas = list(PRAGMA.finditer(token.string)) if token.type == tokenize.COMMENT else []
        if pragmas:
            reason = PRAGMA.sub("", token.string)
            if not all(pragma["code"] for pragma in pragmas) or len(re.findall(r"\w+", reason)) < 2:
                lines.append(token.start[0])
    return lines


def single_importers(package: Path) -> dict[str, tuple[str, int]]:
    """The private modules that one other module alone imports when it runs: that module, and their lines."""
    modules = modules_of(package)
    is_face = re.compile(r"(.*/)?__init__|abc").fullmatch
    importers: dict[str, set[str]] = {}
    shown: set[str] = set()
    for found in (each for module in modules for each in imports_of(module, modules) if each.target in modules):
        if is_face(found.source):
            shown.add(found.target)
        elif not found.for_types:
            importers.setdefault(found.target, set()).add(found.source)
    return {
        module: (next(iter(sources)), len((package / f"{module}.py").read_text("utf-8").splitlines()))
        for module, sources in importers.items()
        if len(sources) == 1 and module not in shown and not is_face(module)
    }


def with_private_modules(module: types.ModuleType) -> list[str]:
    """The public classes and functions of a module that say they live in a private one."""
    made_by_us = (type, types.FunctionType, typing.NewType)
    found = []
    for name, value in vars(module).items():
        home = str(getattr(value, "__module__", ""))
        # `type(value)`, because `list[int]` passes for a type on Python 3.10.
        ours = issubclass(type(value), made_by_us) and home.startswith("trio_tasks")
        if name.startswith("_") or not ours:
            continue
        if home not in PUBLIC_MODULES or getattr(sys.modules.get(home), name, None) is not value:
            found.append(f"{module.__name__}.{name} says {home}")
    return found


def test_no_file_is_long() -> None:
    found = {path: len(source.splitlines()) for path, source in sources(PACKAGE)}
    assert found, f"no package at {PACKAGE}"
    assert not {path: n for path, n in found.items() if n > LONGEST_FILE}
    assert {path for path, n in found.items() if n > NEEDS_A_REASON} == LONG_FILES.keys()


def test_no_small_module_has_one_importer() -> None:
    found = {each: n for each, (_, n) in single_importers(PACKAGE).items() if n < SMALL}
    assert found.keys() == SMALL_MODULES.keys()


def test_single_importers_are_found(tmp_path: Path) -> None:
    for path, text in {
        "__init__.py": "if TYPE_CHECKING:\n    from .public import x",
        "public.py": "x = 1",
        "a.py": "from .inner import leaf\nfrom .inner.shared import x\nfrom .public import x",
        "inner/__init__.py": "",
        "inner/leaf.py": "from .shared import x\nif TYPE_CHECKING:\n    from ..a import y\n",
        "inner/shared.py": "x = 1",
        "inner/typed.py": "from .leaf import x\n",
        "b.py": "if TYPE_CHECKING:\n    from .inner.leaf import x\nfrom .inner.typed import x",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert single_importers(tmp_path) == {"inner/typed": ("b", 1)}


def test_no_function_is_long() -> None:
    found = [(path, f.name, length(f)) for path, text in sources(PACKAGE) for f in functions(text)]
    assert not [long for long in found if long[2] > LONGEST_FUNCTION]
    assert {(path, name) for path, name, lines in found if lines > FUNCTION_NEEDS_A_REASON} == {*LONG_FUNCTIONS}


def test_the_function_that_carries_a_task_to_its_settlement_is_short() -> None:
    path, name, limit = SETTLEMENT
    found = [length(f) for f in functions((ROOT / path).read_text("utf-8")) if f.name == name]
    assert len(found) == 1, f"expected one {name} in {path}, found {len(found)}"
    assert found[0] <= limit


def test_every_file_is_named_for_its_idea() -> None:
    names = [Path(path) for path, _ in sources(PACKAGE)]
    assert not [str(p) for p in names for part in p.with_suffix("").parts if NO_NAMES & set(part.split("_"))]


def test_nothing_is_caught_that_should_pass() -> None:
    assert not {path: lines for path, text in sources(PACKAGE) if (lines := catches_everything(text))}


def test_every_exception_from_a_check_has_its_reason() -> None:
    assert not {path: lines for path, text in sources(PACKAGE, ROOT / "tests") if (lines := unreasoned(text))}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_public_names_say_where_they_are_public(name: str) -> None:
    module = importlib.import_module(name)
    assert [public for public in vars(module) if not public.startswith("_")], f"{name} has no public name"
    assert not with_private_modules(module)


def test_the_import_is_light() -> None:
    script = """
import json, sys, trio
before = set(sys.modules)
import trio_tasks
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = {module.partition(".")[0] for module in json.loads(run.stdout)}
    assert "trio_tasks" in loaded
    assert not loaded - LOADED, "loaded beyond `import trio`, and not stated in LOADED"


def test_these_tests_see_bad_manners() -> None:
    source = inspect.cleandoc(
        '''
        async def f(
            x,
        ):
            """Two lines
            of docstring."""
            try:
                pass
            except (ValueError, BaseException):
                pass
            except:
                pass
            a = 1  # type: ignore
            b = 1  # type: ignore[misc]
            c = 1  # type: ignore[misc]  # trio-util has no types
            d = 1  # noqa
            e = 1  # noqa: ASYNC910  # a batch is one checkpoint
            g = 1  # type: ignore[misc]  # pyright: ignore[reportAny]
            h = 1  # type: ignore[misc]  # pyright: ignore[reportAny]  # handed over untyped
            i = "# noqa"
            try:
                pass
            except BaseExceptionGroup:
                pass
        '''
    )
    assert [length(f) for f in functions(source)] == [21]
    assert catches_everything(source) == [8, 10]
    assert unreasoned(source) == [12, 13, 15, 17]
    public = types.ModuleType("trio_tasks.fake")
    inner = type("Inner", (), {"__module__": "trio_tasks._inner"})
    vars(public).update(Inner=inner, alias=list[int], path=Path)
    assert with_private_modules(public) == ["trio_tasks.fake.Inner says trio_tasks._inner"]
