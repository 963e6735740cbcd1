"""The command line of the simulation: ``python -m tests.simulation memory 1234`` shows one program; ``… sqlite 0-999``
runs many.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from typing import cast

from tests.simulation._program import Program
from tests.simulation._stores import Kind


def tell(kind: Kind, seed: int) -> int:
    """Run one program, and print its history and its faults."""
    logging.disable(logging.CRITICAL)
    program = Program(kind, seed)
    try:
        program.run()
    finally:
        print(*program.checker.history, *program.checker.faults, sep="\n")
    return len(program.checker.faults)


def run_many(kind: Kind, seeds: range) -> int:
    """Run programs, and print those that fail; return how many fail."""
    logging.disable(logging.CRITICAL)
    failed, seen, began_at = 0, Counter[str](), time.perf_counter()
    for seed in seeds:
        program = Program(kind, seed)
        trouble = ""
        try:
            program.run()
        except AssertionError as error:
            trouble = str(error)
        checker = program.checker
        seen.update({outcome.__name__: n for outcome, n in checker.counts.items()})
        seen.update(checker.seen)
        if trouble or checker.faults:
            failed += 1
            print(
                f"python -m tests.simulation {kind} {seed}: {trouble} {'; '.join(checker.faults[:3]):.600}", flush=True
            )
    seconds = time.perf_counter() - began_at
    print(f"{kind}: {len(seeds)} programs in {seconds:.0f} s, {failed} failed; {dict(seen)}", flush=True)
    return failed


if __name__ == "__main__":
    kind = cast("Kind", sys.argv[1])
    first, _, last = sys.argv[2].partition("-")
    if last:
        sys.exit(min(run_many(kind, range(int(first), int(last) + 1)), 1))
    sys.exit(min(tell(kind, int(first)), 1))
