"""Helpers that give public objects their public names: ``trio_tasks.Worker``, not the module in which it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def rename(module: str, namespace: Mapping[str, Any]) -> None:
    """Make the public classes and functions in ``namespace`` belong to ``module``, so that tracebacks, reprs and
    documentation name them as users do. The same is done in trio, for the same reason."""
    for name, each in namespace.items():
        home = getattr(each, "__module__", None)
        if not name.startswith("_") and isinstance(home, str) and "._" in home and home.startswith(f"{__package__}."):
            each.__module__ = module
