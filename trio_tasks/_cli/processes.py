"""Several processes of one program: started, supervised and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, final

import trio

from .output import ExitStatus, note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .reports import ReportsOfProcesses
    from .systemd import ServiceOfProcesses

RELOADED = 75
"""The exit status of a process that wants to be started again, since a file of its program has changed."""
ALONE = 76
"""The exit status of a process that could not open a storage since another one has it."""
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 30.0
"""Seconds before a process that has failed is started again: they double."""
_RAN_WELL = 60.0
"""Seconds after which a process that fails has run well before."""
_BY_SIGNAL = 128
"""Added to the number of the signal that has ended a process."""
_BY_THESE_SIGNALS = (_BY_SIGNAL + signal.SIGTERM, ExitStatus.INTERRUPTED)
_ENDED_IN_ORDER = (ExitStatus.DONE, ExitStatus.CUT_SHORT)


async def supervise(
    arguments: Callable[[int], Sequence[str]],
    number: int,
    service: ServiceOfProcesses,
    reports: ReportsOfProcesses,
    *,
    reload: bool,
) -> int:
    """Run a number of processes until all have ended, and return the highest of their exit statuses.

    One that fails is started again, after a delay that doubles. SIGINT and SIGTERM are forwarded: the first one
    shuts the processes down, the second one cancels their attempts. If this process is killed, their standard input
    ends, and they shut down.

    Args:
      arguments: returns those of the process with this number, counted from 0.
      number: of processes.
      service: tells systemd of them.
      reports: collects what they have done.
      reload: True to start a process again that ends since its files have changed, or could not be imported.
    """
    commands = [[sys.executable, "-m", "trio_tasks", *arguments(index)] for index in range(number)]
    family = _Family(commands, service, reports, reload)
    async with trio.open_nursery() as nursery:
        await nursery.start(family.forward_signals)
        nursery.start_soon(service.tell)
        async with trio.open_nursery() as members:
            for index in range(number):
                members.start_soon(family.keep, index)
        nursery.cancel_scope.cancel()
    return family.status


@final
class _Family:
    """The processes of one program.

    Args:
      commands: the command line of each.
      service: tells systemd of them.
      reports: collects what they have done.
      reload: True if they are started again when their files change.
    """

    def __init__(
        self, commands: list[list[str]], service: ServiceOfProcesses, reports: ReportsOfProcesses, reload: bool
    ) -> None:
        self._commands = commands
        self._service = service
        self._reports = reports
        self._reload = reload
        self._ending = trio.Event()
        self._running: set[trio.Process] = set()
        self._signals: list[int] = []
        self._has_told_why = False
        self.status = 0

    async def forward_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End all processes when a signal comes."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            task_status.started()
            async for number in received:
                self._end(number)

    def _end(self, number: int) -> None:
        if not self._signals:
            self._service.stopping()
        self._signals.append(number)
        self._ending.set()
        for process in self._running:
            process.send_signal(number)

    async def keep(self, index: int) -> None:
        """Run a process, and start it again as long as it fails."""
        delay = _FIRST_DELAY
        while not self._ending.is_set():
            began, seen = trio.current_time(), python_files() if self._reload else {}
            status = await self._run(self._commands[index])
            if status == ALONE:
                self._tell_why()
                status = ExitStatus.USAGE
            if status != ExitStatus.USAGE:
                self._reports.collect(index + 1)
            if self._ending.is_set() and status in _BY_THESE_SIGNALS:
                # It had no monitor yet, or, at the third signal, none any more.
                status = ExitStatus.DONE if len(self._signals) < 3 else ExitStatus.CUT_SHORT
            if self._ending.is_set() or status in _ENDED_IN_ORDER:
                self.status = max(self.status, status)
                return
            if status == ExitStatus.USAGE and not self._reload:
                self.status = max(self.status, status)
                self._end(signal.SIGTERM)
                return
            if status == ExitStatus.USAGE:
                told = "it tries again when a file below the current folder changes, and not before"
                note(f"process {index + 1} could not begin: {told}")
                await self._wait_for_change(seen)
            elif status != RELOADED:
                delay = _FIRST_DELAY if trio.current_time() > began + _RAN_WELL else min(2 * delay, _LONGEST_DELAY)
                note(f"process {index + 1} ended with status {status}: it is started again in {delay:g} s")
                with trio.move_on_after(delay):
                    await self._ending.wait()

    def _tell_why(self) -> None:
        """Tell, once, that the processes have one storage that is for one process."""
        if not self._has_told_why:
            told = "the program opens a journal, which has one process, in each of several"
            note(f"trio-tasks: {told}: leave out --processes, or use SQLite, such as sqlite:///tasks.db")
            self._has_told_why = True

    async def _run(self, command: list[str]) -> int:
        """Run a process; return its exit status, that of a signal as a shell does."""
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            env={**os.environ, **self._service.environment},
            start_new_session=True,  # a terminal's Ctrl-C comes here alone, and is forwarded
        )
        self._running.add(process)
        try:
            for number in self._signals:  # which came before it was there
                process.send_signal(number)
            status = await process.wait()
        finally:
            self._running.discard(process)
            if process.stdin is not None:
                with trio.CancelScope(shield=True):
                    await process.stdin.aclose()
        return status if status >= 0 else _BY_SIGNAL - status

    async def _wait_for_change(self, seen: dict[str, int]) -> None:
        while seen == python_files() and not self._ending.is_set():  # noqa: ASYNC110  files tell nobody
            await trio.sleep(0.5)


def python_files() -> dict[str, int]:
    """Return the time of the last change of each Python file below the current folder."""
    found: dict[str, int] = {}
    for folder, folders, files in os.walk(Path.cwd()):
        folders[:] = [each for each in folders if not each.startswith((".", "__"))]
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                found[str(path)] = changed_at(path)
    return found


def changed_at(path: Path) -> int:
    """Return the time of the last change of a file in nanoseconds; 0 if it is not there, or cannot be reached."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):  # an editor may be replacing it; the file of a module may be any text
        return 0
