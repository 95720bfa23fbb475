"""What SQLite shows: sizes by dbstat, and its indexes. It keeps no statistics of statements or of an index's use.

Looks only. dbstat reads the whole file under SQLite's read lock, which keeps writers waiting unless the file is in WAL
mode: a large file is measured as a whole then.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from saju_ops.database_reports.seen import Index, Key, Seen, index_rows

NO_STATEMENTS = "SQLite keeps no statistics of statements, so it has no slow queries to show."
NO_USES = "SQLite does not count how often an index is read, so none is proposed to go."
# Bytes of a file that is read under the lock at most.
LARGEST = 1 << 30
WHOLE = "(whole file)"
PAGES = "SELECT name, SUM(pgsize), SUM(unused), SUM(CASE pagetype WHEN 'leaf' THEN ncell END) FROM dbstat GROUP BY name"


def slow_queries(_connection: sa.Connection, _log_table: str) -> Seen:
    return Seen(notes=[NO_STATEMENTS])


def index_usage(connection: sa.Connection, log_table: str) -> Seen:
    seen = Seen(notes=[NO_USES])
    pages = _pages(connection, seen) or {}
    indexes, keys = [], set()
    for table in _tables(connection):
        quoted = _quoted(table)
        for _, name, unique, origin, *_more in connection.exec_driver_sql(f"PRAGMA index_list({quoted})"):
            found = connection.exec_driver_sql(f"PRAGMA index_info({_quoted(_text(name))})").all()
            columns = tuple(None if row[2] is None else _text(row[2]) for row in found)
            needed = "primary key" if _text(origin) == "pk" else ""
            size = pages.get(_text(name), (None, 0, 0))[0]
            indexes.append(Index(table, _text(name), columns, bool(unique), None, size, needed))
        keys |= _keys(connection, table)
    seen.rows = index_rows(indexes, keys, log_table, None)
    return seen


def _keys(connection: sa.Connection, table: str) -> set[Key]:
    child: dict[int, list[str]] = {}
    parent: dict[int, tuple[str, list[str]]] = {}
    for row in connection.exec_driver_sql(f"PRAGMA foreign_key_list({_quoted(table)})"):
        child.setdefault(row[0], []).append(_text(row[3]))
        if row[4] is not None:
            parent.setdefault(row[0], (_text(row[2]), []))[1].append(_text(row[4]))
    return {Key(table, tuple(columns)) for columns in child.values()} | {
        Key(name, tuple(columns)) for name, columns in parent.values()
    }


def table_sizes(connection: sa.Connection, _log_table: str) -> Seen:
    seen = Seen()
    pages = _pages(connection, seen)
    page = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    whole = page * int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    if pages is None:
        free = page * int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())
        seen.rows = [{"table": WHOLE, "data_bytes": whole, "index_bytes": 0, "free_bytes": free, "bytes": whole}]
        return seen
    owner = {
        _text(name): _text(table)
        for name, table in connection.exec_driver_sql("SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index'")
    }
    for table in _tables(connection):
        data, unused, rows = pages.get(table, (0, 0, 0))
        indexes = sum(size for name, (size, _, _) in pages.items() if owner.get(name) == table)
        seen.rows.append(
            {
                "table": table, "rows": rows, "data_bytes": data, "index_bytes": indexes, "free_bytes": unused,
                "bytes": data + indexes,
            }
        )  # fmt: skip
    return seen


def _pages(connection: sa.Connection, seen: Seen) -> dict[str, tuple[int, int, int]] | None:
    """Bytes, unused bytes and cells of each table and index; None where that can't be measured."""
    size = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one()) * int(
        connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    )
    mode = _text(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
    if size > LARGEST and mode.lower() != "wal":
        seen.notes.append(
            f"The file has {size:,} bytes and is not in WAL mode: measuring each table would keep writers waiting, so"
            " the file is measured as a whole."
        )
        return None
    try:
        found = connection.exec_driver_sql(PAGES).all()
    except OperationalError as error:
        if "dbstat" not in str(error.orig):
            raise
        seen.notes.append("This SQLite library has no dbstat, so the file is measured as a whole.")
        return None
    return {_text(name): (int(size or 0), int(unused or 0), int(cells or 0)) for name, size, unused, cells in found}


def _tables(connection: sa.Connection) -> list[str]:
    found = connection.exec_driver_sql(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
    )
    return [_text(name) for (name,) in found]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
