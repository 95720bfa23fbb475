"""Messages that wait, and messages that each channel has taken: one small SQLite file that survives everything.

A message is kept from the moment `add` returns until every channel took it. Each mark is durable (fsync) before the
next message is sent. The same id is never added twice, so a run that finds the same event again may add it again.
Several threads and processes may use the file at once; only one at a time delivers on a channel (`delivering`).

The file holds only the texts of alerts, and only its owner can read it. Columns called `told` hold the time of
delivery; their name stays, since outboxes of earlier versions have it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from saju_ops.reports.message import Message, storable

FILE = "saju_ops_alerts.sqlite"
# Delivered messages are kept so long, so that none is sent again; longer than Dagster's own look back.
KEPT = timedelta(days=90)
BUSY_SECONDS = 15.0
# Nothing is left alone for longer. A time beyond it was set by a clock that has been put back since.
LONGEST_WAIT = timedelta(hours=1)

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, added REAL NOT NULL, happened REAL NOT NULL, payload TEXT NOT NULL,
    stream TEXT NOT NULL DEFAULT '', position INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS deliveries (
    message TEXT NOT NULL REFERENCES messages(id) ON DELETE CASCADE, channel TEXT NOT NULL,
    told REAL, reference TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (message, channel));
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (channel) WHERE told IS NULL;
CREATE TABLE IF NOT EXISTS files (
    message TEXT NOT NULL REFERENCES messages(id) ON DELETE CASCADE, channel TEXT NOT NULL, number INTEGER NOT NULL,
    done REAL, reference TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (message, channel, number));
CREATE TABLE IF NOT EXISTS channels (
    name TEXT PRIMARY KEY, not_before REAL NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    failing_since REAL, error TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS problems (
    key TEXT PRIMARY KEY, since REAL NOT NULL, told REAL NOT NULL, reminders INTEGER NOT NULL DEFAULT 0,
    payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Waiting:
    """A message that a channel hasn't taken yet."""

    message: Message
    attempts: int


@dataclass(frozen=True)
class WaitingFile:
    """A file that is to follow a message which the channel took. `number` -1 is the message's picture."""

    message: Message
    number: int
    reference: str
    attempts: int


@dataclass(frozen=True)
class Health:
    """How a channel is: `failures` in a row, since when, until when it is left alone."""

    name: str
    failures: int
    failing_since: datetime | None
    not_before: float
    error: str

    def left_alone(self, now: datetime) -> bool:
        first, last = _waits(now)
        return first <= self.not_before <= last


class Outbox:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made with its rights, not given them afterwards.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._transaction() as db:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
        with self._reading() as db:
            # Damage in the middle would fail every look, and nobody would hear of anything. 15 MB take 20 ms.
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("database disk image is malformed")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own: callers are threads. Committed and durable when it is left without an error."""
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                # A full disk has rolled it back already; the operator must see that error and not the second one.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            db.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def delivering(self, channel: str) -> Iterator[bool]:
        """True for the one process that may deliver on the channel now. Ends with the process, however that ends."""
        with self.path.with_name(f"{self.path.name}.{channel}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    # --- facts -------------------------------------------------------------------------------------------------

    def fact(self, key: str) -> Any:
        with self._reading() as db:
            row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_fact(self, key: str, value: Any) -> None:
        with self._transaction() as db:
            _set_fact(db, key, value)

    # --- messages ----------------------------------------------------------------------------------------------

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that were added before."""
        wanted = list(ids)
        found: set[str] = set()
        with self._reading() as db:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                marks = ", ".join("?" * len(part))
                query = f"SELECT id FROM messages WHERE id IN ({marks})"  # noqa: S608 (question marks only)
                found |= {row[0] for row in db.execute(query, part)}
        return found

    def add(
        self, messages: Sequence[Message], channels: Sequence[str], now: datetime, *,
        positions: Sequence[tuple[str, int]] = (), facts: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """Keeps messages for the channels, together with facts, in one transaction. Returns how many were new.

        `positions` say where in Dagster's event log each came from, as stream and position, for `low_water`.
        """
        with self._transaction() as db:
            new = 0
            for i, message in enumerate(messages):
                new += _add(db, message, channels, now, *(positions[i] if positions else ("", 0)))
            for key, value in (facts or {}).items():
                _set_fact(db, key, value)
        return new

    def low_water(self, stream: str) -> int | None:
        """The first position whose message isn't delivered on every channel; None if all are delivered."""
        query = (
            "SELECT MIN(m.position) FROM messages m JOIN deliveries d ON d.message = m.id"
            " WHERE d.told IS NULL AND m.stream = ?"
        )
        with self._reading() as db:
            row = db.execute(query, (stream,)).fetchone()
        return int(row[0]) if row and row[0] is not None else None

    def waiting(self, channel: str, now: datetime | None = None, limit: int = 1000) -> list[Waiting]:
        """Messages for the channel, oldest first; with `now`, only those that are due to be tried."""
        query = (
            "SELECT m.payload, d.attempts FROM deliveries d JOIN messages m ON m.id = d.message"
            " WHERE d.channel = ? AND d.told IS NULL AND d.not_before NOT BETWEEN ? AND ?"
            # Messages that failed several times come last.
            " ORDER BY MAX(d.attempts, 1), m.happened, m.added, m.rowid LIMIT ?"
        )
        waits = _waits(now) if now else (9e12, 9e12)
        with self._reading() as db:
            rows = db.execute(query, (channel, *waits, limit)).fetchall()
        return [Waiting(Message.from_json(payload), attempts) for payload, attempts in rows]

    def waiting_count(self, channel: str) -> int:
        with self._reading() as db:
            query = "SELECT COUNT(*) FROM deliveries WHERE channel = ? AND told IS NULL"
            return int(db.execute(query, (channel,)).fetchone()[0])

    def delivered(
        self, channel: str, ids: Sequence[str], now: datetime, reference: str = "", files: Sequence[int] = ()
    ) -> None:
        """The channel took these messages; durable on return. `files`: numbers of the files that are to follow."""
        with self._transaction() as db:
            for message in ids:
                db.execute(
                    "UPDATE deliveries SET told = ?, reference = ?, error = '' WHERE message = ? AND channel = ?",
                    (now.timestamp(), reference, message, channel),
                )
                for number in files:
                    db.execute(
                        "INSERT OR IGNORE INTO files (message, channel, number, reference) VALUES (?, ?, ?, ?)",
                        (message, channel, number, reference),
                    )
            _healthy(db, channel)

    def tried(self, channel: str, ids: Sequence[str]) -> None:
        """The channel failed with these; they might be why."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE deliveries SET attempts = attempts + 1 WHERE message = ? AND channel = ?",
                [(message, channel) for message in ids],
            )

    def refused(self, channel: str, message: str, error: str, again: datetime) -> None:
        """The channel didn't take this one; the others go on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE deliveries SET attempts = attempts + 1, not_before = ?, error = ?"
                " WHERE message = ? AND channel = ?",
                (again.timestamp(), error, message, channel),
            )

    def drop_channels(self, kept: Sequence[str]) -> None:
        """Deletes messages that wait for channels that are no longer set up."""
        with self._transaction() as db:
            names = [row[0] for row in db.execute("SELECT DISTINCT channel FROM deliveries WHERE told IS NULL")]
            names += [row[0] for row in db.execute("SELECT name FROM channels")]
            for name in set(names) - set(kept):
                db.execute("DELETE FROM deliveries WHERE channel = ? AND told IS NULL", (name,))
                db.execute("DELETE FROM files WHERE channel = ? AND done IS NULL", (name,))
                db.execute("DELETE FROM channels WHERE name = ?", (name,))

    def prune(self, now: datetime) -> None:
        """Deletes messages that were delivered on every channel long ago."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM messages WHERE added < ? AND id NOT IN"
                " (SELECT message FROM deliveries WHERE told IS NULL"
                " UNION SELECT message FROM files WHERE done IS NULL)",
                ((now - KEPT).timestamp(),),
            )

    # --- files that follow -----------------------------------------------------------------------------------------

    def waiting_files(self, channel: str, now: datetime) -> list[WaitingFile]:
        query = (
            "SELECT m.payload, f.number, f.reference, f.attempts FROM files f JOIN messages m ON m.id = f.message"
            " WHERE f.channel = ? AND f.done IS NULL AND f.not_before NOT BETWEEN ? AND ?"
            " ORDER BY m.happened, f.number"
        )
        with self._reading() as db:
            rows = db.execute(query, (channel, *_waits(now))).fetchall()
        return [WaitingFile(Message.from_json(p), number, reference, tries) for p, number, reference, tries in rows]

    def file_done(self, channel: str, file: WaitingFile, now: datetime) -> None:
        self._file(channel, file, "done = ?", now)

    def file_refused(self, channel: str, file: WaitingFile, again: datetime) -> None:
        self._file(channel, file, "attempts = attempts + 1, not_before = ?", again)

    def _file(self, channel: str, file: WaitingFile, change: str, at: datetime) -> None:
        with self._transaction() as db:
            db.execute(
                f"UPDATE files SET {change} WHERE message = ? AND channel = ? AND number = ?",  # noqa: S608
                (at.timestamp(), file.message.id, channel, file.number),
            )

    # --- the channels' health ----------------------------------------------------------------------------------

    def health(self, channel: str) -> Health:
        query = "SELECT failures, failing_since, not_before, error FROM channels WHERE name = ?"
        with self._reading() as db:
            row = db.execute(query, (channel,)).fetchone()
        if row is None:
            return Health(channel, 0, None, 0.0, "")
        since = datetime.fromtimestamp(row[1]).astimezone() if row[1] else None
        return Health(channel, row[0], since, row[2], row[3])

    def channel_failed(self, channel: str, error: str, now: datetime, again: datetime) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO channels (name) VALUES (?)", (channel,))
            db.execute(
                "UPDATE channels SET failures = failures + 1, failing_since = COALESCE(failing_since, ?),"
                " not_before = ?, error = ? WHERE name = ?",
                (now.timestamp(), again.timestamp(), error, channel),
            )

    def stuck(self, channel: str, attempts: int) -> int:
        """Messages that the channel has refused so many times and not taken yet."""
        query = "SELECT COUNT(*) FROM deliveries WHERE channel = ? AND told IS NULL AND attempts >= ?"
        with self._reading() as db:
            return int(db.execute(query, (channel, attempts)).fetchone()[0])

    # --- problems that last ------------------------------------------------------------------------------------

    def problems(self) -> dict[str, dict[str, Any]]:
        with self._reading() as db:
            rows = db.execute("SELECT key, since, told, reminders, payload FROM problems").fetchall()
        return {
            key: {"since": since, "reported": reported, "reminders": reminders, **json.loads(payload)}
            for key, since, reported, reminders, payload in rows
        }

    def change_problems(
        self, opened: dict[str, dict[str, Any]], reminded: Sequence[str], closed: Sequence[str],
        messages: Sequence[Message], channels: Mapping[str, Sequence[str]], now: datetime,
    ) -> None:  # fmt: skip
        """Stores problems and the messages about them, in one transaction. `channels` is by message id."""
        at = now.timestamp()
        with self._transaction() as db:
            for key, payload in opened.items():
                text = storable(json.dumps(payload, ensure_ascii=False))
                db.execute(
                    "INSERT INTO problems (key, since, told, payload) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET payload = excluded.payload",
                    (key, at, at, text),
                )
            for key in reminded:
                db.execute("UPDATE problems SET told = ?, reminders = reminders + 1 WHERE key = ?", (at, key))
            for key in closed:
                db.execute("DELETE FROM problems WHERE key = ?", (key,))
            for message in messages:
                _add(db, message, channels[message.id], now)


def _waits(now: datetime) -> tuple[float, float]:
    """From just after now to the longest possible wait: a message whose time is in this span isn't due yet."""
    at = now.timestamp()
    return at + 0.001, at + LONGEST_WAIT.total_seconds()


def _add(
    db: sqlite3.Connection, message: Message, channels: Sequence[str], now: datetime, stream: str = "",
    position: int = 0,
) -> int:  # fmt: skip
    added = db.execute(
        "INSERT OR IGNORE INTO messages (id, added, happened, payload, stream, position) VALUES (?, ?, ?, ?, ?, ?)",
        (message.id, now.timestamp(), message.happened.timestamp(), message.to_json(), stream, position),
    ).rowcount
    if added:
        db.executemany(
            "INSERT INTO deliveries (message, channel) VALUES (?, ?)", [(message.id, name) for name in channels]
        )
    return added


def _healthy(db: sqlite3.Connection, channel: str) -> None:
    db.execute(
        "UPDATE channels SET failures = 0, failing_since = NULL, not_before = 0, error = '' WHERE name = ?", (channel,)
    )


def _set_fact(db: sqlite3.Connection, key: str, value: Any) -> None:
    db.execute(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, storable(json.dumps(value, ensure_ascii=False))),
    )
