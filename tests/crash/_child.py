"""The child processes of a crash trial: starting, killing, suspending and ending them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.crash._child_settings import ChildSettings

ROOT = Path(__file__).parents[2]


class ChildError(AssertionError):
    """A child ended though the trial did not end it."""


class Child:
    """A named role in a crash trial, filled by one process after another."""

    def __init__(self, module: str, settings: ChildSettings) -> None:
        self._module = module
        self._settings = settings
        self._generation = 0
        self._process: subprocess.Popen[bytes]
        self.name = settings.name

    def start(self) -> None:
        """Start the next process."""
        self._generation += 1
        self.name = f"{self._settings.name}.{self._generation}"
        settings = replace(self._settings, name=self.name)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(settings.command(self._module), cwd=ROOT, stderr=errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _errors(self) -> Path:
        return Path(self._settings.directory, f"{self.name}.err")

    @property
    def is_up(self) -> bool:
        """True if the process has reported that it is up."""
        return Path(self._settings.directory, f"{self.name}.up").exists()

    @property
    def processor_time(self) -> float:
        """Return the CPU time of the process in ticks; always 0 where it is not known."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return float(fields[11]) + float(fields[12])

    @property
    def has_begun(self) -> bool:
        """True if a worker has written its first record."""
        log = Path(self._settings.directory, f"{self.name}.log")
        return self.is_up and (not log.exists() or log.stat().st_size > 0)

    def check(self) -> None:
        """Raise if the process has ended."""
        if self._process.poll() is not None:
            said = self._errors.read_text()[-4000:]
            raise ChildError(f"{self.name} ended by itself with {self._process.returncode}: {said}")

    def kill(self) -> float:
        """Kill the process; return the time on the monotonic clock."""
        self.check()
        at = time.monotonic()
        self._process.kill()
        if self._process.wait(60) != -signal.SIGKILL:
            self.check()
        return at

    def stop(self, seconds: float) -> None:
        """Suspend the process for this many seconds."""
        self.check()
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Ask the process to end, and check that it exits without an error."""
        self.check()
        self._process.terminate()
        if code := self._process.wait(120):
            raise ChildError(f"{self.name} did not end well, with {code}: {self._errors.read_text()[-4000:]}")

    def end_by_force(self) -> None:
        """Kill the process if it is still there."""
        with suppress(AttributeError):
            self._process.kill()
            self._process.wait(60)
