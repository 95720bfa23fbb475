"""PostgreSQL: COPY in both directions, every statement of a proof in one snapshot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from saju_ops.database.snapshots import reading as snapshot_lock
from saju_ops.errors import Busy
from saju_ops.rows.engines.base import LOCK_WAIT_SECONDS, require_key, require_table
from saju_ops.rows.engines.postgres.reading import NUMBERS, PLAIN, _str
from saju_ops.rows.engines.postgres.writing import PostgresWriting
from saju_ops.rows.foreign_keys import postgres_keys_of
from saju_ops.rows.readable import require_readable_by_oid
from saju_ops.rows.table import TIME_COLUMN, Column, Encoding, Table

LOCK_POLL_SECONDS = 0.2

TABLE = sa.text(
    "SELECT c.oid, c.relkind, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relname = :name AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)"
)
COLUMNS = sa.text(
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname, a.attnotnull, a.attgenerated,"
    " COALESCE(b.typname, t.typname), a.attlen"
    " FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype"
    " WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
# The columns that a restore computes anew.
GENERATED = sa.text(
    "SELECT a.attname, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid"
    " AND d.adnum = a.attnum WHERE a.attrelid = :oid AND a.attgenerated = 's' AND NOT a.attisdropped"
)
INDEXES = sa.text(
    "SELECT i.indexrelid::regclass::text, i.indisprimary, i.indisunique AND i.indpred IS NULL AND i.indisvalid"
    " AND i.indimmediate AND i.indexprs IS NULL,"
    " ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int[]) WITH ORDINALITY AS k(attnum, n)"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
    " WHERE n <= i.indnkeyatts ORDER BY n), i.indpred IS NULL"
    " FROM pg_index i WHERE i.indrelid = :oid ORDER BY i.indisprimary DESC, 1"
)


class PostgresRowStore(PostgresWriting):
    time_types = ("timestamptz", "timestamp", "date")

    def describe(self, table: str) -> Table:
        found = self.connection.execute(TABLE, {"name": table}).first()
        require_table(found, table, self.url)
        assert found is not None
        require_readable_by_oid(self.connection, table, found[0])
        oid = {"oid": found[0]}
        columns = tuple(_column(row) for row in self.connection.execute(COLUMNS, oid))
        self._generated = {str(_str(row[0])): str(row[1]) for row in self.connection.execute(GENERATED, oid)}
        indexes = self.connection.execute(INDEXES, oid).all()
        required = {c.name for c in columns if not c.nullable}
        keys = [tuple(r[3]) for r in indexes if r[2] and r[3] and set(r[3]) <= required]
        require_key(table, keys[0] if keys else ())
        time_type = next((c.family for c in columns if c.name == TIME_COLUMN), "")
        version = str(self.connection.execute(sa.text("SHOW server_version")).scalar_one())
        database = str(self.connection.execute(sa.text("SELECT current_database()")).scalar_one())
        children, parents = postgres_keys_of(self.connection, found[0])
        self.end_read()
        return Table(
            engine="postgresql", server_version=version, database=database, name=table, columns=columns, key=keys[0],
            time_type=time_type,
            time_index=next((r[0] for r in indexes if r[4] and r[3] and r[3][0] == TIME_COLUMN), None),
            children=children, parents=parents, found_in=_str(found[2]),
        )  # fmt: skip

    def sizes(self) -> dict[str, int]:
        name = self._quote(self.table.name)
        query = sa.text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
        size = int(self.connection.execute(query, {"name": name}).scalar_one())
        self.end_read()
        return {"table_bytes": size, "free_bytes": 0}

    @property
    def reclaim_hint(self) -> str:
        return (
            "PostgreSQL reuses the freed space after autovacuum; only VACUUM FULL (which locks the table) gives it"
            " back to the disk."
        )

    # --- text and back -------------------------------------------------------------------------------------

    # --- reads ---------------------------------------------------------------------------------------------

    # --- time ----------------------------------------------------------------------------------------------

    # --- locks and changes ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, wait: float) -> Iterator[Callable[[], bool]]:
        identity = f"saju_ops:{self.table.database}.{self.table.name}:{name}".encode()
        number = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big", signed=True)
        deadline = time.monotonic() + wait
        ask = "SELECT CASE WHEN pg_try_advisory_lock(:number) THEN pg_backend_pid() END"
        while not (session := self._scalar(ask, number)):
            if time.monotonic() >= deadline:
                raise Busy(
                    f"Another run works on {name} of {self.table.name}. Nothing was done; launch again when it has"
                    " ended."
                )
            time.sleep(LOCK_POLL_SECONDS)
        try:
            # The lock is the session's: it is held as long as this connection has the same one.
            yield lambda: self._scalar("SELECT pg_backend_pid() WHERE :number IS NOT NULL", number) == session
        finally:
            if not self.connection.invalidated and not self.connection.closed:
                self.end_read()  # in a transaction that failed the server would answer nothing else
                self._scalar("SELECT pg_advisory_unlock(:number)", number)

    def _scalar(self, statement: str, number: int) -> Any:
        in_transaction = self.connection.in_transaction()
        value = self.connection.execute(
            sa.text(statement).bindparams(sa.bindparam("number", number, sa.BigInteger))
        ).scalar()
        if not in_transaction:
            self.end_read()
        return value

    def wait_briefly(self) -> None:
        # Committed: a rollback would take the setting back.
        with self.transaction():
            self.connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")

    def check_now(self) -> None:
        self.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.end_read()
        with snapshot_lock(self.connection), self.connection.begin():
            self.connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield

    def replica_lag(self, replicas: Sequence[sa.URL]) -> float | None:
        # Without pg_monitor an account sees that there are replicas and nothing more of them.
        query = (
            "SELECT count(*), count(*) FILTER (WHERE state IS NULL), EXTRACT(EPOCH FROM max(replay_lag))"
            " FROM pg_stat_replication"
        )
        count, hidden, lag = self.connection.execute(sa.text(query)).one()
        self.end_read()
        return float(lag or 0) if count and not hidden else None

    # --- restore -------------------------------------------------------------------------------------------


def _column(row: Any) -> Column:
    name, declared, _type_name, not_null, generated, base, _length = row
    family = str(base)
    encoding: Encoding = "hex" if family == "bytea" else "number" if family in NUMBERS else "text"
    kind = _str(generated)
    return Column(
        name,
        declared,
        encoding,
        family not in PLAIN,
        nullable=not not_null,
        generated=bool(kind and kind.strip()),
        family=family,
    )
