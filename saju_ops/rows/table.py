"""What the archive core knows of a log table: columns and how each is written, key, index, foreign keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TIME_COLUMN = "created_at"

# Types whose values have one order, which no collation and no version of a server changes.
ORDERED_FAMILIES = {"date", "datetime", "timestamp", "timestamptz"}

# The form of a column's values in the file. `text`: as they are. `number`: the server's digits. `hex`: binary
# as upper-case hexadecimal. `literal`: each cell an SQL literal, for SQLite columns that hold several types.
Encoding = Literal["text", "number", "hex", "literal"]


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    encoding: Encoding
    # A framed column's text may hold the digest's separator, so its byte length precedes it.
    framed: bool
    nullable: bool = True
    # Generated columns are archived, so that the file is complete, but can't be written by a restore.
    generated: bool = False
    # The engine's own type family, where a dialect needs it to write a value back.
    family: str = ""

    @property
    def ordered(self) -> bool:
        """Whether its values have the same order everywhere. Texts don't: each collation has its own."""
        return self.encoding in ("number", "hex") or self.family in ORDERED_FAMILIES


@dataclass(frozen=True)
class ForeignKey:
    """`table`.`columns` references `parent`.`parent_columns`."""

    name: str
    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str
    schema: str | None = None
    parent_schema: str | None = None

    def pairs(self) -> list[tuple[str, str, str, str]]:
        """Each of its columns with the column that it refers to, both after their table."""
        return [(self.table, a, self.parent, b) for a, b in zip(self.columns, self.parent_columns, strict=True)]


@dataclass(frozen=True)
class Table:
    engine: str
    server_version: str
    database: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time_type: str
    time_index: str | None
    # The columns of the primary key, where the engine keeps its rows in the order that their text is compared in.
    primary: tuple[str, ...] = ()
    children: tuple[ForeignKey, ...] = ()
    parents: tuple[ForeignKey, ...] = ()
    schema: str | None = None
    # PostgreSQL: the schema in which the connection's search path found the table.
    found_in: str | None = None
    notes: tuple[str, ...] = field(default=())

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.column(name) for name in self.key)

    @property
    def answers(self) -> tuple[ForeignKey, ...]:
        """The foreign keys by which rows of this table reference others of it, as a message references the one it
        answers."""
        return tuple(key for key in self.children if self.is_own(key.table, key.schema))

    def is_own(self, name: str, schema: str | None) -> bool:
        same = name.lower() == self.name.lower() if self.engine == "sqlite" else name == self.name
        return same and schema in (None, self.schema, self.found_in)

    @property
    def shown_key(self) -> str:
        """The key's columns with their types, for a sentence."""
        return ", ".join(f"{c.name} {c.type.partition('|')[0]}".strip() for c in self.key_columns)

    @property
    def shown(self) -> str:
        """The name, with its schema where that isn't the default one."""
        return f"{self.found_in}.{self.name}" if self.found_in not in (None, "public") else self.name

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]
