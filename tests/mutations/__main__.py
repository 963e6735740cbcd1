"""``python -m tests.mutations [NAME …]``: try the mutations, and print which tests notice, as the table in the docs."""

from __future__ import annotations

import sys

from tests.mutations._broken import MUTATIONS
from tests.mutations._trial import try_out


def main(names: list[str]) -> int:
    """Try the mutations of these names, or all; return how many no test has noticed."""
    chosen = [each for each in MUTATIONS if not names or each.name in names]
    unseen = 0
    print("| Promise | What was broken | Seen by |\n| --- | --- | --- |")
    for mutation in chosen:
        found = try_out(mutation)
        unseen += found.proof is None
        print(f"| {mutation.promise} | {mutation.what} | {found.where} |", flush=True)
        print(f"{mutation.name}: {found.where}, {found.seconds:.0f} s: {found.said:.120}", file=sys.stderr, flush=True)
    return unseen


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
