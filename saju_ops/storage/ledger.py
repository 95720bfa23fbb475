"""Which backups this installation itself restored and found whole: a record of its own, outside the store, so that a
person who can write into the store can't change it.

Anybody who can write into the store can write `proven: true` into a manifest. So prune deletes an old backup only if
newer ones are sealed by a key of ours, or are entered here. The run that took a dump or snapshot enters it, once its
drill passed. `verify` enters nothing: it may have restored a dump that somebody else made.

The ledger is a SQLite file in this user's state folder (`local_state`). Where it is lost, old backups stay until
KEEP_MINIMUM newer ones are entered. Where dumps are taken on one machine and pruned on another, BACKUP_SEAL_KEY (or
ARCHIVE_PASSWORD) does what the ledger can't.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from saju_ops.errors import OperatorError
from saju_ops.local_state import state_folder
from saju_ops.storage.manifest import BackupManifest

FILE = "proven_backups.sqlite"
# Seconds that an entry waits for another process's.
PATIENCE = 30
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS proven (file TEXT, stored_sha256 TEXT, taken_at TEXT, entered_at TEXT,"
    " PRIMARY KEY (file, stored_sha256)) WITHOUT ROWID"
)


def enter(manifest: BackupManifest, now: datetime, say: Callable[[str], None]) -> None:
    """For a backup that this run has stored and drilled. If it can't be entered, the backup is still whole: the reason
    is logged, and the run continues."""
    entered_at = now.astimezone(UTC).isoformat(timespec="seconds")
    try:
        with _ledger() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO proven VALUES (?, ?, ?, ?)",
                (manifest.file, manifest.stored_sha256, manifest.taken_at, entered_at),
            )
    except OperatorError as error:
        say(str(error))


def knows(manifest: BackupManifest) -> bool:
    """Whether these very bytes passed a drill here, under this name and with this time. Raises OperatorError."""
    with _ledger() as connection:
        asked = "SELECT 1 FROM proven WHERE file = ? AND stored_sha256 = ? AND taken_at = ?"
        found = connection.execute(asked, (manifest.file, manifest.stored_sha256, manifest.taken_at)).fetchone()
    return found is not None


@contextmanager
def _ledger() -> Iterator[sqlite3.Connection]:
    path = state_folder() / FILE
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
            path.chmod(0o600)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(SCHEMA)
            yield connection
    except sqlite3.Error as error:
        raise OperatorError(
            f"The ledger of proven backups {path} can't be used ({error}), and no backup is deleted without it. If it"
            " is damaged, delete it: the next dumps and snapshots are entered in a new one."
        ) from None
