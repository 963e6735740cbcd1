"""A small service: it takes orders over TCP, and sends mail from a worker in the same program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import trio
from trio_tasks import Data, MemoryStorage, Monitor, Worker


@dataclass(frozen=True)
class Email:
    to: str


class Mailer:
    """Stands for a connection to a mail server."""

    async def send(self, email: Email) -> None:
        await trio.sleep(0.01)
        print(f"sent to {email.to}")


async def send_email(email: Email, mailer: Data[Mailer]) -> None:
    await mailer.send(email)


async def take_orders(storage: MemoryStorage[Email], stream: trio.SocketStream) -> None:
    """One client. Each address is an order, and is acknowledged once it is in the storage."""
    async for chunk in stream:  # a real protocol would look for the ends of lines
        for address in chunk.decode().split():
            await storage.push(Email(to=address))
            await stream.send_all(f"accepted {address}\n".encode())


async def main() -> None:
    storage = MemoryStorage[Email](max_buffer_size=1000)
    worker = Worker("emails", storage, send_email, concurrency=1, data=[Mailer()])
    async with Monitor(shutdown_timeout=10) as monitor:
        monitor.register(worker)
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, partial(take_orders, storage), 0, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(serve)
            await be_a_client(listeners[0].socket.getsockname()[1])
            nursery.cancel_scope.cancel()  # no more orders
        storage.close()  # the worker sends what was accepted, and ends
    print(monitor.report)


async def be_a_client(port: int) -> None:
    """So that this program can be run as it stands."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for address in ("ada@example.com", "grace@example.com"):
            await stream.send_all(address.encode() + b"\n")
            assert await stream.receive_some() == f"accepted {address}\n".encode()


if __name__ == "__main__":
    trio.run(main)
