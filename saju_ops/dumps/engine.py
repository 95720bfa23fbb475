"""What the flow of a dump needs of an engine: one small interface, three implementations."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Protocol
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import error_text
from saju_ops.dumps.contents import Contents
from saju_ops.errors import OperatorError, Refused

# Nobody calls a database so by chance: the prefix, the instant it was made (UTC), and a random part.
SCRATCH_PREFIX = "saju_ops_drill_"
SCRATCH = re.compile(rf"{SCRATCH_PREFIX}(\d{{8}}t\d{{6}})_[0-9a-f]{{12}}")
MARKER = "saju_ops_drill_marker"
LEFTOVER_AGE = timedelta(days=1)
UTC_ZONE = ZoneInfo("UTC")


LOCKED = (
    "Another session holds a lock on a table (LOCK TABLES, or a DDL that isn't done). Find it with SHOW FULL"
    " PROCESSLIST (PostgreSQL: pg_stat_activity), wait for it or end it, and launch the dump again."
)


def what_it_said(error: Exception) -> str:
    """A database's message, for a sentence's brackets, followed by what to do about a lock."""
    cause = getattr(error, "orig", error)
    locked = getattr(cause, "sqlstate", "") == "55P03" or (getattr(cause, "args", None) or ("",))[0] == 1205
    return f"({error_text(error)}).{f' {LOCKED}' if locked else ''}"


class DrillNotPossible(OperatorError):
    """A restore can't be tried for want of a right or a server; nothing is known against the dump."""


class DumpSpoilt(OperatorError):
    """Something changed under the dump, such as a table's definition. It was thrown away; it is taken again."""


class ForeignToDumps(Refused):
    """A dump holds a statement that no dump program writes: somebody else wrote it. It was not executed."""

    def __init__(self, what: str, subject: str = "It holds") -> None:
        """`what`: a noun with its article, and no value of a row."""
        super().__init__(
            f"{subject} {what}, which no dump program writes. It was not executed. Somebody may have changed the file:"
            " keep it, look at who can write to the store, and restore another dump."
        )
        self.what = what


class Taking(Protocol):
    """A dump while it is taken."""

    tool: str

    def chunks(self) -> Iterator[bytes]:
        """The content. Ends only when every program ended well and the completion line was seen."""

    def contents(self) -> Contents:
        """What the server says of the dump's own snapshot; once the chunks are read."""


class DumpEngine(Protocol):
    # The ending of the names of its dumps.
    ending: str
    url: sa.URL

    @property
    def engine(self) -> str:
        """mysql, mariadb, postgresql or sqlite."""

    @property
    def database(self) -> str:
        """The database's name as operators call it."""

    def server_version(self) -> str: ...

    def schema_state(self) -> str:
        """Changes with every DDL, also with a DDL that leaves the definitions as they were (TRUNCATE)."""

    def taking(self) -> AbstractContextManager[Taking]: ...

    def contents(self, like: Contents | None = None) -> Contents:
        """The present contents of the database, measured as `like` was."""

    def hidden(self) -> str:
        """What of the database this user might not see, so that a dump would lack it unnoticed; empty if nothing."""

    def objects(self) -> int:
        """How many tables, views, routines and so on there are: 0 means empty. -1: there is no such database."""

    def defaults(self) -> dict[str, str]:
        """The database's own character set and sort order, which a dump doesn't hold and tables made later take."""

    def create(self, defaults: Mapping[str, str]) -> None:
        """Makes the database, which is not there yet, with these defaults where the server has them."""

    def empty(self) -> None:
        """Drops everything in the database. Only after the operator named it."""

    def examined(self, chunks: Iterator[bytes], source_database: str) -> Iterator[bytes]:
        """The very chunks, looked through before anything is touched. Raises ForeignToDumps; executes nothing."""

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        """Executes a dump in this database and nowhere else. Returns what was left out, as sentences. Raises
        ForeignToDumps at a statement that no dump program writes."""

    def scratch(self, server: sa.URL | None, now: datetime, *, own: bool = False) -> AbstractContextManager[DumpEngine]:
        """A database of our own on `server` or on this one, dropped at the end whatever happens, under a user made for
        it that has rights there alone. Also drops what killed drills left there a day ago or earlier. `own`: under the
        address's own user; for what this process itself copies there, and for the trial of a restore into this very
        database. Raises DrillNotPossible."""

    def at(self, url: sa.URL) -> DumpEngine:
        """The same kind of engine on another database."""


def scratch_name(now: datetime) -> str:
    return f"{SCRATCH_PREFIX}{now.astimezone(UTC):%Y%m%dt%H%M%S}_{secrets.token_hex(6)}"


def is_leftover(name: str, now: datetime) -> bool:
    """Whether a database's name says that a drill made it more than a day ago."""
    found = SCRATCH.fullmatch(name)
    if found is None:
        return False
    try:
        made = datetime.strptime(found[1], "%Y%m%dt%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return now - made > LEFTOVER_AGE


def fingerprint(*parts: object) -> str:
    """A short hash of a definition."""
    return sha256("\x1f".join("\x00" if p is None else str(p) for p in parts).encode()).hexdigest()[:24]


Say = Callable[[str], None]
