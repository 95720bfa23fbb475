"""Conditions on rows by values that were read before, compared as the referenced column compares them.

Two columns may compare the same texts differently: a referencing column whose collation ignores letter case takes `ABC`
for `abc`, which are two rows of a table whose key has a binary collation. A row belongs to the row that its value names
in the comparison of the referenced column, whatever its own column's collation says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from saju_ops.database.connect import SQLiteText
from saju_ops.errors import Refused
from saju_ops.expired.catalogue import Collation, Known

Identity = tuple[Any, ...]
Cells = Sequence[sa.ColumnElement[Any]]
# Values in one statement.
VALUES = 500


def bindable(value: Any) -> Any:
    """A value that was read, as it can be given back to the driver. Raises Refused."""
    if not isinstance(value, SQLiteText):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Refused("a key or file name is text that is not UTF-8") from None


def chunks(values: Sequence[Identity]) -> Iterator[Sequence[Identity]]:
    return (values[start : start + VALUES] for start in range(0, len(values), VALUES))


def one_of(columns: Cells, values: Sequence[Identity]) -> sa.ColumnElement[bool]:
    """Rows whose columns have one of these values. The values came from the same server: with a type of their own,
    PostgreSQL would compare them as another type than the column's."""
    if not columns:
        raise ValueError("a condition without columns would be every row's")
    none: Any = sa.types.NullType()
    if len(columns) == 1:
        listed: Any = sa.bindparam(None, [v[0] for v in values], expanding=True, type_=none)
        return columns[0].in_(listed)
    each: Callable[[Identity], Any] = lambda v: sa.and_(  # noqa: E731
        *(c == sa.literal(x, none) for c, x in zip(columns, v, strict=True))
    )
    return sa.or_(sa.false(), *map(each, values))


def naming(engine: str, own: Cells, as_theirs: Cells, values: Sequence[Identity]) -> sa.ColumnElement[bool]:
    """Rows whose columns name one of these values of the referenced columns. `as_theirs` are `own` as `compared` gives
    them. Both are compared, since only a comparison with the column itself can use its index. SQLite uses it anyway."""
    if all(mine is theirs for mine, theirs in zip(own, as_theirs, strict=True)):
        return one_of(own, values)
    exactly = one_of(as_theirs, values)
    return exactly if engine == "sqlite" else sa.and_(one_of(own, values), exactly)


def compared(
    engine: str, cells: Cells, child: Known, columns: Sequence[str], parent: Known, parent_columns: Sequence[str]
) -> list[sa.ColumnElement[Any]]:
    """The referring columns as the referenced ones are compared; the same objects where they compare alike."""
    return [
        _compared(engine, cell, (child, mine), (parent, theirs))
        for cell, mine, theirs in zip(cells, columns, parent_columns, strict=True)
    ]


def _compared(engine: str, cell: Any, mine: tuple[Known, str], theirs: tuple[Known, str]) -> Any:
    own, other = (known.collations.get(column) for known, column in (mine, theirs))
    types = [known.types[column] for known, column in (mine, theirs)]
    if engine == "sqlite":
        # The collation of a column in no index is binary, or unknown here: the explicit collation is right for all.
        return cell if other is None or own == other else _collated(cell, other.name)
    if own is None:
        return cell
    if engine == "postgresql":
        if types[0] == "citext" != types[1]:
            return _collated(sa.cast(cell, sa.Text), other.name if other else '"C"')
        return (
            cell if own == other or (other is None and own.exact) else _collated(cell, other.name if other else '"C"')
        )
    if own == other:
        return cell
    # A number, a binary text, a UUID: its spellings are compared to the letter.
    name = other.name if other is not None else "utf8mb4_bin"
    if name == "binary":
        return sa.cast(cell, sa.LargeBinary)
    return _collated(sa.func.convert(cell.op("USING")(sa.literal_column(name.partition("_")[0]))), name)


def _collated(cell: Any, name: str) -> Any:
    return cell.op("COLLATE")(sa.literal_column(name))


def letter_by_letter(engine: str, cell: Any) -> Any:
    """A text so that two are the same only where every letter is."""
    if engine == "sqlite":
        return _collated(cell, "BINARY")
    if engine == "postgresql":
        return _collated(sa.cast(cell, sa.Text), '"C"')
    return sa.cast(sa.func.convert(cell.op("USING")(sa.literal_column("utf8mb4"))), sa.LargeBinary)


def compares_more(engine: str, mine: Collation | None, theirs: Collation | None) -> bool:
    """Whether the referenced column may take for one two texts that differ to the referring column."""
    return engine != "sqlite" and theirs is not None and not theirs.exact and mine != theirs
