"""Functions that keep a core busy: each runs in a process, which is killed when its attempt is cancelled."""

from __future__ import annotations

import os
import signal
import tempfile

import trio
from trio_tasks import Attempt, Injected, ProcessDiedError, Router

tasks = Router()


@tasks.task(queue="cpu", process=True, timeout=60)
def count_primes(below: int, *, attempt: Attempt = Injected) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


@tasks.task(queue="cpu", process=True, timeout=1, attempts=1)
def search_for_ever() -> None:
    while True:
        pass


@tasks.task(queue="cpu", process=True, attempts=1)
def take_all_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out


async def main(folder: str) -> None:
    async with tasks.open(f"sqlite:///{folder}/tasks.db") as queues:
        ids = await queues.push_bulk([count_primes.bind(each) for each in (10, 100, 1000)])
        late = await queues.push(search_for_ever.bind())
        dead = await queues.push(take_all_memory.bind())
        async with queues.monitor({"cpu": 2}) as monitor:
            print([await count_primes.result(queues, each) for each in ids])
            print(type((await queues.wait_for(late)).error).__name__)
            error = (await queues.wait_for(dead)).error
            assert isinstance(error, ProcessDiedError)
            print("exit code", error.exit_code)
            monitor.shutdown()


if __name__ == "__main__":  # each process imports this program
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, folder)
