"""A simulation of a shop: it finds two faults that ordinary tests do not show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio
from trio_tasks import Data, MemoryStorage, Worker
from trio_tasks.testing import Faults, Simulation, SimulationFailed, simulate


@dataclass(frozen=True)
class Order:
    number: int
    customer: str


class Bank:
    """A stand-in for the payment provider. Orders with the same key are charged once."""

    def __init__(self) -> None:
        self.charged: list[Order] = []
        self._keys: set[str] = set()

    async def charge(self, order: Order, key: str | None = None) -> None:
        await trio.sleep(1)
        if key is None or key not in self._keys:
            self.charged.append(order)
        if key is not None:
            self._keys.add(key)


class Shop:
    """The lamps in stock, the parcels that were sent, and the mails."""

    def __init__(self, lamps: int) -> None:
        self.bank = Bank()
        self.lamps = lamps
        self.reserved: set[Order] = set()
        self.parcels: list[Order] = []
        self.mails: list[str] = []

    def reserve(self, order: Order) -> bool:
        if order not in self.reserved and self.lamps > 0:
            self.lamps -= 1
            self.reserved.add(order)
        return order in self.reserved

    def send(self, order: Order) -> None:
        if order not in self.parcels:
            self.parcels.append(order)

    def check(self) -> None:
        assert self.lamps >= 0, "a lamp was sold that is not there"
        for order in self.bank.charged:
            times = self.bank.charged.count(order)
            assert times == 1, f"{order.customer} has paid {times} times"
            assert order in self.parcels, f"{order.customer} has paid, and gets nothing"


# The first version of the handler.


async def sell(order: Order, shop: Data[Shop]) -> str:
    if shop.lamps == 0:
        shop.mails.append(f"{order.customer}: sold out")
        return "sold out"
    await shop.bank.charge(order)
    shop.lamps -= 1
    shop.parcels.append(order)
    shop.mails.append(f"{order.customer}: on its way")
    return "sent"


# The program to simulate: customers order, two workers run the tasks, and the shop is checked at the end.

Handler = Callable[[Order, Shop], Awaitable[str]]


async def a_day(handler: Handler, simulation: Simulation) -> None:
    shop, storage = Shop(lamps=2), MemoryStorage[Order]()
    for name in ("north", "south"):
        await simulation.start(Worker(name, storage, handler, data=[shop]))
    for number, customer in enumerate(("ada", "bob", "eve")):
        await trio.sleep(simulation.random.uniform(0, 30))
        await storage.push(Order(number, customer), id=f"order {number}")
    storage.close()
    await simulation.wait_workers_stopped()
    shop.check()


# Mended: the lamp is reserved before the first await.


async def sell_what_is_there(order: Order, shop: Data[Shop]) -> str:
    if not shop.reserve(order):
        shop.mails.append(f"{order.customer}: sold out")
        return "sold out"
    await shop.bank.charge(order)
    shop.send(order)
    shop.mails.append(f"{order.customer}: on its way")
    return "sent"


# The same program with faults: a worker dies now and then, before the outcome of its task is recorded.

faults = Faults(die=0.02, delay=0.1)


async def a_bad_day(handler: Handler, simulation: Simulation) -> None:
    shop, storage = Shop(lamps=2), MemoryStorage[Order]()
    for name in ("north", "south"):
        backend = simulation.faulty(storage, faults)
        await simulation.keep_running(Worker(name, backend, handler, data=[shop]))
    for number, customer in enumerate(("ada", "bob", "eve")):
        await trio.sleep(simulation.random.uniform(0, 30))
        await storage.push(Order(number, customer), id=f"order {number}")
    storage.close()
    await simulation.wait_workers_stopped()
    shop.check()


# Mended: the bank gets a key, so that it charges an order once.


async def sell_once(order: Order, shop: Data[Shop]) -> str:
    if not shop.reserve(order):
        shop.mails.append(f"{order.customer}: sold out")
        return "sold out"
    await shop.bank.charge(order, key=f"order {order.number}")
    shop.send(order)
    shop.mails.append(f"{order.customer}: on its way")
    return "sent"


# Simulate all versions.


def main() -> None:
    for program in (
        partial(a_day, sell),
        partial(a_day, sell_what_is_there),
        partial(a_bad_day, sell_what_is_there),
        partial(a_bad_day, sell_once),
    ):
        try:
            print(simulate(program, seeds=300))
        except SimulationFailed as failure:
            print(failure)
        print()


if __name__ == "__main__":
    main()
