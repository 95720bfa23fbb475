"""PostgreSQL: COPY in both directions, every statement of a proof in one snapshot."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from saju_ops.database.connect import quote_every_name
from saju_ops.errors import Busy, Refused
from saju_ops.rows.comeback import UTC_OFFSET, Comeback, zone_offsets
from saju_ops.rows.csvfile import write_rows
from saju_ops.rows.days import FIRST_MOMENT, Day, moment, naive_bound
from saju_ops.rows.digest import NULL, SEPARATOR, Digest
from saju_ops.rows.engines.base import (
    ENDLESS,
    KEYS_PER_STATEMENT,
    LOCK_WAIT_SECONDS,
    LogStore,
    NoPartition,
    require_key,
    require_table,
)
from saju_ops.rows.engines.interface import Key, Profile, Selection
from saju_ops.rows.readable import require_readable_by_oid
from saju_ops.rows.table import TIME_COLUMN, Column, Encoding, ForeignKey, Table

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8", "oid"}
# A function of PostgreSQL takes no more arguments.
MOST_ARGUMENTS = 100
# Types whose text can't hold the digest's separator.
PLAIN = NUMBERS | {
    "bool", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid", "bytea", "bit", "varbit",
}  # fmt: skip
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
# What a restore computes anew.
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
# Rows of partitions and of tables that inherit from this one go with it, so what references those counts too. A key
# between partitioned tables has copies for its partitions (conparentid), which would count twice.
FOREIGN_KEYS = sa.text(
    "WITH RECURSIVE own(oid) AS (SELECT CAST(:oid AS oid) UNION SELECT i.inhrelid FROM pg_inherits i JOIN own"
    " ON i.inhparent = own.oid)"
    " SELECT k.conname, kn.nspname, kc.relname, pn.nspname, pc.relname, k.confdeltype, k.conrelid,"
    " k.confrelid IN (SELECT oid FROM own),"
    " ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(n, o)"
    " JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY o),"
    " ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u(n, o)"
    " JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY o)"
    " FROM pg_constraint k JOIN pg_class kc ON kc.oid = k.conrelid JOIN pg_namespace kn ON kn.oid = kc.relnamespace"
    " JOIN pg_class pc ON pc.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = pc.relnamespace"
    " WHERE k.contype = 'f' AND (k.conrelid = :oid OR k.confrelid IN (SELECT oid FROM own))"
    " AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.oid = k.conparentid AND"
    " (c.conrelid = :oid OR c.confrelid IN (SELECT oid FROM own))) ORDER BY 2, 3, 1"
)
UNVALIDATED = sa.text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE conrelid = CAST(:name AS regclass) AND contype = 'c' AND NOT convalidated AND coninhcount = 0"
)
NOT_OWNER = "42501"
DELETE_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
SIGN_BIT = 1 << 63


class PostgresLogStore(LogStore):
    time_types = ("timestamptz", "timestamp", "date")

    def _quote(self, name: str) -> str:
        # SQLAlchemy doubles a percent sign for the driver; here statements are put together before that.
        return self.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")

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
        children, parents = _foreign_keys(self.connection.execute(FOREIGN_KEYS, oid).all(), found[0])
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

    def text(self, column: Column) -> sa.ColumnElement[Any]:
        col = self.col(column.name)
        if column.encoding == "hex":
            return sa.func.upper(sa.func.encode(col, sa.literal_column("'hex'")))
        return sa.cast(col, sa.Text)

    def typed(self, column: Column, cell: bytes) -> Any:
        if column.encoding == "hex":
            return sa.func.decode(cell.decode(), sa.literal_column("'hex'"))
        if column.family in ("int2", "int4", "int8"):
            return sa.literal(int(cell), sa.BigInteger)
        if column.family == "numeric":
            return sa.literal(Decimal(cell.decode()), sa.Numeric)
        return sa.cast(sa.literal(cell.decode(), sa.Text), _NamedType(column.type))

    @property
    def has_doubts(self) -> bool:
        return bool(self._generated)

    def comeback(self, day: Day, *, documents: bool) -> Comeback:
        """Functions that a generated column calls may be declared IMMUTABLE and yet depend on the session's zone, or
        may have been replaced since the row was written."""
        found: dict[str, dict[str, int]] = {}
        for each in zone_offsets(day, self.zone) if self._generated else []:
            with self.generating(each):
                found[each] = self._computed_otherwise(day)
            if not found[each]:
                return Comeback(offset=each)
        return Comeback(found.get(UTC_OFFSET, {}))

    def _computed_otherwise(self, day: Day) -> dict[str, int]:
        differ = {name: self._differs(name, expression) for name, expression in self._generated.items()}
        counts = (sa.func.count().filter(so) for so in differ.values())
        query = sa.select(*counts).select_from(self.from_).where(*self.day_condition(day))
        row = self.connection.execute(query).one()
        return {name: int(count) for name, count in zip(differ, row, strict=True) if count}

    def _differs(self, name: str, expression: str) -> Any:
        value: Any = sa.literal_column(f"({expression})")
        computed = sa.cast(sa.cast(value, _NamedType(self.table.column(name).type)), sa.Text)
        return sa.cast(self.col(name), sa.Text).is_distinct_from(computed)

    @contextmanager
    def generating(self, offset: str) -> Iterator[None]:
        if not self._generated or offset == UTC_OFFSET:
            yield
            return
        self.connection.exec_driver_sql(f"SET LOCAL TIME ZONE INTERVAL '{offset}' HOUR TO MINUTE")
        # A server's error ends the transaction, and the setting with it.
        yield
        self.connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")

    def folds(self, columns: Sequence[Column]) -> bool:
        return any(c.family == "citext" for c in columns)

    def folded(self, columns: Sequence[Column], keys: Sequence[Key]) -> list[Key]:
        lower = [sa.func.lower if c.family == "citext" else (lambda text: text) for c in columns]
        found: list[Key] = []
        for start in range(0, len(keys), KEYS_PER_STATEMENT):
            some = keys[start : start + KEYS_PER_STATEMENT]
            asked = [f(sa.literal(v.decode(), sa.Text)) for key in some for f, v in zip(lower, key, strict=True)]
            found += _in_keys(self.connection.execute(sa.select(postgresql.array(asked))).scalar_one(), len(columns))
        return found

    def _row_string(self) -> sa.ColumnElement[Any]:
        pieces: list[Any] = []
        null: Any = sa.literal_column(f"'{NULL}'")
        for column in self.table.columns:
            text = self.text(column)
            if column.framed:
                length = sa.func.octet_length(sa.func.convert_to(text, sa.literal_column("'UTF8'")))
                pieces += [sa.func.coalesce(sa.cast(length, sa.Text), null), text]
            else:
                pieces.append(sa.func.coalesce(text, null))
        return _joined(sa.literal_column(f"'{SEPARATOR}'"), pieces)

    def _row_hash(self) -> sa.ColumnElement[Any]:
        digest = sa.func.sha256(sa.func.convert_to(self._row_string(), sa.literal_column("'UTF8'")))
        digits = sa.literal_column("'x'").op("||")(
            sa.func.left(sa.func.encode(digest, sa.literal_column("'hex'")), sa.literal_column("16"))
        )
        return sa.cast(sa.cast(digits.self_group(), postgresql.BIT(64)), sa.BigInteger)

    # --- reads ---------------------------------------------------------------------------------------------

    def digest(self, selection: Selection, *, lock: bool = False) -> Digest:
        rows = sa.select(self._row_hash().label("saju_hash")).select_from(self.from_)
        rows = rows.where(*self.conditions(selection))
        # An aggregate can't lock; the rows below it can.
        inner = (rows.with_for_update() if lock else rows).subquery()
        query = sa.select(sa.func.count(), sa.func.bit_xor(inner.c.saju_hash)).select_from(inner)
        count, xor = self.connection.execute(query).one()
        return Digest(int(count), int(xor or 0) % (1 << 64))

    def profile(self, day: Day) -> Profile:
        width: Any = sa.literal_column("0")
        for column in self.table.columns:
            if column.framed or column.encoding == "hex":
                width = width + sa.func.coalesce(sa.func.octet_length(self.text(column)), 0)
        query = sa.select(sa.func.count(), sa.func.max(width)).select_from(self.from_)
        rows, widest = self.connection.execute(query.where(*self.day_condition(day))).one()
        return Profile(int(rows), int(widest or 0))

    def fast_csv(self, day: Day) -> Iterator[bytes | pa.RecordBatch] | None:
        return self._copy(day)

    def _copy(self, day: Day) -> Iterator[bytes]:
        """COPY gives the file's own format: quotes around all but NULL, doubled inside, line feeds."""
        dialect = postgresql.dialect(paramstyle="named")
        quote_every_name(dialect)
        query = self.row_select(Selection(day))
        statement = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        with self.driver() as raw, raw.cursor() as cursor:
            with cursor.copy(f"COPY ({statement}) TO STDOUT (FORMAT csv, FORCE_QUOTE *, ENCODING 'UTF8')") as copy:
                buffer = bytearray()
                for data in copy:
                    buffer += data
                    if len(buffer) >= 1 << 18:
                        yield bytes(buffer)
                        buffer.clear()
                yield bytes(buffer)

    # --- time ----------------------------------------------------------------------------------------------

    def time_bound(self, instant: datetime) -> Any:
        if self.table.time_type == "timestamptz":
            text = instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
            return sa.cast(sa.literal(text, sa.Text), sa.TIMESTAMP(timezone=True))
        text = naive_bound(instant, self.zone).strftime("%Y-%m-%d %H:%M:%S")
        return sa.cast(sa.literal(text, sa.Text), sa.TIMESTAMP)

    def _instant(self, value: Any) -> datetime | None:
        if value is None:
            return None
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            # Infinity, or a year that Python doesn't have: before everything, or beyond any day that is due.
            return FIRST_MOMENT if value.startswith("-") or "BC" in value else None
        return moment(parsed, self.zone)

    def instants(self, order: str) -> datetime | None:
        pick = sa.func.min if order == "asc" else sa.func.max
        query = sa.select(sa.cast(pick(self.col(TIME_COLUMN)), sa.Text)).select_from(self.from_)
        value = self.connection.execute(query).scalar()
        self.end_read()
        return self._instant(value)

    def undated(self, first: datetime) -> dict[str, int]:
        infinite = self._count_where(self.col(TIME_COLUMN) == sa.literal_column("'infinity'"))
        return super().undated(first) | {ENDLESS: infinite}

    def first_instant_from(self, instant: datetime) -> datetime | None:
        col = self.col(TIME_COLUMN)
        query = sa.select(sa.cast(sa.func.min(col), sa.Text)).where(col >= self.time_bound(instant))
        value = self.connection.execute(query.select_from(self.from_)).scalar()
        self.end_read()
        return self._instant(value)

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
        with self.connection.begin():
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

    def require_writable(self, columns: Sequence[Column]) -> None:
        query = sa.text("SELECT has_any_column_privilege(:table, 'INSERT'), current_user")
        table = self._quote(self.table.name)
        may, user = self.connection.execute(query, {"table": table}).one()
        self.end_read()
        if not may:
            raise Refused(
                f"{self.table.name} can't be written to by this account. Nothing was written; GRANT INSERT ON"
                f" {table} TO {self._quote(str(user))}."
            )

    def require_creatable(self, name: str) -> None:
        query = sa.text("SELECT current_schema(), current_user, has_schema_privilege(current_schema(), 'CREATE')")
        schema, user, may = self.connection.execute(query).one()
        self.end_read()
        if not may:
            raise Refused(
                f"{name} can't be written to by this account, which may not make it. Nothing was written; GRANT CREATE"
                f" ON SCHEMA {self._quote(str(schema))} TO {self._quote(str(user))}."
            )

    def create_like(self, name: str) -> None:
        quote = self._quote
        statements = [f"CREATE TABLE {quote(name)} (LIKE {quote(self.table.name)} INCLUDING ALL)"]
        # In the copy they would hold for all rows.
        statements += [f"ALTER TABLE {quote(name)} DROP CONSTRAINT {quote(each)}" for each in self._unvalidated()]
        with self.transaction():
            for statement in statements:
                self.connection.exec_driver_sql(statement.replace("%", "%%"))

    def _unvalidated(self) -> dict[str, str]:
        """The CHECKs that hold for new rows alone (NOT VALID), and their definitions."""
        name = {"name": self._quote(self.table.name)}
        return {_str(row[0]): _str(row[1]) for row in self.connection.execute(UNVALIDATED, name)}

    @contextmanager
    def _old_rows_taken(self) -> Iterator[None]:
        """Takes CHECKs that are NOT VALID from the table till the rows are in, and gives them back as they were, in the
        same transaction: nobody sees the table without them. Where the account doesn't own the table, they stay."""
        checks = self._unvalidated() if self.takes_old_rows else {}
        table, taken = self._quote(self.table.name), {}
        for name, definition in checks.items():
            try:
                with self.connection.begin_nested():
                    self._alter(f"ALTER TABLE {table} DROP CONSTRAINT {self._quote(name)}")
                taken[name] = definition
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != NOT_OWNER:
                    raise
        yield
        if taken:
            self.connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")  # what waits would forbid the change
        for name, definition in taken.items():
            self._alter(f"ALTER TABLE {table} ADD CONSTRAINT {self._quote(name)} {definition}")

    def _alter(self, statement: str) -> None:
        self.connection.exec_driver_sql(statement.replace("%", "%%"))

    def _catch_up_sequences(self, table: str, columns: Sequence[Column]) -> None:
        """Numbers that a sequence gives go on after the highest restored one; a sequence never goes back."""
        for column in columns:
            if column.family not in ("int2", "int4", "int8"):
                continue
            sequence = self.connection.execute(
                sa.text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": self._quote(table), "column": column.name},
            ).scalar()
            if not sequence or not self._may_set(str(sequence), table, column.name):
                continue
            highest = sa.select(sa.func.max(sa.column(column.name))).select_from(sa.table(table)).scalar_subquery()
            current = sa.select(sa.literal_column("last_value")).select_from(sa.text(sequence)).scalar_subquery()
            named = sa.cast(sa.literal(sequence, sa.Text), _NamedType("regclass"))
            self.connection.execute(sa.select(sa.func.setval(named, highest)).where(highest > current))

    def _may_set(self, sequence: str, table: str, column: str) -> bool:
        """Old rows have smaller numbers than the sequence gives by now, unless the table is a new one."""
        query = "SELECT has_sequence_privilege(:name, 'SELECT') AND has_sequence_privilege(:name, 'UPDATE')"
        may = bool(self.connection.execute(sa.text(query), {"name": sequence}).scalar())
        if not may:
            remark = (
                f"This account may not set the sequence {sequence}, which numbers {table}.{column}. If the table was"
                f" new, set it before the service writes, to the greatest {column} that there is (setval)."
            )
            self.remarks += [remark] if remark not in self.remarks else []
        return may

    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        writable = [c for c in columns if not c.generated]
        quote = self._quote
        names = ", ".join(quote(c.name) for c in writable)
        statement = f"COPY {quote(table)} ({names}) FROM STDIN (FORMAT csv, ENCODING 'UTF8')"
        with self._old_rows_taken(), self.driver() as raw, raw.cursor() as cursor:
            try:
                with cursor.copy(statement) as copy:
                    write_rows((_for_copy(batch, writable) for batch in batches), _CopySink(copy))
            except self.connection.dialect.loaded_dbapi.Error as error:
                # The server's code for a row without a partition is that of a CHECK.
                if str(getattr(error, "diag", None) and error.diag.message_primary).startswith("no partition of"):
                    raise NoPartition(table) from None
                raise
        self._catch_up_sequences(table, writable)


def _joined(separator: Any, pieces: Sequence[Any]) -> Any:
    """CONCAT_WS of any number of pieces. It leaves out NULLs, so a part of it is never NULL itself: the first piece of
    each column, its text or its length, is none."""
    if len(pieces) < MOST_ARGUMENTS:
        return sa.func.concat_ws(separator, *pieces)
    size = MOST_ARGUMENTS // 2
    parts = [pieces[start : start + size] for start in range(0, len(pieces), size)]
    return _joined(separator, [_joined(separator, part) for part in parts])


def _in_keys(values: Sequence[str], width: int) -> Iterator[Key]:
    return (tuple(v.encode() for v in values[i : i + width]) for i in range(0, len(values), width))


class _CopySink(io.RawIOBase):
    def __init__(self, copy: Any) -> None:
        self._copy = copy

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._copy.write(bytes(data))
        return len(data)


class _NamedType(sa.types.UserDefinedType[Any]):
    """A type by the name that the server's catalogue gives it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def _for_copy(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for column in columns:
        cells = batch.column(column.name).cast(pa.binary()).cast(pa.string())
        if column.encoding == "hex":
            cells = pc.binary_join_element_wise(pa.scalar("\\x"), cells, "")
        arrays.append(cells)
    return pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])


def _column(row: Any) -> Column:
    name, declared, _type_name, not_null, generated, base, _length = row
    family = str(base)
    encoding: Encoding = "hex" if family == "bytea" else "number" if family in NUMBERS else "text"
    kind = _str(generated)
    return Column(name, declared, encoding, family not in PLAIN, not not_null, bool(kind and kind.strip()), family)


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _foreign_keys(rows: Sequence[Any], oid: int) -> tuple[tuple[ForeignKey, ...], tuple[ForeignKey, ...]]:
    children, parents = [], []
    for name, schema, table, parent_schema, parent, rule, child_oid, is_child, columns, parent_columns in rows:
        rule = DELETE_RULES.get(_str(rule), _str(rule))
        key = ForeignKey(name, table, tuple(columns), parent, tuple(parent_columns), rule, schema, parent_schema)
        if is_child:
            children.append(key)
        if child_oid == oid:
            parents.append(key)
    return tuple(children), tuple(parents)
