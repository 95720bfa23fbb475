"""The contents of a database, in a form in which two databases can be compared: tables, rows, checksums, definitions.

A checksum is the sum, modulo 2^64, of a hash of every row: it needs no order, and a row that is there twice counts
twice. A table's `proof` says from which snapshot its numbers are:

exact      the dump's own snapshot
bracketed  two snapshots, one before and one after the dump's own, that agree: so the dump's agrees too
range      two such snapshots that differ, because the table was written to in the milliseconds between: the number of
           rows is between theirs, and there is no checksum
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saju_ops.storage.manifest import Proof, require_contents
from saju_ops.words import are, counted

NAMED = 8
RANK: dict[str, int] = {"exact": 0, "bracketed": 1, "range": 2}


@dataclass(frozen=True)
class TableContents:
    rows: int
    checksum: str | None
    proof: Proof = "exact"
    # Only with proof `range`: the larger number.
    rows_most: int | None = None
    # How the checksum is taken, in words: `floats`, with each digit of FLOAT columns; `history`, of a versioned table,
    # too; `json`, with JSON as its text says it.
    how: str | None = None

    @property
    def most(self) -> int:
        return self.rows if self.rows_most is None else self.rows_most


@dataclass(frozen=True)
class Contents:
    tables: dict[str, TableContents]
    # "view x", "trigger x", "table x", … → a hash of its definition.
    definitions: dict[str, str]
    # Server versions print definitions differently; only of the same one they are compared as text.
    dialect: str
    notes: list[str] = field(default_factory=list)
    # Names of views that the server itself calls invalid: in the dump by their definitions alone, as comments, and in
    # `definitions` not at all, since nothing of them can be proven.
    broken_views: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(t.rows for t in self.tables.values())

    @property
    def broken(self) -> str:
        """The broken views for a sentence, empty where there is none."""
        more = f" and {len(self.broken_views) - NAMED} more" if len(self.broken_views) > NAMED else ""
        return ", ".join(self.broken_views[:NAMED]) + more

    @property
    def proof(self) -> str:
        """The weakest of the tables'."""
        return max((t.proof for t in self.tables.values()), key=lambda p: RANK[p], default="exact")

    def to_json(self) -> dict[str, Any]:
        return {
            "tables": {
                name: {k: v for k, v in vars(t).items() if v is not None} for name, t in sorted(self.tables.items())
            },
            "definitions": dict(sorted(self.definitions.items())),
            "dialect": self.dialect,
            "proof": self.proof,
            "notes": self.notes,
            "broken_views": self.broken_views,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: str = "The dump's manifest") -> Contents:
        """Raises ProofFailed unless `to_json` made it."""
        require_contents(raw, where)
        tables = {
            name: TableContents(t["rows"], t.get("checksum"), t.get("proof", "exact"), t.get("rows_most"), t.get("how"))
            for name, t in raw["tables"].items()
        }
        listed = (list(raw.get(name, [])) for name in ("notes", "broken_views"))
        return cls(tables, dict(raw["definitions"]), raw["dialect"], *listed)


def merged(before: TableContents, after: TableContents) -> TableContents:
    """A table by two snapshots around the dump's own."""
    if (before.rows, before.checksum) == (after.rows, after.checksum):
        return replace(after, proof="bracketed")
    least, most = sorted((before.rows, after.rows))
    return replace(after, rows=least, checksum=None, proof="range", rows_most=most)


def differences(expected: Contents, found: Contents) -> list[str]:
    """One sentence for each thing that isn't what it should be; never a value of a row."""
    sentences = []
    for name in sorted(expected.tables.keys() | found.tables.keys()):
        want, got = expected.tables.get(name), found.tables.get(name)
        if got is None or want is None:
            sentences.append(f"table {name} is {'missing' if got is None else 'not one of the dumped ones'}")
        elif not want.rows <= got.rows <= want.most:
            rows = f"{want.rows:,}" if want.rows_most is None else f"{want.rows:,} to {want.most:,}"
            sentences.append(f"table {name} has {counted(got.rows, 'row')}, {rows} {are(want.most)} right")
        elif want.checksum is not None and want.checksum != got.checksum:
            sentences.append(f"table {name} has the right number of rows and another checksum")
    same_dialect = expected.dialect == found.dialect
    for name in sorted(expected.definitions.keys() | found.definitions.keys()):
        want_text, got_text = expected.definitions.get(name), found.definitions.get(name)
        if got_text is None or want_text is None:
            sentences.append(f"{name} is {'missing' if got_text is None else 'not one of the dumped ones'}")
        elif same_dialect and want_text != got_text:
            sentences.append(f"{name} is defined differently")
    return sentences
