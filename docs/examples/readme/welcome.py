"""Push two mails, and wait for one of them."""

import os

import trio
from app import send_email, tasks

URL = os.environ.get("TRIO_TASKS_URL", "sqlite:///tasks.db?driver=apsw")


async def main() -> None:
    async with tasks.open(URL) as queues:
        await queues.push(send_email.bind("bob@example.com", subject="How is it going?"), delay=86400)
        task_id = await queues.push(send_email.bind("grace@example.com"), priority=5, attempts=10)
        print(await send_email.result(queues, task_id))


trio.run(main)
