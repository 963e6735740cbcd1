"""The command ``run``: import a program, and run its monitor until it ends, or a signal comes."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import sysconfig
import traceback
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import trio

from .. import Engage, Monitor, Router, TaskFunction
from .options import duration
from .output import Answer, CommandError, ExitStatus, as_json, counted, leaves, note, printable
from .processes import ALONE, RELOADED, changed_at, python_files, supervise
from .reports import ReportsOfProcesses, report_record, report_text
from .serving import Address, HealthServer, address
from .store import without_known_faults
from .systemd import Service, wait_started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

    from .. import Event, Queues, WorkerContext
    from .output import Record

_SLOTS = 8
"""Slots for each queue of a router, unless the command says another number."""
_MOST_SLOTS = 100_000
_QUIET = 1.0
"""Seconds without an attempt, after which a program is idle."""
_LOOK = 0.5
"""Seconds between two looks at the files of a program."""
_OF_ONE_PROCESS = {"file": "a journal (file:…) has one process", "memory": "memory:// is a storage inside one process"}
"""The schemes of URLs of storages that several processes cannot use, and why."""
_HOW_TO_STOP = "Ctrl-C or SIGTERM shuts it down, a second one cancels what runs"
_NOT_OF_USERS = {"trio_tasks", "trio", "outcome", "importlib", "contextlib", "click"}
"""The packages whose frames come before those of the program that is run."""
_RELOAD_WITHIN = 5.0
"""Seconds that attempts may go on before a program is loaded again."""


class RunOptions(NamedTuple):
    """The options of a run in one process."""

    url: str | None
    queues: dict[str, int]
    until_idle: bool
    shutdown_timeout: float | None
    reload: bool
    health: Address | None
    member: int
    """The number of this process, from 1, if others run the same; else 0."""
    several: bool
    """True if there are several processes."""
    report: Path | None
    """The file for the report, for the process that sums those of several."""
    parent: int = 0
    """The id of the process that started this one."""
    files: dict[str, int] | None = None
    """The times of the last change of the Python files below the current folder, as they were before the import."""


class Program(NamedTuple):
    """What a run is about."""

    monitor: Monitor
    queues: Queues | None
    """The queues of a router; None if the program is a function, which has its own."""


def slots(text: str) -> dict[str, int]:
    """Return the number of slots of each queue, from ``emails=8,video=2``."""
    found: dict[str, int] = {}
    for each in filter(None, text.split(",")):
        name, mark, number = each.rpartition("=")
        if not (name and mark) or not number.isdecimal() or not 0 < int(number) <= _MOST_SLOTS:
            raise click.BadParameter(f"{printable(each)!r} is not QUEUE=SLOTS, such as emails=8")
        found[name.strip()] = int(number)
    return found


@click.command()
@click.argument("target", metavar="MODULE:NAME")
@click.option("--url", envvar="TRIO_TASKS_URL", metavar="URL", help="The storage for a Router; it is made if needed.")
@click.option("--json/--no-json", "as_json", default=None, help="The report as JSON, or as text.")
@click.option(
    "--queues", type=slots, default="", metavar="QUEUE=SLOTS,...", help="The queues of a Router. Default: all."
)
@click.option("--processes", type=click.IntRange(1, 1000), default=1, metavar="N", help="Run N processes.")
@click.option("--reload", is_flag=True, help="Start again when a file of the program has changed.")
@click.option("--until-idle", is_flag=True, help="End when no attempt has run for a second.")
@click.option(
    "--shutdown-timeout", type=duration, metavar="DURATION", help="Cancel what still runs so long after a shutdown."
)
@click.option(
    "--health",
    type=address,
    metavar="HOST:PORT",
    help="Serve /live, /ready and /metrics there; :9000 is on all interfaces. Of N processes, each has the next port.",
)
@click.option("--member", type=click.IntRange(0), default=0, hidden=True, help="Shut down when standard input ends.")
@click.option("--several", is_flag=True, hidden=True, help="There are other processes like this one.")
@click.option(
    "--report",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    hidden=True,
    help="Write the report to this file.",
)
def run(target: str, as_json: bool | None, processes: int, **options: Any) -> None:
    """Run the workers of a program until it ends, or SIGINT or SIGTERM shuts it down; the second signal cancels.

    NAME is a Router; or a function without arguments that returns a Monitor which does not run yet, and which may be
    async, or an async context manager that gives one. The current folder is on the path.
    """
    wanted = RunOptions(**options)
    if not wanted.member and (processes > 1 or wanted.reload):
        status = _run_processes(target, as_json, processes, wanted)
    else:
        status = _run_here(target, Answer(as_json), wanted)
    raise click.exceptions.Exit(status)


def _run_processes(target: str, as_json: bool | None, number: int, options: RunOptions) -> int:
    if number > 1 and options.url is not None:
        _check_shared(options.url)
    if options.health is not None:
        options.health.check_ports(number)
        for index in range(number):
            HealthServer(options.health.of_process(index)).close()
    if options.url is not None:
        os.environ["TRIO_TASKS_URL"] = options.url  # on the command line, everybody on the machine would see it

    def arguments(index: int) -> list[str]:
        given = ["run", target, f"--member={index + 1}", *_arguments(as_json, options)]
        given += [f"--report={reports.path(index + 1)}", *(["--several"] if number > 1 else [])]
        return given if options.health is None else [*given, f"--health={options.health.of_process(index)}"]

    note(f"trio-tasks: {printable(target)} in {counted(number, 'process')}; {_HOW_TO_STOP}")
    with Service().of_processes(number) as service, TemporaryDirectory(prefix="trio-tasks-") as folder:
        reports = ReportsOfProcesses(folder, number)
        status = trio.run(partial(supervise, arguments, number, service, reports, reload=options.reload))
    if (record := reports.sum()) is not None:
        Answer(as_json).record(record, report_text(record))
    return status


def _check_shared(url: str) -> None:
    """Refuse a storage that several processes cannot use."""
    what = _OF_ONE_PROCESS.get(url.partition(":")[0].strip().lower())
    if what is not None:
        raise CommandError(f"{what}: leave out --processes, or use sqlite:///tasks.db", ExitStatus.USAGE)


def _arguments(as_json: bool | None, options: RunOptions) -> list[str]:
    """Return the options that all of several processes have."""
    flags = {"--json": as_json is True, "--no-json": as_json is False}
    flags |= {"--until-idle": options.until_idle, "--reload": options.reload}
    given = [name for name, is_given in flags.items() if is_given]
    if options.queues:
        given.append("--queues=" + ",".join(f"{name}={number}" for name, number in options.queues.items()))
    if options.shutdown_timeout is not None:
        given.append(f"--shutdown-timeout={options.shutdown_timeout}")
    return given


def _run_here(target: str, answer: Answer, options: RunOptions) -> int:
    options = options._replace(parent=os.getppid(), files=python_files() if options.reload else None)
    found = load(target)
    process = f"process {options.member} " if options.several else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {process}%(name)s: %(message)s")
    server = None if options.health is None else HealthServer(options.health)
    with without_known_faults() if options.member > 1 else nullcontext():  # the first of several processes tells them
        try:
            status: int = trio.run(_run_target, found, target, answer, options, server)
        except Exception as error:
            if not options.several or not any(getattr(each, "is_in_use", False) for each in leaves([error])):
                raise
            status = ALONE  # the process that has started this one tells why
    return status


# Finding the program


def load(target: str) -> Any:
    """Import what ``module:name`` names.

    Raises:
      CommandError: that is impossible. What the program itself raised has been written to standard error.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise CommandError(f"{printable(target)!r} is not MODULE:NAME, such as app:tasks", ExitStatus.USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:
        write_traceback(error)
        raise CommandError(f"{printable(target)} cannot be imported", ExitStatus.USAGE) from error
    return found


def router_at(target: str) -> Router:
    """Import the router that ``module:name`` names.

    Raises:
      CommandError: that is impossible, or it is none.
    """
    found = load(target)
    check_no_task(found, target, "and the task after it, as in trio-tasks push app:tasks NAME")
    if not isinstance(found, Router):
        raise CommandError(f"{printable(target)} is a {type(found).__name__}, and no Router", ExitStatus.USAGE)
    return found


def check_no_task(found: object, target: str, more: str) -> None:
    """Raise CommandError if ``module:name`` names a task in place of its router; ``more`` says how it is named."""
    if isinstance(found, TaskFunction):
        told = f"{printable(target)} is a task, and no Router: name the Router, such as app:tasks"
        raise CommandError(f"{told}, {more.replace('NAME', printable(found.name))}", ExitStatus.USAGE)


def write_traceback(error: BaseException) -> None:
    """Write an error to standard error, from the first frame on that is of the user's program."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_OF_USERS:
        trace = trace.tb_next
    note("".join(traceback.format_exception(type(error), error, trace)).rstrip())


@asynccontextmanager
async def program_of(found: Any, target: str, options: RunOptions) -> AsyncGenerator[Program, None]:
    """Make the monitor of a router; or call the user's function, and give the monitor that it returns or yields.

    Raises:
      CommandError: it does not give one.
    """
    if isinstance(found, Router):
        if not options.url:
            told = "a Router needs a storage: give it by --url or TRIO_TASKS_URL, such as --url sqlite:///tasks.db"
            raise CommandError(told, ExitStatus.USAGE)
        async with _opened(found, options.url) as queues:
            unknown = options.queues.keys() - {*queues}
            if unknown:
                told = f"{printable(target)} has no queue {printable(min(unknown))!r}; it has {', '.join(queues)}"
                raise CommandError(told, ExitStatus.NOT_FOUND)
            yield Program(queues.monitor(options.queues or dict.fromkeys(queues, _SLOTS)), queues)
        return
    check_no_task(found, target, "as in trio-tasks run app:tasks")
    made: Any = found
    if not isinstance(found, Monitor):
        _check_function(found, target)
        function: Any = asynccontextmanager(found) if inspect.isasyncgenfunction(found) else found
        made = function()
    if inspect.iscoroutine(made):
        made = await made
    if hasattr(made, "__aenter__") and not isinstance(made, Monitor):
        async with made as monitor:
            yield Program(_checked(monitor, target), None)
    else:
        yield Program(_checked(made, target), None)


def _check_function(found: object, target: str) -> None:
    """Raise CommandError unless this can be called without arguments."""
    if not callable(found):
        told = f"is a {type(found).__name__}, and neither a Router nor a function that returns a Monitor"
        raise CommandError(f"{printable(target)} {told}", ExitStatus.USAGE)
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # one that is written in C may have none
        return
    try:
        signature.bind()
    except TypeError as error:
        told = "must be a function without arguments that returns a Monitor"
        raise CommandError(f"{printable(target)} {told}: {printable(str(error))}", ExitStatus.USAGE) from None


def _opened(router: Router, url: str) -> Queues:
    try:
        return router.open(url)
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error


def _checked(monitor: object, target: str) -> Monitor:
    if not isinstance(monitor, Monitor):
        told = f"{printable(target)} must return a Monitor, not {type(monitor).__name__}"
        raise CommandError(told, ExitStatus.USAGE)
    if monitor.is_running:
        raise CommandError(
            f"the Monitor of {printable(target)} runs already: return or yield `queues.monitor(...)` itself, not what "
            "`async with` gives; `run` enters it",
            ExitStatus.USAGE,
        )
    return monitor


# Running it


async def _run_target(found: Any, target: str, answer: Answer, options: RunOptions, server: HealthServer | None) -> int:
    status: int | None = None
    async with program_of(found, target, options) as program, trio.open_nursery() as nursery:
        monitor = program.monitor
        if server is not None:
            await nursery.start(server.serve, *program)
        nursery.start_soon(_tell_start, program, target, options, server)
        try:
            status = await _run_monitor(monitor, options)
        except Exception as error:  # a worker has failed
            traceback.print_exception(type(error), error, error.__traceback__)
            status = ExitStatus.PARTLY
        report = monitor.report
        nursery.cancel_scope.cancel()
    _tell_end(report_record(report), answer, options)
    if status == ExitStatus.DONE and report.interrupted:
        return ExitStatus.CUT_SHORT
    return status


def _tell_end(record: Record, answer: Answer, options: RunOptions) -> None:
    """Write the report; give it to the process that sums it with those of others, unless that one has died."""
    if options.report is None or os.getppid() != options.parent:
        answer.record(record, report_text(record))
    else:
        options.report.write_text(as_json(record), "utf-8")


async def _tell_start(program: Program, target: str, options: RunOptions, server: HealthServer | None) -> None:
    """Say in a line what runs, once it does."""
    monitor = program.monitor
    await wait_started(monitor)
    place = "" if program.queues is None or options.url is None else f" on {options.url.partition('?')[0]}"
    backends = [getattr(each.recipe, "backend", None) for each in monitor.workers]
    names = [getattr(backend, "queue", each.name) for backend, each in zip(backends, monitor.workers, strict=True)]
    shown = [f"{name} {counted(each.concurrency, 'slot')}" for name, each in zip(names, monitor.workers, strict=True)]
    health = "" if server is None else f"; health on http://{server.address}"
    process = f" in process {options.member}" if options.several else ""
    how_to_stop = "" if options.member else f"; {_HOW_TO_STOP}"  # the process that started several tells it
    note(printable(f"trio-tasks: {target} runs{process}{place}: {', '.join(shown)}{health}{how_to_stop}"))


async def _run_monitor(monitor: Monitor, options: RunOptions) -> int:
    """Run a monitor until it has ended; return RELOADED if a file of the program has changed, else DONE."""
    service = Service(options.member)
    reloading = trio.Event()
    async with trio.open_nursery() as nursery:
        if options.until_idle:
            nursery.start_soon(_stop_when_idle, monitor)
        if options.reload:
            nursery.start_soon(_stop_when_changed, monitor, reloading, options.files or {})
        if options.member:
            nursery.start_soon(_stop_with_input, monitor)
        nursery.start_soon(service.tell, monitor)
        nursery.start_soon(_cancel_in_time, monitor, reloading, options.shutdown_timeout)
        try:
            await monitor.run_with_signal()
        finally:
            service.send("STOPPING=1")
        nursery.cancel_scope.cancel()
    return RELOADED if reloading.is_set() else ExitStatus.DONE


async def _stop_when_idle(monitor: Monitor) -> None:
    """Shut a monitor down once no attempt has begun or been under way for a while."""
    last = trio.current_time()

    def note_work(_: WorkerContext, event: Event) -> None:
        nonlocal last
        if isinstance(event, Engage):
            last = trio.current_time()

    monitor.on_event(note_work)
    while trio.current_time() < last + _QUIET:
        await trio.sleep(_QUIET / 10)
        if not monitor.workers or any(context.task_count for context in monitor.workers):
            last = trio.current_time()
    monitor.shutdown()


async def _cancel_in_time(monitor: Monitor, reloading: trio.Event, within: float | None) -> None:
    """Cancel what still runs when the time for a shutdown is over."""
    while not monitor.is_shutting_down:  # noqa: ASYNC110  the monitor tells by this alone
        await trio.sleep(0.05)
    if reloading.is_set():
        within = _RELOAD_WITHIN if within is None else min(within, _RELOAD_WITHIN)
    if within is not None:
        await trio.sleep(within)
        monitor.cancel_scope.cancel()


async def _stop_with_input(monitor: Monitor) -> None:
    """Shut down when standard input ends: it is a pipe from the process that has started this one, which has died."""
    try:
        number = os.dup(sys.stdin.fileno())
    except (OSError, AttributeError):  # it has none
        await trio.sleep_forever()
    async with trio.lowlevel.FdStream(number) as stream:
        while await stream.receive_some():
            pass
    monitor.shutdown()


async def _stop_when_changed(monitor: Monitor, reloading: trio.Event, before: dict[str, int]) -> None:
    """Shut down when a file that the program has imported has changed, be it while it was imported.

    Args:
      before: the times of the last change of files, as they were before the program was imported.
    """
    seen = {file: before.get(file, changed) for file, changed in _changes().items()}
    while True:
        found = _changes()
        if any(found.get(file) != changed for file, changed in seen.items()):
            break
        seen = found
        await trio.sleep(_LOOK)
    reloading.set()
    monitor.shutdown()


_INSTALLED = tuple({sysconfig.get_path(each) + os.sep for each in ("stdlib", "purelib", "platlib")})
"""The folders of Python's own library and of installed packages. A program may lie below ``sys.prefix`` as well, as in
``/usr/src/app``."""


def _changes() -> dict[str, int]:
    """Return the time of the last change of each imported file, but for those of installed packages."""
    found: dict[str, int] = {}
    for module in [*sys.modules.values()]:
        file: Any = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(_INSTALLED):
            found[file] = changed_at(Path(file))
    return found
