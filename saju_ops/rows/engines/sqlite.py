"""SQLite: the database is a file in this process, so what it computes is a second, separate read.

A SQLite cell has a type of its own. A column whose cells all have the one type that its declaration asks for
is written like any other; where types are mixed, each cell of that column is written as an SQL literal.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import SQLiteText
from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.rows.days import FIRST_MOMENT, Day, moment, naive_bound
from saju_ops.rows.digest import EMPTY, Digest, row_hashes
from saju_ops.rows.engines.base import LogStore, require_key, require_table
from saju_ops.rows.engines.interface import BATCH_ROWS, Key, Profile, Selection
from saju_ops.rows.table import TIME_COLUMN, Column, Encoding, ForeignKey, Table

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_POLL_SECONDS = 0.2
# How a time ends that says its offset.
OFFSETS = ("*[0-9]Z", "*[0-9]z", "*[+-][0-9][0-9]:[0-9][0-9]")
KINDS: dict[str, type] = {"text": SQLiteText, "integer": int, "real": float, "blob": bytes}
FOREIGN_KEYS = 'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq'
# What SQLite says of a table with a foreign key to columns that aren't unique or aren't there, or to no table. No such
# row can be deleted or written as long as it enforces keys, which it does only where a program asks for it.
WRONG_KEY = re.compile("foreign key mismatch|no such table: ")
# What SQLite's own collations compare: bytes.lower() knows ASCII alone, as NOCASE does.
FOLDS: dict[str, Callable[[bytes], bytes]] = {"NOCASE": bytes.lower, "RTRIM": lambda text: text.rstrip(b" ")}
ENCODINGS: dict[str, Encoding] = {"text": "text", "integer": "number", "real": "number", "blob": "hex"}


class SQLiteLogStore(LogStore):
    # A column that holds texts and others: the others have no day, and stay.
    time_types = ("text", "literal")

    def describe(self, table: str) -> Table:
        rows = self._all('SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid', table)
        rows = [r for r in rows if r[4] != 1]
        require_table(rows, table, self.url)
        key = self._key(table, rows)
        require_key(table, key)
        columns = tuple(
            Column(_text(n), _text(declared), "text", True, not notnull, hidden in (2, 3), "text")
            for n, declared, notnull, _pk, hidden in rows
        )
        index = self._all(
            "SELECT l.name FROM pragma_index_list(?) l JOIN pragma_index_info(l.name) i"
            " WHERE i.seqno = 0 AND i.name = ? AND NOT l.partial", table, TIME_COLUMN,
        )  # fmt: skip
        self.pass_over_wrong_keys([table])
        version = _text(self._all("SELECT sqlite_version()")[0][0])
        columns = self._with_encodings(table, columns)
        time_type = next((c.family for c in columns if c.name == TIME_COLUMN), "")
        return Table(
            engine="sqlite", server_version=version, database=Path(self.url.database or "").name, name=table,
            columns=columns, key=key, time_type=time_type,
            time_index=_text(index[0][0]) if index else None,
            children=self._children(table), parents=self._foreign_keys_of(table),
        )  # fmt: skip

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with self.driver() as raw:
            found: list[Any] = raw.execute(statement, values).fetchall()
        return found

    def _key(self, table: str, rows: Sequence[Any]) -> tuple[str, ...]:
        primary = sorted((r for r in rows if r[3]), key=lambda r: r[3])
        # A PRIMARY KEY that isn't the rowid may hold NULLs in SQLite, unless it is declared NOT NULL.
        rowid = len(primary) == 1 and _text(primary[0][1]).upper() == "INTEGER"
        if primary and (rowid or all(r[2] for r in primary) or not self._has_null(table, primary)):
            return tuple(_text(r[0]) for r in primary)
        required = {_text(r[0]) for r in rows if r[2]}
        for (index,) in self._all(
            'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial ORDER BY name', table
        ):
            names = [r[0] for r in self._all("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index)]
            if None not in names and {_text(n) for n in names} <= required:
                return tuple(_text(n) for n in names)
        return ()

    def _has_null(self, table: str, primary: Sequence[Any]) -> bool:
        columns: list[sa.ColumnElement[Any]] = [sa.column(_text(r[0])) for r in primary]
        query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(sa.table(table)).where(
            sa.or_(*(c.is_(None) for c in columns))
        )))  # fmt: skip
        return bool(self.connection.execute(query).scalar())

    def _with_encodings(self, table: str, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Looks which types the cells of each column have, once for the whole table."""
        kinds = [sa.func.typeof(sa.column(c.name)).label(f"saju_{i}") for i, c in enumerate(columns)]
        rows = self.connection.execute(sa.select(*kinds).select_from(sa.table(table)).distinct()).all()
        self.end_read()
        return tuple(_encoded(c, {_text(r[i]) for r in rows} - {"null"}) for i, c in enumerate(columns))

    def adopt(self, columns: Sequence[Column], writing: Day | None = None) -> bool:
        """How a column's cells are written depends on what they are, so a file's own way is taken over; but not
        to write rows of other types than the file's columns have."""
        if sorted(c.name for c in columns) != sorted(self.table.names):
            return False
        own = self.table.columns
        self.use(columns)
        if writing is not None and not self._fits(writing):
            self.use(own)
            return False
        return True

    def _fits(self, day: Day) -> bool:
        odd = [
            sa.func.typeof(self.col(c.name)).not_in(["null", c.family])
            for c in self.table.columns
            if c.encoding != "literal"
        ]
        query = sa.select(sa.exists(sa.select(sa.literal(1)).select_from(self.from_).where(
            *self.day_condition(day), sa.or_(sa.false(), *odd)
        )))  # fmt: skip
        found = self.connection.execute(query).scalar()
        self.end_read()
        return not found

    def _children(self, table: str) -> tuple[ForeignKey, ...]:
        tables = [_text(r[0]) for r in self._all("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        keys = (key for name in tables for key in self._foreign_keys_of(name))
        return tuple(k for k in keys if k.parent.lower() == table.lower())

    def _foreign_keys_of(self, table: str) -> tuple[ForeignKey, ...]:
        rows = self._all(FOREIGN_KEYS, table)
        texts = [tuple(v if v is None else _text(v) for v in row) for row in rows]
        return tuple(foreign_keys(table, texts, self._columns_of, self._primary))

    def _columns_of(self, table: str) -> dict[str, str]:
        """The columns as the table writes them, by their names in small letters; empty where there is no such table."""
        names = [_text(row[0]) for row in self._all("SELECT name FROM pragma_table_xinfo(?)", table)]
        return {name.lower(): name for name in names}

    def _primary(self, table: str) -> tuple[str, ...]:
        rows = self._all("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", table)
        return tuple(_text(r[0]) for r in rows)

    def pass_over_wrong_keys(self, tables: Sequence[str]) -> None:
        quote = self.connection.dialect.identifier_preparer.quote_identifier
        for table in tables:
            for statement in ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES"):
                try:
                    # Made ready and not run: that is when SQLite looks at the keys.
                    self._all("EXPLAIN " + statement.format(quote(table)))
                except sa.exc.DBAPIError as error:
                    if not WRONG_KEY.match(str(error.orig)):
                        continue
                    self.end_read()
                    self._all("PRAGMA foreign_keys = OFF")
                    return

    @property
    def enforces_keys(self) -> bool:
        return bool(self._all("PRAGMA foreign_keys")[0][0])

    def sizes(self) -> dict[str, int]:
        page, pages, free = (
            self._all("PRAGMA page_size")[0][0], self._all("PRAGMA page_count")[0][0],
            self._all("PRAGMA freelist_count")[0][0],
        )  # fmt: skip
        return {"table_bytes": page * pages, "free_bytes": page * free}

    @property
    def reclaim_hint(self) -> str:
        return "SQLite uses the freed pages for new rows; only VACUUM gives them back to the disk."

    # --- text and back -------------------------------------------------------------------------------------

    def text(self, column: Column) -> sa.ColumnElement[Any]:
        return self.col(column.name)

    def typed(self, column: Column, cell: bytes) -> Any:
        return sa.literal(decode_cell(column, cell), sa.types.NullType())

    def record_batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        import pyarrow as pa

        cells: Any = zip(*rows, strict=True) if rows else ([] for _ in self.table.columns)
        arrays = []
        for column, values in zip(self.table.columns, cells, strict=True):
            array = pa.array([encode_cell(column, v) for v in values], pa.binary())
            try:
                arrays.append(array.cast(pa.string()))
            except pa.ArrowInvalid:
                raise Refused(
                    f"The column {self.table.name}.{column.name} holds text that is not UTF-8, which a CSV file"
                    " can't hold. Nothing was done for this day; correct the text and launch again."
                ) from None
        return pa.RecordBatch.from_arrays(arrays, names=self.table.names)

    def key_of(self, cells: Sequence[Any]) -> Key:
        return tuple(encode_cell(c, v) or b"" for c, v in zip(self.table.key_columns, cells, strict=True))

    def _collations(self, names: Sequence[str]) -> dict[str, str]:
        """The collation of each column of the key that has these columns, by which it tells rows apart."""
        for (index,) in self._all('SELECT name FROM pragma_index_list(?) WHERE "unique"', self.table.name):
            rows = self._all("SELECT name, coll FROM pragma_index_xinfo(?) WHERE key", index)
            found = {_text(name): _text(collation).upper() for name, collation in rows if name is not None}
            if {*found} == {*names}:
                return found
        return {}

    def folds(self, columns: Sequence[Column]) -> bool:
        return bool({*self._collations([c.name for c in columns]).values()} - {"BINARY"})

    def folded(self, columns: Sequence[Column], keys: Sequence[Key]) -> list[Key]:
        collations = self._collations([c.name for c in columns])
        folds = [FOLDS.get(collations.get(c.name, "BINARY")) for c in columns]
        return [tuple(fold(v) if fold else v for fold, v in zip(folds, key, strict=True)) for key in keys]

    @contextmanager
    def in_any_order(self, days: Sequence[Day]) -> Iterator[None]:
        # Till the commit, which then fails where one is missing.
        self.connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        yield

    # --- reads ---------------------------------------------------------------------------------------------

    def digest(self, selection: Selection, *, lock: bool = False) -> Digest:
        found = EMPTY
        for batch in self.batches(selection, BATCH_ROWS):
            found += Digest.of(row_hashes(batch, self.table.columns))
        return found

    def row_select(self, selection: Selection, *, lock: bool = False) -> sa.Select[Any]:
        # A transaction that changes anything holds the whole file already: there is no FOR UPDATE.
        return super().row_select(selection)

    def profile(self, day: Day) -> Profile:
        width: Any = sa.literal_column("0")
        for column in self.table.columns:
            width = width + sa.func.ifnull(sa.func.length(sa.cast(self.col(column.name), sa.LargeBinary)), 0)
        query = sa.select(sa.func.count(), sa.func.max(width)).select_from(self.from_)
        rows, widest = self.connection.execute(query.where(*self.day_condition(day))).one()
        return Profile(int(rows), int(widest or 0))

    # --- time ----------------------------------------------------------------------------------------------

    def time_bound(self, instant: datetime) -> Any:
        return _bound(instant, self.zone).encode()

    def _spellings(self) -> list[tuple[Any, ZoneInfo]]:
        """The zones in which `_seconds` gives a time: UTC for one that says its offset, else the database's."""
        if self.zone.key == "UTC":
            return [(sa.true(), self.zone)]
        time = self.col(TIME_COLUMN)
        told = sa.or_(*(time.op("GLOB")(shape) for shape in OFFSETS))
        return [(sa.not_(told), self.zone), (told, ZoneInfo("UTC"))]

    def day_condition(self, day: Day) -> list[sa.ColumnElement[bool]]:
        # `datetime` reads every way to write a time (a blank or a T, fractions, Z, an offset). The plain
        # comparison before it only lets an index narrow the search, two days wider than any offset.
        time = self.col(TIME_COLUMN)
        seconds = _seconds(time)
        early = (day.start - timedelta(days=2)).strftime("%Y-%m-%d")
        late = (day.end + timedelta(days=2)).strftime("%Y-%m-%d")
        inside = (
            sa.and_(so, seconds >= _bound(day.start, zone), seconds < _bound(day.end, zone))
            for so, zone in self._spellings()
        )
        return [time >= early, time < late, sa.or_(*inside)]

    def unreadable(self) -> sa.ColumnElement[bool] | None:
        time = self.col(TIME_COLUMN)
        other = sa.func.typeof(time).not_in(["text", "null"])
        return sa.or_(other, sa.and_(time.is_not(None), _seconds(time).is_(None)))

    def before(self, instant: datetime) -> sa.ColumnElement[bool]:
        time = self.col(TIME_COLUMN)
        early = (sa.and_(so, _seconds(time) < _bound(instant, zone)) for so, zone in self._spellings())
        return sa.and_(sa.func.typeof(time) == "text", sa.or_(*early))

    def not_before(self, instant: datetime) -> sa.ColumnElement[bool]:
        seconds = _seconds(self.col(TIME_COLUMN))
        return sa.or_(*(sa.and_(so, seconds >= _bound(instant, zone)) for so, zone in self._spellings()))

    def _picked(self, pick: Any, zone: ZoneInfo, *where: Any) -> datetime | None:
        query = sa.select(pick(_seconds(self.col(TIME_COLUMN)))).select_from(self.from_).where(*where)
        value = self.connection.execute(query).scalar()
        self.end_read()
        if value is None:
            return None
        try:
            return moment(datetime.fromisoformat(_text(value)), zone)
        except ValueError:
            return FIRST_MOMENT  # of the year 0, or before

    def instants(self, order: str) -> datetime | None:
        pick, choose = (sa.func.min, min) if order == "asc" else (sa.func.max, max)
        found = [self._picked(pick, zone, so) for so, zone in self._spellings()]
        return choose((each for each in found if each is not None), default=None)

    def first_instant_from(self, instant: datetime) -> datetime | None:
        found = [self._first_from(instant, so, zone) for so, zone in self._spellings()]
        return min((each for each in found if each is not None), default=None)

    def _first_from(self, instant: datetime, so: Any, zone: ZoneInfo) -> datetime | None:
        time = self.col(TIME_COLUMN)
        seconds = _seconds(time)
        early = (instant - timedelta(days=2)).strftime("%Y-%m-%d")
        # Rows of the next three days lie within the next four in text order, whatever their offset.
        near = (instant + timedelta(days=4)).strftime("%Y-%m-%d")
        sure = (instant + timedelta(days=3)).strftime("%Y-%m-%d")
        sought = [so, time >= early, seconds >= _bound(instant, zone)]
        soon = self._picked(sa.func.min, zone, *sought, time < near, seconds < sure)
        return soon or self._picked(sa.func.min, zone, *sought)

    # --- locks and changes ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, wait: float) -> Iterator[Callable[[], bool]]:
        # Resolved, so that two ways to the same file meet at the same lock.
        path = Path(self.url.database or "").resolve()
        safe = re.sub(r"[^0-9A-Za-z_-]", lambda c: f"%{ord(c[0]):x}", f"{self.table.name.lower()}-{name}")
        lock_file = path.with_name(f".{path.name}.{safe}.saju_ops.lock")
        deadline = time.monotonic() + wait
        while (descriptor := _locked(lock_file)) is None:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"Another run works on {name} of {self.table.name}. Nothing was done; launch again when it has"
                    " ended."
                )
            time.sleep(LOCK_POLL_SECONDS)
        try:
            yield lambda: True
        finally:
            lock_file.unlink(missing_ok=True)
            os.close(descriptor)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._begun("BEGIN IMMEDIATE"):
            yield

    @property
    def in_server_transaction(self) -> bool:
        with self.driver() as raw:
            return bool(raw.in_transaction)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        # A read that becomes a write would fail where somebody wrote in between.
        with self.transaction():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._begun("BEGIN"):
            yield

    @contextmanager
    def _begun(self, statement: str) -> Iterator[None]:
        self.end_read()
        with self.connection.begin():
            self.connection.exec_driver_sql(statement)
            yield

    # --- restore -------------------------------------------------------------------------------------------

    def create_like(self, name: str) -> None:
        quote = self.connection.dialect.identifier_preparer.quote_identifier
        collations = self._collations(self.table.key)
        columns = [
            f"{quote(c.name)} {self._declared(c.name)}{'' if c.nullable else ' NOT NULL'}"
            # By the key's collation two keys are one, here as there.
            + (f" COLLATE {collations[c.name]}" if collations.get(c.name) in FOLDS else "")
            # What is generated here is an ordinary column there: SQLite doesn't tell by what expression.
            for c in self.table.columns
        ]
        key = ", ".join(quote(n) for n in self.table.key)
        with self.transaction():
            body = ", ".join([*columns, f"PRIMARY KEY ({key})"])
            self.connection.exec_driver_sql(f"CREATE TABLE {quote(name)} ({body})")

    def _declared(self, name: str) -> str:
        rows = self._all("SELECT type FROM pragma_table_xinfo(?) WHERE name = ?", self.table.name, name)
        return _text(rows[0][0])

    def load(self, table: str, batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> None:
        writable = [c for c in columns if not c.generated]
        target = sa.table(table, *(sa.column(c.name) for c in writable))
        statement = str(
            sa.insert(target)
            .values({c.name: sa.bindparam(f"c{i}") for i, c in enumerate(writable)})
            .compile(dialect=self.connection.dialect)
        )
        # A row may have been written while CHECKs were ignored.
        self._all(f"PRAGMA ignore_check_constraints = {'ON' if self.takes_old_rows else 'OFF'}")
        texts = self._kept_as_texts(writable)
        for batch in batches:
            cells = [
                [None if v is None else v.decode() if c.name in texts else decode_cell(c, v)
                 for v in batch.column(c.name).to_pylist()]
                for c in writable
            ]  # fmt: skip
            with self.driver() as raw:
                raw.executemany(statement, list(zip(*cells, strict=True)))

    def _kept_as_texts(self, columns: Sequence[Column]) -> set[str]:
        """Numbers of another engine that go into a column of texts, with all their digits: SQLite would print a REAL
        with fifteen."""
        kinds = {c.name: c.type.upper() for c in self.table.columns}
        other = (c.name for c in columns if c.encoding == "number" and c.family not in ("integer", "real"))
        return {n for n in other if re.search("CHAR|CLOB|TEXT", kinds[n]) and "INT" not in kinds[n]}


def foreign_keys(
    table: str, rows: Sequence[Sequence[Any]], columns_of: Callable[[str], dict[str, str]],
    primary_of: Callable[[str], tuple[str, ...]],
) -> Iterator[ForeignKey]:  # fmt: skip
    """The keys of a table by SQLite's list of them. One that names no table or no column of it means nothing: no row
    can hang by it."""
    grouped: dict[Any, list[Sequence[Any]]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    for number, parts in grouped.items():
        parent, own = str(parts[0][1]), columns_of(table)
        named = columns_of(parent)
        to = tuple(p[3] for p in parts) if parts[0][3] is not None else primary_of(parent)
        columns = tuple(own.get(str(p[2]).lower(), str(p[2])) for p in parts)
        if len(to) == len(columns) and all(str(name).lower() in named for name in to):
            theirs = tuple(named[str(name).lower()] for name in to)
            yield ForeignKey(f"{table}_{number}", table, columns, parent, theirs, str(parts[0][4]))


def _bound(instant: datetime, zone: ZoneInfo) -> str:
    return naive_bound(instant, zone).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(time: sa.ColumnElement[Any]) -> Any:
    """The second that a time lies in; in UTC where it says its offset.

    `datetime` alone rounds: 23:59:59.9996 would be of the next day."""
    piece, zone = sa.func.substr(time, 1, 19), sa.func.ltrim(sa.func.substr(time, 21), "0123456789")
    # Only what is computed with gets a place in the calendar: 24:00:00 and February 31 else stay what they are.
    none: Any = sa.literal_column("'+0 seconds'")
    whole = sa.func.datetime(piece.op("||")(zone), none)
    return sa.case((sa.func.substr(time, 20, 1) == ".", whole), else_=sa.func.datetime(time, none))


def _locked(path: Path) -> int | None:
    """The open file, locked; None while another holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OperatorError(
            f"The lock file {path} can't be made ({error.strerror}). Nothing was done; saju_ops keeps it beside the"
            " database."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder removed the file after we had opened it: a lock on it keeps nobody out.
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _encoded(column: Column, kinds: set[str]) -> Column:
    """The column with the encoding for the types that its cells have."""
    if len(kinds) > 1:
        return replace(column, encoding="literal", framed=True, family="literal")
    kind = next(iter(kinds), "text")
    return replace(column, encoding=ENCODINGS[kind], framed=kind == "text", family=kind)


def encode_cell(column: Column, value: Any) -> bytes | None:
    """A cell as it stands in the file. Python's repr of a float is the shortest that comes back the same."""
    if value is None:
        return None
    if column.encoding == "literal":
        return _literal(value)
    kind: Any = type(value)
    if kind is not KINDS[column.family]:
        # The integer 12 and the text '12' look alike in a file. A cell of another type than the file's column
        # has is different from everything: no archive holds it, and none that has it can be proven.
        return b"another type " + os.urandom(16).hex().encode()
    if column.encoding == "hex":
        return value.hex().upper().encode()
    if isinstance(value, bytes):
        return value
    return (repr(value) if isinstance(value, float) else str(value)).encode()


def decode_cell(column: Column, cell: bytes) -> Any:
    """The value that `encode_cell` wrote, in the type that SQLite keeps it in."""
    if column.encoding == "literal":
        return _from_literal(cell)
    if column.encoding == "hex":
        return bytes.fromhex(cell.decode())
    if column.encoding == "number":
        # An archive of another engine has numbers of other families.
        return int(cell) if column.family == "integer" or re.fullmatch(rb"-?[0-9]+", cell) else float(cell)
    return cell.decode()


def _literal(value: Any) -> bytes:
    if isinstance(value, SQLiteText):
        try:
            value.decode()
        except UnicodeDecodeError:
            return b"CAST(X'" + value.hex().upper().encode() + b"' AS TEXT)"
        return b"'" + value.replace(b"'", b"''") + b"'"
    if isinstance(value, bytes):
        return b"X'" + value.hex().upper().encode() + b"'"
    return repr(value).encode()


def _from_literal(cell: bytes) -> Any:
    if cell.startswith(b"'"):
        return cell[1:-1].replace(b"''", b"'").decode()
    if cell.startswith(b"X'"):
        return bytes.fromhex(cell[2:-1].decode())
    if cell.startswith(b"CAST("):
        raise Refused("A text that is not UTF-8 can't be written back by this version; it is in the file as hex.")
    return int(cell) if re.fullmatch(rb"-?[0-9]+", cell) else float(cell)
