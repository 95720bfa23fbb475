"""What MySQL and MariaDB show of statements, indexes and tables, by performance_schema and information_schema.

Looks only. Where performance_schema is off its tables have no rows and raise no error, so it is asked first; where an
instrument or a consumer is off, counters stay at 0, which would look like an index that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.mysql_grants import (
    DENIED,
    account,
    database_in_grant,
    error_number,
    grants_of,
    may_read_database,
    takes_names_literally,
)
from saju_ops.database_reports.query_text import is_query, without_values
from saju_ops.database_reports.seen import ASKED_FOR, MOST_QUERIES, Index, Key, Seen, index_rows, query_row

# To the letter: databases of one server may differ by case or accent alone.
_OURS = "CAST({} AS BINARY) = CAST(DATABASE() AS BINARY)"
# A digest that only ever failed may hold what is no name of the database.
DIGESTS = sa.text(
    "SELECT DIGEST, DIGEST_TEXT, COUNT_STAR, SUM_TIMER_WAIT / 1e9, MAX_TIMER_WAIT / 1e9, SUM_ROWS_EXAMINED,"  # noqa: S608
    " SUM_ROWS_SENT + SUM_ROWS_AFFECTED, SUM_NO_INDEX_USED FROM performance_schema.events_statements_summary_by_digest"
    f" WHERE {_OURS.format('SCHEMA_NAME')} AND DIGEST IS NOT NULL AND DIGEST_TEXT IS NOT NULL"
    f" AND SUM_ERRORS < COUNT_STAR ORDER BY SUM_TIMER_WAIT DESC LIMIT {ASKED_FOR}"
)
INDEX_USES = sa.text(
    "SELECT OBJECT_NAME, INDEX_NAME, COUNT_STAR FROM performance_schema.table_io_waits_summary_by_index_usage"  # noqa: S608
    f" WHERE {_OURS.format('OBJECT_SCHEMA')} AND OBJECT_TYPE = 'TABLE' AND INDEX_NAME IS NOT NULL"
)
INDEXES = sa.text(
    "SELECT TABLE_NAME, INDEX_NAME, NON_UNIQUE, INDEX_TYPE, COLUMN_NAME FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
)
FOREIGN_KEYS = sa.text(
    "SELECT CONSTRAINT_SCHEMA, CONSTRAINT_NAME, TABLE_SCHEMA = DATABASE(), TABLE_NAME, COLUMN_NAME,"
    " REFERENCED_TABLE_SCHEMA = DATABASE(), REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME"
    " FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL"
    " AND (TABLE_SCHEMA = DATABASE() OR REFERENCED_TABLE_SCHEMA = DATABASE())"
    " ORDER BY CONSTRAINT_SCHEMA, CONSTRAINT_NAME, TABLE_NAME, ORDINAL_POSITION"
)
SIZES = sa.text(
    "SELECT TABLE_NAME, TABLE_ROWS, DATA_LENGTH, INDEX_LENGTH, DATA_FREE FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'"
)
NAMES = sa.text(
    "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    " UNION SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE()"
)
OFF = (
    "performance_schema is off, so the server counts nothing: write performance_schema=ON into its configuration"
    " ([mysqld]) and restart it."
)
CONSUMER_OFF = (
    "The consumer {0} is off: UPDATE performance_schema.setup_consumers SET ENABLED = 'YES' WHERE NAME = '{0}';"
)
INSTRUMENT_OFF = (
    "The instrument {0} is off: UPDATE performance_schema.setup_instruments SET ENABLED = 'YES', TIMED = 'YES' WHERE"
    " NAME = '{0}'; and, for the next start, performance-schema-instrument='{0}=ON' in the server's configuration."
)
INSTRUMENT = sa.text("SELECT ENABLED = 'YES' FROM performance_schema.setup_instruments WHERE NAME = :name")
CONSUMERS = sa.text("SELECT NAME FROM performance_schema.setup_consumers WHERE ENABLED <> 'YES' AND NAME IN :names")
OBJECTS = sa.text(
    "SELECT OBJECT_SCHEMA, OBJECT_NAME FROM performance_schema.setup_objects"
    " WHERE OBJECT_TYPE = 'TABLE' AND ENABLED <> 'YES' AND OBJECT_SCHEMA = DATABASE()"
)
STATUS = sa.text("SHOW GLOBAL STATUS WHERE Variable_name = 'Uptime' OR Variable_name LIKE 'Performance_schema%lost'")
HANDLER = "wait/io/table/sql/handler"
STATEMENTS = "statement/sql/select"


def slow_queries(connection: sa.Connection, _log_table: str) -> Seen:
    seen = _seen(connection, ("global_instrumentation", "statements_digest"), STATEMENTS)
    if seen is None:
        return Seen(missing=[OFF])
    rows = _allowed(connection, seen, lambda: connection.execute(DIGESTS).all())
    status, since = _status(connection)
    known = {str(name) for (name,) in connection.execute(NAMES)}
    for digest, text, calls, total, longest, examined, sent, unindexed in rows:
        if is_query(_text(text)) and len(seen.rows) < MOST_QUERIES:
            seen.rows.append(
                query_row(
                    _text(digest), without_values(_text(text), known), int(calls), float(total), float(longest), since,
                    rows_examined=int(examined), rows_sent=int(sent), without_index=int(unindexed),
                )
            )  # fmt: skip
    if lost := status.get("Performance_schema_digest_lost", 0):
        seen.missing.append(
            f"The server had no room for the digests of some statements ({lost:,}): raise"
            " performance_schema_digests_size, or empty the table with TRUNCATE TABLE"
            " performance_schema.events_statements_summary_by_digest."
        )
    return seen


def index_usage(connection: sa.Connection, log_table: str) -> Seen:
    seen = _seen(connection, ("global_instrumentation",), HANDLER)
    off = seen is None
    seen = Seen(missing=[OFF]) if seen is None else seen
    uses: dict[tuple[str, str], int] = {}
    status, since = _status(connection)
    # Counters that may be incomplete say nothing about an index that they have at 0.
    counted = not off and not seen.missing
    if not off:
        found = _allowed(connection, seen, lambda: connection.execute(INDEX_USES).all())
        uses = {(_text(table), _text(index)): int(number) for table, index, number in found}
        if lost := sum(status.get(f"Performance_schema_{n}_lost", 0) for n in ("index_stat", "table_handles")):
            seen.missing.append(
                f"The server had no room for the counters of some indexes or tables ({lost:,}): raise"
                " performance_schema_max_index_stat and performance_schema_max_table_handles."
            )
    _require_all_tables(connection, seen)
    seen.rows = index_rows(
        list(_indexes(connection, uses, counted)), _keys(connection), log_table, None if off else since
    )
    return seen


def table_sizes(connection: sa.Connection, _log_table: str) -> Seen:
    if not getattr(connection.dialect, "is_mariadb", False):
        # MySQL keeps these numbers for a day.
        connection.exec_driver_sql("SET SESSION information_schema_stats_expiry = 0")
    seen = Seen()
    for table, rows, data, index, free in connection.execute(SIZES):
        size = (int(data or 0), int(index or 0))
        seen.rows.append(
            {
                "table": _text(table), "rows": None if rows is None else int(rows), "data_bytes": size[0],
                "index_bytes": size[1], "free_bytes": int(free or 0), "bytes": sum(size),
            }
        )  # fmt: skip
    _require_all_tables(connection, seen)
    return seen


def _seen(connection: sa.Connection, consumers: Sequence[str], instrument: str) -> Seen | None:
    """What is switched off of what a report needs; None where all of performance_schema is."""
    if not connection.exec_driver_sql("SELECT @@performance_schema").scalar():
        return None
    seen = Seen()
    named = CONSUMERS.bindparams(sa.bindparam("names", expanding=True))
    for (name,) in _allowed(connection, seen, lambda: connection.execute(named, {"names": list(consumers)}).all()):
        seen.missing.append(CONSUMER_OFF.format(_text(name)))
    found = _allowed(connection, seen, lambda: connection.execute(INSTRUMENT, {"name": instrument}).all())
    if any(not on for (on,) in found):
        seen.missing.append(INSTRUMENT_OFF.format(instrument))
    if instrument == HANDLER and _allowed(connection, seen, lambda: connection.execute(OBJECTS).all()):
        seen.missing.append("performance_schema.setup_objects leaves tables of this database out: set ENABLED = 'YES'.")
    return seen


def _allowed(connection: sa.Connection, seen: Seen, ask: Callable[[], Iterable[Any]]) -> Iterable[Any]:
    """What the server answers; nothing, and which GRANT is missing, where the account may not ask that."""
    try:
        return ask()
    except DBAPIError as error:
        if error_number(error) not in DENIED:
            raise
        grant = f"GRANT SELECT ON performance_schema.* TO {account(connection)};"
        sentence = f"The account may not read performance_schema. An administrator may say: {grant}"
        if sentence not in seen.missing:
            seen.missing.append(sentence)
        return ()


def _require_all_tables(connection: sa.Connection, seen: Seen) -> None:
    """The catalogue leaves out, without a word, the tables that an account has no right on."""
    if may_read_database(connection):
        return
    database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar())
    names = database_in_grant(grants_of(connection), database, literal=takes_names_literally(connection))
    said = " ".join(f"GRANT SELECT ON {name}.* TO {account(connection)};" for name in names)
    seen.missing.append(f"Tables that the account may not read are left out. An administrator may say: {said}")


def _status(connection: sa.Connection) -> tuple[dict[str, int], datetime]:
    """The counters of what was lost, and when the server started: its counters begin then."""
    status = {_text(name): int(value) for name, value in connection.execute(STATUS)}
    return status, datetime.now(UTC) - timedelta(seconds=status.get("Uptime", 0))


def _indexes(connection: sa.Connection, uses: dict[tuple[str, str], int], counted: bool) -> Iterable[Index]:
    found = connection.execute(INDEXES).all()
    for (table, name), group in groupby(found, key=lambda row: (_text(row[0]), _text(row[1]))):
        rows = list(group)
        number = uses.get((table, name))
        kind = _text(rows[0][3]).upper()
        needed = "primary key" if name == "PRIMARY" else ""
        if kind in ("FULLTEXT", "SPATIAL"):  # nobody counts how often these are read
            number, needed = None, needed or f"{kind.lower()} searches, which are not counted"
        if not counted and number == 0:
            number = None
        columns = tuple(None if row[4] is None else _text(row[4]) for row in rows)
        yield Index(table, name, columns, unique=not int(rows[0][2]), uses=number, needed_for=needed)


def _keys(connection: sa.Connection) -> set[Key]:
    found = connection.execute(FOREIGN_KEYS).all()
    keys = set()
    for _, group in groupby(found, key=lambda row: (row[0], row[1], row[3])):
        rows = list(group)
        if rows[0][2]:
            keys.add(Key(_text(rows[0][3]), tuple(_text(row[4]) for row in rows)))
        if rows[0][5]:
            keys.add(Key(_text(rows[0][6]), tuple(_text(row[7]) for row in rows)))
    return keys


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
