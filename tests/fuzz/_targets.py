"""The list of everything that is fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz._codecs import fuzz_cbor, fuzz_json, fuzz_record
from tests.fuzz._journals import fuzz_entries, fuzz_journal
from tests.fuzz._locks import fuzz_lock
from tests.fuzz._sqlite_files import fuzz_file
from tests.fuzz._tables import fuzz_rows, fuzz_tables
from tests.fuzz._wakeup import fuzz_wakeup_socket

TARGETS: dict[str, Callable[[Random], None]] = {
    "cbor": fuzz_cbor,
    "json": fuzz_json,
    "record": fuzz_record,
    "journal": fuzz_journal,
    "entries": fuzz_entries,
    "rows": fuzz_rows,
    "tables": fuzz_tables,
    "file": fuzz_file,
    "bell": fuzz_wakeup_socket,
    "lock": fuzz_lock,
}
