"""A test of a task by itself: without a server, without a process, and without waiting."""

from pathlib import Path

from bookshop.mail import Mailer
from bookshop.tasks import send_receipt, tasks
from trio.testing import MockClock
from trio_tasks import Retried, Succeeded, Task
from trio_tasks.testing import run_once


async def test_a_receipt_is_mailed_once_however_often_it_is_tried(tmp_path: Path, autojump_clock: MockClock) -> None:
    task = Task.builder(send_receipt.bind(1, "ada@example.com")).id("receipt-1").build()
    data = [Mailer(tmp_path)]
    refused = await run_once(tasks, task, data=data)
    assert isinstance(refused, Retried)
    assert await run_once(tasks, task, data=data) == Succeeded("mailed to ada@example.com")
    assert await run_once(tasks, task, data=data) == Succeeded("mailed to ada@example.com")
    assert (tmp_path / "mails.txt").read_text("utf-8").count("receipt-1") == 1
