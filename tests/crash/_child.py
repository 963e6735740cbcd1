"""The children of a trial: started, killed, stopped, and never just gone."""

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
    """A child ended in a way that nobody made it end."""


class Child:
    """A place in the crew, filled by one process after the other; each has a name of its own."""

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
        """Whether it says so."""
        return Path(self._settings.directory, f"{self.name}.up").exists()

    @property
    def processor_time(self) -> float:
        """How long it has run, in ticks; always 0 where there is no such thing to be read."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return float(fields[11]) + float(fields[12])

    @property
    def has_begun(self) -> bool:
        """Whether it has begun to do something: a worker has written something down."""
        log = Path(self._settings.directory, f"{self.name}.log")
        return self.is_up and (not log.exists() or log.stat().st_size > 0)

    def check(self) -> None:
        """Fail if it has ended."""
        if self._process.poll() is not None:
            said = self._errors.read_text()[-4000:]
            raise ChildError(f"{self.name} ended by itself with {self._process.returncode}: {said}")

    def kill(self) -> float:
        """Kill it; returns when, on the monotonic clock."""
        self.check()
        at = time.monotonic()
        self._process.kill()
        if self._process.wait(60) != -signal.SIGKILL:
            self.check()
        return at

    def stop(self, seconds: float) -> None:
        """Have it stand still for so long."""
        self.check()
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end, and see that it ends well."""
        self.check()
        self._process.terminate()
        if code := self._process.wait(120):
            raise ChildError(f"{self.name} did not end well, with {code}: {self._errors.read_text()[-4000:]}")

    def end_by_force(self) -> None:
        """Whatever has happened, it does not outlive the trial."""
        with suppress(AttributeError):
            self._process.kill()
            self._process.wait(60)
