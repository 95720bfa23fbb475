"""The contents of a MySQL or MariaDB database, by its catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from saju_ops.dumps.contents import TableContents
from saju_ops.dumps.engine import MARKER
from saju_ops.dumps.mysql.exact_floats import read_again
from saju_ops.errors import OperatorError

LONG_TYPES = {
    "mediumtext", "longtext", "json", "tinyblob", "blob", "mediumblob", "longblob", "vector", "geometry", "point",
    "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection",
    "geometrycollection", "text", "varbinary",
}  # fmt: skip
TEXTS = {"char", "varchar", "tinytext", "enum", "set", "binary"}
TABLES = sa.text(
    "SELECT t.TABLE_NAME, t.TABLE_TYPE, t.ENGINE, COALESCE(e.TRANSACTIONS, 'NO'), t.CREATE_TIME"
    " FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME <> :marker ORDER BY t.TABLE_NAME"
)
COLUMNS = sa.text(
    "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, EXTRA, GENERATION_EXPRESSION FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, ORDINAL_POSITION"
)
TRIGGERS = sa.text(
    "SELECT TRIGGER_NAME, EVENT_MANIPULATION, EVENT_OBJECT_TABLE, ACTION_TIMING, ACTION_ORDER, ACTION_STATEMENT,"
    " SQL_MODE, DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() ORDER BY 1"
)
ROUTINES = sa.text(
    "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE() ORDER BY 1, 2"
)
EVENTS = sa.text(
    "SELECT EVENT_NAME, EVENT_DEFINITION, EVENT_TYPE, EXECUTE_AT, INTERVAL_VALUE, INTERVAL_FIELD, STARTS, ENDS,"
    " ON_COMPLETION, SQL_MODE, DEFINER, TIME_ZONE, EVENT_COMMENT, STATUS FROM information_schema.EVENTS"
    " WHERE EVENT_SCHEMA = DATABASE() ORDER BY 1"
)
ALTERED = sa.text(
    "SELECT GROUP_CONCAT(CONCAT_WS('|', ROUTINE_TYPE, ROUTINE_NAME, LAST_ALTERED) ORDER BY 1 SEPARATOR ';')"
    " FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()"
)
DEFAULTS = sa.text(
    "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
    " WHERE SCHEMA_NAME = DATABASE()"
)
VERSIONED = "SYSTEM VERSIONED"
IMPLICIT_PERIOD = (("row_start", "timestamp"), ("row_end", "timestamp"))


@dataclass(frozen=True)
class _Table:
    name: str
    kind: str
    transactional: bool
    created: Any
    columns: tuple[tuple[str, str], ...]
    # For a system-versioned table: the columns that hold since when and until when a row was valid, and their type.
    period: tuple[tuple[str, str], ...] = ()

    @property
    def floats(self) -> list[str]:
        return self._of("float")

    @property
    def json(self) -> list[str]:
        return self._of("json")

    def _of(self, wanted: str) -> list[str]:
        return [name for name, kind in self.columns if kind == wanted]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _tables(connection: sa.Connection) -> list[_Table]:
    columns: dict[str, list[tuple[str, str]]] = {}
    periods: dict[str, list[tuple[str, str]]] = {}
    for row in connection.execute(COLUMNS):
        table, column, data_type, extra, expression = (_text(v) for v in row)
        if expression in ("ROW START", "ROW END"):
            periods.setdefault(table, []).append((column, data_type.lower()))
        # A generated column follows from the others; a client may not even dump it.
        elif "GENERATED" not in str(extra).upper().replace("DEFAULT_GENERATED", ""):
            columns.setdefault(table, []).append((column, data_type.lower()))
    rows = [[_text(v) for v in row] for row in connection.execute(TABLES, {"marker": MARKER})]
    found = []
    for name, kind, _, transactions, created in rows:
        if "VIEW" not in kind or kind == "VIEW":
            period = tuple(periods.get(name, IMPLICIT_PERIOD)) if kind == VERSIONED else ()
            covered = transactions == "YES" and kind != "SEQUENCE"
            found.append(_Table(name, kind, covered, created, tuple(columns.get(name, ())), period))
    return found


def _show(connection: sa.Connection, kind: str, name: str) -> str:
    quoted = connection.dialect.identifier_preparer.quote(name)
    row = connection.exec_driver_sql(f"SHOW CREATE {kind} {quoted}").one()
    place = {"TABLE": 1, "VIEW": 1}.get(kind, 2)
    text = _text(row[place])
    if text is None:
        raise OperatorError(
            f"The definition of {kind.lower()} {name} is not shown to this user, so a dump would lack it. Grant it"
            " SHOW_ROUTINE (MySQL) or SELECT on mysql.proc (MariaDB)."
        )
    return str(text)


def _measure(connection: sa.Connection, table: _Table, how: str | None = None) -> TableContents:
    """Rows, and the sum of 60 bits of each row's SHA-256. `how`: see TableContents."""
    quote = connection.dialect.identifier_preparer.quote
    if table.kind == "SEQUENCE":
        (value,) = connection.exec_driver_sql(f"SELECT next_not_cached_value FROM {quote(table.name)}").one()  # noqa: S608
        return TableContents(1, str(value))
    cells = []
    ways = (how or "").split()
    for name, kind in [*table.columns, *(table.period if "history" in ways else ())]:
        column = quote(name)
        column = read_again(column) if kind == "json" and "json" in ways else column
        # Large values are hashed alone: a joined row must not exceed max_allowed_packet, or it becomes NULL.
        text = f"SHA2({column}, 256)" if kind in LONG_TYPES else column
        text = f"CAST({column} AS BINARY)" if kind in TEXTS else text
        text = f"{column}+0" if kind == "bit" else text
        text = f"{column}+0e0" if kind == "float" and "floats" in ways else text
        text = f"CAST({column} AS CHAR)" if kind in ("uuid", "inet4", "inet6") else text
        cells.append(f"COALESCE({text}, '\\\\N')")
    joined = f"CONCAT_WS(CAST(x'1f' AS BINARY), {', '.join(cells)})" if cells else "''"
    hashed = f"CAST(CONV(LEFT(SHA2({joined}, 256), 15), 16, 10) AS UNSIGNED)"
    which = " FOR SYSTEM_TIME ALL" if "history" in ways else ""
    statement = f"SELECT COUNT(*), SUM({hashed}) FROM {quote(table.name)}{which}"  # noqa: S608 (quoted by the dialect)
    rows, total = connection.exec_driver_sql(statement).one()
    return TableContents(int(rows), f"{int(total or 0) % 2**64:016x}", how=how)
