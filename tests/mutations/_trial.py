"""The trial of one mutation in a copy of the library, with the proofs that may notice it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory
from threading import Timer

from tests.mutations._broken import Mutation

ROOT = Path(__file__).parents[2]
MOST_SEEDS = 50
"""Within so many each mutation is found that programs can see."""
_SECONDS = 300.0
"""For one proof of one mutation."""

BY_TESTS = {
    "calls": ["tests/storages/test_calls.py"],
    "calls of processes": ["tests/storages/test_calls_across_processes.py"],
    "cuts": ["tests/cuts"],
    "deadlines": ["tests/storages/test_deadlines.py"],
    "events": ["tests/storages/test_storage_events.py"],
    "errors of processes": ["tests/router/test_portable_errors.py"],
    "explanations": ["tests/storages/test_explain.py"],
    "files": ["tests/storages/test_file_places.py", "tests/storages/test_journal_failures.py"],
    "fairness": ["tests/storages/test_fairness.py"],
    "idle": ["tests/test_worker_until_idle.py"],
    "journal limits": ["tests/storages/test_file_limits.py"],
    "listing": ["tests/storages/test_listing.py"],
    "limits by key": ["tests/layers/test_suspended_line.py"],
    "lending": ["tests/test_lending.py"],
    "pausing": ["tests/storages/test_pause.py"],
    "refused rows": ["tests/storages/test_refused_rows.py"],
    "retry_for": ["tests/test_retry_for.py"],
    "run_at": ["tests/storages/test_run_at.py"],
    "several ids": ["tests/storages/test_several_ids.py"],
    "schedules": ["tests/schedules/test_schedules.py", "tests/schedules/test_stories.py"],
    "schedule cuts": ["tests/schedules/test_cancellation.py"],
    "schedule seeds": ["tests/schedules/test_seeds.py"],
    "slots": ["tests/test_set_concurrency.py"],
    "sqlite fairness": ["tests/storages/test_sqlite_fairness.py"],
    "states": ["tests/test_states.py"],
    "transfer": ["tests/storages/test_transfer.py"],
    "times": ["tests/storages/test_times.py"],
    "versions": ["tests/router/test_versions.py"],
    "throughput": ["tests/storages/test_throughput.py"],
    "workers": ["tests/storages/test_workers.py"],
    "metadata": ["tests/test_set_metadata.py"],
    "model memory": ["tests/model", "-k", "memory"],
    "model sqlite": ["tests/model", "-k", "sqlite"],
    **{f"promise {n}": ["tests/promises", "-k", f"promise_{n:02}"] for n in range(1, 15)},
    "promise 15": ["tests/storages/test_fairness.py", "tests/test_groups.py"],
}
"""The proofs that are tests, and which."""


@dataclass(frozen=True)
class Found:
    """The result of trying a mutation.

    Attributes:
      proof: which one has seen it; None if none did.
      seed: for the simulations, the first seed that fails.
      seconds: how long that took.
      said: the first words of the complaint.
    """

    proof: str | None
    seed: int | None
    seconds: float
    said: str

    @property
    def where(self) -> str:
        """Return the result as text."""
        if self.proof is None:
            return "**not found**"
        return self.proof if self.seed is None else f"{self.proof}, seed {self.seed}"


def try_out(mutation: Mutation) -> Found:
    """Break a copy of the library, and run the proofs until one notices; at the end the tests of the promise."""
    began_at = time.perf_counter()
    with _broken_copy(mutation) as copy:
        for proof in (*mutation.proofs, f"promise {mutation.promise}"):
            seed, said = _by_tests(copy, proof) if proof in BY_TESTS else _by_seeds(copy, proof)
            if said:
                return Found(proof, seed, time.perf_counter() - began_at, said)
    return Found(None, None, time.perf_counter() - began_at, "")


@contextmanager
def _broken_copy(mutation: Mutation) -> Generator[Path, None, None]:
    with TemporaryDirectory(prefix="trio_tasks-mutation-") as directory:
        copy = Path(directory)
        for name in ("trio_tasks", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "trio_tasks" / mutation.file
        path.write_text(broken(path.read_text("utf-8"), mutation), "utf-8")
        yield copy


def broken(source: str, mutation: Mutation) -> str:
    """Return the source with the mutation in it.

    Raises:
      LookupError: what it replaces is not there, or more than once.
    """
    times = source.count(mutation.before)
    if times != 1:
        raise LookupError(f"mutation {mutation.name}: what it replaces is in {mutation.file} {times} times, not once")
    return source.replace(mutation.before, mutation.after)


def _by_seeds(copy: Path, kind: str) -> tuple[int | None, str]:
    """Run simulations until one fails; return its seed and its message."""
    command = [sys.executable, "-m", "tests.simulation", kind, f"0-{MOST_SEEDS - 1}"]
    with subprocess.Popen(
        command, cwd=copy, env=_environment(copy), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        timer = Timer(_SECONDS, process.kill)
        timer.start()
        try:
            last = ""
            for line in process.stdout:
                if found := re.match(rf"python -m tests\.simulation {kind} (\d+): *(.*)", line):
                    return int(found[1]), found[2]
                last = line
        finally:
            timer.cancel()
            process.kill()
    if process.returncode == -SIGKILL:
        return None, ""  # it has not been seen by then, at least
    return None, last if process.returncode else ""


def _by_tests(copy: Path, proof: str) -> tuple[None, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *BY_TESTS[proof]]
    done = subprocess.run(command, cwd=copy, env=_environment(copy), text=True, capture_output=True, timeout=600)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if not failed and done.returncode:
        return None, "a test that does not end"  # and has ended pytest by its time limit
    return None, failed[0].removeprefix("FAILED ") if failed else ""


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
