"""Tests of signatures, `help()` and errors as users see them: readable defaults and public names."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from trio_tasks import (
    DurableStorage,
    FileStorage,
    MemoryStorage,
    Monitor,
    SqliteStorage,
    StorageOptions,
    TaskOptions,
    TaskSink,
    Worker,
)

MODULES = ("trio_tasks", "trio_tasks.abc", "trio_tasks.layers", "trio_tasks.testing")
UNREADABLE = re.compile(r"<function [^>]*>|<[\w.]+ object[^>]*>|<factory>|<lambda>| at 0x[0-9a-f]+")
DATA = re.compile(r"^[ |]*__(dataclass_fields|orig_bases|annotations)__ = .*$", re.MULTILINE)  # of Python itself


def public() -> Iterator[tuple[str, Any]]:
    """Every public class and function, with where it is imported from."""
    for module in MODULES:
        home = importlib.import_module(module)
        for name in dir(home):
            each = getattr(home, name)
            if not name.startswith("_") and isinstance(each, (type, types.FunctionType)):
                yield f"{module}.{name}", each


def signatures(name: str, each: Any) -> Iterator[tuple[str, str]]:
    """The signature of a function, or of each public method of a class."""
    parts = inspect.getmembers(each, callable) if isinstance(each, type) else [("", each)]
    for part, function in [*parts, ("", each)]:
        if not part.startswith("_") or part == "__init__":
            try:
                yield f"{name}.{part}", str(inspect.signature(function))
            except (TypeError, ValueError):  # of a class in C
                continue


@pytest.mark.parametrize(("name", "each"), list(public()), ids=[name for name, _ in public()])
def test_help_and_signatures_can_be_read(name: str, each: Any) -> None:
    unreadable = [f"{where}{text}" for where, text in signatures(name, each) if UNREADABLE.search(text)]
    assert not unreadable
    text = DATA.sub("", pydoc.plain(pydoc.render_doc(each)))
    assert not UNREADABLE.findall(text)


def public_name(cls: type) -> bool:
    """Return True if users can import this class, or the one that it is a part of, by the name that it shows."""
    home = importlib.import_module(cls.__module__)
    there = getattr(home, cls.__qualname__, None) if cls.__module__ in MODULES else None
    return cls in getattr(there, "__mro__", ())


CLASSES = [(name, each) for name, each in public() if isinstance(each, type) and get_origin(each) is None]


@pytest.mark.parametrize(("name", "each"), CLASSES, ids=[name for name, _ in CLASSES])
def test_base_classes_have_public_names(name: str, each: type) -> None:
    ours = [base for base in each.__mro__ if base.__module__.startswith("trio_tasks")]
    assert [base for base in ours if not public_name(base)] == []


@pytest.mark.parametrize(("name", "each"), CLASSES, ids=[name for name, _ in CLASSES])
def test_errors_about_a_wrong_keyword_name_a_public_class(name: str, each: type) -> None:
    known = {cls.__name__ for _, cls in CLASSES}
    for part in dir(each):
        function: Any = inspect.getattr_static(each, part)
        function = getattr(function, "__func__", getattr(function, "fget", function))
        if isinstance(function, types.FunctionType) and function.__module__.startswith("trio_tasks"):
            if not part.startswith("_") or part == "__init__":
                assert function.__qualname__.split(".")[0] in known, f"{part} says {function.__qualname__}"


async def test_a_wrong_keyword_is_refused_in_the_name_of_the_class(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        wrong: dict[str, Any] = {"wrong": 1}
        with pytest.raises(
            TypeError, match=r"^DurableCapabilities\.cancel\(\) got an unexpected keyword argument 'wrong'"
        ):
            await storage.cancel("id", **wrong)
        with pytest.raises(TypeError, match=r"^SqliteStorage\.push has no option 'wrong'"):
            await storage.push(1, **wrong)
        with pytest.raises(TypeError, match=r"^SqliteStorage\.push has no option 'wrong'"):
            await storage.push_bulk([1], **wrong)


def test_what_is_unreadable_is_seen() -> None:
    def with_default(function: object = print, sentinel: object = object(), *, key: object = lambda: 1) -> None: ...

    [(_, text), _] = signatures("x", with_default)
    assert len(UNREADABLE.findall(text)) >= 2


def entries(text: str) -> dict[str, str]:
    """What the section Args of a docstring says of each argument."""
    _, _, section = inspect.cleandoc(text).partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    return dict(re.findall(r"^  ([\w, ]+): ((?s:.*?))(?=^  \w|\Z)", section, re.MULTILINE))


@pytest.mark.parametrize("each", [TaskSink, DurableStorage, MemoryStorage, SqliteStorage, FileStorage])
def test_push_describes_each_of_its_keywords(each: Any) -> None:
    text = inspect.getdoc(each.push) or ""
    assert entries(text).keys() == {"args", *TaskOptions.__optional_keys__}
    assert not [name for name, said in entries(text).items() if name != "args" and "Default: " not in said]
    assert ">>>" in text


DESCRIBED: list[Any] = [Worker, Monitor, MemoryStorage, SqliteStorage, FileStorage]
QUEUE_OPTIONS = {*StorageOptions.__optional_keys__}


@pytest.mark.parametrize("each", DESCRIBED)
def test_the_most_used_classes_have_an_example_and_their_defaults_in_words(each: Any) -> None:
    assert re.search(r"^>>> ", inspect.getdoc(each) or "", re.MULTILINE), "no example"
    found = entries(inspect.getdoc(each) or "")
    parameters = dict(inspect.signature(each).parameters)
    takes_more = parameters.pop("options", None) is not None
    assert found.keys() == {*parameters, *(QUEUE_OPTIONS if takes_more else ())}
    with_default = {name for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
    silent = [name for name in found if name in with_default | QUEUE_OPTIONS and "efault" not in found[name]]
    assert not silent
