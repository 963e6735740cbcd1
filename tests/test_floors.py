"""The house stands in floors: a module imports from below, never sideways between rooms, never from above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "trio_tasks"

# Each floor, from the ground up, with its rooms; a name is a path inside the package without its suffix.
# Files of one room may import one another, without cycles; rooms of one floor may not.
FLOORS: list[dict[str, str]] = [
    {
        "words": "_clock _printing _checks _task_id _task_info _extensions _task _task_builder _groups _outcome "
        "_errors _backoff _names _codec _cbor _json _pydantic _plain _refusal _round_trip _shape"
    },
    {"ledger": "_ledger _ready_queue"},
    {
        "contracts": "_abc _contained _events _turns _door _context _report _sink _handover _completion _bookkeeping "
        "_anywhere _lending _one_way _options _threads _tracebacks _whereabouts _upkeep _mirroring _error_text "
        "_encoding _attempt_log _blocked_loop _open_stores _virtual_time"
    },
    {
        "memory": "_memory",
        "channel": "_channel",
        "pipe": "_pipe",
        "custom": "_custom",
        "handlers": "_task_fn _parameters _annotations",
        "seat": "_seat _slots _misnesting",
        "intake": "_intake",
        "patience": "_patience",
        "polling": "_polling",
        "layers": "layers/*",
        "storages": "storages/*",
    },
    {"worker": "_worker _builder"},
    {"monitor": "_monitor _signals _supervisor"},
    {"roof": "__init__ abc layers/__init__ testing/*"},
]
WITHOUT_TRIO = {0, 1}  # floors that do not import trio when they run
WITHOUT_AWAIT = {1}  # floors that never await
TRIO = {"trio", "trio_util"}

# Two modules that need each other at run time, the second import being inside a function. No others may.
KNOTS = {("_task", "_task_builder")}  # `Task.builder()` opens a TaskBuilder, which builds a Task


class Place(NamedTuple):
    """Where a module stands."""

    floor: int
    room: str


class Import(NamedTuple):
    """One import of a module of ours by another, or of trio."""

    source: str
    target: str
    line: int
    for_types: bool
    in_function: bool

    def __str__(self) -> str:
        return f"trio_tasks/{self.source}.py:{self.line} imports {self.target}"


def place_of(module: str, floors: list[dict[str, str]] = FLOORS) -> Place | None:
    """The place of a module on the map: by its name, else by a pattern with a star."""
    for matches in (str.__eq__, fnmatchcase):
        for floor, rooms in enumerate(floors):
            for room, names in rooms.items():
                if any(matches(module, name) for name in names.split()):
                    return Place(floor, room)
    return None


def modules_of(package: Path) -> dict[str, ast.Module]:
    """Every module of the package, by its path without the suffix."""
    return {
        path.relative_to(package).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"), str(path))
        for path in sorted(package.rglob("*.py"))
    }


def imports_of(module: str, modules: dict[str, ast.Module]) -> list[Import]:
    """What a module imports, wherever in it, of our own package and of trio."""
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


def homeless(modules: dict[str, ast.Module], floors: list[dict[str, str]] = FLOORS) -> list[str]:
    """Modules that the map does not have, and names on the map that no module has."""
    lost = [module for module in modules if not place_of(module, floors)]
    named = {name for rooms in floors for names in rooms.values() for name in names.split()}
    ghosts = sorted(name for name in named - modules.keys() if "*" not in name)
    return [
        *(f"trio_tasks/{module}.py has no floor: give it one in FLOORS" for module in lost),
        *(f"FLOORS names {name}, which does not exist" for name in ghosts),
    ]


def misplaced(modules: dict[str, ast.Module], floors: list[dict[str, str]] = FLOORS) -> list[str]:
    """Imports from above, and sideways from one room into another."""
    roof = len(floors) - 1
    complaints = []
    for found in (i for module in modules for i in imports_of(module, modules)):
        here, there = place_of(found.source, floors), place_of(found.target, floors)
        if here is None or there is None or here.floor == roof:
            continue
        if there.floor > here.floor:
            complaints.append(f"{found}, which is above it: floor {there.floor} from floor {here.floor}")
        elif there.floor == here.floor and there.room != here.room:
            complaints.append(f"{found}, sideways: from room '{here.room}' into room '{there.room}'")
    return complaints


def impure(modules: dict[str, ast.Module], floors: list[dict[str, str]] = FLOORS) -> list[str]:
    """What does not belong on the floors that know no trio, or never await."""
    complaints = []
    for module, tree in modules.items():
        place = place_of(module, floors)
        if place and place.floor in WITHOUT_TRIO:
            found = [i for i in imports_of(module, modules) if i.target in TRIO and not i.for_types]
            complaints += [f"{i}, on floor {place.floor}" for i in found]
        if place and place.floor in WITHOUT_AWAIT:
            waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
            lines = sorted({node.lineno for node in ast.walk(tree) if isinstance(node, waits)})
            complaints += [f"trio_tasks/{module}.py:{n} is async, on floor {place.floor}" for n in lines]
    return complaints


def cycles(modules: dict[str, ast.Module], knots: set[tuple[str, str]] = KNOTS) -> list[str]:
    """Circles of imports at run time, each as a chain of names; imports for types do not count."""
    needs: dict[str, set[str]] = {module: set() for module in modules}
    for i in (i for module in modules for i in imports_of(module, modules)):
        knotted = i.in_function and (i.source, i.target) in knots
        if i.target in modules and not i.for_types and not knotted:
            needs[i.source].add(i.target)
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


def test_every_module_has_its_floor() -> None:
    assert MODULES, f"no package at {PACKAGE}"
    assert not homeless(MODULES), "\n".join(homeless(MODULES))


def test_imports_go_down() -> None:
    assert not misplaced(MODULES), "\n".join(misplaced(MODULES))


def test_the_lower_floors_know_no_trio_and_the_ledger_never_awaits() -> None:
    assert not impure(MODULES), "\n".join(impure(MODULES))


def test_no_import_goes_round_in_a_circle() -> None:
    assert not cycles(MODULES), "\n".join(cycles(MODULES))


def test_every_knot_is_there() -> None:
    lazy = {(i.source, i.target) for m in MODULES for i in imports_of(m, MODULES) if i.in_function}
    assert lazy >= KNOTS, f"no longer needed in KNOTS: {sorted(KNOTS - lazy)}"


CROOKED = {
    "__init__": "from . import abc as abc\nfrom ._worker import Worker as Worker",
    "abc": "from ._abc import Backend as Backend",
    "_task": "import trio\nfrom . import _outcome",
    "_outcome": "if TYPE_CHECKING:\n    import trio\n    from ._abc import Backend",
    "_ledger": "async def wait(): ...\ndef wake():\n    from ._task import Task",
    "_abc": "",
    "_memory": "from ._pipe import pipe\nfrom .layers._trace import Trace",
    "_pipe": "def pipe():\n    from ._memory import x",
    "layers/__init__": "from ._trace import Trace as Trace",
    "layers/_trace": "from .._worker import Worker\nfrom . import Trace",
    "_worker": "from trio_tasks import Worker\nimport trio_tasks._memory",
    "_stray": "",
}


def test_these_tests_see_a_crooked_house() -> None:
    modules = {name: ast.parse(source) for name, source in CROOKED.items()}
    floors = [
        {"words": "_task _outcome"},
        {"ledger": "_ledger"},
        {"contracts": "_abc "},
        {"memory": "_memory", "pipe": "_pipe", "layers": "layers/*"},
        {"worker": "_worker _ghost"},
        {"roof": "__init__ abc layers/__init__"},
    ]
    assert homeless(modules, floors) == [
        "trio_tasks/_stray.py has no floor: give it one in FLOORS",
        "FLOORS names _ghost, which does not exist",
    ]
    assert misplaced(modules, floors) == [
        "trio_tasks/_outcome.py:3 imports _abc, which is above it: floor 2 from floor 0",
        "trio_tasks/_memory.py:1 imports _pipe, sideways: from room 'memory' into room 'pipe'",
        "trio_tasks/_memory.py:2 imports layers/_trace, sideways: from room 'memory' into room 'layers'",
        "trio_tasks/_pipe.py:2 imports _memory, sideways: from room 'pipe' into room 'memory'",
        "trio_tasks/layers/_trace.py:1 imports _worker, which is above it: floor 4 from floor 3",
        "trio_tasks/layers/_trace.py:2 imports layers/__init__, which is above it: floor 5 from floor 3",
        "trio_tasks/_worker.py:1 imports __init__, which is above it: floor 5 from floor 4",
    ]
    assert impure(modules, floors) == [
        "trio_tasks/_task.py:1 imports trio, on floor 0",
        "trio_tasks/_ledger.py:1 is async, on floor 1",
    ]
    assert {*cycles(modules, set())} >= {
        "__init__ -> _worker -> __init__",
        "_memory -> _pipe -> _memory",
        "layers/__init__ -> layers/_trace -> layers/__init__",
    }
    assert "_memory -> _pipe -> _memory" not in cycles(modules, {("_pipe", "_memory")})
