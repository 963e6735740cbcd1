"""Tests of README and tutorial: each program is saved, each command run, and the output compared, page by page.

Comments on the pages, which a reader does not see, say what is done with a fence:

    <!-- example: tutorial/emails.py -->    save it as emails.py
    <!-- copy: bookshop -->                 copy this folder of examples, and go there; its programs are not typed
    <!-- file: pytest.ini -->              save it
    <!-- run -->                            run each line to its end
    <!-- run: with exit status 1 -->        the same; the last line ends so
    <!-- start: ann, until: works -->       run it in a terminal of its own; go on when it has printed this
    <!-- await: ann, until: sent -->        go on when it has printed this
    <!-- stop: ann, by: SIGTERM -->         send a signal, and wait for its end
    <!-- prints -->                         what the last command has printed
    <!-- prints: the begin -->              the first lines of it; likewise: the end
    <!-- prints: in any order -->           the same, line by line in any order
    <!-- prints: of ann -->                 what a terminal has printed in all
    <!-- prints: the end of ann -->         the last lines of it
    <!-- output: hello.out -->              what the last command has printed
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath
from unittest.mock import patch
from urllib.request import Request, urlopen

import pytest

from tests.cli._command import call
from tests.docs_fences import DOCS, EXAMPLES, ROOT
from tests.test_examples import normal

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="it sends signals to processes"),
]

PAGES = [
    DOCS / "tutorial" / f"{name}.md"
    for name in re.findall(
        r"^\d\. \[.*\]\((\w+)\.md\)", (DOCS / "tutorial" / "index.md").read_text("utf-8"), re.MULTILINE
    )
]
STEP = re.compile(r"^<!-- (\w+)(?:: (.+))? -->\n(?:```\w+\n((?s:.*?))^```$)?", re.MULTILINE)
PATIENCE = 150.0  # seconds until a program that prints nothing is given up; a guard, not a measure


class Terminal:
    """A program that runs in the background, and its output."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._printed: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._news:
                    self._printed.append(line)
                    self._news.notify_all()

    def lines(self) -> list[str]:
        """Return the output without log records."""
        text = "".join(line for line in self._printed if not re.match(r"\[\d{4}-|.* has a fault: very rarely", line))
        return normal(text)

    def wait_for(self, words: str) -> None:
        with self._news:
            there = self._news.wait_for(lambda: any(words in line for line in self._printed), PATIENCE)
        assert there, f"no {words!r} in {self._printed}"

    def stop(self, name: str) -> None:
        self._process.send_signal(signal.Signals[name])
        code = self._process.wait(PATIENCE)
        assert code == (-signal.SIGKILL if name == "SIGKILL" else 0), self._printed
        self._reader.join(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)


class Reader:
    """A reader who follows the pages in a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PORT": str(port)}
        self.terminals: dict[str, Terminal] = {}
        self.printed: list[str] = []

    def step(self, verb: str, words: str, body: str) -> None:
        """Follow a comment, with the code below it."""
        match verb:
            case "copy":
                self.folder /= words
                shutil.copytree(EXAMPLES / words, self.folder)
            case "example" if self.folder.name == PurePosixPath(words).parts[0]:
                assert (self.folder.parent / words).read_text("utf-8") == body
            case "example":
                assert " " not in words, f"{words} is only a part of a program: nobody can type it along"
                (self.folder / PurePosixPath(words).name).write_text(body, "utf-8")
            case "file":
                (self.folder / words).write_text(body, "utf-8")
            case "run":
                *commands, last = body.splitlines()
                self.printed = [line for command in commands for line in self.run(command)]
                self.printed += self.run(last, int(words.rpartition(" ")[2] or 0))
            case "start":
                name, _, until = words.partition(", until: ")
                *commands, last = body.splitlines()
                for command in commands:
                    self.run(command)
                self.terminals[name] = Terminal(self.command(last), self.folder, self.environment)
                self.terminals[name].wait_for(until)
            case "await":
                name, _, until = words.partition(", until: ")
                self.terminals[name].wait_for(until)
            case "stop":
                name, _, by = words.partition(", by: ")
                self.terminals[name].stop(by)
            case "prints":
                self.compare(words, body)
            case "output":
                self.compare("", body)
            case _:
                raise AssertionError(f"what is to be done with <!-- {verb} -->?")

    def command(self, line: str) -> list[str]:
        program, *arguments = shlex.split(self.on_free_port(line), comments=True)
        if program == "trio-tasks":
            as_people_see_it = [] if arguments[0] == "run" else ["--no-json"]
            return [sys.executable, "-W", "error", "-m", "trio_tasks", *arguments, *as_people_see_it]
        assert program == "python", f"{line!r} is no command that a reader has everywhere"
        return [sys.executable, "-W", "error", *arguments]

    def run(self, line: str, status: int = 0) -> list[str]:
        if line.startswith("curl "):
            return [self.ask(*shlex.split(self.on_free_port(line), comments=True)[1:])]
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            [self.environment[name]] = shlex.split(value)
            return []
        if line.startswith("echo "):
            _, *text, _, name = shlex.split(line)
            (self.folder / name).write_text(" ".join(text))
            return []
        if re.match(r"trio-tasks (?!push)", line):  # which imports no program of the reader's
            return self.run_here(shlex.split(line, comments=True)[1:], status)
        finished = subprocess.run(
            self.command(line), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert finished.returncode == status, f"{line}: {finished.stdout}{finished.stderr}"
        return normal(finished.stdout.replace(f"{self.folder}{os.sep}", ""))

    def on_free_port(self, line: str) -> str:
        """The command with a port that is free, in place of the one on the page."""
        return re.sub(r"(localhost|127\.0\.0\.1):(8000|9000)", f"127.0.0.1:{self.environment['PORT']}", line)

    def run_here(self, arguments: list[str], status: int) -> list[str]:
        """Call the command line in this process, which takes a tenth of the time of another one."""
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            with patch.dict(os.environ, self.environment):
                ended = call(*arguments, "--no-json")
        finally:
            os.chdir(here)
        assert ended.status == status, (arguments, ended)
        return normal(ended.out)

    def ask(self, *arguments: str) -> str:
        """Do what curl does with these arguments."""
        parser = argparse.ArgumentParser()
        parser.add_argument("url")
        parser.add_argument("-d", dest="data", type=str.encode)
        parser.add_argument("-X", dest="method")
        given = parser.parse_args(arguments)
        with urlopen(Request(f"http://{given.url}", given.data, method=given.method), timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def compare(self, words: str, body: str) -> None:
        expected, printed = normal(body), self.printed
        if words.startswith(("of ", "the end of ")):
            printed = self.terminals[words.rpartition(" ")[2]].lines()
        if words.startswith("the end"):
            printed = printed[-len(expected) :]
        if words == "the begin":
            printed = printed[: len(expected)]
        if words == "in any order":
            expected, printed = sorted(expected), sorted(printed)
        assert len(expected) == len(printed), printed
        for line, real in zip(map(narrow, expected), map(narrow, printed), strict=True):
            assert re.fullmatch(re.escape(line).replace("…", r".+"), real), f"{real!r} is not {line!r}"

    def close(self) -> None:
        for terminal in self.terminals.values():
            terminal.close()


def narrow(line: str) -> str:
    """The line with single spaces: the width of a column may differ from run to run."""
    return re.sub(r"(?<=\S)  +", " ", line)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.timeout(600)
def test_typing_along_works_from_the_first_page_to_the_last(tmp_path: Path) -> None:
    follow(PAGES, tmp_path)
    assert len(PAGES) == 7
    programs = {path.name for path in (EXAMPLES / "tutorial").glob("*.py")}
    assert programs <= {path.name for path in tmp_path.iterdir()}


def test_typing_along_works_for_the_readme(tmp_path: Path) -> None:
    follow([ROOT / "README.md"], tmp_path)
    assert {path.name for path in (EXAMPLES / "readme").glob("*.py")} <= {path.name for path in tmp_path.iterdir()}


def follow(pages: list[Path], folder: Path) -> None:
    """Follow pages, one after the other, in a folder."""
    reader = Reader(folder, free_port())
    try:
        for page in pages:
            for verb, words, body in STEP.findall(page.read_text("utf-8")):
                reader.step(verb, words, body)
    finally:
        reader.close()
