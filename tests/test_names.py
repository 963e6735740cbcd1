"""Tests of public names: each object says the module that it is imported from."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import subprocess
import sys
import traceback

import pytest
import trio_tasks
from trio_tasks import AbortError, MemoryStorage, Status, TaskId, Worker, WorkerError
from trio_tasks._exports import rename


def test_classes_and_functions_of_ours_are_renamed() -> None:
    assert Worker.__module__ == "trio_tasks"
    assert repr(MemoryStorage) == "<class 'trio_tasks.MemoryStorage'>"
    assert trio_tasks.exponential.__module__ == "trio_tasks"


def test_what_is_loaded_on_demand_is_what_type_checkers_see() -> None:
    """One list is for type checkers, the other one for `__getattr__`."""
    tree = ast.parse(inspect.getsource(trio_tasks))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "_TYPE_CHECKING"]
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    seen = {each.name: f".{node.module}" for node in imports for each in node.names}
    assert seen == trio_tasks._WHEN_ASKED_FOR


def test_tracebacks_name_errors_as_users_do() -> None:
    text = "".join(traceback.format_exception_only(WorkerError("no")))
    assert text == "trio_tasks.WorkerError: no\n"


def test_only_what_is_public_and_lives_in_a_private_module_of_ours() -> None:
    class Inside:
        __module__ = "trio_tasks._somewhere"

    class Foreign:
        __module__ = "elsewhere._somewhere"

    class Similar:
        __module__ = "trio_tasks_too._somewhere"

    class Public:
        __module__ = "trio_tasks.layers"

    class Private:
        __module__ = "trio_tasks._somewhere"

    everything = {"Inside": Inside, "Foreign": Foreign, "Similar": Similar, "Public": Public, "_Private": Private}
    rename("here", {**everything, "number": 5, "text": "no module"})
    assert Inside.__module__ == "here"
    assert Foreign.__module__ == "elsewhere._somewhere"
    assert Similar.__module__ == "trio_tasks_too._somewhere"
    assert Public.__module__ == "trio_tasks.layers"
    assert Private.__module__ == "trio_tasks._somewhere"


@pytest.mark.parametrize("value", [TaskId("task-123"), Status.Failed, AbortError("enough")], ids=repr)
def test_renamed_classes_can_be_pickled_and_copied(value: object) -> None:
    again = pickle.loads(pickle.dumps(value))
    assert type(again) is type(value)
    assert str(again) == str(value)
    assert str(copy.copy(value)) == str(value)


MODULES_AFTER = """
import sys, trio
before = {*sys.modules}
import trio_tasks
print(*({*sys.modules} - before))
"""


def test_a_program_that_only_pushes_loads_no_worker() -> None:
    modules = run_python(MODULES_AFTER).split()
    assert "trio_tasks._backends.memory" in modules
    assert not [each for each in modules if each.startswith(("trio_tasks._worker", "trio_tasks._handlers", "sqlite3"))]
    assert not {"trio_tasks._monitor", "trio_tasks._contracts.context"} & {*modules}


NAMES_OF_A_RUN = """
import trio
from trio_tasks import MemoryStorage, {first}
from trio_tasks._contracts import events, report
print(*(each.__module__ for each in [*events.EVENTS, report.WorkerReport, report.Report]))
"""


@pytest.mark.parametrize("first", ["Worker", "WorkerBuilder", "Monitor", "testing"])
def test_what_comes_along_with_a_worker_has_its_public_name(first: str) -> None:
    assert {*run_python(NAMES_OF_A_RUN.format(first=first)).split()} == {"trio_tasks"}


def run_python(program: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program], text=True)
