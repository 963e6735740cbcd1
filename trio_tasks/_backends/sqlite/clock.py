"""The clock of an SQLite file, which all processes that share the file follow, and which never goes back.

It is set by the wall clock when the first process since the machine was started opens the file, and runs by the
machine's own clock from then on. So setting the wall clock, in either direction, changes nothing for a file in use;
and after a restart it goes on from the latest time that the file knows of, at the earliest.

Processes that have the machine's clock in common (:func:`machine_now` gives its name) compute the same time from the
anchor in the file. Others, and all where that clock has no name, follow the sessions that are open: each session notes
its time with its heartbeat. Only if no session has noted anything for a minute is the wall clock asked.

A process that opens the file has to guess how far the others have come since their notes, and until they have followed
it, their clocks are behind, by up to twenty seconds. So the end of a lease says nothing about the claim of a session
whose clock may show another time: that is taken back only if it was watched for as long as the lease, and not renewed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

from ..._clock import seconds_asleep, wall_now
from ..durable.engine import JUMP, LATEST
from .driver import DamagedError

if TYPE_CHECKING:
    from ..durable.engine import StoreClock
    from .driver import Connection

SESSION = 60.0
"""Seconds after its latest note when a session counts as dead. A session notes its time three times as often."""
IN_DOUBT = 2.0
"""Seconds between two notes of a session that does not know yet whether the other sessions are alive."""

_NOTES = f"""
SELECT num, noted, wall, beats, asleep FROM trio_tasks_session
WHERE num != ? AND typeof(noted) = 'real' AND noted BETWEEN {-LATEST} AND {LATEST}
"""
_ANCHORS = f"""
SELECT num, noted, machine, anchor FROM trio_tasks_session
WHERE typeof(noted) = 'real' AND noted BETWEEN {-LATEST} AND {LATEST}
"""
_IN_STEP = 0.05
"""Seconds by which two clocks may differ that show the same time."""


class Note(NamedTuple):
    """The time that a session has stored with its heartbeat."""

    session: int
    time: float
    """The time by the file's clock."""
    wall: float
    """The time by the wall clock."""
    beats: float
    """Seconds until the next note, at the latest, for as long as tasks run."""
    asleep: float
    """Seconds that the machine had been asleep since it was started."""


@final
class SqliteClock:
    """The clock of one process, kept in step with the clocks of all others that have the file open.

    Its methods are called inside a transaction.

    Args:
      clock: the clock of this process.
      path: the path of the file.
    """

    def __init__(self, clock: StoreClock, path: str) -> None:
        self._clock = clock
        self._path = path
        self._doubted: dict[int, float] | None = None  # sessions that may be alive, and their stored times
        self._doubted_at = 0.0  # the time of that look, by the machine's clock

    @property
    def session(self) -> float:
        """Seconds after its latest note when a session counts as dead; infinite in virtual time."""
        return SESSION if not self._clock.is_virtual else LATEST / 4

    @property
    def note_interval(self) -> float:
        """Seconds between two notes while no task runs."""
        return SESSION / 3 if self._doubted is None else IN_DOUBT

    def open(self, connection: Connection, *, read_only: bool = False) -> bool:
        """Set the clock of this process by the file's. If the file has no clock since the machine was started, and may
        be written, set the file's.

        Returns:
          whether the machine was asleep since one of the sessions has last been heard of.

        Raises:
          BackendError: the file has no clock that could be read.
        """
        reading = self._clock.read()
        meta = self._meta(connection)
        notes = self._notes(connection, 0)
        latest = max([meta["latest"], *(note.time for note in notes)])
        by_anchor = meta["anchor"] + reading.seconds
        if reading.machine and meta["boot"] == reading.machine:
            now = by_anchor
        elif not notes or _was_rebooted(meta["boot"], reading.machine):
            now = max(wall_now().timestamp(), latest)
            if not read_only:
                keep(connection, boot=reading.machine, anchor=now - reading.seconds, latest=now)
        else:
            self._doubted = {note.session: note.time for note in notes}
            self._doubted_at = reading.seconds
            # 1. No clock has a name, but the file's, taken for ours, shows a time at which one would expect to hear
            #    of the sessions: it is ours.
            # 2. The sessions have gone on since their notes, for as long as the wall clock says; but if that is
            #    longer than they are ever silent, the wall clock was set, or they are gone.
            is_likely = meta["boot"] == reading.machine and latest <= by_anchor <= latest + SESSION
            now = by_anchor if is_likely else max(self._guesses(connection, notes))
        self._clock.start(max(now, latest), reading)
        asleep = seconds_asleep()
        return any(note.asleep + JUMP < asleep for note in notes)

    def _guesses(self, connection: Connection, notes: list[Note]) -> list[float]:
        wall = wall_now().timestamp()
        [(running,)] = connection.execute("SELECT sum(running) FROM trio_tasks_queue")
        guesses: list[float] = []
        for note in notes:
            silent_for = note.beats if running else SESSION / 3
            since = wall - note.wall
            guesses.append(note.time + (since if 0 <= since <= silent_for else silent_for))
        return guesses

    def follow(self, connection: Connection, session: int) -> float:
        """Advance the clock of this process to that of the other sessions, where they are ahead.

        Returns:
          the seconds by which this process was behind; 0 if it was not.
        """
        reading = self._clock.read()
        meta = self._meta(connection)
        notes = self._notes(connection, session)
        before = self._clock.now()
        now = max([before, meta["latest"], *(note.time for note in notes)])
        is_ours = bool(reading.machine) and meta["boot"] == reading.machine
        if is_ours:
            now = max(now, meta["anchor"] + reading.seconds)
        if self._doubted is not None:
            if not notes or any(note.time != self._doubted.get(note.session) for note in notes):
                self._doubted = None  # a session is alive, or has closed the file meanwhile
            elif reading.seconds > self._doubted_at + SESSION:
                self._doubted = None  # no session is alive
                now = max(now, wall_now().timestamp())
                keep(connection, boot=reading.machine, anchor=now - reading.seconds)
        if now > before:
            self._clock.start(now, reading)
        if is_ours and now > meta["anchor"] + reading.seconds + JUMP:
            keep(connection, anchor=now - reading.seconds)
        return now - before if now > before + JUMP else 0.0

    def note(self, connection: Connection, session: int, now: float, beats: float) -> None:
        """Store the present time, for the other sessions."""
        machine, anchor = self._clock.anchor()
        connection.execute(
            "UPDATE trio_tasks_session SET expires = ?, noted = ?, wall = ?, beats = ?, asleep = ?, machine = ?, "
            "anchor = ? WHERE num = ?",
            (now + self.session, now, wall_now().timestamp(), beats, seconds_asleep(), machine, anchor, session),
        )
        keep(connection, latest=now)

    def out_of_step(self, connection: Connection) -> dict[int, float]:
        """Return the sessions whose clocks may show another time than this one, each with its note.

        Those whose machine was started anew since are gone, and not among them.
        """
        if not self._clock.is_shared:
            return {}
        machine, anchor = self._clock.anchor()
        found: dict[int, float] = {}
        for number, noted, their_machine, their_anchor in connection.execute(_ANCHORS):
            theirs = str(their_machine or "")
            if number in self._clock.sessions or _was_rebooted(theirs, machine):
                continue
            if machine and theirs == machine and isinstance(their_anchor, float):
                if abs(their_anchor - anchor) <= _IN_STEP:
                    continue
            found[number] = noted
        return found

    def _meta(self, connection: Connection) -> dict[str, Any]:
        meta: dict[str, Any] = dict(connection.execute("SELECT name, value FROM trio_tasks_meta"))
        for name in ("latest", "anchor"):
            value = meta.get(name)
            if not isinstance(value, (int, float)) or not -LATEST <= value <= LATEST:
                raise DamagedError(f"the SQLite file {self._path!r} is damaged: {name!r} of its clock is {value!r}")
            meta[name] = float(value)
        if not isinstance(meta.get("boot"), str):
            raise DamagedError(f"the SQLite file {self._path!r} is damaged: its clock has no start time")
        return meta

    def _notes(self, connection: Connection, session: int) -> list[Note]:
        rows = connection.execute(_NOTES, (session,))
        return [Note(int(row[0]), *map(float, row[1:])) for row in rows]


def keep(connection: Connection, **values: str | float) -> None:
    """Store values of the clock in the file."""
    for name, value in values.items():
        connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = ?", (value, name))


def _was_rebooted(one: str, other: str) -> bool:
    """Return True if the machine was started anew between the two; False if that cannot be told."""
    return bool(one and other) and one.split()[0] != other.split()[0]
