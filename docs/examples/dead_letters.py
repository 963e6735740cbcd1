"""Results, dead letters, and changing one's mind."""

from __future__ import annotations

import trio
import trio.testing
from trio_tasks import AbortError, MemoryStorage, Status, Worker

open_accounts = {"ada"}


async def bill(account: str) -> str:
    if account == "slow":
        await trio.sleep_forever()
    if account not in open_accounts:
        raise AbortError(f"{account} has no account")
    return f"{account} has been billed"


async def main() -> None:
    storage = MemoryStorage[str]()
    worker = Worker("billing", storage, bill)
    async with trio.open_nursery() as nursery:
        context = await nursery.start(worker.run)

        # How did it end? The result can be asked for by id, before and after.
        ada = await storage.wait_for(await storage.push("ada"))
        print(ada.status, ada.result)
        grace_id = await storage.push("grace")
        grace = await storage.wait_for(grace_id)
        print(grace.status, repr(grace.error))

        # Failed and killed tasks stay, and can have another chance.
        for task in await storage.list_tasks(Status.Killed):
            print("dead:", task.args)
        open_accounts.add("grace")
        await storage.resume_by_id(grace_id)
        print((await storage.wait_for(grace_id)).unwrap())

        # A task that waits can be cancelled; one that runs can be aborted. Both are killed.
        tomorrow = await storage.push("ada", delay=86400)
        print("cancelled:", await storage.cancel(tomorrow))
        slow = await storage.push("slow")
        await trio.testing.wait_all_tasks_blocked()
        print("aborted:", await storage.abort(slow))
        print((await storage.wait_for(slow)).status)

        print("forgotten:", await storage.vacuum())
        context.stop()


if __name__ == "__main__":
    trio.run(main)
