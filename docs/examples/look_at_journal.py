"""Look at a journal that another storage works on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from trio_tasks import FileStorage


async def main() -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "tasks.journal")
        async with FileStorage(path, str) as storage:  # in another process, as a rule
            await storage.push("one")
            async with FileStorage(path, str, read_only=True) as view:
                print((await view.metrics())["waiting"])
                await storage.push("two")
                print((await view.metrics())["waiting"])


if __name__ == "__main__":
    trio.run(main)
