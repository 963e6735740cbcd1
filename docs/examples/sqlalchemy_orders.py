"""Orders by SQLAlchemy's ORM: sessions in threads, tasks that are committed with them, workers that are woken."""

from __future__ import annotations

import trio
from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from trio_tasks import Data, Injected, Queues, Router

tasks = Router()
engine = create_engine("sqlite:///orders.db", connect_args={"timeout": 20})
Sessions = sessionmaker(engine)


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    state: Mapped[str] = mapped_column(default="ordered")


@tasks.task
def ship(order_id: int, *, queues: Data[Queues] = Injected) -> str:  # sync: runs in a thread, and so may use a session
    with Sessions.begin() as session:
        order = session.get_one(Order, order_id)
        order.state = "shipped"
        return queues.push_in(session, send_receipt.bind(order.id))  # the next step, committed with this one


@tasks.task
async def send_receipt(order_id: int) -> str:
    await trio.lowlevel.checkpoint()
    return f"receipt of order {order_id}"


def place_order(queues: Queues, item: str) -> str:
    with Sessions.begin() as session:
        order = Order(item=item)
        session.add(order)
        session.flush()  # it has an id now
        task_id = queues.push_in(session, ship.bind(order.id))
        if item == "a unicorn":
            raise LookupError("there are no unicorns")
    return task_id


async def main() -> None:
    Base.metadata.create_all(engine)
    async with tasks.open("sqlite:///orders.db?join_existing=true") as queues:

        @event.listens_for(Sessions, "after_commit")
        def wake(session: Session) -> None:
            queues.wake()  # in any thread: workers look at once

        async with queues.monitor({"default": 4}, data=[queues]) as monitor:
            try:
                await trio.to_thread.run_sync(place_order, queues, "a unicorn")
            except LookupError as error:
                print(error)
            task_id = await trio.to_thread.run_sync(place_order, queues, "a lamp")
            receipt = await ship.result(queues, task_id)
            print(await send_receipt.result(queues, receipt))
            monitor.shutdown()
        print("pushed:", (await queues["default"].metrics())["pushed"])
    engine.dispose()


if __name__ == "__main__":
    trio.run(main)
