"""The command line of the long crash trials: ``python -m tests.crash --help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.crash._trial import Plan, Trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--processes", type=int, default=4, help="that work; one more pushes")
    parser.add_argument("--apart", type=float, default=1.2, help="seconds between two kills, on average")
    parser.add_argument("--lease", type=float, default=1.0, help="in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--driver", choices=["sqlite3", "apsw"])
    parser.add_argument(
        "--directory", type=Path, help="where the file and the logs are kept; a temporary one if not given"
    )
    given = vars(parser.parse_args())
    directory: Path | None = given.pop("directory")
    plan = Plan(**given)
    print(plan)
    with tempfile.TemporaryDirectory() as temporary:
        if directory is not None:
            directory.mkdir(parents=True)
        verdict = Trial(plan, directory or Path(temporary)).run()
    for name, number in sorted(verdict.figures.items()):
        print(f"{number:10}  {name}")
    for fault in verdict.faults[:50]:
        print("FAULT:", fault)
    print(f"{len(verdict.faults)} faults")
    return bool(verdict.faults)


if __name__ == "__main__":
    sys.exit(main())
