"""Hash every file below a directory with a pool of workers, and have sha256sum check the result.

Ctrl-C in the middle shuts down gracefully: the files in hand are finished, no more are begun. A second one releases
those in hand, too.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from io import FileIO
from pathlib import Path

import trio
from trio_tasks import Error, Event, MemoryStorage, Monitor, Release, RetryPolicy, Task, Worker, WorkerContext
from trio_tasks.abc import Handler

LIVE = sys.stderr.isatty()  # then progress is one line, written again and again; else it is a line now and then


def say(text: str, end: str = "\n") -> None:
    print("\r\x1b[K" + text if LIVE else text, end=end, file=sys.stderr, flush=True)


def sha256(path: str) -> str:
    """The handler. It is sync, so it runs in a thread; now and then it asks whether it is still wanted."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            trio.from_thread.check_cancelled()
    return digest.hexdigest()


def push_tree(directory: str, storage: MemoryStorage[str], manifest: str) -> None:
    """Push a task for each regular file, but not for symlinks. A disk may be slow, so this runs in a thread as well."""
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            entries = [entry for entry in os.scandir(folder) if entry.path != manifest]
        except OSError:
            trio.from_thread.run(storage.push, folder)  # whoever opens it will fail too, and say why
            continue
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        files = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        trio.from_thread.run(storage.push_bulk, files)
    trio.from_thread.run_sync(storage.close)  # nothing more will come: when all is done, the workers end


def manifest_line(digest: str, path: str) -> bytes:
    """As sha256sum writes it: a backslash or a line break in a name is escaped, and the line then begins with one."""
    name = os.fsencode(path)
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"" if escaped == name else b"\\") + digest.encode() + b"  " + escaped + b"\n"


def listen(context: WorkerContext, event: Event) -> None:
    if isinstance(event, Error):
        say(f"{context.name} failed on {event.task.args!r}: {event.error}")
    elif isinstance(event, Release):
        say(f"{context.name} released {event.task.args!r}: {event.reason}")


async def show_progress(storage: MemoryStorage[str], monitor: Monitor) -> None:
    while True:
        now = storage.statistics()
        hint = "; Ctrl-C again releases them" if monitor.is_shutting_down else ""
        say(f"hashed {now.succeeded:,} of {now.pushed:,} files, {now.in_hand} in hand{hint}", end="" if LIVE else "\n")
        await trio.sleep(0.1 if LIVE else 2)


async def hash_tree(directory: str, manifest: str, lines: FileIO) -> int:
    storage = MemoryStorage[str](keep_results=0)
    monitor = Monitor(shutdown_timeout=30, on_event=listen)

    async def record(handler: Handler[str, str], task: Task[str]) -> str:  # a layer, around every attempt
        digest = await handler(task)
        lines.write(manifest_line(digest, task.args))
        return digest

    for name in ("ann", "bob", "cleo", "dan"):
        monitor.register(Worker(name, storage, sha256, layers=[record], concurrency=2, retry=RetryPolicy(attempts=1)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, push_tree, directory, storage, manifest)
        nursery.start_soon(show_progress, storage, monitor)
        report = await monitor.run_with_signal()
        nursery.cancel_scope.cancel()

    for worker in report.workers:
        say(f"{worker.worker} hashed {worker.succeeded:,} files, and failed on {worker.failed}")
    if not monitor.is_shutting_down:
        return 1 if storage.statistics().failed else 0
    say(f"{report}\n{storage.statistics().waiting:,} files are left: released, or never begun")
    return 130


def check(manifest: str) -> int:
    if shutil.which("sha256sum") is None:
        say(f"there is no sha256sum here, so nobody has checked {manifest}")
        return 1
    status = subprocess.run(["sha256sum", "-c", manifest], stdout=subprocess.DEVNULL, check=False).returncode
    count = Path(manifest).read_bytes().count(b"\n")
    say(f"sha256sum -c {'does not agree' if status else 'agrees'} with all {count:,} lines of {manifest}")
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hash every file below a directory.")
    parser.add_argument("directory", nargs="?", default=sysconfig.get_paths()["stdlib"])
    parser.add_argument("--output", default="SHA256SUMS", help="the manifest (default: %(default)s)")
    arguments = parser.parse_args()
    directory, manifest = os.path.realpath(arguments.directory), os.path.realpath(arguments.output)
    with Path(manifest).open("wb", buffering=0) as lines:  # unbuffered: a line is there as soon as it is written
        status = trio.run(hash_tree, directory, manifest, lines)
    sys.exit(status if status == 130 else check(manifest) or status)
