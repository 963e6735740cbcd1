"""Pydantic models and attrs classes as the arguments and results of tasks."""

from __future__ import annotations

import attrs
import trio
from pydantic import BaseModel, Field
from trio_tasks import EncodeError, Router

tasks = Router()


class Order(BaseModel):  # validated when it is made, and again when its task is read
    number: int = Field(gt=0)
    items: list[str] = Field(min_length=1)


@attrs.frozen
class Parcel:
    order: int
    weight: float


@tasks.task
async def pack(orders: list[Order], *, express: bool = False) -> list[Parcel]:
    await trio.lowlevel.checkpoint()
    return [Parcel(order.number, 0.5 * len(order.items)) for order in orders]


@tasks.task
async def dispatch(parcel: Parcel) -> Order:
    await trio.lowlevel.checkpoint()
    return Order(number=parcel.order, items=["a receipt"])


async def main() -> None:
    async with tasks.open("sqlite:///shop.db") as queues, queues.monitor({"default": 2}) as monitor:
        task_id = await queues.push(pack.bind([Order(number=7, items=["a lamp", "a bulb"])], express=True))
        [parcel] = await pack.result(queues, task_id)
        print(parcel)
        task_id = await queues.push(dispatch.bind(parcel))
        print(repr(await dispatch.result(queues, task_id)))
        try:
            await queues.push(pack.bind([Order.model_construct(number=0, items=[])]))  # not validated when it was made
        except EncodeError as error:
            print(error)
        monitor.shutdown()


if __name__ == "__main__":
    trio.run(main)
