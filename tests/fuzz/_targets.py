"""All that reads bytes, by name."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz._codecs import fuzz_cbor, fuzz_json, fuzz_record
from tests.fuzz._journals import fuzz_journal
from tests.fuzz._rows import fuzz_rows

TARGETS: dict[str, Callable[[Random], None]] = {
    "cbor": fuzz_cbor,
    "json": fuzz_json,
    "record": fuzz_record,
    "journal": fuzz_journal,
    "rows": fuzz_rows,
}
