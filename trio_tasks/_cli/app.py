"""The command ``trio-tasks``: its commands, and how each error becomes a message and an exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .. import BackendError, HandlerSignatureError, UnknownTaskError, __version__
from . import changing, checking, limiting, looking, pushing, running, top, transferring
from .output import CommandError, ExitStatus, leaves, note, printable
from .scheduling import schedules

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=_SETTINGS)
@click.version_option(__version__, message="%(version)s")
def trio_tasks() -> None:
    """Look at the tasks of a storage, change them, and run workers.

    The storage is given by --url, or by the variable TRIO_TASKS_URL: sqlite:///relative.db, sqlite:////absolute.db,
    file:relative.journal, file:///absolute.journal. On a terminal the answer is a table, and in a pipe it is JSON
    lines, whose ids other commands read where the ID is "-".

    \b
    Exit status: 0 done, 1 not for all ids, 2 wrong usage, 3 not found, 4 unhealthy, 5 storage out of reach,
    6 run interrupted work, 130 Ctrl-C.
    """


for _module in (running, pushing, looking, top, changing, limiting, checking, transferring):
    for _command in vars(_module).values():
        if isinstance(_command, click.Command):
            trio_tasks.add_command(_command)


trio_tasks.add_command(schedules)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    try:
        return _run(arguments)
    except BaseExceptionGroup as group:  # of trio's nurseries
        found = leaves(group.exceptions)
        interrupts = [each for each in found if isinstance(each, KeyboardInterrupt)]
        if len(found) > 1 and not interrupts:
            raise
        return _told([*interrupts, *found][0])


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = trio_tasks.main(arguments, "trio-tasks", standalone_mode=False)
    except click.ClickException as error:
        _show(error)
        return ExitStatus.USAGE
    except (click.Abort, KeyboardInterrupt):
        return ExitStatus.INTERRUPTED
    except (CommandError, BackendError, HandlerSignatureError, ValueError) as error:
        return _told(error)
    return status if isinstance(status, int) else ExitStatus.DONE


def _show(error: click.ClickException) -> None:
    """Write an error of the command line as click does, but for what cannot be printed, or must not."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        note(error.format_message())
        return
    if context is not None:
        note(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
    note(f"Error: {printable(error.format_message())}")


def _told(error: BaseException) -> int:
    """Tell an error in a line, and return the exit status; raise it if it is none that a user can cause."""
    if isinstance(error, KeyboardInterrupt):
        return ExitStatus.INTERRUPTED
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if not isinstance(error, (CommandError, BackendError, HandlerSignatureError, ValueError)):
        raise error
    note(f"trio-tasks: {_hint(error)}")
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, BackendError):
        is_unknown = error.is_missing or isinstance(error, UnknownTaskError)
        outdated = ExitStatus.UNHEALTHY if error.is_outdated else ExitStatus.OUT_OF_REACH
        return ExitStatus.NOT_FOUND if is_unknown else outdated
    return ExitStatus.USAGE


def _hint(error: BaseException) -> str:
    """Return the text of an error, with the command that helps."""
    if isinstance(error, HandlerSignatureError) and "not in data" in str(error):
        return (
            f"{error}; `run` takes it from a function that returns queues.monitor(..., data=[...]), `replay` by --data"
        )
    text = "\n".join(printable(line) for line in str(error).splitlines())
    if isinstance(error, BackendError) and error.is_missing:
        return f"{text.partition(', and create=False')[0]}; `trio-tasks run`, `migrate` and `import` make it"
    if isinstance(error, BackendError) and error.is_outdated:
        return f"{text}; `trio-tasks migrate` does that"
    return text
