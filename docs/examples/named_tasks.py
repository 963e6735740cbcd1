"""Tasks with names: functions in a router, several queues in one file, and a resource for them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import trio
import trio.lowlevel
from trio_tasks import Attempt, Data, Injected, Router

tasks = Router()


class Mailer:
    async def send(self, to: str, subject: str) -> int:
        await trio.lowlevel.checkpoint()
        print(f"to {to}: {subject}")
        return len(subject)


@tasks.resource  # opened before the first attempt, closed after the last one
async def mailer() -> AsyncIterator[Mailer]:
    print("the mailer is open")
    yield Mailer()
    print("the mailer is closed")


@tasks.task(queue="emails", attempts=8, timeout=30)
async def send_email(
    to: str, subject: str = "hello", *, mailer: Data[Mailer] = Injected, attempt: Attempt = Injected
) -> int:
    return await mailer.send(to, f"{subject} (attempt {attempt})")


@tasks.task(name="video.resize", queue="video", unique="{path}")
def resize(path: Path, width: int) -> Path:  # sync: runs in a thread
    return path.with_suffix(f".{width}.mp4")


async def main(folder: str) -> None:
    async with tasks.open(f"sqlite:///{folder}/tasks.db") as queues:
        task_id = await queues.push(send_email.bind("a@example.com", subject="hi"))
        small = await queues.push(resize.bind(Path("cat.mp4"), width=320))
        again = await queues.push(resize.bind(Path("cat.mp4"), width=640))
        print("one task for each path:", small == again)

        async with queues.monitor({"emails": 8, "video": 2}, shutdown_timeout=30) as monitor:
            print("length", await send_email.result(queues, task_id))
            print("file", await resize.result(queues, small))
            monitor.shutdown()

    print("directly:", await send_email("b@example.com", mailer=Mailer(), attempt=Attempt(1)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, folder)
