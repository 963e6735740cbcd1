"""The schema of an SQLite file: its tables, migrations, and checks of existing files.

The tables can stand in a database of the user's own, beside others; so their names begin with ``trio_tasks_``, and the
version stands in a table, not in the file's header.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..._contracts.store_info import StoreInfo
from ..._tasks.errors import BackendError
from ..durable.store_file import refused
from .driver import DamagedError, has_reset_race, version

if TYPE_CHECKING:
    from .driver import Connection, Driver

VERSION = 3

_TASKS = """
    CREATE TABLE trio_tasks_task (
        seq INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        id TEXT NOT NULL CHECK (typeof(id) = 'text' AND id != ''),
        state INTEGER NOT NULL CHECK ({state}),  -- State
        priority INTEGER NOT NULL,
        turn INTEGER NOT NULL,                 -- microseconds: since when it waits, or is finished
        due REAL,                              -- when the clock changes its state
        start_by REAL,                         -- when it expires, unless claimed
        token INTEGER NOT NULL DEFAULT 0,      -- of the last claim
        attempt INTEGER NOT NULL DEFAULT 0 CHECK (typeof(attempt) = 'integer'),
        uniq TEXT,
        wish TEXT,                             -- "abort", or "replaced by" an id
        worker TEXT,
        payload BLOB NOT NULL,
        head BLOB CHECK (head IS NULL OR typeof(head) = 'blob'),
        result BLOB,
        history BLOB,
        progress BLOB
    )
    """
_INDEXES = [
    "CREATE UNIQUE INDEX trio_tasks_by_id ON trio_tasks_task (queue, id)",
    "CREATE INDEX trio_tasks_ready ON trio_tasks_task (queue, priority DESC, turn) WHERE state = 0",
    "CREATE INDEX trio_tasks_timed ON trio_tasks_task (queue, due) WHERE due IS NOT NULL AND state < 3",
    "CREATE UNIQUE INDEX trio_tasks_unique ON trio_tasks_task (queue, uniq) WHERE uniq IS NOT NULL AND state < 3",
    "CREATE INDEX trio_tasks_wished ON trio_tasks_task (token) WHERE wish IS NOT NULL AND state = 2",
]

_VERSION_1 = [
    """
    CREATE TABLE trio_tasks_meta (
        name TEXT PRIMARY KEY,
        value ANY
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trio_tasks_queue (
        num INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        live INTEGER NOT NULL DEFAULT 0,       -- rows that are not finished
        running INTEGER NOT NULL DEFAULT 0,    -- of these
        pushed INTEGER NOT NULL DEFAULT 0,     -- in all, as those that follow
        succeeded INTEGER NOT NULL DEFAULT 0,
        retried INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        killed INTEGER NOT NULL DEFAULT 0,
        released INTEGER NOT NULL DEFAULT 0
    )
    """,
    _TASKS.format(state="state IN (0, 1, 2, 3, 4, 5)"),
    *_INDEXES,
    "CREATE INDEX trio_tasks_finished ON trio_tasks_task (queue, state, due, turn) WHERE state IN (3, 4, 5)",
    """
    CREATE TABLE trio_tasks_session (
        num INTEGER PRIMARY KEY,
        address TEXT,                          -- of its wake-up socket: a port of the loopback interface
        key BLOB,                              -- the content of a wake-up
        expires REAL NOT NULL
    )
    """,
    """
    CREATE TABLE trio_tasks_worker (
        session INTEGER NOT NULL,
        queue TEXT NOT NULL,                   -- its name: it may not have a number yet
        name TEXT NOT NULL
    )
    """,
    """
    INSERT INTO trio_tasks_meta
    VALUES ('version', 1), ('sessions', 0), ('latest', 0.0), ('boot', ''), ('anchor', 0.0)
    """,
]

_VERSION_2 = [  # SQLite tests `IN` against a list anew for each row and each index: that made it twice as slow
    "ALTER TABLE trio_tasks_task RENAME TO trio_tasks_task_before",
    _TASKS.format(state="typeof(state) = 'integer' AND state BETWEEN 0 AND 5"),
    "INSERT INTO trio_tasks_task SELECT * FROM trio_tasks_task_before",
    "DROP TABLE trio_tasks_task_before",
    *_INDEXES,
    "CREATE INDEX trio_tasks_finished ON trio_tasks_task (queue, state, due, turn) WHERE +state > 2",
]

_KEYS_AND_LIMITS = [
    "ALTER TABLE trio_tasks_task ADD COLUMN key TEXT",  # the rows with one key are a group; those without one, too
    # While "order_key" is a tag: since when the row is ready, as the order key that it had.
    "ALTER TABLE trio_tasks_task ADD COLUMN since INTEGER",
    # If its key has limits: 1 if it would be ready, but for these; 0 if it is ready, or runs: then it has a place.
    "ALTER TABLE trio_tasks_task ADD COLUMN held INTEGER",
    """
    CREATE INDEX trio_tasks_keyed ON trio_tasks_task (queue, held, key, priority DESC, order_key) WHERE held IS NOT NULL
    """,
    "CREATE INDEX trio_tasks_held ON trio_tasks_task (queue) WHERE held = 1",
    "ALTER TABLE trio_tasks_queue ADD COLUMN held_now INTEGER NOT NULL DEFAULT 0",  # rows, of those that are delayed
    # The number of the latest change in the two tables that follow; below 0 if it was that a queue without rows has no
    # keys and no limits any more; 0 if it never had.
    "ALTER TABLE trio_tasks_queue ADD COLUMN rules INTEGER NOT NULL DEFAULT 0",
    """
    CREATE TABLE trio_tasks_rules (
        queue INTEGER PRIMARY KEY,
        is_fair INTEGER NOT NULL DEFAULT 0,    -- 1 once a row has a key: rows are claimed by tags
        is_untagged INTEGER NOT NULL DEFAULT 0,  -- 1 while rows are ready that have no tag
        promote_after TEXT,                    -- a key after which held rows may have places; NULL: there are none
        is_guarded INTEGER NOT NULL DEFAULT 0  -- 1 while a key may have more places than its limit allows
    )
    """,
    """
    CREATE TABLE trio_tasks_limit (
        queue INTEGER NOT NULL,
        key TEXT NOT NULL,                     -- empty for the limits of the queue
        body TEXT NOT NULL,
        PRIMARY KEY (queue, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trio_tasks_rate (
        queue INTEGER NOT NULL,
        key TEXT NOT NULL,                     -- empty for the rate of the queue
        until REAL NOT NULL,                   -- when it says nothing any more
        begun TEXT NOT NULL,                   -- moments, and the number of attempts that had begun by each
        PRIMARY KEY (queue, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trio_tasks_virtual_time (
        queue INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        passed INTEGER NOT NULL,               -- the tag of the row that was claimed last
        finish INTEGER NOT NULL,               -- the latest end of a turn
        PRIMARY KEY (queue, priority)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trio_tasks_turn (
        queue INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        key TEXT NOT NULL,                     -- empty for rows without a key
        finish INTEGER NOT NULL,               -- the end of its latest turn, in virtual time
        gone_from INTEGER,                     -- rows with tags from here on have all left before they were claimed,
        gone_to INTEGER,                       -- below this tag; NULL if none is known
        same_from INTEGER,                     -- the first tag whose turn is as long as the next one; NULL: all are
        PRIMARY KEY (queue, priority, key)
    ) WITHOUT ROWID
    """,
]

_VERSION_3 = [
    "ALTER TABLE trio_tasks_task RENAME COLUMN turn TO order_key",
    "ALTER TABLE trio_tasks_task RENAME COLUMN wish TO requested_end",
    "ALTER TABLE trio_tasks_task RENAME COLUMN head TO options",
    "DROP INDEX trio_tasks_wished",
    "CREATE INDEX trio_tasks_requested ON trio_tasks_task (token) WHERE requested_end IS NOT NULL AND state = 2",
    "ALTER TABLE trio_tasks_queue ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN delayed INTEGER NOT NULL DEFAULT 0",  # rows, as those that follow
    "ALTER TABLE trio_tasks_queue ADD COLUMN suspended_now INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN kept_done INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN kept_failed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN kept_killed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trio_tasks_queue ADD COLUMN paused INTEGER NOT NULL DEFAULT 0",
    """
    CREATE TABLE trio_tasks_minute (
        queue INTEGER NOT NULL,
        minute INTEGER NOT NULL,               -- since the epoch
        name TEXT NOT NULL,                    -- of the tasks; empty if they have none
        succeeded INTEGER NOT NULL,            -- attempts that ended in it, as those that follow
        retried INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        killed INTEGER NOT NULL,
        released INTEGER NOT NULL,
        suspended INTEGER NOT NULL,
        seconds REAL NOT NULL,                 -- that they took together
        waited REAL NOT NULL,                  -- that their tasks had been ready
        durations TEXT NOT NULL,               -- exponents of two, each with the number of attempts that took less
        waits TEXT NOT NULL,                   -- likewise
        PRIMARY KEY (queue, minute, name)
    ) WITHOUT ROWID
    """,
    """
    UPDATE trio_tasks_queue SET resumed = max(0, succeeded + failed + killed + live - pushed),
    delayed = (SELECT count(*) FROM trio_tasks_task WHERE queue = num AND state = 1),
    kept_done = (SELECT count(*) FROM trio_tasks_task WHERE queue = num AND state = 3),
    kept_failed = (SELECT count(*) FROM trio_tasks_task WHERE queue = num AND state = 4),
    kept_killed = (SELECT count(*) FROM trio_tasks_task WHERE queue = num AND state = 5)
    """,
    "ALTER TABLE trio_tasks_task ADD COLUMN suspended TEXT",  # the reason, if a suspension delays it
    "UPDATE trio_tasks_task SET due = start_by WHERE state = 1 AND start_by < due",  # it expires before it is ready
    "ALTER TABLE trio_tasks_task ADD COLUMN run_at INTEGER",  # microseconds, by the wall clock, for people
    "ALTER TABLE trio_tasks_task ADD COLUMN wall REAL",  # run_at in seconds, while the row waits for the wall clock
    "CREATE INDEX trio_tasks_walled ON trio_tasks_task (queue, wall) WHERE wall IS NOT NULL",
    "DELETE FROM trio_tasks_session",  # their clock is not the one of before
    "UPDATE trio_tasks_meta SET value = '' WHERE name = 'boot'",
    "ALTER TABLE trio_tasks_session ADD COLUMN noted REAL",  # the time by its clock, with its latest heartbeat
    "ALTER TABLE trio_tasks_session ADD COLUMN wall REAL",  # the time of that heartbeat by the wall clock
    "ALTER TABLE trio_tasks_session ADD COLUMN beats REAL",  # seconds to its next heartbeat, if tasks run
    "ALTER TABLE trio_tasks_session ADD COLUMN asleep REAL",  # seconds that the machine had been asleep
    "ALTER TABLE trio_tasks_session ADD COLUMN machine TEXT",  # the name of the machine's clock; empty if it has none
    "ALTER TABLE trio_tasks_session ADD COLUMN anchor REAL",  # its time less the reading of that clock
    "ALTER TABLE trio_tasks_session ADD COLUMN network TEXT",  # the name of the network in which its address is
    "ALTER TABLE trio_tasks_worker ADD COLUMN num INTEGER NOT NULL DEFAULT 0",  # its number in its session
    "ALTER TABLE trio_tasks_worker ADD COLUMN state BLOB",  # the state that it stored,
    "ALTER TABLE trio_tasks_worker ADD COLUMN told REAL",  # and the time at which it stored it
    "ALTER TABLE trio_tasks_task ADD COLUMN name TEXT",  # the name of the kind of task
    "ALTER TABLE trio_tasks_task ADD COLUMN pushed REAL",  # the time of its push
    # The time of its latest claim; both by the clock of the file.
    "ALTER TABLE trio_tasks_task ADD COLUMN started REAL",
    "ALTER TABLE trio_tasks_task ADD COLUMN deadline REAL",  # the time at which it is killed, if it waits then
    # The end of the time for which the row holds "uniq": "start" or "forgotten", else until it is finished.
    "ALTER TABLE trio_tasks_task ADD COLUMN uniq_until TEXT",
    "DROP INDEX trio_tasks_unique",
    """
    CREATE UNIQUE INDEX trio_tasks_unique ON trio_tasks_task (queue, uniq)
    WHERE uniq IS NOT NULL AND (state < 3 OR uniq_until = 'forgotten')
    """,
    """
    CREATE TABLE trio_tasks_key (              -- of the unique keys that are held for a time
        num INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        uniq TEXT NOT NULL,
        until REAL NOT NULL,
        id TEXT NOT NULL,                      -- of the task that holds it, which may be forgotten,
        pushed REAL                            -- and the time of its push, since its id may be given again then
    )
    """,
    "CREATE UNIQUE INDEX trio_tasks_key_held ON trio_tasks_key (queue, uniq)",
    "CREATE INDEX trio_tasks_key_ends ON trio_tasks_key (queue, until)",
    """
    CREATE TABLE trio_tasks_schedule (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,             -- of its last change, in the order of all changes
        body BLOB                              -- all else; NULL if it was removed
    )
    """,
    "CREATE INDEX trio_tasks_schedule_changed ON trio_tasks_schedule (revision)",
    *_KEYS_AND_LIMITS,
]

_MIGRATIONS: dict[int, list[str]] = {0: _VERSION_1, 1: _VERSION_2, 2: _VERSION_3}
"""By the version from which each leads to the next. What made files of a released version stays as it is."""

_FOREIGN = """
SELECT type, name FROM sqlite_master WHERE (type = 'trigger' AND lower(tbl_name) GLOB 'trio_tasks_*')
OR (type = 'view' AND (lower(name) GLOB 'trio_tasks_*' OR instr(lower(sql), 'trio_tasks_')))
"""
_LAST_SESSION = 2**31 - 2
"""A claim is numbered in 64 bits, whose upper half is the session's."""
_PAGE_TIME = 0.05
"""Seconds within which a page that is being written is there as a whole."""
_MOST_DAMAGE = 100
"""Faults of a damaged file that are told of."""
_RESET_RACE = (
    "SQLite {} may, very rarely, damage a file that several connections write to; 3.51.3 does not, and driver='apsw' "
    "does not either"
)
_SMALL = 8 * 2**20
"""Bytes up to which a file is read through when it is opened."""


def prepare(connection: Connection, path: str, *, join_existing: bool) -> None:
    """Create the tables, or migrate them, inside the caller's transaction.

    Raises:
      BackendError: the file is not ours, newer than we are, or damaged. Nothing was changed.
    """
    tables = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    version = 0
    if "trio_tasks_meta" in tables:
        version = _version_of(connection, path)
    elif tables and not join_existing:
        some = ", ".join(sorted(tables)[:3])
        raise BackendError(
            f"the SQLite file {path!r} is not ours: it has other tables ({some}), and none of a task storage; "
            "join_existing=True puts ours beside them"
        )
    for step in range(version, VERSION):
        for statement in _MIGRATIONS[step]:
            connection.execute(statement)
        connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = 'version'", (step + 1,))


def check_foreign(connection: Connection, path: str) -> None:
    """Raise if the file has a trigger or view on our tables, which would run with our statements.

    Raises:
      BackendError: there is.
    """
    found = connection.execute(_FOREIGN)
    if found:
        some = ", ".join(f"the {kind} {str(name)!r:.80}" for kind, name in found[:3])
        raise refused(
            f"the SQLite file {path!r} has foreign triggers or views on our tables: {some}. They would run with "
            "each of our statements; allow_triggers=True takes it as it is"
        )


def check_current(connection: Connection, path: str) -> None:
    """Raise if our tables are missing or of another version; for a session that only reads.

    Raises:
      BackendError: they are not, or are of another version.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'trio_tasks_meta'"):
        raise refused(f"the SQLite file {path!r} has none of the tables of a task storage")
    version = _version_of(connection, path)
    if version < VERSION:
        error = refused(
            f"the SQLite file {path!r} was written by an older trio_tasks: its schema is of version {version}, and is "
            f"migrated to {VERSION} when it is opened without read_only=True"
        )
        error.is_outdated = True
        raise error


def _version_of(connection: Connection, path: str) -> int:
    rows = connection.execute("SELECT value FROM trio_tasks_meta WHERE name = 'version'")
    version = rows[0][0] if rows else None
    if not isinstance(version, int) or version < 1:
        raise DamagedError(f"the SQLite file {path!r} is damaged: its schema has no version")
    if version > VERSION:
        raise BackendError(
            f"the SQLite file {path!r} was written by a newer trio_tasks: its schema is of version {version}, "
            f"and this one knows versions up to {VERSION}"
        )
    return version


def next_session(connection: Connection, path: str) -> int:
    """Allocate a new session number, inside the caller's transaction.

    Raises:
      BackendError: it is not known which have been given.
    """
    rows = connection.execute("SELECT value FROM trio_tasks_meta WHERE name = 'sessions'")
    last = rows[0][0] if rows else None
    if not isinstance(last, int) or not 0 <= last < _LAST_SESSION:
        raise DamagedError(f"the SQLite file {path!r} is damaged: it has been opened {last!r} times")
    connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = 'sessions'", (last + 1,))
    return last + 1


def check_whole(connection: Connection, path: str) -> None:
    """Raise if the file is damaged; in a small file, all pages and indexes are checked.

    Raises:
      BackendError: it is damaged.
    """
    file = Path(path)
    if not file.exists() or not (size := file.stat().st_size):
        return
    # SQLite itself sees whether pages are missing; of a page that was cut off, it takes the rest for zeros. The file
    # must not be opened here: all locks that this process has on a file are gone when any of its descriptors is closed,
    # those of other connections too.
    [(page,)] = connection.execute("PRAGMA page_size")
    if size % int(page):
        time.sleep(_PAGE_TIME)  # another process may be about to write it
        if file.stat().st_size % int(page):
            raise DamagedError(f"the SQLite file {path!r} is damaged: its last page was cut off")
    if size <= _SMALL:
        [(verdict, *_), *_] = connection.execute("PRAGMA integrity_check(1)")
        if verdict != "ok":
            raise DamagedError(f"the SQLite file {path!r} is damaged: {verdict}")


def store_info(connection: Connection, file: Path, driver: Driver) -> StoreInfo:
    """Check all pages and indexes of the file, and return its state."""
    rows = connection.execute(f"PRAGMA integrity_check({_MOST_DAMAGE})")
    found = ".".join(map(str, version(driver)))
    return StoreInfo(
        place=str(file),
        kind=f"SQLite {found}, by {driver}",
        version=VERSION,
        size=file.stat().st_size,
        log_size=log_size(file),
        damage=tuple(str(verdict) for (verdict,) in rows if verdict != "ok"),
        warnings=(_RESET_RACE.format(found),) if has_reset_race(driver) else (),
    )


def log_size(file: Path) -> int:
    """Return the length of the write-ahead log of a file, in bytes."""
    log = Path(f"{file}-wal")
    return log.stat().st_size if log.exists() else 0
