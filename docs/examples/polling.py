"""Taking work out of a system that has to be asked."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import CustomBackend, Interval, OnSignal, Worker, poll, race


class Inbox:
    """Stands for a foreign system: one can look, and it may send a hint that there is something new."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.looks = 0

    async def fetch(self) -> str | None:
        await trio.lowlevel.checkpoint()
        self.looks += 1
        return self.messages.pop(0) if self.messages else None


async def read(message: str) -> None:
    print(f"{trio.current_time():4.0f} s  {message}")


async def main() -> None:
    inbox = Inbox()
    hint = OnSignal()  # look when told to …
    strategy = race(hint, Interval(300))  # … and every five minutes all the same, in case a hint got lost
    backend = CustomBackend(receive=poll(inbox.fetch, strategy))
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("reader", backend, read, concurrency=1).run)
        await trio.sleep(100)
        inbox.messages += ["with a hint", "and another"]
        hint.notify()
        await trio.sleep(100)
        inbox.messages.append("without")
        await trio.sleep(800)
        context.stop()
    print(f"{inbox.looks} looks in {trio.current_time():.0f} s")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
