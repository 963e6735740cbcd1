"""A web shop without trio, which uses SQLAlchemy, and its worker, which would be another program."""

from __future__ import annotations

import trio
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from trio_tasks import SqliteStorage, Worker

engine = create_engine("sqlite:///web_shop.db")


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


def place_order(item: str) -> str:
    """Handle a request: commit the order and its task together."""
    with SqliteStorage.open_sync("web_shop.db", int, queue="shipping", join_existing=True) as storage:
        with Session(engine) as session:
            order = Order(item=item)
            session.add(order)
            session.flush()
            task_id = storage.push_in(session, order.id)
            session.commit()
        storage.wake()
        return task_id


def look_up(task_id: str) -> str:
    """Handle another request: wait for the worker, at most ten seconds."""
    with SqliteStorage.open_sync("web_shop.db", int, queue="shipping", join_existing=True) as storage:
        answer: str = storage.wait_for(task_id, timeout=10).unwrap()  # or TimeoutError
        return answer


async def ship(order: int) -> str:
    await trio.lowlevel.checkpoint()
    return f"order {order} is on its way"


async def worker() -> None:
    async with SqliteStorage("web_shop.db", int, queue="shipping", join_existing=True) as storage:
        storage.close()  # so that this one ends when all is shipped
        await Worker("clerk", storage, ship).run()


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    placed = place_order("a lamp")
    trio.run(worker)
    print(look_up(placed))
    engine.dispose()
