"""Changes rows of a table by one statement, each only if its columns still hold what was read: compare and set.

Columns that the server would renew by itself (ON UPDATE CURRENT_TIMESTAMP) keep their values: an encryption makes no
session look used.
"""

# ruff: noqa: S608 (names are quoted by the dialect, values are parameters)

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa

from saju_ops.rows.engines.open import RowStore

MYSQL = ("mysql", "mariadb")
COLUMNS = sa.text(
    "SELECT COLUMN_NAME, CHARACTER_SET_NAME, COLLATION_NAME, EXTRA FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)
UPDATE_TRIGGERS = {
    "mysql": "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE()"
    " AND EVENT_OBJECT_TABLE = :name AND EVENT_MANIPULATION = 'UPDATE'",
    "postgresql": "SELECT COUNT(*) FROM pg_trigger WHERE tgrelid = to_regclass(quote_ident(:name)) AND NOT tgisinternal"
    " AND tgenabled <> 'D' AND tgtype & 16 > 0",
    "sqlite": "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = lower(:name)"
    " AND sql LIKE '%UPDATE%'",
}
# Both sides of a comparison of texts on MySQL and MariaDB: whatever the column's character set and sort order are.
AS_TEXT = "CONVERT({} USING utf8mb4) COLLATE utf8mb4_bin"

Identity = tuple[Any, ...]


class Swap(NamedTuple):
    """A row by its key, what it must hold as `shown` gives it, and what its columns are to hold, as text or None."""

    identity: Identity
    held: tuple[Any, ...]
    given: tuple[str | None, ...]


class Swaps:
    """The changes of one table, on a store's connection."""

    def __init__(self, store: RowStore) -> None:
        self._store = store
        self._engine = store.table.engine
        self._identity = store.table.key
        self._quote = store.connection.dialect.identifier_preparer.quote
        self.is_sqlite = self._engine == "sqlite"

    def shown(self, name: str) -> sa.ColumnElement[Any]:
        """A column as it is compared: as text, as the database prints it; SQLite's values as they are."""
        column = self._store.col(name)
        if self._engine == "sqlite":
            return column
        if self._engine in MYSQL:
            # The text of a BIT is a control character.
            bit = self._store.table.column(name).family == "bit"
            return sa.cast(column + sa.literal_column("0") if bit else column, sa.CHAR)
        return sa.cast(column, sa.Text)

    def between(self, identities: Sequence[Identity]) -> sa.ColumnElement[bool]:
        """Rows from the first of these keys to the last, which are in the key's order: many fewer values than all of
        them. With a key of several columns, these rows."""
        if len(self._identity) > 1:
            return self.one_of(identities)
        column = self._store.col(self._identity[0])
        return sa.and_(column >= identities[0][0], column <= identities[-1][0])

    def one_of(self, identities: Sequence[Identity]) -> sa.ColumnElement[bool]:
        columns = [self._store.col(name) for name in self._identity]
        if len(columns) == 1:
            return columns[0].in_([identity[0] for identity in identities])
        each = (sa.and_(*(c == v for c, v in zip(columns, values, strict=True))) for values in identities)
        return sa.or_(sa.false(), *each)

    def beyond(self, identity: Identity) -> sa.ColumnElement[bool]:
        columns = [self._store.col(name) for name in self._identity]
        steps = [
            sa.and_(*(c == v for c, v in zip(columns[:i], identity[:i], strict=True)), columns[i] > identity[i])
            for i in range(len(columns))
        ]
        return sa.or_(*steps)

    def update_triggers(self) -> int:
        """Triggers that run at each update: what they write, such as a time of change, is theirs."""
        statement = UPDATE_TRIGGERS["mysql" if self._engine in MYSQL else self._engine]
        found = self._store.connection.execute(sa.text(statement), {"name": self._store.table.name}).scalar_one()
        self._store.end_read()
        return int(found)

    def apply(self, rows: Sequence[Swap], held: Sequence[str], given: Sequence[str]) -> int:
        """`held` and `given` name the columns. Returns how many rows held what they must. Inside a transaction."""
        if not rows:
            return 0
        ways = {"postgresql": self._postgres, "sqlite": self._sqlite}
        return ways.get(self._engine, self._mysql)(rows, held, given)

    @property
    def _table(self) -> str:
        table = self._store.table
        name = self._quote(table.name)
        return f"{self._quote(table.schema)}.{name}" if table.schema else name

    @cached_property
    def _mysql_columns(self) -> Mapping[str, tuple[str | None, str | None, str]]:
        rows = self._store.connection.execute(COLUMNS, {"name": self._store.table.name})
        return {str(name): (charset, collation, str(extra).lower())
                for name, charset, collation, extra in (map(_text, row) for row in rows)}  # fmt: skip

    def _mysql(self, rows: Sequence[Swap], held: Sequence[str], given: Sequence[str]) -> int:
        """The rows of the derived table are looked up one by one by the key: STRAIGHT_JOIN, since the server may else
        read the whole table. What is the same for all rows is said once: each value less is 5 % of the time."""
        keys = _names("k", self._identity)
        cells = [*zip(*(row.identity for row in rows), strict=True)]
        names, constants = list(keys), []
        sides = {}
        for prefix, columns, of in (("g", given, "given"), ("h", held, "held")):
            for number, values in enumerate(zip(*(getattr(row, of) for row in rows), strict=True)):
                if len(set(values)) == 1:
                    sides[of, columns[number]] = "%s"
                    constants.append(values[0])
                else:
                    names.append(name := f"{prefix}{number}")
                    cells.append(values)
                    sides[of, columns[number]] = f"d.`{name}`"
        places = f"{'ROW' if self._engine == 'mysql' else ''}({', '.join(['%s'] * len(names))})"
        named = ", ".join(f"NULL AS `{name}`" for name in names)
        derived = f"SELECT {named} FROM DUAL WHERE FALSE UNION ALL VALUES {', '.join([places] * len(rows))}"
        on = [f"s.{self._quote(c)} = {self._as_key(c, f'd.`{k}`')}" for c, k in zip(self._identity, keys, strict=True)]
        sets = [f"s.{self._quote(c)} = {sides['given', c]}" for c in given]
        same = [f"{AS_TEXT.format(self._cast(c))} <=> {AS_TEXT.format(sides['held', c])}" for c in held]
        sets += [f"s.{self._quote(name)} = s.{self._quote(name)}" for name, (_, _, extra) in self._mysql_columns.items()
                 if "on update" in extra and name not in given]  # fmt: skip
        statement = (
            f"UPDATE ({derived}) AS d STRAIGHT_JOIN {self._table} AS s ON {' AND '.join(on)}"
            f" SET {', '.join(sets)} WHERE {' AND '.join(same)}"
        )
        listed = [cell for row in zip(*cells, strict=True) for cell in row]
        return self._store.connection.exec_driver_sql(statement, (*listed, *constants)).rowcount

    def _cast(self, name: str) -> str:
        bit = self._store.table.column(name).family == "bit"
        return f"CAST(s.{self._quote(name)}{' + 0' if bit else ''} AS CHAR)"

    def _as_key(self, name: str, given: str) -> str:
        """With the column's own sort order, by which its index finds a row."""
        charset, collation, _ = self._mysql_columns[name]
        if not charset or not re.fullmatch(r"\w+ \w+", f"{charset} {collation}"):
            return given
        return f"CONVERT({given} USING {charset}) COLLATE {collation}"

    def _postgres(self, rows: Sequence[Swap], held: Sequence[str], given: Sequence[str]) -> int:
        keys, old, new = (_names(prefix, of) for prefix, of in (("k", self._identity), ("h", held), ("g", given)))
        names = [*keys, *old, *new]
        on = [f"s.{self._quote(c)} = {self._of_type(c, k)}" for c, k in zip(self._identity, keys, strict=True)]
        same = [f's.{self._quote(c)}::text IS NOT DISTINCT FROM d."{h}"' for c, h in zip(held, old, strict=True)]
        sets = [self._assigned(c, g) for c, g in zip(given, new, strict=True)]
        statement = (
            f"UPDATE {self._table} AS s SET {', '.join(sets)}"
            f" FROM unnest({', '.join(['%s::text[]'] * len(names))}) AS d({', '.join(names)})"
            f" WHERE {' AND '.join([*on, *same])}"
        )
        cells = zip(*((*map(str, row.identity), *row.held, *row.given) for row in rows), strict=True)
        return self._store.connection.exec_driver_sql(statement, tuple(map(list, cells))).rowcount

    def _assigned(self, column: str, name: str) -> str:
        """A text as it is: a cast would cut one that is too long, where an assignment is refused."""
        is_text = self._store.table.column(column).type.startswith(("text", "character"))
        value = f'd."{name}"' if is_text else self._of_type(column, name)
        return f"{self._quote(column)} = {value}"

    def _of_type(self, column: str, name: str) -> str:
        return f'CAST(d."{name}" AS {self._store.table.column(column).type})'

    def _sqlite(self, rows: Sequence[Swap], held: Sequence[str], given: Sequence[str]) -> int:
        """Prepared once and run in this process: a row costs no round trip."""
        sets = ", ".join(f"{self._quote(name)} = ?" for name in given)
        on = [f"{self._quote(name)} = ?" for name in self._identity]
        same = [f"{self._quote(name)} IS ?" for name in held]
        statement = f"UPDATE {self._table} SET {sets} WHERE {' AND '.join([*on, *same])}"
        with self._store.driver() as raw:
            return int(raw.executemany(statement, [(*r.given, *r.identity, *r.held) for r in rows]).rowcount)


def _names(prefix: str, of: Sequence[str]) -> list[str]:
    return [f"{prefix}{number}" for number in range(len(of))]


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
