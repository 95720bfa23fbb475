"""The restore drill: a stored dump is read back, restored into a scratch database of its own, and compared.

It touches no database but the one that it made itself a moment before, which is dropped whatever happens.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.backup.dump_contents import Contents, differences
from saju_ops.backup.dump_engine import DrillNotPossible, DumpEngine
from saju_ops.backup.dump_pack import Packed, unpacked
from saju_ops.backup.dump_process import ProgramFailed, ProgramMissing
from saju_ops.database import error_text, redacted

# What a server says for want of a right, or of something that the other server has: nothing against the dump.
NOT_ALLOWED = re.compile(
    r"access denied|permission denied|must be (?:super|owner|able)|you need|privilege|is not available|command denied"
    r"|unknown collation|unknown character set|unknown storage engine|version mismatch|not allowed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Drill:
    """`differences` or `why_not` is empty, or both: then the dump is proven."""

    differences: list[str] = field(default_factory=list)
    why_not: str = ""
    where: str = ""
    seconds: float = 0.0
    tables: int = 0
    rows: int = 0
    definitions_compared: bool = False
    left_out: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        return not self.differences and not self.why_not

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


def drill(
    source: DumpEngine, stream: BinaryIO, packed: Packed, contents: Contents, file: str, *, encryption: str,
    password: str | None, server: sa.URL | None, now: datetime,
) -> Drill:  # fmt: skip
    """Restores the stored bytes and compares. Raises ProofFailed when the bytes are not those that were stored."""
    began = time.monotonic()
    chunks = unpacked(stream, packed, encryption, password, file)
    result = _restored(source, chunks, contents, server, now)
    if not result.proven:
        for _ in chunks:  # what a restore didn't read is read all the same: are they the bytes that were stored?
            pass
    return replace(result, seconds=time.monotonic() - began)


def _restored(
    source: DumpEngine, chunks: Iterator[bytes], contents: Contents, server: sa.URL | None, now: datetime
) -> Drill:
    try:
        with source.scratch(server, now) as scratch:
            left_out = scratch.load(chunks, source.database, drill=True)
            found = scratch.contents()
    except (DrillNotPossible, ProgramMissing) as error:
        return Drill(why_not=str(error))
    except ProgramFailed as error:
        return _failed(error)
    except DBAPIError as error:
        return Drill(why_not=f"The scratch database could not be used ({error_text(error)}).")
    return Drill(
        differences=differences(contents, found), where=redacted(scratch.url), tables=len(found.tables),
        rows=found.rows, definitions_compared=contents.dialect == found.dialect, left_out=left_out,
    )  # fmt: skip


def _failed(error: ProgramFailed) -> Drill:
    if NOT_ALLOWED.search(error.said):
        return Drill(
            why_not=f"The restore was tried and not allowed: {error} Grant the right that is named to the user, or name"
            " a server where it has it in RESTORE_DRILL_URL.",
        )
    return Drill(differences=[f"it can't be restored: {error}"])
