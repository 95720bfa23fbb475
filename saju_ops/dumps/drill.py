"""The restore drill: a stored dump is read back, restored into a scratch database of its own, and compared.

It touches only the database that it made itself a moment before, and always drops it.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text, redacted
from saju_ops.database.families import family_of
from saju_ops.dumps.contents import Contents, differences
from saju_ops.dumps.engine import DrillNotPossible, DumpEngine, ForeignToDumps
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.pack import Packed, unpacked
from saju_ops.dumps.programs import ProgramFailed, ProgramMissing
from saju_ops.errors import ProofFailed, shown
from saju_ops.storage.manifest import BackupManifest
from saju_ops.storage.open import Storage

# A server's errors for a missing right, for want of room, for something that only the other server has, or because it
# died: they prove nothing against the dump.
NOT_POSSIBLE = re.compile(
    r"access denied|permission denied|must be (?:super|owner|able)|you need|privilege|is not available|command denied"
    r"|unknown collation|unknown character set|unknown storage engine|version mismatch|not allowed"
    r"|can only create extension|shared_preload_libraries|got a packet bigger"
    r"|no space left|disk full|table \S+ is full|could not (?:extend|write)|error writing file|errno: 28"
    r"|out of (?:shared )?memory"
    r"|gone away|lost connection|can't connect|closed the connection|connection to server|terminating connection"
    r"|is (?:shutting down|starting up|in recovery mode)|server shutdown in progress|connection refused",
    re.IGNORECASE,
)

# What of `left_out` is so in every drill of a server.
ALWAYS = ("owners and grants were left out", "binary log")


@dataclass(frozen=True)
class Drill:
    """`differences` or `why_not` is empty, or both: then the dump is proven."""

    differences: list[str] = field(default_factory=list)
    why_not: str = ""
    # The dump holds a statement that no dump program writes; `why_not` names it.
    foreign: bool = False
    # A server refused a part of the dump because of its content.
    refused: bool = False
    where: str = ""
    seconds: float = 0.0
    tables: int = 0
    rows: int = 0
    definitions_compared: bool = False
    left_out: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        return not self.differences and not self.why_not

    @property
    def otherwise(self) -> list[str]:
        """Objects of the database that aren't restored as they are, for the operator; without those that no drill ever
        restores."""
        return [what for what in self.left_out if not any(always in what for always in ALWAYS)]

    def to_json(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind if self.proven else "none",
            "restored_at": self.where,
            "seconds": round(self.seconds, 3),
            "tables": self.tables,
            "rows": self.rows,
            "definitions_compared": self.definitions_compared,
            "left_out": self.left_out,
            "why_not": self.why_not,
        }


def drill_stored(
    storage: Storage, manifest: BackupManifest, url: sa.URL, servers: Sequence[sa.URL], now: datetime
) -> Drill:
    """The drill of a dump that was taken earlier. `url` is any database of its kind of server, for a place to try it
    on; it is not touched. Raises ProofFailed when the stored bytes are not those of the manifest."""
    m = manifest
    source = open_engine(url)
    server = next((s for s in servers if family_of(s) == family_of(m.engine)), None)
    began = time.monotonic()
    packed = Packed(m.content_sha256, m.content_bytes, m.stored_sha256, m.stored_bytes)
    chunks = unpacked(storage.open(m.file), packed, m.encryption, storage.password, m.file)
    name = str(m.extra.get("dumped_as", m.extra.get("database")))
    result = _restored(source, chunks, Contents.from_json(m.contents), server, now, name)
    if not result.proven:
        for _ in chunks:
            pass
    return replace(result, seconds=time.monotonic() - began)


def drill(
    source: DumpEngine, stream: BinaryIO, packed: Packed, contents: Contents, file: str, *, encryption: str,
    password: str | None, server: sa.URL | None, now: datetime,
) -> Drill:  # fmt: skip
    """Restores the stored bytes and compares. Raises ProofFailed when the bytes are not those that were stored."""
    began = time.monotonic()
    chunks = unpacked(stream, packed, encryption, password, file)
    result = _restored(source, chunks, contents, server, now, source.database)
    if not result.proven:
        for _ in chunks:  # reads bytes that the restore didn't: are they the bytes that were stored?
            pass
    return replace(result, seconds=time.monotonic() - began)


def _restored(
    source: DumpEngine, chunks: Iterator[bytes], contents: Contents, server: sa.URL | None, now: datetime, name: str
) -> Drill:
    try:
        with source.scratch(server, now) as scratch:
            left_out = scratch.load(chunks, name, drill=True)
            found = scratch.contents(contents)
    except ForeignToDumps as error:
        return Drill(why_not=str(error), foreign=True)
    except (DrillNotPossible, ProgramMissing) as error:
        return Drill(why_not=str(error))
    except ProofFailed:
        if damage := _damage(source):
            return Drill(
                why_not="The live database itself is damaged, and so is every copy of it: SQLite says"
                f' "{" ".join(damage.split())}". If that is of an index, REINDEX mends it; else restore an older'
                " dump.",
                refused=True,
            )
        raise
    except ProgramFailed as error:
        return _failed(error)
    except (DBAPIError, sqlite3.Error) as error:
        return Drill(why_not=f"The scratch database could not be used ({error_text(error)}).")
    return Drill(
        differences=differences(contents, found), where=redacted(scratch.url), tables=len(found.tables),
        rows=found.rows, definitions_compared=contents.dialect == found.dialect,
        left_out=[shown(what) for what in left_out],
    )  # fmt: skip


def _damage(source: DumpEngine) -> str:
    from saju_ops.dumps.sqlite import SQLiteDumps

    return source.damage() if isinstance(source, SQLiteDumps) else ""


def _failed(error: ProgramFailed) -> Drill:
    if "3105" in error.said:  # a MySQL server refuses the values that MariaDB's client dumps of a generated column
        return Drill(why_not=f"The restore was tried and not taken: {error}")
    if NOT_POSSIBLE.search(error.said):
        return Drill(
            why_not=f"The restore was tried and not possible there: {error} Give the server what it lacks (a right to"
            " the user, room, memory), or name another one in RESTORE_DRILL_URL.",
        )
    return Drill(
        why_not=f"The restore was tried, and the server takes a part of it from nobody: {error} Mend that in the"
        " database, or in the server's settings.",
        refused=True,
    )
