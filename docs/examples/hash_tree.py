"""Hash every file below a directory with a pool of workers, and have sha256sum check the result.

What is to be hashed, and each digest, is kept in a file beside the manifest. So the program may be killed at any
moment, with ``kill -9`` too: run it again, and it goes on where it was. Ctrl-C in the middle shuts down gracefully: the
files in hand are finished, no more are begun. A second one releases those in hand, too.
"""

import argparse
import hashlib
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import trio
from trio_tasks import Error, Event, Monitor, Release, RetryPolicy, SqliteStorage, Status, Task, Worker, WorkerContext

LIVE = sys.stderr.isatty()  # then progress is one line, written again and again; else it is a line now and then


def say(text: str, end: str = "\n") -> None:
    print("\r\x1b[K" + text if LIVE else text, end=end, file=sys.stderr, flush=True)


def sha256(path: bytes) -> str:
    """The handler. It is sync, so it runs in a thread; now and then it asks whether it is still wanted."""
    digest = hashlib.sha256()
    with Path(os.fsdecode(path)).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            trio.from_thread.check_cancelled()
    return digest.hexdigest()


def walk(directory: bytes) -> Iterator[bytes]:
    """Each regular file, but no symlinks; and each folder that cannot be listed: whoever opens it is told why."""
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            yield folder
            continue
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]


def push_tree(directory: bytes, storage: SqliteStorage[bytes], known: set[bytes]) -> None:
    """Push a task for each file that has none yet. A disk may be slow, so this runs in a thread as well."""
    paths = (path for path in walk(directory) if path not in known)
    while some := list(islice(paths, 512)):
        trio.from_thread.run(storage.push_bulk, some)
    trio.from_thread.run_sync(storage.close)  # nothing more will come: when all is done, the workers end


def listen(context: WorkerContext, event: Event) -> None:
    if isinstance(event, Error):
        say(f"{context.name} failed on {os.fsdecode(event.task.args)!r}: {event.error}")
    elif isinstance(event, Release):
        say(f"{context.name} released {os.fsdecode(event.task.args)!r}: {event.reason}")


async def show_progress(storage: SqliteStorage[bytes], monitor: Monitor) -> None:
    while True:
        now = await storage.metrics()
        hint = "; Ctrl-C again releases them" if monitor.is_shutting_down else ""
        counts = f"hashed {now['succeeded']:,} of {now['pushed']:,} files, {now['running']} in hand"
        say(counts + hint, end="" if LIVE else "\n")
        await trio.sleep(0.1 if LIVE else 2)


async def hash_tree(directory: bytes, storage: SqliteStorage[bytes], known: set[bytes]) -> int:
    before = await storage.metrics()
    if before["pushed"]:
        counts = f"{before['succeeded']:,} files were hashed before, {before['running']} were in hand"
        say(f"going on: {counts}, {before['waiting']:,} wait")

    monitor = Monitor(shutdown_timeout=30, on_event=listen)
    # What cannot be read is not tried again; what was in hand when the program was killed is.
    policy = RetryPolicy(retry_if=lambda error: not isinstance(error, OSError))
    for name in ("ann", "bob", "cleo", "dan"):
        monitor.register(Worker(name, storage, sha256, concurrency=2, retry=policy, log=None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, push_tree, directory, storage, known)
        nursery.start_soon(show_progress, storage, monitor)
        report = await monitor.run_with_signal()
        nursery.cancel_scope.cancel()

    now = await storage.metrics()
    for worker in report.workers:
        say(f"{worker.worker} hashed {worker.succeeded:,} files, and failed on {worker.failed + worker.killed}")
    say(f"hashed {now['succeeded'] - before['succeeded']:,} files in this run, and {before['succeeded']:,} before")
    if not monitor.is_shutting_down:
        return 1 if now["failed"] + now["killed"] else 0
    say(f"{report}\n{now['waiting']:,} files are left; run this again to go on")
    return 130


def manifest_line(path: bytes, digest: str) -> bytes:
    """As sha256sum writes it: a backslash or a line break in a name is escaped, and the line then begins with one."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"" if escaped == path else b"\\") + digest.encode() + b"  " + escaped + b"\n"


def write(manifest: str, done: list[Task[bytes]]) -> None:
    lines = sorted((task.args, task.parts.context.result) for task in done)
    Path(manifest).write_bytes(b"".join(manifest_line(path, digest) for path, digest in lines))


async def run(directory: str, manifest: str, tasks: str) -> int:
    """Open the file of the tasks, hash the tree, and write the manifest of what is in the file when all is done."""
    ours = {os.fsencode(path) for path in (manifest, tasks, f"{tasks}-wal", f"{tasks}-shm")}
    async with SqliteStorage(
        tasks, bytes, queue=ascii(directory), result_type=str,
        keep_results=math.inf,  # the digests
        lease=3,  # what was in hand comes back in so many seconds
        synchronous="NORMAL",  # survives kill -9; after a power cut, some files may be hashed again
    ) as storage:  # fmt: skip
        known = {task.args for task in await storage.list_tasks(limit=sys.maxsize)}
        status = await hash_tree(os.fsencode(directory), storage, known | ours)
        if status != 130:
            write(manifest, await storage.list_tasks(Status.Done, limit=sys.maxsize))
    return status


def check(manifest: str) -> int:
    if shutil.which("sha256sum") is None:
        say(f"there is no sha256sum here, so nobody has checked {manifest}")
        return 1
    status = subprocess.run(["sha256sum", "-c", manifest], stdout=subprocess.DEVNULL, check=False).returncode
    count = Path(manifest).read_bytes().count(b"\n")
    say(f"sha256sum -c {'does not agree' if status else 'agrees'} with all {count:,} lines of {manifest}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Hash every file below a directory.")
    parser.add_argument("directory", nargs="?", default=sysconfig.get_paths()["stdlib"])
    parser.add_argument("--output", default="SHA256SUMS", help="the manifest (default: %(default)s)")
    arguments = parser.parse_args()
    directory, manifest = os.path.realpath(arguments.directory), os.path.realpath(arguments.output)
    tasks = f"{manifest}.tasks"
    status = trio.run(run, directory, manifest, tasks)
    if status == 130:  # stopped by Ctrl-C
        return status
    Path(tasks).unlink()
    return check(manifest) or status


if __name__ == "__main__":
    sys.exit(main())
