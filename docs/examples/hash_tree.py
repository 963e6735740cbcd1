"""Hash every file below a directory with a pool of workers, and have sha256sum check the result.

The tasks and the digests are kept in a file beside the manifest. So the program may be killed at any moment, with
``kill -9`` too: run it again, and it continues. Ctrl-C shuts down gracefully: files that are being hashed are finished,
and no more are begun. A second Ctrl-C puts back those that are being hashed, too.

Without a DIRECTORY it hashes the standard library of Python, without the packages that are installed in it.
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

LIVE = sys.stderr.isatty()  # progress is one line that is rewritten on a terminal, and else a line every two seconds
LIBRARY = os.path.realpath(sysconfig.get_paths()["stdlib"])
INSTALLED = {os.fsencode(Path(LIBRARY, name)) for name in ("site-packages", "dist-packages")}


def say(text: str, end: str = "\n") -> None:
    print("\r\x1b[K" + text if LIVE else text, end=end, file=sys.stderr, flush=True)


def sha256(path: bytes) -> str:
    """Handle one task. A sync handler runs in a thread; `check_cancelled` lets a shutdown interrupt a large file."""
    digest = hashlib.sha256()
    with Path(os.fsdecode(path)).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            trio.from_thread.check_cancelled()
    return digest.hexdigest()


def walk(directory: bytes) -> Iterator[bytes]:
    """Yield each regular file, but no symlinks; and each folder that cannot be listed: opening it gives the reason."""
    left_out = INSTALLED if directory == os.fsencode(LIBRARY) else set[bytes]()
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            yield folder
            continue
        inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        folders += [path for path in inner if path not in left_out]
        yield from [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]


def push_tree(directory: bytes, storage: SqliteStorage[bytes], known: set[bytes], all_pushed: trio.Event) -> None:
    """Push a task for each file that has none yet. It runs in a thread, since a disk may be slow."""
    paths = (path for path in walk(directory) if path not in known)
    while some := list(islice(paths, 512)):
        trio.from_thread.run(storage.push_bulk, some)
    trio.from_thread.run_sync(all_pushed.set)
    trio.from_thread.run_sync(storage.close)  # the workers end when the storage is closed and empty


def listen(context: WorkerContext, event: Event) -> None:
    if isinstance(event, Error):
        say(f"{context.name} failed on {os.fsdecode(event.task.args)!r}: {event.error}")
    elif isinstance(event, Release):
        say(f"{context.name} released {os.fsdecode(event.task.args)!r}: {event.reason}")


async def show_progress(storage: SqliteStorage[bytes], monitor: Monitor, all_pushed: trio.Event) -> None:
    while True:
        is_total = all_pushed.is_set()  # asked first: the number below is at least as new
        now = await storage.metrics()
        files = f"of {now['pushed']:,} files" if is_total else f"files, {now['pushed']:,} found so far"
        running = sum(worker.task_count for worker in monitor.workers)
        hint = "; Ctrl-C again puts them back" if monitor.is_shutting_down else ""
        say(f"hashed {now['succeeded']:,} {files}, {running} running{hint}", end="" if LIVE else "\n")
        await trio.sleep(0.1 if LIVE else 2)


async def hash_tree(directory: bytes, storage: SqliteStorage[bytes], known: set[bytes]) -> int:
    before = await storage.metrics()
    if before["pushed"]:
        counts = f"{before['succeeded']:,} files hashed before, {before['running']} interrupted"
        say(f"resuming: {counts}, {before['waiting']:,} waiting")

    monitor = Monitor(shutdown_timeout=30, on_event=listen)
    # A file that cannot be read is not tried again; one that was being hashed when the program was killed is.
    policy = RetryPolicy(retry_if=lambda error: not isinstance(error, OSError))
    for number in range(1, 5):
        monitor.register(Worker(f"worker {number}", storage, sha256, concurrency=2, retry=policy, log=None))
    all_pushed = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, push_tree, directory, storage, known, all_pushed)
        nursery.start_soon(show_progress, storage, monitor, all_pushed)
        report = await monitor.run_with_signal()
        nursery.cancel_scope.cancel()

    now = await storage.metrics()
    for worker in sorted(report.workers, key=lambda each: each.worker):
        say(f"{worker.worker} hashed {worker.succeeded:,} files, {worker.failed + worker.killed} failed")
    say(f"hashed {now['succeeded'] - before['succeeded']:,} files in this run, and {before['succeeded']:,} before")
    if not monitor.is_shutting_down:
        return 1 if now["failed"] + now["killed"] else 0
    say(f"{report}\n{now['waiting'] + now['delayed']:,} files are left; run this again to go on")
    return 130


def manifest_line(path: bytes, digest: str) -> bytes:
    """Return a line as sha256sum writes it: with a backslash in front if something in the name is escaped."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"" if escaped == path else b"\\") + digest.encode() + b"  " + escaped + b"\n"


def write(manifest: str, done: list[Task[bytes]]) -> None:
    lines = sorted((task.args, task.parts.context.result) for task in done)
    Path(manifest).write_bytes(b"".join(manifest_line(path, digest) for path, digest in lines))


async def run(directory: str, manifest: str, tasks: str) -> int:
    """Open the file of the tasks, hash the tree, and write the manifest from the results in that file."""
    ours = {os.fsencode(path) for path in (manifest, tasks, f"{tasks}-wal", f"{tasks}-shm")}
    async with SqliteStorage(
        tasks, bytes, queue=ascii(directory), result_type=str,
        keep_results=math.inf,  # the digests
        lease=3,  # seconds after which the files of a killed program are hashed again
        synchronous="NORMAL",  # survives kill -9; after a power cut, some files may be hashed again
    ) as storage:  # fmt: skip
        known = {task.args for task in await storage.list_tasks(limit=sys.maxsize)}
        status = await hash_tree(os.fsencode(directory), storage, known | ours)
        if status != 130:
            write(manifest, await storage.list_tasks(Status.Done, limit=sys.maxsize))
    return status


def check(manifest: str) -> int:
    if shutil.which("sha256sum") is None:
        say(f"there is no sha256sum here, so {manifest} was not checked")
        return 1
    status = subprocess.run(["sha256sum", "-c", manifest], stdout=subprocess.DEVNULL, check=False).returncode
    count = Path(manifest).read_bytes().count(b"\n")
    say(f"sha256sum -c {'does not agree' if status else 'agrees'} with all {count:,} lines of {manifest}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Hash every file below a directory.")
    parser.add_argument("directory", nargs="?", default=LIBRARY)
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
