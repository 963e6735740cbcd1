"""Push two mails, and wait for one of them."""

import os

import trio
from app import send_email, tasks


async def main() -> None:
    async with tasks.open(os.environ["TRIO_TASKS_URL"]) as queues:
        await queues.push(send_email.bind("bob@example.com", subject="How is it going?"), delay=86400)
        task_id = await queues.push(send_email.bind("grace@example.com"), priority=5, attempts=10)
        print(await send_email.result(queues, task_id))


trio.run(main)
