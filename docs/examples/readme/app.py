"""Welcome mails, and a report each minute. Run it by: trio-tasks run app:tasks"""

import trio
from trio_tasks import RetryPolicy, Router, cron, exponential

tasks = Router()


@tasks.task(timeout=30, retry=RetryPolicy(attempts=3, backoff=exponential(1)))
async def send_email(to: str, subject: str = "Welcome") -> str:
    if not await trio.Path("letter.txt").exists():
        raise FileNotFoundError("there is no letter.txt")
    await trio.sleep(0.5)  # a mail server takes its time
    return f"{subject!r} was sent to {to}"


@tasks.task
def report() -> None:  # a plain function runs in a thread
    print("here is the report of this minute", flush=True)


tasks.schedule("report", report.bind(), cron("* * * * *", zone="UTC"))
