"""What PostgreSQL shows of statements, indexes and tables, by pg_stat_statements and its own statistics.

Looks only. Statements are those of this database alone; the texts of utility statements, which keep their literals, are
left out (query_text).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database_reports.query_text import is_query, without_values
from saju_ops.database_reports.seen import ASKED_FOR, MOST_QUERIES, Index, Key, Seen, index_rows, query_row

EXTENSION = sa.text(
    "SELECT quote_ident(n.nspname), e.extversion FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
    " WHERE e.extname = 'pg_stat_statements'"
)
# An account of several: the same statement of each has a row.
STATEMENTS = (
    "SELECT queryid::text, min(query), sum(calls)::bigint, sum(total_exec_time), max(max_exec_time), sum(rows)::bigint"
    " FROM {schema}.pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND queryid IS NOT NULL GROUP BY queryid ORDER BY sum(total_exec_time) DESC LIMIT {limit}"
)
SEES_ALL = sa.text("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), quote_ident(current_user)")
_OWN = (
    "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%%'"
    " AND n.nspname NOT LIKE 'pg\\_temp%%'"
)
_TABLE = "CASE WHEN n.nspname = current_schema() THEN c.relname::text ELSE n.nspname || '.' || c.relname END"
NAMES = (
    "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _OWN +  # noqa: S608
    " UNION SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _OWN
)  # fmt: skip
INDEXES = (
    f"SELECT {_TABLE}, x.relname::text, i.indisunique, i.indisprimary, i.indisexclusion, i.indisreplident,"  # noqa: S608
    " EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid), s.idx_scan, pg_relation_size(i.indexrelid),"
    " ARRAY(SELECT a.attname::text FROM generate_series(0, i.indnkeyatts - 1) AS k(n) LEFT JOIN pg_attribute a"
    "  ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n] AND a.attnum > 0 ORDER BY k.n)"
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = i.indexrelid"
    f" WHERE x.relkind = 'i' AND {_OWN}"
)
FOREIGN_KEYS = "".join(
    (
        f"SELECT {_TABLE}, ARRAY(SELECT a.attname::text FROM unnest(f.{numbers}) WITH ORDINALITY AS k(n, o)"  # noqa: S608
        f" JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY k.o)"
        f" FROM pg_constraint f JOIN pg_class c ON c.oid = f.{table} JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE f.contype = 'f'{between}"
    )
    for table, numbers, between in (("conrelid", "conkey", " UNION ALL "), ("confrelid", "confkey", ""))
)
# In the order of the columns of INDEXES.
NEEDED_FOR = ("primary key", "an exclusion constraint", "the replica identity", "the index of the partitioned table")
# A table's partitions count as the table.
SIZES = (
    "WITH leaves AS (SELECT COALESCE(pg_partition_root(c.oid)::oid, c.oid) AS root, c.reltuples AS rows,"  # noqa: S608
    " pg_table_size(c.oid) AS data, pg_indexes_size(c.oid) AS indexes FROM pg_class c"
    f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND {_OWN})"
    f" SELECT {_TABLE}, sum(rows) FILTER (WHERE rows >= 0), sum(data)::bigint, sum(indexes)::bigint"
    " FROM leaves JOIN pg_class c ON c.oid = root JOIN pg_namespace n ON n.oid = c.relnamespace GROUP BY 1"
)
NO_EXTENSION = (
    "The extension pg_stat_statements is not in this database: write shared_preload_libraries = 'pg_stat_statements'"
    " into postgresql.conf, restart the server, and say CREATE EXTENSION pg_stat_statements; in this database"
    " (Debian has it in postgresql-contrib)."
)
NOT_LOADED = (
    "pg_stat_statements is not loaded: write shared_preload_libraries = 'pg_stat_statements' into postgresql.conf and"
    " restart the server."
)
NOT_IN_PREREQUISITE_STATE, NO_RIGHT = "55000", "42501"


def slow_queries(connection: sa.Connection, _log_table: str) -> Seen:
    extension = connection.execute(EXTENSION).one_or_none()
    if extension is None:
        return Seen(missing=[NO_EXTENSION])
    schema, version = extension
    seen = Seen()
    sees_all, user = connection.execute(SEES_ALL).one()
    if not sees_all:
        seen.missing.append(
            f"The account sees its own statements alone. An administrator may say: GRANT pg_read_all_stats TO {user};"
        )
    try:
        rows = connection.exec_driver_sql(STATEMENTS.format(schema=schema, limit=ASKED_FOR)).all()
        since = _since_of_statements(connection, schema, str(version))
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        connection.rollback()
        if state == NOT_IN_PREREQUISITE_STATE:
            return Seen(missing=[NOT_LOADED])
        if state == NO_RIGHT:
            missing = f"The account may not read {schema}.pg_stat_statements. An administrator may say: "
            return Seen(missing=[f"{missing}GRANT SELECT ON {schema}.pg_stat_statements TO {user};"])
        raise
    if connection.exec_driver_sql("SELECT current_setting('pg_stat_statements.track', true)").scalar() == "none":
        seen.missing.append("pg_stat_statements.track is none, so nothing is counted: set it to top.")
    known = {str(name) for (name,) in connection.exec_driver_sql(NAMES)}
    for digest, text, calls, total, longest, number in rows:
        if is_query(text) and len(seen.rows) < MOST_QUERIES:
            seen.rows.append(
                query_row(
                    digest, without_values(text, known), int(calls), float(total), float(longest), since,
                    rows_sent=int(number),
                )
            )  # fmt: skip
    return seen


def _since_of_statements(connection: sa.Connection, schema: str, version: str) -> datetime | None:
    """None before version 1.9, of PostgreSQL 14."""
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 9):
        return None
    found: Any = connection.exec_driver_sql(f"SELECT stats_reset FROM {schema}.pg_stat_statements_info").scalar()  # noqa: S608
    return found


def index_usage(connection: sa.Connection, log_table: str) -> Seen:
    seen = Seen()
    counted = connection.exec_driver_sql("SHOW track_counts").scalar() == "on"
    if not counted:
        seen.missing.append("track_counts is off, so nobody counts how often an index is read: set track_counts = on.")
    since = connection.exec_driver_sql(
        "SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()"
    ).scalar()
    if connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar():
        seen.notes.append("This server is a replica: its counters know nothing of the primary's queries.")
    indexes = []
    for table, name, unique, *needs, scans, size, columns in connection.exec_driver_sql(INDEXES):
        needed = next((what for what, needs_it in zip(NEEDED_FOR, needs, strict=True) if needs_it), "")
        uses = None if scans is None or (not counted and not scans) else int(scans)
        indexes.append(Index(table, name, tuple(columns), bool(unique), uses, int(size or 0), needed))
    keys = {Key(table, tuple(columns)) for table, columns in connection.exec_driver_sql(FOREIGN_KEYS)}
    seen.rows = index_rows(indexes, keys, log_table, since)
    return seen


def table_sizes(connection: sa.Connection, _log_table: str) -> Seen:
    seen = Seen()
    for table, rows, data, indexes in connection.exec_driver_sql(SIZES):
        size = (int(data or 0), int(indexes or 0))
        seen.rows.append(
            {
                "table": table, "rows": None if rows is None else int(rows), "data_bytes": size[0],
                "index_bytes": size[1], "bytes": sum(size),
            }
        )  # fmt: skip
    return seen
