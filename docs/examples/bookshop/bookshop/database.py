"""The tables of the shop, in the file in which its tasks are."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

URL = os.environ.get("TRIO_TASKS_URL", "sqlite:///bookshop.db")
DATABASE = urlsplit(URL).path.removeprefix("/")

SCHEMA = """
    create table if not exists books (title text primary key, copies integer);
    create table if not exists orders (id integer primary key, book text references books, email text);
    create table if not exists coupons (code text primary key, used_by integer);
    create table if not exists parcels (to_order integer);
    create table if not exists stock (time text, title text, copies integer);
    insert or ignore into books values ('Emma', 100), ('Ulysses', 0);
"""


@contextmanager
def transaction() -> Generator[sqlite3.Connection, None, None]:
    """A connection in a transaction, which is committed at the end of the block, or rolled back if it raises."""
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("begin immediate")
        yield connection


def make_tables() -> None:
    with closing(sqlite3.connect(DATABASE)) as connection:
        connection.executescript(SCHEMA)
