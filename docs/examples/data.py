"""What a handler may ask for, beside the args."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio_tasks import Attempt, Data, MemoryStorage, Task, TaskId, Worker, WorkerContext


class Database:
    """Shared by all attempts: the worker is given it."""

    async def name_of(self, user_id: int) -> str:
        await trio.lowlevel.checkpoint()
        return {1: "Ada", 2: "Grace"}[user_id]


@dataclass(frozen=True)
class User:
    """Made anew for each attempt, from what the task says."""

    name: str

    @classmethod
    async def from_task(cls, task: Task[str], database: Data[Database]) -> User:
        return cls(await database.name_of(task.parts.metadata["user_id"]))


@dataclass(frozen=True)
class Locale:
    """Given with a single task."""

    language: str


async def greet(
    greeting: str,  # the args
    database: Data[Database],  # by its type, from the worker's data
    locale: Data[Locale],  # or from the task's own, which goes first
    user: User,  # made by from_task
    attempt: Attempt,
    task_id: TaskId,
    context: WorkerContext,
) -> None:
    assert isinstance(database, Database)
    print(f"{greeting}, {user.name}! ({locale.language}, {task_id}, attempt {attempt}, worker {context.name})")


async def main() -> None:
    storage = MemoryStorage[str]()
    await storage.push("Hello", id="first", metadata={"user_id": 1})
    await storage.push("Bonjour", id="second", metadata={"user_id": 2}, data=[Locale("fr")])
    storage.close()
    await Worker("greeter", storage, greet, concurrency=1, data=[Database(), Locale("en")]).run()


if __name__ == "__main__":
    trio.run(main)
