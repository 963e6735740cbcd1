"""``python -m tests.fuzz --minutes 60 [--target journal] [--seed 5]``: spoil and read, until something else comes out.

A failure is printed with the target and the seed that it has, which ``--seeds 1 --seed N --target T`` shows again.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from random import Random

from tests.fuzz._targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="in all")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, help="how many of each, instead of minutes")
    terms = parser.parse_args()
    chosen = [terms.target] if terms.target else list(TARGETS)
    failed = 0
    for target in chosen:
        end, seed, began_at = time.monotonic() + terms.minutes * 60 / len(chosen), terms.seed, time.monotonic()
        while time.monotonic() < end if terms.seeds is None else seed < terms.seed + terms.seeds:
            try:
                TARGETS[target](Random(seed))
            except Exception:
                failed += 1
                print(f"{target}, seed {seed}:", flush=True)
                traceback.print_exc()
            seed += 1
        done, seconds = seed - terms.seed, time.monotonic() - began_at
        print(f"{target}: {done} in {seconds:.0f} s, {done / max(seconds, 1e-9):,.0f} a second", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
