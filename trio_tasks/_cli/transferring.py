"""The commands that carry tasks from one storage to another one: ``export`` and ``import``."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import contextmanager
from functools import partial
from select import select
from typing import TYPE_CHECKING, Any, BinaryIO, cast, final

import click
import trio

from .. import BackendError, DurableStorage, ImportReport, StoredTask
from ..abc import ScheduleChange
from . import dump
from .options import on_store, store_options
from .output import Answer, CommandError, ExitStatus, counted, note, printable
from .store import Store, StoreOptions, looking, storage_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from .. import Page

_TASKS_AT_ONCE = 500
"""Tasks of one page, and of one transaction."""
_BYTES_AT_ONCE = 2**23
"""Bytes of lines of one transaction, unless one line has more."""
_READ_AT_ONCE = 2**18
"""Bytes that are read from a file at once."""
_LONGEST_LINE = 2**28
"""Bytes of a line; a longer one is no line of a dump that a store could have written."""


_SHOWN = 200
"""Characters of the name of a file that an error has."""
_LONGEST_HEADER = 4096
"""Bytes of the first line that are read."""


# Export


@click.command("export")
@store_options
@click.option("-q", "--queue", "queues", multiple=True, metavar="NAME", help="A queue. Default: all of them.")
@on_store
async def export(options: StoreOptions, answer: Answer, *, queues: tuple[str, ...]) -> None:
    """Write all that is stored of tasks, limits and schedules to standard output, for `trio-tasks import`.

    Each task is a line of JSON, with its args, state, result or error, and all attempts. Stop or pause the workers
    first: otherwise each task is told as it was when its turn came. Throughput of the past, the totals of queues, and
    tasks that are forgotten are not in it.
    """
    out = _Output()
    async with looking(options) as store:
        for name in queues:
            await store.check_queue(name)
        out.write(dump.line(dump.HEADER))
        for name in sorted({*queues}) if queues else await store.names():
            await _export_queue(store.queue(name), out)
        unreadable = await _export_schedules(store, queues, out)
    out.write(dump.end_line(out.tasks, out.schedules))
    out.finish()
    if unreadable or out.is_closed:
        raise click.exceptions.Exit(ExitStatus.PARTLY)


async def _export_queue(queue: DurableStorage[Any], out: _Output) -> None:
    page: Page[StoredTask] = await queue.export_tasks(limit=_TASKS_AT_ONCE)
    is_paused = await queue.is_paused()
    if is_paused:
        out.write(dump.line({"kind": "queue", "queue": queue.queue, "is_paused": True}))
    for key, limits in (await queue.list_limits()).items():
        out.write(dump.limits_line(queue.queue, key, limits))
    while not out.is_closed:
        for task in page:
            out.write(dump.task_line(task, queue.queue))
        out.tasks += len(page)
        out.show_progress()
        if page.next is None:
            return
        page = await queue.export_tasks(page.next, limit=_TASKS_AT_ONCE)


async def _export_schedules(store: Store, queues: tuple[str, ...], out: _Output) -> int:
    """Write the schedules; return how many cannot be read."""
    unreadable = 0
    for entry in sorted(await store.storage.list_schedules(), key=lambda each: each.name):
        if entry.schedule is None:
            if not entry.is_removed:
                unreadable += 1
                note(f"trio-tasks: schedule {printable(entry.name)} cannot be read, and was left out")
        elif not queues or entry.schedule.queue in queues:
            out.write(dump.schedule_line(entry.name, entry.schedule))
            out.schedules += 1
    return unreadable


@final
class _Output:
    """Standard output, to which lines are written as bytes; and the number of tasks and schedules among them."""

    def __init__(self) -> None:
        self._out = sys.stdout.buffer
        self._progress = _Progress("exported")
        self.tasks = 0
        self.schedules = 0
        self.is_closed = False
        """True if the other end of the pipe is closed: nothing more is written."""

    def write(self, line: bytes) -> None:
        """Write a line.

        Raises:
          CommandError: it cannot be written, as when the disk is full.
        """
        if not self.is_closed:
            self._do(partial(self._out.write, line))

    def finish(self) -> None:
        """Write what is buffered, and end the display of the progress."""
        if not self.is_closed:
            self._do(self._out.flush)
        self._progress.end()

    def show_progress(self) -> None:
        """Tell how many tasks were written, on a terminal."""
        self._progress.show(self.tasks)

    def _do(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            self.is_closed = True
            with open(os.devnull, "wb") as nothing:  # noqa: PTH123  Python flushes the stream when it ends
                os.dup2(nothing.fileno(), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                told = f"standard output cannot be written: {error.strerror}; the dump is cut off"
                raise CommandError(told, ExitStatus.PARTLY) from error


@final
class _Progress:
    """The number of tasks so far, on standard error if that is a terminal."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._is_shown = sys.stderr.isatty()

    def show(self, number: int) -> None:
        """Show a number."""
        if self._is_shown:
            click.echo(f"\r{counted(number)} {self._done}", nl=False, err=True)

    def end(self) -> None:
        """Remove what was shown."""
        if self._is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)


# Import


@click.command("import")
@store_options
@click.argument("file", metavar="FILE")
@on_store
async def import_(options: StoreOptions, answer: Answer, *, file: str) -> None:
    """Store the tasks and schedules that `trio-tasks export` has written to FILE, or writes to "-".

    The store is made if it is not there. Start workers on it when this has ended. A task that is there already stays as
    it is, so the same import can be repeated after it was interrupted. Up to 500 tasks go in one transaction; if a line
    is wrong, those of its transaction are not stored. Tasks that were running are retried, as after a crash.
    """
    with _opened(file) as source:
        lines = _Lines(source)
        await lines.read_header()
        await _check_not_outdated(options)
        async with storage_of(options, create=True) as storage:
            importing, is_done = _Import(Store(storage, None), lines), False
            try:
                await importing.run()
                is_done = True
            finally:
                importing.end(is_done=is_done)
    importing.tell(answer)
    if importing.refused:
        raise click.exceptions.Exit(ExitStatus.PARTLY)


async def _check_not_outdated(options: StoreOptions) -> None:
    """Raise if the store is there, in an older format; leave all other errors to those who open it."""
    try:
        async with storage_of(options, read_only=True):
            pass
    except BackendError as error:
        if error.is_outdated:
            raise


@contextmanager
def _opened(file: str) -> Generator[BinaryIO, None, None]:
    """Open the file, or standard input, without a buffer: a thread may be reading when the command is interrupted, and
    the lock of a buffer would then keep the process from ending.
    """
    if file == "-":
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        return
    try:
        source = open(file, "rb", buffering=0)  # noqa: PTH123, SIM115  a name that is no path is refused here, too
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        named = printable(file if len(file) <= _SHOWN else f"{file[:_SHOWN]}…")
        raise CommandError(f"the file {named!r} cannot be read: {told}", ExitStatus.USAGE) from error
    with source:
        yield cast("BinaryIO", source)


@final
class _Lines:
    """The lines of a dump, which are read in a thread: a pipe may let one wait."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._whole: deque[bytes] = deque()
        self._cut: list[bytes] = []
        """The parts of the line that comes after these, as far as it was read."""
        self._is_at_end = False
        self.number = 0
        """The number of the latest line."""

    async def read_header(self) -> None:
        """Read the first line, and check it."""
        [text] = (await self.read(1, _LONGEST_HEADER)) or [b""]
        self.number = 1
        if not text:
            told = "the file is empty, and no dump, which is what `trio-tasks export` writes"
            raise CommandError(told, ExitStatus.USAGE)
        dump.check_header(text)

    async def read(self, most: int = _TASKS_AT_ONCE, longest: int | None = None) -> list[bytes]:
        """Return the next lines; none at the end. A line that is longer than ``longest`` may be cut."""
        limit = _LONGEST_LINE if longest is None else longest
        try:
            return await trio.to_thread.run_sync(self._read, most, limit, abandon_on_cancel=True)
        except OSError as error:
            told = f"the file cannot be read after line {self.number}: {error.strerror}"
            raise CommandError(told, ExitStatus.USAGE) from error

    def _read(self, most: int, longest: int) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        while len(lines) < most and size < _BYTES_AT_ONCE and (line := self._next(longest)):
            lines.append(line)
            size += len(line)
        return lines

    def _next(self, longest: int) -> bytes:
        while not self._whole and not self._is_at_end:
            if sum(map(len, self._cut)) > longest:
                return b"".join(self._cut)
            chunk = self._source.read(_READ_AT_ONCE)
            if chunk is None:  # somebody has made the pipe one that does not block
                select([self._source], [], [])
                continue
            first, *others = chunk.split(b"\n")
            self._cut.append(first)
            for each in others:
                self._whole.append(b"".join([*self._cut, b"\n"]))
                self._cut = [each]
            self._is_at_end = not chunk
            if self._is_at_end and (rest := b"".join(self._cut)):
                self._whole.append(rest)
        return self._whole.popleft() if self._whole else b""


@final
class _Import:
    """An import under way: the tasks that wait for their transaction, and what was done with those before."""

    def __init__(self, store: Store, lines: _Lines) -> None:
        self._store = store
        self._lines = lines
        self._queue = ""
        self._batch: dict[str, tuple[int, StoredTask]] = {}
        """By id, each with its line."""
        self._progress = _Progress("read")
        self._is_at_end = False
        self.tasks = {"imported": 0, "present": 0, "forgotten": 0, "refused": 0}
        self.schedules = {"imported": 0, "present": 0, "refused": 0}

    @property
    def _number_of_tasks(self) -> int:
        return sum(self.tasks.values())

    @property
    def refused(self) -> int:
        """The number of tasks and schedules that were not stored."""
        return self.tasks["refused"] + self.schedules["refused"]

    async def run(self) -> None:
        """Store all that is in the lines."""
        while texts := await self._lines.read():
            for text in texts:
                self._lines.number += 1
                try:
                    await self._take(text)
                except dump.LineError as error:
                    raise dump.wrong_line(self._lines.number, error) from None
            await self._store_batch()
        if not self._is_at_end:
            what = f"the dump ends after line {self._lines.number} without its last line"
            raise CommandError(f"{what}: it was cut off. What is before that was imported", ExitStatus.USAGE)

    async def _take(self, text: bytes) -> None:
        if len(text) > _LONGEST_LINE:
            raise dump.LineError(f"it must have {_LONGEST_LINE:,} bytes at most, and has more")
        kind, record = dump.parse(text)
        if self._is_at_end:
            raise dump.LineError("it stands after the last line of the dump")
        if kind == "task":
            queue = dump.text_of(record.pop("queue", None), "queue")
            task = dump.read_task(record)
            if queue != self._queue or task.id in self._batch:
                await self._store_batch()
            self._queue = queue
            self._batch[task.id] = self._lines.number, task
            return
        await self._store_batch()
        if kind == "schedule":
            await self._take_schedule(record)
        elif kind == "queue":
            await self._take_queue(record)
        elif kind == "limits":
            await self._take_limits(record)
        elif kind == "end":
            self._take_end(record)
        else:
            raise dump.LineError("it is a header, which stands in the first line alone")

    async def _store_batch(self) -> None:
        """Store the tasks that wait for it, in one transaction."""
        if not self._batch:
            return
        batch, self._batch = self._batch, {}
        report: ImportReport = await self._store.queue(self._queue).import_tasks([task for _, task in batch.values()])
        for name in self.tasks:
            self.tasks[name] += len(getattr(report, name))
        for task_id, reason in report.refused.items():
            self._refuse(batch[task_id][0], f"task {printable(task_id)} was not imported: {printable(reason)}")
        self._progress.show(self._number_of_tasks)

    def _refuse(self, number: int, told: str) -> None:
        self._progress.end()
        note(f"trio-tasks: line {number}: {told}")

    async def _take_queue(self, record: dict[str, Any]) -> None:
        """Pause a queue that was paused, unless it has tasks here already, so that somebody may have resumed it."""
        queue = self._store.queue(dump.text_of(record.get("queue"), "queue"))
        if type(is_paused := record.get("is_paused")) is not bool:
            raise dump.LineError("is_paused must be true or false")
        if is_paused and not await queue.is_paused():
            if (await queue.metrics())["pushed"]:
                note(f"trio-tasks: queue {printable(queue.queue)} has tasks already, and is not paused: it stays so")
            else:
                await queue.pause()

    async def _take_limits(self, record: dict[str, Any]) -> None:
        """Set the limits of a queue, or of a key in it, unless it has others here, or tasks that go without."""
        name, key, limits = dump.read_limits(record)
        queue = self._store.queue(name)
        known = await queue.get_limits(key=key)
        if known == limits:
            return
        if known is None and not (await queue.metrics())["pushed"]:
            await queue.set_limits(limits, key=key)
            return
        whose = f"queue {printable(name)}" + ("" if key is None else f", key {printable(key)}")
        there = "has tasks already, and no such limits" if known is None else "has other limits already"
        note(f"trio-tasks: {whose}: it {there}: it stays so")

    async def _take_schedule(self, record: dict[str, Any]) -> None:
        name, schedule = dump.read_schedule(record)
        [result] = await self._store.storage.set_schedules([ScheduleChange(name, 0, schedule)])
        if result.revision:
            self.schedules["imported"] += 1
            return
        [entry] = await self._store.storage.list_schedules(name=name)
        if entry.schedule == schedule:
            self.schedules["present"] += 1
        else:
            self.schedules["refused"] += 1
            self._refuse(self._lines.number, f"schedule {printable(name)} is there already, and another one")

    def _take_end(self, record: dict[str, Any]) -> None:
        found = self._number_of_tasks, sum(self.schedules.values())
        told = record.get("tasks"), record.get("schedules")
        if told != found:
            what = f"{told[0]} tasks and {told[1]} schedules, and before it are {found[0]} and {found[1]}"
            raise dump.LineError(f"it says that there are {printable(what)}: lines are missing, or were added")
        self._is_at_end = True

    def end(self, *, is_done: bool) -> None:
        """End the display of the progress; tell how far an import has come that is ended by an error."""
        self._progress.end()
        if not is_done and self._number_of_tasks:
            note(f"trio-tasks: before that, {self._told(self.tasks)}; the import can be repeated")

    def tell(self, answer: Answer) -> None:
        """Tell what was done."""
        text = self._told(self.tasks)
        if sum(self.schedules.values()):
            text += f"; {self._told(self.schedules, 'schedule')}"
        answer.record({**self.tasks, "schedules": self.schedules}, text)

    def _told(self, numbers: dict[str, int], what: str = "task") -> str:
        words = {"present": "there already", "forgotten": "kept no longer", "refused": "refused"}
        more = [f", {numbers[name]} {word}" for name, word in words.items() if numbers.get(name)]
        return f"{counted(numbers['imported'], what)} imported{''.join(more)}"
