"""Tests of each stored storage by the conformance kit, on a real file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import FileStorage, SqliteStorage
from trio_tasks.testing import BackendConformance

pytestmark = pytest.mark.real

LEASE = 1.0  # second: short, since orphans are waited for in real time


class TestFileStorage(BackendConformance):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], Any]:
        return lambda: FileStorage(tmp_path / "tasks.journal", int, lease=LEASE)


class TestSqliteStorage(BackendConformance):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], Any]:
        return lambda: SqliteStorage(tmp_path / "tasks.db", int, lease=LEASE, synchronous="NORMAL", driver="sqlite3")


@pytest.mark.skipif(find_spec("apsw") is None, reason="apsw is not installed")
class TestSqliteStorageByApsw(BackendConformance):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Callable[[], Any]:
        return lambda: SqliteStorage(tmp_path / "tasks.db", int, lease=LEASE, driver="apsw")
