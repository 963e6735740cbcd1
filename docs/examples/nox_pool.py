"""Run the sessions of a noxfile in parallel: python nox_pool.py [--jobs N] [--new] [NOXFILE] [-- SESSION...]

Each session is a task in an SQLite file, and is run by ``nox`` as a subprocess. Ctrl-C shuts down gracefully: running
sessions are finished, and no more are begun. A second Ctrl-C terminates the running ones. Run the program again, and it
continues, also after ``kill -9``: sessions that are done are not run again; those that failed or were interrupted are.

It needs a POSIX system. Exit status: 0 all sessions are done, 1 some are not, 2 wrong usage, 130 interrupted.
"""

import argparse
import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import trio
from trio_tasks import (
    Engage,
    Error,
    Event,
    Monitor,
    Release,
    RetryPolicy,
    SqliteStorage,
    Status,
    Success,
    Task,
    Worker,
    WorkerContext,
)

LIVE = sys.stderr.isatty()  # then there is a line that shows the state, and is rewritten
GRACE = 5.0  # seconds that a session has to end after SIGTERM
TAIL = 20  # lines of its output that are shown if it fails
MOST = 10_000  # sessions that are looked at
WORDS = {
    Status.Pending: "waiting", Status.Queued: "waiting", Status.Running: "running",
    Status.Done: "done", Status.Failed: "failed", Status.Killed: "failed",
}  # fmt: skip


class SessionFailed(Exception):
    """The exit status of a session was not 0."""


def say(text: str, end: str = "\n") -> None:
    print("\r\x1b[K" + text if LIVE else text, end=end, file=sys.stderr, flush=True)


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(group, number)


async def terminate(process: trio.Process) -> None:
    """End a session and all that it started: ask by SIGTERM, then kill what is left of its process group."""
    signal_group(process.pid, signal.SIGTERM)
    with trio.move_on_after(GRACE):
        await process.wait()
    signal_group(process.pid, signal.SIGKILL)


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[IO[str], None]:
    """Open a file and lock it. The subprocess inherits the lock, so it is held for as long as that lives.

    If a pool was killed by ``kill -9``, its sessions still run. The file has the process group of such a session, which
    is ended before the session is run again.
    """
    with path.open("a+") as file:
        begun = trio.current_time()
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            file.seek(0)
            if group := file.read():
                is_late = trio.current_time() > begun + GRACE
                signal_group(int(group), signal.SIGKILL if is_late else signal.SIGTERM)
            await trio.sleep(0.1)
        file.truncate(0)
        yield file


class Pool:
    """The sessions of one noxfile, the folder with their output, and the storage of their tasks."""

    def __init__(self, noxfile: Path, folder: Path, storage: SqliteStorage[str]) -> None:
        self.noxfile = noxfile
        self.folder = folder
        self.storage = storage
        self.begun: dict[str, float] = {}  # the sessions that run, and since when
        self.interrupted: set[str] = set()

    def path(self, name: str, suffix: str) -> Path:
        return self.folder / (urllib.parse.quote(name, safe=" ") + suffix)

    async def run(self, task: Task[str]) -> None:
        """Handle one task: run the session. Cancelling it terminates the session."""
        name = task.args
        command = [sys.executable, "-m", "nox", "--non-interactive", "-f", str(self.noxfile), "-s", name]
        started = trio.current_time()
        async with locked(self.path(name, ".lock")) as lock, trio.open_nursery() as nursery:
            with self.path(name, ".log").open("wb") as log:
                run = partial(
                    trio.run_process, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
                    start_new_session=True,  # a process group of its own: Ctrl-C does not reach it
                    pass_fds=[lock.fileno()], deliver_cancel=terminate,
                )  # fmt: skip
                process: trio.Process = await nursery.start(run)
            print(process.pid, file=lock, flush=True)
            status = await process.wait()
        await self.storage.report_progress(task, trio.current_time() - started)  # kept with the task: its seconds
        if status:
            raise SessionFailed(f"exit status {status}")

    def listen(self, context: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            self.begun[event.task.args] = trio.current_time()
            say(f"{event.task.args}: started by {context.name}")
        elif isinstance(event, (Success, Error, Release)):
            name = event.task.args
            took = f"after {trio.current_time() - self.begun.pop(name):.1f} s"
            if isinstance(event, Success):
                say(f"{name}: done {took}")
            elif isinstance(event, Release):
                self.interrupted.add(name)
                say(f"{name}: interrupted {took}")
            else:
                lines = self.path(name, ".log").read_text("utf-8", "replace").splitlines()[-TAIL:]
                say("\n".join([f"{name}: failed {took}: {event.error}", *(f"{name} | {line}" for line in lines)]))

    async def show_state(self, monitor: Monitor) -> None:
        """Rewrite one line on the terminal, again and again."""
        while LIVE:
            now = await self.storage.metrics()
            running = [f"{name} {trio.current_time() - begun:.0f} s" for name, begun in self.begun.items()]
            hint = "; Ctrl-C again terminates them" if monitor.is_shutting_down else ""
            line = f"{now['waiting']} waiting, {len(running)} running{hint}: {', '.join(running)}"
            say(line[: shutil.get_terminal_size().columns - 1], end="")
            await trio.sleep(0.1)

    async def prepare(self, names: list[str]) -> None:
        """Push a task for each session that has none; have those that failed run again."""
        known = {task.args: task.parts for task in await self.storage.list_tasks(limit=MOST)}
        for name in names:
            if name not in known:
                await self.storage.push(name)
            elif known[name].status in (Status.Failed, Status.Killed):
                await self.storage.resume_by_id(known[name].id)
        if known:
            words = [WORDS[parts.status].replace("running", "interrupted") for parts in known.values()]
            counts = [f"{words.count(word)} {word}" for word in ("done", "failed", "interrupted", "waiting")]
            say(f"resuming: {', '.join(counts)}")

    async def report(self) -> list[str]:
        """Return a table of all sessions: the attempts that were interrupted by Ctrl-C do not count."""
        tasks = sorted(await self.storage.list_tasks(limit=MOST), key=lambda task: task.parts.id)
        width = max(len("session"), *(len(task.args) for task in tasks))
        lines = [f"{'session':{width}}  status       seconds  attempts"]
        for task in tasks:
            name, info = task.args, task.parts.context
            status = "interrupted" if name in self.interrupted else WORDS[task.parts.status]
            seconds = f"{info.progress:.1f}" if status in ("done", "failed") and info.progress is not None else "-"
            lines.append(f"{name:{width}}  {status:11}  {seconds:>7}  {task.parts.attempt:8}")
        return lines


async def run_pool(pool: Pool, names: list[str], jobs: int) -> int:
    """Run the sessions in so many workers, and report."""
    await pool.prepare(names)
    pool.storage.close()  # nothing more is pushed: the workers end when all sessions have
    monitor = Monitor(on_event=pool.listen)
    # A session that fails is not run again in this run. One whose pool was killed is, at most five times.
    policy = RetryPolicy(attempts=5, retry_if=lambda error: not isinstance(error, SessionFailed))
    for number in range(1, jobs + 1):
        monitor.register(Worker(f"worker {number}", pool.storage, pool.run, concurrency=1, retry=policy, log=None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.show_state, monitor)
        await monitor.run_with_signal()
        nursery.cancel_scope.cancel()

    say("", end="")
    print("\n".join(await pool.report()), flush=True)
    if len(await pool.storage.list_tasks(Status.Done, limit=MOST)) == len(names):
        return 0
    say(f"the output of each session is in {pool.folder}; run this again to run those that are not done")
    return 130 if monitor.is_shutting_down else 1


def list_sessions(noxfile: Path, names: list[str]) -> list[str]:
    """Ask nox for the names of the sessions: of those that it runs by default, if none are given."""
    command = [sys.executable, "-m", "nox", "-f", str(noxfile), "--list", "--json", *(["-s", *names] if names else [])]
    asked = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if asked.returncode:
        sys.exit(2)  # nox has said why
    return [each["session"] for each in json.loads(asked.stdout)]


async def run(noxfile: Path, names: list[str], jobs: int, is_new: bool) -> int:
    """Open the file of the tasks, which belongs to this noxfile and these sessions; remove it when all are done."""
    job = hashlib.sha256(repr([str(noxfile), *names]).encode()).hexdigest()[:12]
    folder = noxfile.parent / ".nox" / "pool" / job
    folder.mkdir(parents=True, exist_ok=True)
    tasks = folder / "tasks.db"
    if is_new:
        tasks.unlink(missing_ok=True)
    async with SqliteStorage(
        tasks, str,
        keep_results=math.inf,  # which sessions are done
        lease=3,  # seconds after which the sessions of a killed pool are run again
    ) as storage:  # fmt: skip
        status = await run_pool(Pool(noxfile, folder, storage), names, jobs)
    if status == 0:
        tasks.unlink()
    return status


def main() -> int:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    jobs = min(4, os.cpu_count() or 1)
    parser = argparse.ArgumentParser(
        description="Run the sessions of a noxfile in parallel.",
        usage="%(prog)s [--jobs N] [--new] [NOXFILE] [-- SESSION...]",
    )
    parser.add_argument("noxfile", nargs="?", type=Path, default=Path("noxfile.py"))
    parser.add_argument("--jobs", type=int, default=jobs, help="sessions that run at a time (default: %(default)s)")
    parser.add_argument("--new", action="store_true", help="forget what was done before")
    arguments = parser.parse_args(words[:split])
    noxfile = arguments.noxfile.resolve()
    if not noxfile.is_file() or arguments.jobs < 1:
        parser.error(f"there is no file {str(noxfile)!r}" if arguments.jobs > 0 else "--jobs must be at least 1")
    names = list_sessions(noxfile, words[split + 1 :])
    return trio.run(run, noxfile, names, arguments.jobs, arguments.new)


if __name__ == "__main__":
    sys.exit(main())
