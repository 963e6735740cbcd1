"""The command ``top``: in a pipe, and on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_tasks import Minute, Task, Worker, open_url
from trio_tasks._cli.top import _quantile

from tests.cli._command import KINDS, call, call_process, command, environment, filled, url_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_as_json_and_as_a_table(kind: str, tmp_path: Path) -> None:
    url = filled(kind, tmp_path)
    ended = call("top", "--url", url, "--count", "2", "--every", "0.05")
    assert (ended.status, ended.err) == (0, "")
    first, second = ended.records
    assert [each["queue"] for each in first["queues"]] == ["emails", "sms"]
    assert first["running"] == []
    assert first["queues"][0]["p95"] is not None
    assert first["queues"][0]["rate"] > 0
    assert second["queues"][0]["rate"] == 0
    ended = call("top", "--url", url, "--count", "1", "--no-json")
    assert ended.err == "failed, killed: totals since the queue was made\n"
    lines = ended.out.splitlines()
    assert lines[0].split() == ["queue", "waiting", "oldest", "delayed", "busy", "done/s", "p95", "failed", "killed"]
    assert lines[1].split()[:2] == ["emails", "1"]


async def test_attempts_are_shown_with_the_line_at_which_they_wait(tmp_path: Path) -> None:
    async def wait(task: Task[str]) -> None:
        began.set()
        await trio.sleep_forever()

    began = trio.Event()
    url = url_of("sqlite", tmp_path)
    async with open_url(url, queue="emails") as storage, trio.open_nursery() as nursery:
        await storage.push("a", id="a")
        await nursery.start(Worker("ann", storage, wait, concurrency=3).run)
        await began.wait()
        ended = await trio.to_thread.run_sync(partial(call_process, "top", "--url", url, "--count", "1"))
        [look] = ended.records
        [running] = look["running"]
        assert (running["id"], running["worker"], running["attempt"]) == ("a", "ann", 1)
        assert "sleep_forever" in running["line"]
        assert (look["queues"][0]["busy"], look["queues"][0]["slots"]) == (1, 3)
        nursery.cancel_scope.cancel()


def test_on_a_terminal_it_goes_on_until_ctrl_c(tmp_path: Path) -> None:
    url = filled("sqlite", tmp_path)
    ours, theirs = pty.openpty()
    line = command("top", "--url", url, "--every", "0.05")
    settings = environment(TERM="xterm", COLUMNS="100", LINES="30")
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=settings) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"emails") < 3:
            shown += os.read(ours, 10_000)
        assert b"failed, killed: totals since the queue was made" in shown
        process.send_signal(signal.SIGINT)
        try:
            while os.read(ours, 10_000):
                pass
        except OSError:  # the other end is closed
            pass
        assert process.stderr is not None
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    os.close(ours)


def test_the_quantile_is_a_bound_of_the_histogram() -> None:
    def minute(**durations: int) -> Minute:
        bounds = {float(name[1:]): number for name, number in durations.items()}
        counts = dict.fromkeys(["succeeded", "retried", "failed", "killed", "released", "suspended"], 0)
        from datetime import datetime, timezone

        at = datetime.now(timezone.utc)
        return Minute(at=at, name=None, seconds=1.0, waited=0.0, durations=bounds, waits={}, **counts)

    assert _quantile([]) is None
    assert _quantile([minute(_1=95, _2=5)]) == 1
    assert _quantile([minute(_1=50), minute(_1=44, _2=5, _4=1)]) == 2
