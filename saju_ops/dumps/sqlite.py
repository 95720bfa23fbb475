"""SQLite: copied by its online backup, which waits for no writer, and kept as the database file itself.

A file is what restores best: it opens as it is, value for value. What the copy holds is read from the source in the
very read transaction that is copied. With a rollback journal such a transaction keeps writers waiting, so there only
the rows are counted in it, and the checksums are taken from the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote as uri_quoted
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.sqlite_address import busy_timeout
from saju_ops.dumps.contents import Contents, TableContents
from saju_ops.dumps.engine import UTC_ZONE, DrillNotPossible, DumpEngine, ForeignToDumps, fingerprint
from saju_ops.dumps.without_rows import NO_ROWS, WITHOUT_ROWS
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage.manifest import stamp

HEADER = b"SQLite format 3\x00"
CHUNK = 1 << 20
# Bytes of a value, or of a row, from which on it is read by itself.
LARGE = 4 << 20
# A query of SQLite's has 2,000 columns at most, and a table may have as many.
MOST_COLUMNS = 1_000
MISSING = re.compile(r"no such collation sequence: (.+)|unknown function: (.+)\(\)|unsafe use of .+\(\)")
# What SQLite itself writes at the beginning of a definition, whatever was typed.
WRITTEN = {
    "table": (b"CREATE TABLE ", b"CREATE VIRTUAL TABLE "), "view": (b"CREATE VIEW ",), "trigger": (b"CREATE TRIGGER ",),
    "index": (b"CREATE INDEX ", b"CREATE UNIQUE INDEX "),
}  # fmt: skip
# What reading needs. A file that somebody changed may call the rest in a view, a check or an index.
READS = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
}  # fmt: skip
PRAGMAS = {"integrity_check", "quick_check", "table_xinfo"}
NOT_CALLED = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir", "zipfile"}
FOLDER_PREFIX = "saju_ops_dump_"
LEFTOVER_SECONDS = 24 * 3600
SIDE_FILES = ("-wal", "-shm", "-journal")


class SQLiteDumps:
    engine = "sqlite"
    ending = ".sqlite.gz"

    def __init__(self, url: sa.URL, zone: ZoneInfo = UTC_ZONE) -> None:
        self.url, self.zone = url, zone
        self.path = Path(str(url.database))

    @property
    def database(self) -> str:
        return self.path.stem

    def at(self, url: sa.URL) -> DumpEngine:
        return SQLiteDumps(url, self.zone)

    def server_version(self) -> str:
        return sqlite3.sqlite_version

    def _connect(self, mode: str = "rw") -> sqlite3.Connection:
        if mode != "rwc" and not self.path.is_file():
            raise OperatorError(f"There is no SQLite file {self.path}; name the database in its setting.")
        uri = f"file:{uri_quoted(str(self.path))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout(self.url), isolation_level=None)
        connection.text_factory = bytes
        return connection

    def schema_state(self) -> str:
        with closing(self._connect()) as connection:
            return fingerprint(connection.execute("PRAGMA schema_version").fetchone())

    def contents(self, like: Contents | None = None) -> Contents:
        with closing(self._connect()) as connection:
            _only_read(connection)
            connection.execute("BEGIN")
            return _contents(connection)

    def hidden(self) -> str:
        return ""

    def damage(self) -> str:
        """What SQLite finds wrong with the database itself; empty if nothing. Reads all of it."""
        with closing(self._connect("ro")) as connection:
            _only_read(connection)
            try:
                said = _integrity(connection)
            except sqlite3.DatabaseError as error:
                said = str(error)
        return "" if said == "ok" else said

    def objects(self) -> int:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return -1 if not self.path.exists() else 0
        if not self._has_header():
            return 1  # not opened: SQLite would throw away the log beside it
        try:
            with closing(self._connect()) as connection:
                return int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        except sqlite3.DatabaseError as error:
            if not _is_ruined(error):
                raise
            return 1  # an unreadable file may be the reason for the restore; it is kept all the same

    @contextmanager
    def taking(self) -> Iterator[SQLiteTaking]:
        with private_folder() as folder:
            yield SQLiteTaking(self, folder / "copy.sqlite")

    def defaults(self) -> dict[str, str]:
        return {}

    def create(self, defaults: Mapping[str, str]) -> None:
        """Nothing to make: `load` makes the file."""

    def empty(self) -> None:
        """Nothing is dropped: `load` puts the old file aside, whole."""

    def examined(self, chunks: Iterator[bytes], source_database: str) -> Iterator[bytes]:
        """A database is looked at as a whole, in `load`, before it takes its place."""
        return chunks

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        """Writes the file beside its place, looks at it, and then gives it its name. A file that was there is
        kept as `<name>.before_restore_<time>`, the time in the engine's zone as in the names of backups. Where the
        place is a link, the file that it leads to is meant, as SQLite itself means it."""
        if self.path.is_symlink():
            url = self.url.set(database=str(self.path.resolve()))
            return SQLiteDumps(url, self.zone).load(chunks, source_database, drill=drill)
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        try:
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                for chunk in chunks:
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            _require_sound(unfinished)
            return self._put_in_place(unfinished)
        except OSError as error:
            kind = DrillNotPossible if drill else OperatorError
            raise kind(
                f"{self.path} can't be written ({error.strerror or type(error).__name__}). A file that was there is"
                " there still; when the cause is gone, start again."
            ) from None
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _put_in_place(self, unfinished: Path) -> list[str]:
        notes = []
        if self.path.exists() and self.path.stat().st_size:
            shutil.copymode(self.path, unfinished)
            mark = stamp(datetime.now(UTC), self.zone)
            aside = self.path.with_name(f"{self.path.name}.before_restore_{mark}")
            try:
                if not self._has_header():
                    raise _NoDatabase
                with closing(self._connect()) as connection:
                    # The old database whole in its one file, and nobody in the middle of writing to it.
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    connection.execute("BEGIN EXCLUSIVE")
                    os.link(self.path, aside)
                    unfinished.replace(self.path)
                    connection.execute("ROLLBACK")
            except (sqlite3.DatabaseError, _NoDatabase) as error:
                if isinstance(error, sqlite3.DatabaseError) and not _is_ruined(error):
                    raise
                self._put_aside_as_it_is(unfinished, aside)
            notes.append(f"the old file is kept as {aside}")
        else:
            unfinished.replace(self.path)
        # They belong to the old file; SQLite would play them into the new one.
        for ending in SIDE_FILES:
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return notes

    def _has_header(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER

    def _put_aside_as_it_is(self, unfinished: Path, aside: Path) -> None:
        """A file that SQLite can't read, with what belongs to it: somebody may save rows from it yet."""
        for ending in SIDE_FILES:
            beside = self.path.with_name(self.path.name + ending)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + ending))
        if not aside.exists():
            os.link(self.path, aside)
        unfinished.replace(self.path)

    @contextmanager
    def scratch(self, server: sa.URL | None, now: datetime, *, own: bool = False) -> Iterator[DumpEngine]:
        with private_folder() as folder:
            yield SQLiteDumps(sa.URL.create("sqlite", database=str(folder / "scratch.sqlite")))


class _NoDatabase(Exception):
    """The file does not begin as a SQLite database does."""


def _is_ruined(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


class SQLiteTaking:
    tool = f"SQLite {sqlite3.sqlite_version} online backup"

    def __init__(self, dumps: SQLiteDumps, copy: Path) -> None:
        self._dumps, self._copy = dumps, copy
        self._contents: Contents | None = None

    def chunks(self) -> Iterator[bytes]:
        os.close(os.open(self._copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(self._dumps._connect()) as source:
            journal = source.execute("PRAGMA journal_mode").fetchone()[0].decode()
            source.execute("BEGIN")
            with closing(sqlite3.connect(self._copy)) as target:
                source.backup(target)
                emptied = _empty(target)
            # The transaction that was copied is still open.
            self._contents = _contents(source, checksums=journal == "wal")
            source.execute("ROLLBACK")
        self._contents.tables.update(dict.fromkeys(emptied, NO_ROWS))
        if journal != "wal":
            self._contents = self._with_checksums(self._contents)
        with self._copy.open("rb") as file:
            while data := file.read(CHUNK):
                yield data

    def _with_checksums(self, counted: Contents) -> Contents:
        copied = SQLiteDumps(sa.URL.create("sqlite", database=str(self._copy))).contents()
        rows = {name: t.rows for name, t in copied.tables.items()}
        if rows != {name: t.rows for name, t in counted.tables.items()} or copied.definitions != counted.definitions:
            raise ProofFailed("The copy's rows are not those of the database. Nothing was kept.")
        return Contents(copied.tables, copied.definitions, copied.dialect)

    def contents(self) -> Contents:
        assert self._contents is not None
        return self._contents


def _empty(copy: sqlite3.Connection) -> list[str]:
    """Takes the rows out of those tables of a copy that no dump has the rows of, and writes zeros over them."""
    there = copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    names = [name for (name,) in there if name in WITHOUT_ROWS]
    if names:
        copy.execute("PRAGMA secure_delete = ON")
        copy.executescript("".join(f'DELETE FROM "{name}";' for name in names))  # noqa: S608
    return names


# --- the database's answers --------------------------------------------------------------------------------------


def _contents(connection: sqlite3.Connection, checksums: bool = True) -> Contents:
    connection.text_factory = bytes
    tables, definitions = {}, {}
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        label = f"{kind.decode()} {name.decode(errors='backslashreplace')}"
        definitions[label] = fingerprint(table, sql)
    for (name,) in connection.execute(_TABLES).fetchall():
        text = name.decode(errors="surrogateescape")
        tables[text] = _measure(connection, text, checksums)
    return Contents(tables, definitions, "sqlite")


# Virtual tables have no rows of their own: their shadow tables are counted.
_TABLES = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND coalesce(sql, '') NOT LIKE 'CREATE VIRTUAL TABLE%'"
    " ORDER BY name"
)


def _measure(connection: sqlite3.Connection, table: str, checksums: bool) -> TableContents:
    name = '"' + table.replace('"', '""') + '"'
    if not checksums:
        return TableContents(int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]), None)  # noqa: S608
    # Storage class and value of each cell: 1 is not '1', and a text is not a blob of the same bytes.
    listed = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
    # 1 is a hidden column of a virtual table; 2 is computed when it is read, perhaps by the service's own function.
    columns = [c[1].decode(errors="surrogateescape") for c in listed if c[6] not in (1, 2)]
    quoted = ['"' + c.replace('"', '""') + '"' for c in columns]
    if len(quoted) <= MOST_COLUMNS:
        cells = ", ".join(f"typeof({c}), {c}" for c in quoted)
        longest = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGE)
        try:
            rows = total = 0
            for row in connection.execute(f"SELECT {cells} FROM {name}"):  # noqa: S608
                rows += 1
                total += int.from_bytes(blake2b(repr(row).encode(), digest_size=8).digest(), "big")
            return TableContents(rows, f"{total % 2**64:016x}")
        except (sqlite3.DataError, sqlite3.OperationalError) as error:
            if error.sqlite_errorname != "SQLITE_TOOBIG":
                raise
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
    return _measure_large(connection, f"SELECT {', '.join(quoted)} FROM {name}")  # noqa: S608


class _Text(bytes):
    """What SQLite holds as text, as it is stored."""


def _measure_large(connection: sqlite3.Connection, select: str) -> TableContents:
    """The same for more columns than a query has twice, and for values that memory is to hold once."""
    connection.text_factory = _Text
    try:
        cursor, rows, total = connection.execute(select), 0, 0
        while (row := cursor.fetchone()) is not None:
            digest = blake2b(b"(", digest_size=8)
            for number, cell in enumerate(row):
                digest.update(b", " * bool(number) + repr(_CLASSES[type(cell)]).encode() + b", ")
                for part in _written(cell):
                    digest.update(part)
            digest.update(b")")
            rows, total = rows + 1, total + int.from_bytes(digest.digest(), "big")
            # Before the next one is read.
            del row, cell
    finally:
        connection.text_factory = bytes
    return TableContents(rows, f"{total % 2**64:016x}")


_CLASSES = {int: b"integer", float: b"real", _Text: b"text", bytes: b"blob", type(None): b"null"}


def _written(cell: Any) -> Iterator[bytes]:
    """What Python writes of a value, in pieces."""
    if not isinstance(cell, bytes):
        yield repr(cell).encode()
        return
    double = b"'" in cell and b'"' not in cell
    # An apostrophe in front of each piece makes Python write the quotes of the whole text; its repr is cut off again.
    before = b"'" if double else b"\"'"
    cut = len(repr(before)) - 1
    yield b'b"' if double else b"b'"
    for at in range(0, len(cell), CHUNK):
        yield repr(before + bytes(memoryview(cell)[at : at + CHUNK])).encode()[cut:-1]
    yield b'"' if double else b"'"


def _require_sound(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise ProofFailed("What was read is no SQLite database. Nothing was put in place.")
    # Immutable: not even a log is made beside it.
    with closing(sqlite3.connect(f"file:{uri_quoted(str(path))}?mode=ro&immutable=1", uri=True)) as connection:
        connection.text_factory = bytes
        _only_read(connection)
        try:
            _require_written_by_sqlite(connection)
            said = _integrity(connection)
        except sqlite3.DatabaseError as error:
            said = str(error)
    if said != "ok":
        raise ProofFailed(f"SQLite finds the file damaged ({said}). Nothing was put in place.")


def _only_read(connection: sqlite3.Connection) -> None:
    """Nothing that the file's own schema says is trusted, and nothing but reading is allowed."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(_allowed)


def _allowed(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        fits = str(second).lower() not in NOT_CALLED
    elif action == sqlite3.SQLITE_PRAGMA:
        fits = first in PRAGMAS
    else:
        fits = action in READS
    return sqlite3.SQLITE_OK if fits else sqlite3.SQLITE_DENY


def _require_written_by_sqlite(connection: sqlite3.Connection) -> None:
    """A table whose definition is a view's would run a query of its own when its rows are read."""
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_schema"):
        begins = WRITTEN.get(bytes(kind or b"").decode(errors="replace"), ())
        if sql is None and kind == b"index" and bytes(name).startswith(b"sqlite_autoindex_"):
            continue
        if not bytes(sql or b"").startswith(begins or (b"\x00",)):
            raise ForeignToDumps("a definition that was written past SQLite (writable_schema)")


def _integrity(connection: sqlite3.Connection) -> str:
    """`ok`, or what is wrong. The service's own sort orders and functions aren't known here. Replacements let SQLite
    check pages and rows, but not the order of what is sorted by them."""
    check = "integrity_check"
    while True:
        try:
            return bytes(connection.execute(f"PRAGMA {check}(1)").fetchone()[0]).decode(errors="replace")
        except sqlite3.OperationalError as error:
            missing = MISSING.fullmatch(str(error))
            if missing is None:
                raise
            check = "quick_check"
            if missing[1]:
                connection.create_collation(missing[1], lambda a, b: (a > b) - (a < b))
            else:
                if missing[2]:
                    connection.create_function(missing[2], -1, lambda *_: None, deterministic=True)
                # No schema trusts a function made here; one that could do anything is not called all the same.
                connection.set_authorizer(None)
                connection.execute("PRAGMA trusted_schema = ON")
                connection.set_authorizer(_allowed)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that nobody else can read. Also removes those that killed runs left a day ago or earlier."""
    parent = Path(tempfile.gettempdir())
    for leftover in parent.glob(f"{FOLDER_PREFIX}*"):
        try:
            stat = leftover.stat()
            if stat.st_uid == os.getuid() and datetime.now(UTC).timestamp() - stat.st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        yield Path(folder)
