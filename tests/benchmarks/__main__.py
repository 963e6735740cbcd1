"""The command line of the benchmarks: ``python -m tests.benchmarks [--small] [NAME ...]``.

With ``--small``, those that take minutes do little, to see that they run.
"""

from __future__ import annotations

import os
import platform
import sys
import time

import trio

from . import (
    crowd,
    flatness,
    idle,
    imports,
    latency,
    layers,
    memory,
    named,
    observing,
    opening,
    options,
    schedules,
    side_by_side,
    speed,
    storages,
)
from .fresh import SMALL

BENCHMARKS = {
    "speed": speed.show,
    "flatness": flatness.show,
    "memory": memory.show,
    "latency": latency.show,
    "idle": idle.show,
    "imports": imports.show,
    "side_by_side": side_by_side.show,
    "storages": storages.show,
    "observing": observing.show,
    "opening": opening.show,
    "named": named.show,
    "schedules": schedules.show,
    "crowd": crowd.show,
    "layers": layers.show,
    "options": options.show,
}


def main(words: list[str]) -> None:
    names = [word for word in words if word != "--small"]
    if len(names) < len(words):
        os.environ[SMALL] = "yes"
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(f"trio {trio.__version__} on {platform.python_implementation()} {platform.python_version()}")
    began = time.monotonic()
    for name in names or BENCHMARKS:
        print(f"\n{name}: ", end="")
        BENCHMARKS[name]()
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main(sys.argv[1:])
