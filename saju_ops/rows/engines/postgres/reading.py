"""Rows of PostgreSQL: values as text and back, digests, times, and values that a restore would not give back."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from saju_ops.database.connect import quote_every_name
from saju_ops.rows.comeback import UTC_OFFSET, Comeback, zone_offsets
from saju_ops.rows.days import FIRST_MOMENT, Day, moment, naive_bound
from saju_ops.rows.digest import NULL, SEPARATOR, Digest
from saju_ops.rows.engines.base import ENDLESS, RowStore
from saju_ops.rows.engines.interface import Key, Profile, Selection
from saju_ops.rows.engines.selecting import KEYS_PER_STATEMENT
from saju_ops.rows.table import TIME_COLUMN, Column

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8", "oid"}
# A function of PostgreSQL takes no more arguments.
MOST_ARGUMENTS = 100
# Types whose text can't hold the digest's separator.
PLAIN = NUMBERS | {
    "bool", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid", "bytea", "bit", "varbit",
}  # fmt: skip
SIGN_BIT = 1 << 63


class PostgresReading(RowStore):
    """Reads rows and asks the server for digests of them."""

    # Generated columns with their expressions.
    _generated: dict[str, str]

    def _quote(self, name: str) -> str:
        # SQLAlchemy doubles a percent sign for the driver; here statements are put together before that.
        return self.connection.dialect.identifier_preparer.quote(name).replace("%%", "%")

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


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
