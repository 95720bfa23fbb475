"""SQLite: the database is a file in this process, so the digest that it computes is a second, separate read.

A SQLite cell has a type of its own. A column whose cells all have the one type that its declaration asks for is written
like any other; in a column with mixed types each cell is written as an SQL literal.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from saju_ops.errors import Busy, OperatorError, Refused
from saju_ops.rows.days import Day
from saju_ops.rows.digest import EMPTY, Digest, row_hashes
from saju_ops.rows.engines.base import require_key, require_table
from saju_ops.rows.engines.interface import BATCH_ROWS, Key, Profile, Selection
from saju_ops.rows.engines.sqlite.cells import _encoded, _text, decode_cell, encode_cell
from saju_ops.rows.engines.sqlite.times import SQLiteTimes
from saju_ops.rows.foreign_keys import sqlite_keys_of, sqlite_tables
from saju_ops.rows.table import TIME_COLUMN, Column, ForeignKey, Table

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_POLL_SECONDS = 0.2
# What SQLite says of a table with a foreign key to columns that aren't unique or aren't there, or to no table. No such
# row can be deleted or written as long as it enforces keys, which it does only where a program asks for it.
WRONG_KEY = re.compile("foreign key mismatch|no such table: ")
# What SQLite's own collations compare: bytes.lower() knows ASCII alone, as NOCASE does.
FOLDS: dict[str, Callable[[bytes], bytes]] = {"NOCASE": bytes.lower, "RTRIM": lambda text: text.rstrip(b" ")}


class SQLiteRowStore(SQLiteTimes):
    # A column that holds texts and others: the others have no day, and stay.
    time_types = ("text", "literal")

    def describe(self, table: str) -> Table:
        rows = self._all('SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid', table)
        rows = [r for r in rows if r[4] != 1]
        require_table(rows, table, self.url)
        key = self._key(table, rows)
        require_key(table, key)
        columns = tuple(
            Column(
                _text(n), _text(declared), "text", True, nullable=not notnull, generated=hidden in (2, 3), family="text"
            )
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
            children=self._children(table), parents=tuple(sqlite_keys_of(self._texts, table)),
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
        """How a column's cells are written depends on their types, so the file's form is adopted; but not to write rows
        of other types than the file's columns have."""
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
        keys = (key for name in sqlite_tables(self._texts) for key in sqlite_keys_of(self._texts, name))
        return tuple(k for k in keys if k.parent.lower() == table.lower())

    def _texts(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(v if v is None else _text(v) for v in row) for row in self._all(statement, *values)]

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
        """The collation of each column of the key that has these columns, which makes its rows distinct."""
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
            # Two keys that are equal by the key's collation are equal here too.
            + (f" COLLATE {collations[c.name]}" if collations.get(c.name) in FOLDS else "")
            # A column generated here is an ordinary column there: SQLite doesn't show the expression.
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
