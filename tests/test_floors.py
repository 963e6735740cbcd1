"""Tests of imports between the folders of the package: each folder may import only from those listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parents[1] / "trio_tasks"

GROUND = "_printing _checks _clock _exports _logging _concurrency/*"
VALUES = "_printing _checks _clock _exports _concurrency/exception_groups"  # the ground that does without trio
CONTRACTS = f"_contracts/* _tasks/* {GROUND}"

# One line for each folder: its modules, and what they may import beside one another. A name is a path inside the
# package without its suffix; a star stands for one part of it. The first line that fits counts. Imports for types
# count, too.
MAY_IMPORT: dict[str, str] = {
    GROUND: "",
    "_tasks/*": VALUES,
    "_codecs/*": VALUES,
    "_contracts/*": f"_tasks/* {GROUND}",
    "_handlers/*": CONTRACTS,
    "layers/__init__": "layers/* _exports",
    "layers/_*": CONTRACTS,
    "observe/*": f"__init__ abc layers/__init__ _contracts/layer {GROUND}",
    "_backends/urls": f"_backends/* _backends/*/storage _codecs/* {CONTRACTS}",
    "_backends/*": f"_codecs/* {CONTRACTS}",
    "_backends/durable/*": f"_codecs/* {CONTRACTS}",
    "_backends/sqlite/*": f"_backends/durable/* {CONTRACTS}",
    "_backends/file/*": f"_backends/durable/* {CONTRACTS}",
    "_worker/*": f"_backends/channel layers/_* _handlers/* {CONTRACTS}",
    "_schedules/*": f"_schedules/* {CONTRACTS}",
    "_monitor _signals": f"_worker/* {CONTRACTS}",
    "_router/*": f"_schedules/* _backends/urls _codecs/* _handlers/* _worker/* _monitor {CONTRACTS}",
    "_cli/*": "__init__ abc observe/__init__ testing/__init__",
    "testing/* testing/*/*": "* */* */*/*",
    "__init__ __main__ abc": "* */* */*/*",
}
ENGINES = ("_backends/sqlite/*", "_backends/file/*")
MAY_NAME_ENGINES = ("__init__", "_backends/urls")  # outside of them; for types, or in a function, only
WITHOUT_TRIO = ("_tasks/*", "_codecs/*", "_backends/ledger", "_backends/ledger_reader")  # when they run
WITHOUT_AWAIT = ("_backends/ledger", "_backends/ledger_reader")
TRIO = {"trio", "trio_util"}


class Import(NamedTuple):
    """An import of one of our modules, or of trio, by another module of ours."""

    source: str
    target: str
    line: int
    for_types: bool
    in_function: bool

    def __str__(self) -> str:
        return f"trio_tasks/{self.source}.py:{self.line} imports {self.target}"


def is_one_of(module: str, patterns: str | Iterable[str]) -> bool:
    """Return True if a pattern fits the module; a star stands for one part of the path."""
    parts = module.split("/")
    for pattern in patterns.split() if isinstance(patterns, str) else patterns:
        wanted = pattern.split("/")
        if len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted)):
            return True
    return False


def folder_of(module: str, table: dict[str, str] = MAY_IMPORT) -> str | None:
    """The line of the table for a module: its patterns."""
    return next((patterns for patterns in table if is_one_of(module, patterns)), None)


def modules_of(package: Path) -> dict[str, ast.Module]:
    """Every module of the package, by its path without the suffix."""
    return {
        path.relative_to(package).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"), str(path))
        for path in sorted(package.rglob("*.py"))
    }


def imports_of(module: str, modules: dict[str, ast.Module]) -> list[Import]:
    """All that a module imports, wherever in it, of our own package and of trio."""
    return [
        Import(module, target, node.lineno, for_types, in_function)
        for node, for_types, in_function in _import_nodes(modules[module])
        for target in _targets(node, module, modules)
    ]


def _import_nodes(
    node: ast.AST, *, for_types: bool = False, in_function: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, for_types, in_function
    in_function = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    guarded = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    for child in ast.iter_child_nodes(node):
        yield from _import_nodes(child, for_types=for_types or child in guarded, in_function=in_function)


def _targets(node: ast.Import | ast.ImportFrom, module: str, modules: dict[str, ast.Module]) -> Iterator[str]:
    for origin, name in _dotted(node, module):
        top, *path = origin.split(".")
        if top in TRIO:
            yield top
        elif top == "trio_tasks":
            tries = ["/".join([*path, name]), "/".join([*path, name, "__init__"]), "/".join(path)]
            yield next((t for t in tries if t in modules), "/".join([*path, "__init__"]))


def _dotted(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, "__init__"
        return
    origin = node.module or ""
    if node.level:
        package = ["trio_tasks", *module.split("/")][: -node.level]
        origin = ".".join([*package, *filter(None, [origin])])
    for alias in node.names:
        yield origin, alias.name


def without_rule(modules: dict[str, ast.Module], table: dict[str, str] = MAY_IMPORT) -> list[str]:
    """Modules that no line of the table fits, and patterns that fit no module."""
    lost = [module for module in modules if folder_of(module, table) is None]
    patterns = {name for names in table for name in names.split()}
    ghosts = sorted(p for p in patterns if p != "__main__" and not any(is_one_of(module, [p]) for module in modules))
    return [
        *(f"trio_tasks/{module}.py is in no folder of MAY_IMPORT" for module in lost),
        *(f"MAY_IMPORT names {name}, which does not exist" for name in ghosts),
    ]


def misplaced(modules: dict[str, ast.Module], table: dict[str, str] = MAY_IMPORT) -> list[str]:
    """Imports that the table does not allow."""
    complaints = []
    for found in (i for module in modules for i in imports_of(module, modules) if i.target in modules):
        folder = folder_of(found.source, table)
        if folder and folder_of(found.target, table) != folder and not is_one_of(found.target, table[folder]):
            complaints.append(f"{found}, which is not for {folder}")
    return complaints


def too_early(modules: dict[str, ast.Module], engines: tuple[str, ...] = ENGINES) -> list[str]:
    """Imports of an engine from outside of it, but those of the few that name it lazily."""
    complaints = []
    for found in (i for module in modules for i in imports_of(module, modules)):
        engine = next((each for each in engines if is_one_of(found.target, [each])), None)
        if engine is None or is_one_of(found.source, [engine]):
            continue
        if found.source not in MAY_NAME_ENGINES or not (found.for_types or found.in_function):
            complaints.append(f"{found}, an engine")
    return complaints


def impure(
    modules: dict[str, ast.Module],
    without_trio: tuple[str, ...] = WITHOUT_TRIO,
    without_await: tuple[str, ...] = WITHOUT_AWAIT,
) -> list[str]:
    """All imports of trio, direct or not, and all that is async, where there must be none."""
    complaints = []
    for module, tree in modules.items():
        if is_one_of(module, without_trio):
            complaints += [f"{i}, for {module}" for i in _at_run_time(module, modules) if i.target in TRIO]
        if is_one_of(module, without_await):
            waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
            lines = sorted({node.lineno for node in ast.walk(tree) if isinstance(node, waits)})
            complaints += [f"trio_tasks/{module}.py:{n} is async" for n in lines]
    return complaints


def _at_run_time(module: str, modules: dict[str, ast.Module]) -> list[Import]:
    """Return the imports of a module at run time, and of all modules that it imports."""
    found: dict[str, list[Import]] = {}
    to_do = [module]
    while to_do:
        each = to_do.pop()
        if each in modules and each not in found:
            found[each] = [i for i in imports_of(each, modules) if not i.for_types]
            to_do += [i.target for i in found[each]]
    return [i for imports in found.values() for i in imports]


def cycles(modules: dict[str, ast.Module]) -> list[str]:
    """Circles of imports, each as a chain of names; imports for types and those inside functions count, too."""
    needs = {module: {i.target for i in imports_of(module, modules) if i.target in modules} for module in modules}
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            ring = chain[chain.index(module) :]
            first = ring.index(min(ring))
            found.append(" -> ".join([*ring[first:], *ring[:first], ring[first]]))
        elif module not in done:
            for target in sorted(needs[module]):
                visit(target, [*chain, module])
            done.add(module)

    for module in modules:
        visit(module, [])
    return found


MODULES = modules_of(PACKAGE)


def test_every_module_has_its_folder() -> None:
    assert MODULES, f"no package at {PACKAGE}"
    assert not without_rule(MODULES), "\n".join(without_rule(MODULES))


def test_each_folder_imports_what_it_may() -> None:
    assert not misplaced(MODULES), "\n".join(misplaced(MODULES))


def test_engines_are_named_lazily() -> None:
    assert not too_early(MODULES), "\n".join(too_early(MODULES))


def test_values_and_codecs_know_no_trio_and_the_ledger_never_awaits() -> None:
    assert not impure(MODULES), "\n".join(impure(MODULES))


def test_no_import_goes_round_in_a_circle() -> None:
    assert not cycles(MODULES), "\n".join(cycles(MODULES))


def test_private_folders_have_no_code_of_their_own() -> None:
    public = {"__init__", "layers/__init__", "observe/__init__", "testing/__init__"}
    inits = {module: tree for module, tree in MODULES.items() if module.endswith("__init__") and module not in public}
    assert inits
    assert not [module for module, tree in inits.items() if len(tree.body) != 1 or not ast.get_docstring(tree)]


FORBIDDEN_IMPORTS = {
    "__init__": "from . import abc as abc\nfrom ._worker.worker import Worker as Worker",
    "abc": "from ._backends.sqlite.engine import Engine as Engine",
    "_checks": "import trio",
    "_tasks/task": "from .._checks import check\nfrom . import outcome",
    "_tasks/outcome": "if TYPE_CHECKING:\n    import trio\n    from .._backends.memory import M\nfrom . import task",
    "_backends/ledger": "async def wait(): ...\ndef wake():\n    from .._tasks.task import Task",
    "_backends/memory": "from .pipe import pipe\nfrom ..layers._trace import Trace",
    "_backends/pipe": "def pipe():\n    from .memory import x",
    "_backends/sqlite/engine": "from ..file.engine import Engine",
    "_backends/file/engine": "",
    "layers/__init__": "from ._trace import Trace as Trace",
    "layers/_trace": "from .._worker.worker import Worker\nfrom . import Trace",
    "_worker/worker": "from trio_tasks import Worker\nimport trio_tasks._backends.memory",
    "stray": "",
}


def test_these_tests_see_a_crooked_house() -> None:
    modules = {name: ast.parse(source) for name, source in FORBIDDEN_IMPORTS.items()}
    table = {
        "_checks": "",
        "_tasks/*": "_checks",
        "_backends/*": "_tasks/*",
        "_backends/sqlite/*": "_backends/*",
        "_backends/file/*": "_backends/*",
        "layers/__init__": "layers/*",
        "layers/_*": "",
        "_worker/* _ghost": "",
        "__init__ abc": "* */* */*/*",
    }
    assert without_rule(modules, table) == [
        "trio_tasks/stray.py is in no folder of MAY_IMPORT",
        "MAY_IMPORT names _ghost, which does not exist",
    ]
    assert misplaced(modules, table) == [
        "trio_tasks/_tasks/outcome.py:3 imports _backends/memory, which is not for _tasks/*",
        "trio_tasks/_backends/memory.py:2 imports layers/_trace, which is not for _backends/*",
        "trio_tasks/_backends/sqlite/engine.py:1 imports _backends/file/engine, which is not for _backends/sqlite/*",
        "trio_tasks/layers/_trace.py:1 imports _worker/worker, which is not for layers/_*",
        "trio_tasks/layers/_trace.py:2 imports layers/__init__, which is not for layers/_*",
        "trio_tasks/_worker/worker.py:1 imports __init__, which is not for _worker/* _ghost",
        "trio_tasks/_worker/worker.py:2 imports _backends/memory, which is not for _worker/* _ghost",
    ]
    assert too_early(modules) == [
        "trio_tasks/abc.py:1 imports _backends/sqlite/engine, an engine",
        "trio_tasks/_backends/sqlite/engine.py:1 imports _backends/file/engine, an engine",
    ]
    assert impure(modules) == [
        "trio_tasks/_checks.py:1 imports trio, for _tasks/task",
        "trio_tasks/_checks.py:1 imports trio, for _tasks/outcome",
        "trio_tasks/_checks.py:1 imports trio, for _backends/ledger",
        "trio_tasks/_backends/ledger.py:1 is async",
    ]
    assert {*cycles(modules)} >= {
        "__init__ -> _worker/worker -> __init__",
        "_tasks/outcome -> _tasks/task -> _tasks/outcome",
        "_backends/memory -> _backends/pipe -> _backends/memory",
        "layers/__init__ -> layers/_trace -> layers/__init__",
    }
