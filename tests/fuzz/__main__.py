"""``python -m tests.fuzz --minutes 60 [--target journal] [--seed 5]``: damage bytes and read them, until an unexpected
error.

A failure is printed with the target and the seed that it has, which ``--seeds 1 --seed N --target T`` shows again. What
takes a minute hangs: it is printed where, and that is the end.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import threading
import time
import traceback
from random import Random

from tests.fuzz._targets import TARGETS

_HANGS_AFTER = 60.0


class _Watch:
    """A thread that reports a run that hangs."""

    def __init__(self) -> None:
        self._doing: tuple[str, int, float] | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, target: str, seed: int) -> None:
        """Note that another run begins."""
        self._doing = target, seed, time.monotonic()

    def _look(self) -> None:
        while True:
            time.sleep(1)
            if self._doing is not None and time.monotonic() > self._doing[2] + _HANGS_AFTER:
                print("{}, seed {}: hangs".format(*self._doing), flush=True)
                faulthandler.dump_traceback()
                os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="in all")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, help="how many of each, instead of minutes")
    terms = parser.parse_args()
    chosen = [terms.target] if terms.target else list(TARGETS)
    failed, watch = 0, _Watch()
    for target in chosen:
        end, seed, began_at = time.monotonic() + terms.minutes * 60 / len(chosen), terms.seed, time.monotonic()
        while time.monotonic() < end if terms.seeds is None else seed < terms.seed + terms.seeds:
            watch.begin(target, seed)
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
