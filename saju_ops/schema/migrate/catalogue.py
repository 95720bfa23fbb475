"""What a database's own catalogue says of its tables, in a form that two databases can be compared by.

Everything is read anew at each call and nothing is inferred from names: an index is its columns in their order, with
their direction, and whether it is unique. What a server adds by itself is left out. Touches no row but to count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Refused


@dataclass(frozen=True)
class IndexShape:
    # Each a column's name, with ` DESC` or a prefix's length behind it.
    columns: tuple[str, ...]
    unique: bool = False
    # Not invisible, not ignored, and wholly built.
    usable: bool = True
    # B-tree on all rows; anything else, such as FULLTEXT or a condition, in words.
    kind: str = ""

    def serves(self, wanted: IndexShape, *, usable: bool = True) -> bool:
        """Whether it is the wanted index, whatever it is called."""
        same = (self.columns, self.unique, self.kind) == (wanted.columns, wanted.unique, wanted.kind)
        return same and (self.usable or not usable)


@dataclass(frozen=True)
class ColumnShape:
    type: str
    nullable: bool
    # As the server writes it; None where there is none.
    default: str | None = None
    # `auto_increment`, `on update CURRENT_TIMESTAMP`, `generated …`
    extra: str = ""
    collation: str | None = None


@dataclass(frozen=True)
class TableShape:
    columns: dict[str, ColumnShape] = field(default_factory=dict)
    primary: tuple[str, ...] = ()
    indexes: dict[str, IndexShape] = field(default_factory=dict)
    # `(session_id) references user_sessions (session_id), on delete CASCADE`
    keys: frozenset[str] = frozenset()
    checks: frozenset[str] = frozenset()
    # Storage engine of MySQL and MariaDB; how it is partitioned.
    engine: str = ""
    partitioned_by: str = ""


def shape_of(index: sa.Index) -> IndexShape:
    """An index of our own definitions."""
    columns = []
    for each in index.expressions:
        descending = isinstance(each, sa.UnaryExpression)
        column: Any = each.element if isinstance(each, sa.UnaryExpression) else each
        columns.append(f"{column.name} DESC" if descending else str(column.name))
    return IndexShape(tuple(columns), bool(index.unique))


def _family(connection: sa.Connection) -> Any:
    from saju_ops.schema.migrate import catalogue_mysql, catalogue_postgres, catalogue_sqlite

    if connection.dialect.name in ("mysql", "mariadb"):
        return catalogue_mysql
    return catalogue_postgres if connection.dialect.name == "postgresql" else catalogue_sqlite


def read(connection: sa.Connection, names: list[str]) -> dict[str, TableShape]:
    """Those of the tables that are there."""
    found: dict[str, TableShape] = _family(connection).read(connection, names)
    return found


def indexes(connection: sa.Connection, table: str, *, usable: bool = True) -> dict[str, IndexShape]:
    """By name, without the primary key; empty where there is no such table."""
    found: dict[str, IndexShape] = _family(connection).indexes(connection, [table]).get(table, {})
    return {name: shape for name, shape in found.items() if shape.usable or not usable}


def exists(connection: sa.Connection, table: str) -> bool:
    return bool(_family(connection).exists(connection, table))


def index_names(connection: sa.Connection, table: str) -> set[str]:
    """Names that a new index on the table can't have, folded."""
    names: set[str] = _family(connection).index_names(connection, table)
    return {name.casefold() for name in names}


def why_index_blocks(connection: sa.Connection, table: str) -> str:
    """Why writers wait while an index on the table is built, as half a sentence; empty where they don't."""
    return str(_family(connection).why_index_blocks(connection, table))


def has_descending(connection: sa.Connection) -> bool:
    """Whether an index can have a column in descending order; MariaDB before 10.8 reads DESC and forgets it."""
    version = tuple(connection.dialect.server_version_info or ())
    return not getattr(connection.dialect, "is_mariadb", False) or version >= (10, 8)


def is_needed_by_key(connection: sa.Connection, table: str, index: str) -> bool:
    """Whether the index is the last one that a foreign key of the table, or one to it, can use."""
    return bool(_family(connection).is_needed_by_key(connection, table, index))


def references_from_outside(connection: sa.Connection, table: str, inside: set[str]) -> list[str]:
    """Tables other than those that reference the table by a foreign key."""
    found: list[str] = _family(connection).referencing(connection, table)
    return sorted({name for name in found if name.casefold() not in {each.casefold() for each in inside}})


def has_table(connection: sa.Connection, table: sa.Table) -> bool:
    """Raises Refused where a table of that name has not all of the columns, so that no migration of ours made it."""
    if not exists(connection, str(table.name)):
        return False
    there = {name.casefold() for name in column_names(connection, str(table.name))}
    lacking = [column.name for column in table.columns if column.name.casefold() not in there]
    if lacking:
        raise Refused(
            f"The table {table.name} is there and lacks {', '.join(lacking)}, so it is another one than this migration"
            " makes. It was left as it is; add what it lacks, or rename it, and launch this again."
        )
    return True


def column_names(connection: sa.Connection, table: str) -> list[str]:
    names: list[str] = _family(connection).column_names(connection, table)
    return names


def rows_of(connection: sa.Connection, table: str) -> int:
    """Counts; 0 where there is no such table."""
    if not exists(connection, table):
        return 0
    return int(connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one())
