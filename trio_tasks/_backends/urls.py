"""Storages by URL, so that one line of configuration chooses the storage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final, overload
from urllib.parse import parse_qsl, unquote, urlsplit

from .._printing import quoted

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from .durable.storage import DurableStorage
    from .memory import MemoryStorage

    A = TypeVar("A")
    AnyStorage = DurableStorage[A] | MemoryStorage[A]


@overload
def open_url(url: str, type: type[A], *, queue: str = "default", **options: Any) -> AnyStorage[A]: ...
@overload
def open_url(url: str, type: Any = None, *, queue: str = "default", **options: Any) -> AnyStorage[Any]: ...
def open_url(url: str, type: Any = None, *, queue: str = "default", **options: Any) -> AnyStorage[Any]:
    """Make the storage that a URL names; open it with ``async with``.

    >>> async with open_url(os.environ["TRIO_TASKS_URL"], Email, queue="emails") as storage:
    ...     await storage.push(Email(to="a@example.com"))

    ==================================  ==========================================================
    ``sqlite:///tasks.db``              :class:`SqliteStorage`, a path from the current folder
    ``sqlite:////var/lib/tasks.db``     the same, an absolute path: four slashes
    ``file:///var/lib/tasks.journal``   :class:`FileStorage`, an absolute path
    ``file:tasks.journal``              the same, a path from the current folder
    ``memory://``                       :class:`MemoryStorage`, a new one at each call
    ==================================  ==========================================================

    Args:
      url: the URL of the storage. After ``?`` it may have options that are numbers, words, or true and false:
          ``sqlite:///tasks.db?lease=60&synchronous=NORMAL&read_only=true``. ``codec`` is ``cbor`` or ``json``,
          ``mode`` is octal, as in ``mode=640``, and durations are in seconds, or ``inf``.
      type: the type of the args. Default: any.
      queue: the name of the queue. Default: ``"default"``.
      options: options of the storage that a URL cannot contain, such as ``on_push=``.

    Raises:
      ValueError: the URL names an unknown kind of storage; or it has an unknown option, a wrong value, or an option
          that is among ``options``, too. The message shows neither the URL nor a password in it.
      TypeError, ModuleNotFoundError: as when the storage is made by its class.
    """
    if not isinstance(url, str):
        raise TypeError(f"open_url takes a text such as 'sqlite:///tasks.db', not {quoted(url)}")
    scheme = url.partition(":")[0].lower()
    if scheme not in _SCHEMES:
        known = ", ".join(f"{example!r}" for example in _EXAMPLES.values())
        raise ValueError(f"the URL of a storage must begin with one of {', '.join(_SCHEMES)}, such as {known}")
    parts = _split(url, scheme)
    given = _options(parts, scheme)
    if both := given.keys() & {*options, *({"queue"} if queue != "default" else ())}:
        raise ValueError(f"the option {min(both)!r} is given twice: in the URL, and in the call of open_url")
    return _SCHEMES[scheme].make(_path(parts, scheme), type, {"queue": queue, **options, **given})


def _split(url: str, scheme: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        has_place = bool(parts.netloc)
    except ValueError:
        has_place = True
        parts = urlsplit("")
    if has_place:
        raise ValueError(
            f"a URL of {scheme} has no user, password or host: write three slashes, as in {_EXAMPLES[scheme]!r}"
        )
    if "#" in url:
        raise ValueError(f"a URL of {scheme} has no part after '#'; in a path, write %23")
    return parts


def _path(parts: SplitResult, scheme: str) -> str:
    """Return the path in a URL; empty for a scheme without one."""
    path = unquote(parts.path, errors="strict")
    if scheme == "memory":
        if path not in ("", "/"):
            raise ValueError("a URL of memory has no path: 'memory://'")
        return ""
    if scheme == "sqlite" or re.match(r"/[A-Za-z]:", path):  # a drive of Windows
        path = path.removeprefix("/")
    if not path:
        raise ValueError(f"this URL of {scheme} names no file: it should be such as {_EXAMPLES[scheme]!r}")
    return path


def _options(parts: SplitResult, scheme: str) -> dict[str, Any]:
    possible = _SCHEMES[scheme].options
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(
            f"behind '?', a URL of {scheme} has options such as {min(possible)}=…, joined by '&'"
        ) from None
    for name, text in pairs:
        if name not in possible:
            raise ValueError(
                f"a URL of {scheme} has no option {quoted(name)}; the options are {', '.join(sorted(possible))}"
            )
        if name in found:
            raise ValueError(f"the option {name!r} is in the URL twice")
        try:
            found[name] = possible[name].read(text)
        except (ValueError, KeyError):
            raise ValueError(
                f"the option {name!r} in the URL must be {possible[name].shape}, not {quoted(text)}"
            ) from None
    return found


# The options that a URL can say


@final
@dataclass(frozen=True)
class _Option:
    """An option of a URL, and how to read its value from text.

    Attributes:
      shape: the right texts, in words.
      read: converts a text; raises ``ValueError`` or ``KeyError`` for a wrong one.
    """

    shape: str
    read: Callable[[str], Any]


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _codec(text: str) -> Any:
    from .._codecs.codec import CborCodec, JsonCodec

    return {"cbor": CborCodec, "json": JsonCodec}[text.lower()]


_SECONDS = _Option("seconds, or inf", float)
_WORD = _Option("a word", str)
_LEVEL = _Option("a word", str.upper)
_SWITCH = _Option("true or false", lambda text: _BOOLEANS[text.lower()])
_MODE = _Option("an octal number, such as 640", lambda text: int(text, 8))
_COUNT = _Option("a whole number", int)
_SIZE = _Option("a whole number, or inf", lambda text: float(text) if text == "inf" else int(text))
_CODEC = _Option("cbor or json", _codec)

_INHERIT = _Option("inherit", lambda text: {"inherit": "inherit"}[text.lower()])

_DURABLE = {
    "queue": _WORD,
    "lease": _SECONDS,
    "codec": _CODEC,
    "keep_results": _SECONDS,
    "keep_dead": _SECONDS,
    "unreadable_after": _SECONDS,
    "deadline": _INHERIT,
    "synchronous": _LEVEL,
    "create": _SWITCH,
    "read_only": _SWITCH,
    "mode": _MODE,
}


# The storages


@final
@dataclass(frozen=True)
class _Scheme:
    """A URL scheme, and the storage that it names.

    Attributes:
      make: a function that makes a storage from the path, the type of the args, and all options.
      options: the options that a URL can have.
    """

    make: Callable[[str, Any, dict[str, Any]], AnyStorage[Any]]
    options: dict[str, _Option]


def _sqlite(path: str, type: Any, options: dict[str, Any]) -> AnyStorage[Any]:
    from .sqlite.storage import SqliteStorage

    return SqliteStorage(path, Any if type is None else type, **options)


def _file(path: str, type: Any, options: dict[str, Any]) -> AnyStorage[Any]:
    from .file.storage import FileStorage

    return FileStorage(path, Any if type is None else type, **options)


def _memory(_: str, type: Any, options: dict[str, Any]) -> AnyStorage[Any]:
    from .memory import MemoryStorage

    return MemoryStorage(type=type, **options)


_SCHEMES = {
    "sqlite": _Scheme(
        _sqlite,
        {
            **_DURABLE,
            "driver": _WORD,
            "join_existing": _SWITCH,
            "allow_triggers": _SWITCH,
            "poll_interval": _SECONDS,
        },
    ),
    "file": _Scheme(_file, {**_DURABLE, "repair": _SWITCH}),
    "memory": _Scheme(
        _memory,
        {
            "queue": _WORD,
            "codec": _CODEC,
            "keep_results": _COUNT,
            "max_buffer_size": _SIZE,
            "deadline": _INHERIT,
        },
    ),
}
_EXAMPLES = {"sqlite": "sqlite:///tasks.db", "file": "file:///var/lib/tasks.journal", "memory": "memory://"}
