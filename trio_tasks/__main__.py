"""The command ``trio-tasks``, also by ``python -m trio_tasks``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run a command of the command line; return the exit status."""
    try:
        import click
        import rich
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write("trio-tasks needs click and rich: pip install 'trio_tasks[cli]'\n")
        return 2
    del click, rich
    try:
        from ._cli.app import main as run
    except KeyboardInterrupt:  # it takes a while
        return 130

    return run()


if __name__ == "__main__":
    sys.exit(main())
