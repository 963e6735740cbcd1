"""Tests of functions that run in processes. A process takes half a second to start, so each test asks for a lot."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import pytest
import trio
import trio.testing
from trio_tasks import (
    AbortError,
    Call,
    Data,
    Error,
    Event,
    Extensions,
    HandlerSignatureError,
    Injected,
    Killed,
    MemoryStorage,
    Parts,
    ProcessDiedError,
    Release,
    Retried,
    Router,
    Status,
    StoredError,
    Succeeded,
    Suspended,
    Task,
    Worker,
    WorkerContext,
)
from trio_tasks._router import child
from trio_tasks._router.processes import ProcessPool
from trio_tasks.testing import Simulation, TestWorker, run_once, simulate, without_processes

from tests._progress import until
from tests.cli._command import call, command, environment
from tests.router._processes import ERRORS, die, fail, fail_behind, give, hold, square, tasks, told

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between the opening and the reading
        return False


async def pid_of(folder: Path, name: str) -> int:
    await until((folder / name).exists)
    return int((folder / name).read_text())


# Definitions


def plain(n: int) -> int:
    return n


async def is_async(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


def with_data(n: int, settings: Data[dict[str, int]] = Injected) -> None:
    """Data stays here."""


def with_task(n: int, task: Task[Any] = Injected) -> None:
    """A task has more than can be sent."""


def with_parts(n: int, parts: Parts | None = Injected) -> None:
    """Likewise."""


def with_context(n: int, context: WorkerContext = Injected) -> None:
    """A run is here."""


def with_extensions(n: int, extensions: Extensions = Injected) -> None:
    """Extensions are not stored, either."""


class Session:
    @classmethod
    async def from_task(cls, task: Task[Any]) -> Session:
        await trio.lowlevel.checkpoint()
        return cls()

    def method(self, n: int) -> None:
        """A method."""

    @staticmethod
    def static(n: int) -> int:
        return -n


def with_extractor(n: int, session: Session = Injected) -> None:
    """It is made here."""


def nested() -> Any:
    def inside(n: int) -> None:
        """A function of a function."""

    return inside


REFUSED: dict[str, tuple[Any, str]] = {
    "async": (is_async, "is_async cannot be a task: it is async, and process=True is for sync functions"),
    "lambda": (lambda: None, "process=True is for a function at the top level of a module"),
    "nested": (nested(), "process=True is for a function at the top level of a module"),
    "method": (Session().method, "process=True is for a function at the top level of a module"),
    "partial": (partial(plain), "process=True is for a function at the top level of a module"),
    "data": (with_data, r"'settings: Data\[dict\[str, int\]\]' stays in the process of the worker"),
    "task": (with_task, r"'task: Task\[Any\]' stays in the process of the worker: with process=True, Attempt, TaskId"),
    "parts": (with_parts, r"'parts: Parts \| None' stays in the process of the worker"),
    "context": (with_context, "'context: WorkerContext' stays in the process of the worker"),
    "extensions": (with_extensions, "'extensions: Extensions' stays in the process of the worker"),
    "extractor": (with_extractor, "'session: Session' stays in the process of the worker"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_in_a_process_is_refused_when_the_program_is_imported(name: str) -> None:
    function, text = REFUSED[name]
    router = Router()
    with pytest.raises(HandlerSignatureError, match=text):
        router.task(name="f", process=True)(function)
    assert not router.functions
    with pytest.raises(TypeError, match="process must be True or False, not 'yes'"):
        router.task(process="yes")(plain)  # type: ignore[call-overload]  # that is the mistake


def test_a_function_that_a_process_would_not_find_is_refused_by_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    router, function = Router(), plain
    router.task(process=True)(function)
    router.task(name="static", process=True)(Session.static)
    Worker("w", MemoryStorage[Call[object]](), router)
    monkeypatch.setattr(sys.modules[__name__], "plain", square)
    with pytest.raises(HandlerSignatureError, match=r"imports .*test_processes does not find it as plain"):
        Worker("w", MemoryStorage[Call[object]](), router)
    monkeypatch.setattr(function, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    session = Router()
    session.task(process=True)(function)
    with pytest.raises(HandlerSignatureError, match="it was defined in a session"):
        Worker("w", MemoryStorage[Call[object]](), session)


async def test_without_the_extra_a_worker_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    assert tasks.functions["square"] is square  # a program that only pushes needs no extra
    storage = MemoryStorage[Call[object]]()
    await storage.push(square.bind(3))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trio_tasks\[cpu\]'"):
        Worker("w", storage, tasks)


async def test_a_worker_of_another_queue_leaves_it_to_others(autojump_clock: trio.testing.MockClock) -> None:
    """It starts no processes for a task that should not be in its queue."""
    router = Router()
    cpu = router.task(queue="cpu", process=True)(square.__wrapped__)
    router.task(queue="io")(is_async)
    storage = MemoryStorage[Call[object]]()
    async with router.open(storage) as queues:
        await queues["io"].push(cpu.bind(2), id="a")
        [worker] = queues.make_workers({"io": 1})
        with trio.move_on_after(1):
            await worker.run()
        task = await queues.fetch_by_id("a")
        assert task is not None
        assert task.parts.attempt == 0
        assert "runs in a process" in (await queues.explain("a")).reason


def test_in_a_simulation_it_is_called_in_place() -> None:
    async def program(simulation: Simulation) -> None:
        storage = MemoryStorage[Call[object]]()
        await storage.push_bulk([square.bind(2), fail.bind("Needs")], attempts=2)
        await simulation.start(Worker("w", storage, tasks))
        storage.close()
        await simulation.wait_workers_stopped()
        assert storage.statistics().succeeded == 1

    simulate(program, seeds=range(3))
    assert square(3) == 9  # and a direct call is one, too
    assert tasks.functions["told"].options == {}


async def test_a_test_may_do_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    with without_processes():
        outcome = await run_once(tasks, told.bind())
        assert isinstance(outcome, Succeeded)
        assert outcome.result[0] == os.getpid()
        assert isinstance(await run_once(tasks, fail.bind("AbortError")), Killed)


def test_replay_calls_it_in_its_own_process(tmp_path: Path) -> None:
    async def push() -> None:
        async with tasks.open(f"sqlite:///{tmp_path}/tasks.db") as queues:
            await queues.push(told.bind(), id="a")

    trio.run(push)
    ended = call("replay", "a", "tests.router._processes:tasks", "--url", f"sqlite:///{tmp_path}/tasks.db")
    assert json.loads(ended.out.splitlines()[-1])["result"][0] == os.getpid()


# Processes


CHANGED = {"Holds": StoredError, "KeyboardInterrupt": StoredError, "KeyboardInterrupts": ExceptionGroup}


@pytest.mark.real
async def test_a_process_gives_its_result_or_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    """In one process, one after the other: what is filled in, all kinds of results and errors; and what kills it."""
    storage = MemoryStorage[Call[object]]()
    put_back: list[Any] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Release):
            put_back.append(event.outcome)

    async with tasks.open(storage) as queues:
        async with queues.monitor({"default": 1}, on_event=listen) as monitor:

            async def result_of(call: Call[Any], attempts: int = 1) -> Any:
                return await queues.wait_for(await queues.push(call, attempts=attempts, metadata={"a": 1}))

            assert (await result_of(square.bind(7))).result == 49
            found = await result_of(told.bind())
            pid, attempt, task_id, metadata, _ = found.result
            assert (attempt, task_id, metadata) == (1, found.id, {"a": 1})
            assert pid != os.getpid()
            for name in ERRORS:
                if name == "SuspendError":
                    await queues.push(fail.bind(name), id="suspended")
                    continue
                error = (await result_of(fail.bind(name))).error
                assert type(error) is CHANGED.get(name, type(ERRORS[name]())), name
            history = await queues.fetch_by_id((await result_of(fail_behind.bind())).id)
            assert history is not None
            [past] = history.parts.context.history
            assert past.traceback is not None
            assert 'raise Holds("first")' in past.traceback
            assert "raise Needs" in past.traceback
            assert "child.py" not in past.traceback
            for what, text in {"lock": "cannot be sent from its process", "coroutine": "returned a coroutine"}.items():
                refused = await result_of(give.bind(what), attempts=3)
                assert (refused.status, type(refused.error)) == (Status.Killed, AbortError)
                assert text in str(refused.error)
            large = await result_of(give.bind("bytes", 30_000_000))
            assert len(large.result) == 30_000_000
            unsent = await result_of(Call("square", {"n": threading.Lock()}))
            assert "the argument 'n' of" in str(unsent.error)
            assert (await result_of(told.bind())).result[0] == pid  # all of that was one process
            [suspended] = put_back
            assert isinstance(suspended, Suspended)
            died = [(await result_of(die.bind(how))).error for how in (signal.SIGSEGV, -3)]
            assert [(type(each), each.exit_code) for each in died] == [(ProcessDiedError, -11), (ProcessDiedError, 3)]
            assert str(died[0]).endswith(".die was ended by SIGSEGV, and the function has not returned")
            assert "with exit code 3" in str(died[1])
            os.kill((await result_of(told.bind())).result[0], signal.SIGKILL)  # while it has nothing to do
            monitor.shutdown()
    assert capfd.readouterr().out.count("a process says 1") == 3
    assert not children()


def children() -> list[str]:
    """The processes that this one has started and that have not ended, but for Python's tracker of resources."""
    found: list[str] = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
            line = each.with_name("cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and "spawn_main" in line:
            found.append(line)
    return found


@pytest.mark.real
async def test_a_process_is_dead_when_its_attempt_is_settled(tmp_path: Path) -> None:
    """By a timeout, by abort(), by a call that is cancelled, by a death that is retried, and by the terminator;
    neighbours are not harmed.
    """
    ends: dict[str, tuple[Any, bool]] = {}
    pids: dict[str, int] = {}

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, (Error, Release)):
            name = str(event.task.parts.id)
            ends[name] = event.outcome, is_alive(pids[name])

    async with tasks.open(f"file:///{tmp_path}/tasks") as queues:
        async with queues.monitor({"default": 2}, on_event=listen, shutdown_timeout=0.1) as monitor:

            async def push(name: str, **options: Any) -> None:
                await queues.push(hold.bind(tmp_path, name), id=name, **options)
                pids[name] = await pid_of(tmp_path, name)

            await push("neighbour")
            await push("late", timeout=20, attempts=1)
            assert is_alive(pids["late"])
            assert "a line of the process that was called at" in str(await queues.explain("late"))
            await queues.abort("late")
            assert (await queues.wait_for("late")).status is Status.Killed
            async with trio.open_nursery() as callers:
                callers.start_soon(partial(queues.call, hold.bind(tmp_path, "called"), id="called"))
                pids["called"] = await pid_of(tmp_path, "called")
                callers.cancel_scope.cancel()
            assert not is_alive(pids["called"])
            assert await queues.fetch_by_id("called") is None
            await push("killed", attempts=2)
            (tmp_path / "killed").unlink()
            os.kill(pids["killed"], signal.SIGKILL)
            await until(lambda: "killed" in ends)
            retried, was_alive = ends.pop("killed")
            assert isinstance(retried, Retried)
            assert isinstance(retried.error, ProcessDiedError)
            assert not was_alive
            pids["killed"] = await pid_of(tmp_path, "killed")  # its second attempt
            assert is_alive(pids["neighbour"])
            monitor.shutdown()
        assert not any(map(is_alive, pids.values()))
        outcomes = {name: (type(outcome).__name__, alive) for name, (outcome, alive) in ends.items()}
        assert outcomes == {
            "late": ("Killed", False),
            "called": ("Killed", False),
            "neighbour": ("Released", False),
            "killed": ("Released", False),
        }
        for name, attempt in {"neighbour": 0, "killed": 1}.items():
            task = await queues.fetch_by_id(name)
            assert task is not None
            assert (task.parts.status, task.parts.attempt) == (Status.Pending, attempt)
    assert not children()


@pytest.mark.real
async def test_the_tools_for_tests_start_a_process_and_end_it(tmp_path: Path) -> None:
    assert await run_once(tasks, square.bind(5)) == Succeeded(25)
    storage = MemoryStorage[Call[object]]()
    await storage.push(hold.bind(tmp_path, "held"), timeout=0.01)
    _, outcome = await TestWorker(storage, tasks).execute_next()
    assert isinstance(outcome, Retried)
    assert isinstance(outcome.error, trio.TooSlowError)
    assert not children()


@final
class Starting:
    """A context of trio-parallel whose processes are ended, one after the other, before they call anything."""

    def __init__(self, *exit_codes: int) -> None:
        self._exit_codes = [*exit_codes]

    async def run_sync(self, *args: Any, **options: Any) -> child.CallEnd:
        await trio.lowlevel.checkpoint()
        if self._exit_codes:
            raise ChildProcessError(SimpleNamespace(exitcode=self._exit_codes.pop(0)))
        return child.CallEnd(pickle.dumps(args[1].name))


async def test_a_process_that_is_interrupted_while_it_starts_is_started_again() -> None:
    """Ctrl-C or a service manager's SIGTERM reaches it before it can ignore that; nothing has been called yet."""
    place = child.FunctionPlace("shop", "resize")
    for codes in ([], [-2], [-2, -2], [-15], [-2, -15]):
        assert await ProcessPool(Starting(*codes), ChildProcessError).call(place, {}) == "resize"
    for codes in ([-2, -2, -2], [-15, -15, -15], [1], [-2, -9]):
        with pytest.raises(ProcessDiedError) as caught:
            await ProcessPool(Starting(*codes), ChildProcessError).call(place, {})
        assert caught.value.exit_code == codes[-1]


# Programs


PROGRAM = """
import logging, sys
from pathlib import Path

import trio
import trio.testing
from trio_tasks import Router, RetryPolicy

tasks = Router()


@tasks.task(process=True, attempts=1)
def square(n: int, padding: str) -> int:
    return n * n


async def main() -> None:
    async with tasks.open("memory:") as queues:
        async with queues.monitor({"default": 1}) as monitor:
            result = await queues.wait_for(await queues.push(square.bind(12, "x" * int(sys.argv[1]))))
            print(result.result, result.error)
            monitor.shutdown()
"""


@pytest.mark.real
@pytest.mark.parametrize(
    ("is_guarded", "size", "end"),
    [(True, 0, ""), (False, 0, "has ended with exit code 1"), (False, 1_000_000, "has ended while it started")],
)
def test_a_program_is_imported_by_its_processes(is_guarded: bool, size: int, end: str, tmp_path: Path) -> None:
    """One that is not guarded does not run its workers a second time, and says what is wrong; also where the arguments
    do not fit into a pipe, and so have not been sent when the process ends.
    """
    guard = 'if __name__ == "__main__":\n    ' if is_guarded else ""
    (tmp_path / "program.py").write_text(f"{PROGRAM}\n\n{guard}trio.run(main)\n")
    line = [sys.executable, "program.py", str(size)]
    ended = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    if is_guarded:
        assert (ended.stdout, ended.stderr) == ("144 None\n", "")
        return
    assert f"the process of square {end}" in ended.stdout
    assert "put that under `if __name__ == '__main__':`" in ended.stderr


def pushed(folder: Path, name: str) -> Path:
    """Push a task that keeps a core busy; return the storage."""

    async def push() -> None:
        async with tasks.open(f"sqlite:///{folder}/tasks.db") as queues:
            await queues.push(hold.bind(folder, name), id=name)

    trio.run(push)
    return folder / "tasks.db"


@pytest.mark.real
def test_a_terminal_s_interruption_lets_attempts_finish(tmp_path: Path) -> None:
    """SIGINT, and SIGTERM, to all processes of the program: it shuts down, and the function goes on to its end."""
    line = command("run", "tests.router._processes:tasks", "--url", f"sqlite:///{pushed(tmp_path, 'held')}")
    with subprocess.Popen(line, stdout=-1, stderr=-1, env=environment(), start_new_session=True) as process:
        pid = wait_for_pid(tmp_path / "held")
        for sent in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, sent)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
        assert is_alive(pid)
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert status_of(tmp_path, "held") is Status.Done
    assert not is_alive(pid)


@pytest.mark.real
def test_a_process_ends_with_the_program_that_has_started_it(tmp_path: Path) -> None:
    """After `kill -9` of the program, in the middle of a call that would go on for ever."""
    line = command("run", "tests.router._processes:tasks", "--url", f"sqlite:///{pushed(tmp_path, 'held')}")
    with subprocess.Popen(line, stdout=-1, stderr=-1, env=environment(), start_new_session=True) as process:
        pid = wait_for_pid(tmp_path / "held")
        process.kill()
        process.communicate(timeout=120)
    while is_alive(pid):
        time.sleep(0.01)  # the timeout of the test is the bound


def wait_for_pid(file: Path) -> int:
    while not file.exists():
        time.sleep(0.02)
    return int(file.read_text())


def status_of(folder: Path, task_id: str) -> Status:
    async def look() -> Status:
        async with tasks.open(f"sqlite:///{folder}/tasks.db") as queues:
            task = await queues.fetch_by_id(task_id)
            assert task is not None
            return task.parts.status

    return trio.run(look)
