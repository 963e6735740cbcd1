"""Logs, traces and metrics of tasks, for the libraries that collect them. A name may need the extra of its library.

>>> from trio_tasks.observe import (
...     OpenTelemetry,
...     carry_trace,
... )  # pip install 'trio_tasks[otel]'
>>> storage = SqliteStorage("orders.db", Order, on_push=carry_trace)
>>> worker = Worker("orders", storage, ship, layers=[OpenTelemetry()])
"""

from types import ModuleType as _Module
from typing import TYPE_CHECKING as _TYPE_CHECKING, Any as _Any

from .._exports import rename as _rename

if _TYPE_CHECKING:
    from ._collector import Collector as Collector
    from ._health import health as health
    from ._log_fields import LogFields as LogFields
    from ._open_telemetry import OpenTelemetry as OpenTelemetry, carry_trace as carry_trace

_WHEN_ASKED_FOR = {
    "Collector": "._collector",
    "health": "._health",
    "LogFields": "._log_fields",
    "OpenTelemetry": "._open_telemetry",
    "carry_trace": "._open_telemetry",
}
_EXTRAS = {"opentelemetry": "otel"}
"""The extra that installs each library."""


def __getattr__(name: str) -> _Any:
    if name == "__all__":
        return sorted(_WHEN_ASKED_FOR)
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_WHEN_ASKED_FOR[name], __name__), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        message = f"trio_tasks.observe.{name} needs {error.name}: pip install 'trio_tasks[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    globals()[name] = value
    _rename(__name__, {name: value})
    return value


def __dir__() -> list[str]:
    return sorted({*(name for name, each in globals().items() if not isinstance(each, _Module)), *_WHEN_ASKED_FOR})
