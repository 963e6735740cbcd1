"""What is done to the project: ``nox`` alone runs lint, typing and tests; ``nox -l`` lists the rest."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"  # `download_python`
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # also under CI: tests run on every Python that is there
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typing", "tests"]
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)


def show_pyenv_pythons() -> None:
    """Put the Pythons that pyenv has installed at the end of PATH, the newest first.

    pyenv's own shims offer only the versions that are switched on.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [directory for directory in root.glob("versions/3.*/bin") if directory.is_dir()]
    found.sort(key=lambda directory: [int(n) for n in re.findall(r"\d+", directory.parent.name)])
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *map(str, reversed(found))])


def install(session: nox.Session, group: str) -> None:
    """Install the project, in place, and one of its dependency groups."""
    session.install("--editable", ".", *nox.project.dependency_groups(PYPROJECT, group))


show_pyenv_pythons()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests: `nox -s tests -- --cov -k worker`; --cov measures coverage, the rest is pytest's."""
    install(session, "test")
    arguments = [argument for argument in session.posargs if argument != "--cov"]
    if "--cov" in session.posargs:
        session.env["COVERAGE_FILE"] = str(Path(session.create_tmp(), "coverage").resolve())
        session.run("coverage", "erase")
        session.run("coverage", "run", "-m", "pytest", *arguments)
        session.run("coverage", "combine", "--quiet")
        session.run("coverage", "report")
        return
    # Hundreds of processes are started, and each would compile all that it imports where no bytecode is written.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.env["PYTHONPYCACHEPREFIX"] = str(Path(session.virtualenv.location, "bytecode").resolve())
    if arguments:
        session.run("pytest", *arguments)
        return
    there = [python for python in PYTHONS if shutil.which(f"python{python}")]
    # Rewriting the assertions of all files takes a tenth of the time; the newest Python tells the values.
    chosen = ["--assert=plain", "-m", "not real and not searching and not once"]
    if session.python in there[-1:]:
        chosen = []  # all of them
        session.run("python", "-m", "tests.journey")
    # Four processes on two cores: half of the time is spent in waiting for disks, processes and clocks.
    session.run("pytest", "-n", "4", "--dist", "worksteal", *chosen)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the large trials at full size, with seeds by the date: `nox -s nightly`, or `nox -s nightly -- -k sigint`."""
    install(session, "test")
    session.env["TRIO_TASKS_NIGHTLY"] = os.environ.get("TRIO_TASKS_NIGHTLY") or f"{datetime.now(timezone.utc):%Y-%m-%d}"
    session.run("pytest", "-m", "nightly", "-o", "timeout=7200", *session.posargs)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types by mypy, for the oldest and the newest Python, and by pyright."""
    install(session, "typing")
    for version in (PYTHONS[0], PYTHONS[-1]):
        session.run("mypy", "--python-version", version)
    session.run("pyright")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style by ruff, the formatting, and the cancellation rules by flake8-async."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("flake8", "trio_tasks", "docs")  # tests have ruff's share of these rules; flake8's takes minutes there


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings being errors: docs/_build/index.html."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-E", "-b", "html", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: speed beside hand-written trio and beside other libraries, latency, memory, import time."""
    install(session, "bench")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill workers with -9, hundreds of times: `nox -s crash -- --tasks 20000 --kills 300 --processes 4`."""
    install(session, "test")
    session.run("python", "-m", "tests.crash", *session.posargs)


@nox.session
def seeds(session: nox.Session) -> None:
    """Run random programs on lines that fail, by seeds: `nox -s seeds`, or `nox -s seeds -- sqlite 5000-5999`."""
    install(session, "test")
    if session.posargs:
        session.run("python", "-m", "tests.simulation", *session.posargs)
        return
    for kind, last in (("memory", 9999), ("file", 999), ("sqlite", 999)):
        session.run("python", "-m", "tests.simulation", kind, f"0-{last}")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Give corrupted bytes to all that reads bytes: `nox -s fuzz -- --minutes 60`."""
    install(session, "test")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Break each promise on purpose, and print the table of what sees it."""
    install(session, "test")
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run a mixed load with restarts, and see that nothing grows: `nox -s soak -- --minutes 30`."""
    install(session, "test")
    session.run("python", "-m", "tests.crash.soak", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Hash a directory, `nox -s demo [-- DIRECTORY]`; run sessions in parallel, `nox -s demo -- sessions [NOXFILE]`."""
    program, arguments, packages = "hash_tree.py", session.posargs, [".[sqlite]"]
    if arguments[:1] == ["sessions"]:
        program, arguments, packages = (
            "nox_pool.py",
            arguments[1:],
            [".[sqlite]", f"nox=={importlib.metadata.version('nox')}"],
        )
    session.install("--editable", *packages)
    # After Ctrl-C nox would send a SIGTERM of its own at once, which is the demo's second signal: leave it to the user.
    session.run("python", f"docs/examples/{program}", *arguments, interrupt_timeout=None)
