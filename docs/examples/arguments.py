"""One queue for several kinds of tasks: each argument is a small class, and a new version of one reads the old form."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio
from trio_tasks import EncodeError, SqliteStorage, Worker


class Resize(msgspec.Struct, tag="resize"):  # the tag is stored: keep it when the class gets another name
    image: int  # the number of a row, not the image
    width: int


class Publish(msgspec.Struct, tag="publish"):
    image: int
    audience: str = "all"


class ResizeNow(msgspec.Struct, tag="resize"):
    """What Resize has become a month later: a field more, with a default."""

    image: int
    width: int
    format: str = "webp"


async def handle(job: ResizeNow | Publish) -> None:
    match job:
        case ResizeNow(image, width, format):
            print(f"image {image}: {width} pixels, as {format}")
        case Publish(image, audience):
            print(f"image {image}: shown to {audience}")


async def main() -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "images.db")
        async with SqliteStorage(path, Resize | Publish) as storage:  # the program of last month
            await storage.push(Resize(7, 640), metadata={"customer": "acme"})
            await storage.push(Publish(7))
            try:
                await storage.push(Resize("seven", 640))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            except EncodeError as error:
                print("refused:", error)
        async with SqliteStorage(path, ResizeNow | Publish) as storage:  # and that of today
            storage.close()
            await Worker("images", storage, handle, concurrency=1).run()


if __name__ == "__main__":
    trio.run(main)
