"""What ``import trio_tasks`` costs a program that imports trio anyway."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from .measuring import verdict

RUNS = 21
TARGET = 20.0  # ms

SCRIPT = """
import json, sys, time
began = time.perf_counter()
import trio
between, before = time.perf_counter(), set(sys.modules)
import trio_tasks
ended = time.perf_counter()
print(json.dumps([between - began, ended - between, sorted(set(sys.modules) - before)]))
"""


def show() -> None:
    print(f"wall time in fresh interpreters, the median of {RUNS}")
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", SCRIPT], text=True)) for _ in range(RUNS)]
    base, added = (1000 * median(run[which] for run in runs) for which in (0, 1))
    print(f"  import trio         {base:8.1f} ms")
    print(f"  import trio_tasks   {added:8.1f} ms more, {added / base:.2f}x  {verdict(added, TARGET)}")
    modules: list[str] = runs[0][2]
    own = [name for name in modules if name.partition(".")[0] == "trio_tasks"]
    print(f"  modules added: {len(own)} of its own, and {', '.join(name for name in modules if name not in own)}")
