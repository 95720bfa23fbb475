"""MySQL and MariaDB: dumped by mysqldump or mariadb-dump, whichever is there, restored by mysql or mariadb.

mysqldump --single-transaction reads one consistent snapshot that no other connection can share. So that the server
can still be asked what that snapshot holds, a second snapshot is opened right after it, and

1. if the server's log position (LSN) is the same before the one and after the other, nothing was written in between
   and the two are the same snapshot: tried a few times, it harms nobody;
2. else, with the right to, under FLUSH TABLES WITH READ LOCK, for the milliseconds that opening the two takes, and
   never waiting for that lock longer than LOCK_WAIT_SECONDS;
3. else a third snapshot is opened before, and each table that is alike in both is proven (`bracketed`).

It reads and writes only the database of its address. `allowed.py` says which statements of a dump are executed,
`drill.py` as which user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.dumps.contents import Contents
from saju_ops.dumps.engine import (
    MARKER,
    SCRATCH_PREFIX,
    DrillNotPossible,
    DumpEngine,
    fingerprint,
    is_leftover,
    scratch_name,
)
from saju_ops.dumps.mysql.allowed import Statements
from saju_ops.dumps.mysql.catalogue import (
    ALTERED,
    DEFAULTS,
    EVENTS,
    ROUTINES,
    TRIGGERS,
    VERSIONED,
    _measure,
    _show,
    _Table,
    _tables,
    _text,
)
from saju_ops.dumps.mysql.clients import Client, dump_client
from saju_ops.dumps.mysql.drill import DrillUser, definer_of, drop_user, left_users, make_user
from saju_ops.dumps.mysql.exact_floats import (
    dumps_history,
)
from saju_ops.dumps.mysql.load import GONE, Loader
from saju_ops.dumps.mysql.rights import hidden
from saju_ops.dumps.mysql.taking import LOCK_PATIENCE, MySQLTaking
from saju_ops.dumps.mysql.words import quoted, unqualified
from saju_ops.dumps.programs import ProgramFailed
from saju_ops.rows.foreign_keys import mysql_keys_of_database

# Times that a quiet moment is looked for: at ten commits a second two of three tries find one. The first is wide.
QUIET_TRIES = 4

RELAX = (
    " The table was made with {} off: grant SESSION_VARIABLES_ADMIN ON *.* to the user that restores, or to the one"
    " that tries restores, or switch it off there (SET GLOBAL {} = OFF) as long as the restore takes."
)
# A server's error when it refused a dump → what to do about it.
HINTS = {
    "ERROR 1118": RELAX.format("innodb_strict_mode", "innodb_strict_mode"),
    "ERROR 3750": RELAX.format("sql_require_primary_key", "sql_require_primary_key"),
    "ERROR 6125": RELAX.format("restrict_fk_on_non_standard_key", "restrict_fk_on_non_standard_key"),
    "ERROR 1173": " That server makes no table without a primary key (innodb_force_primary_key): give the table one, or"
    " switch it off there.",
    "3105": " MariaDB's mysqldump writes values for generated columns, which MySQL refuses: install MySQL's own"
    " client.",
    "1153": " A row is larger there than the server's max_allowed_packet, binary values being twice as long as hex:"
    " set it to 1G on that server.",
    # A client's error if it was still sending when the server, having answered 1153, hung up.
    "ERROR 2006": " If that server didn't stop, a row is larger there than its max_allowed_packet, binary values being"
    " twice as long as hex: set it to 1G on that server.",
}
AUTO_INCREMENT = re.compile(r" AUTO_INCREMENT=\d+")
# MySQL names a column's character set only if a statement gave one, as every dump does; the sort order implies it.
CHARACTER_SET = re.compile(r" CHARACTER SET \w+(?= COLLATE \w)")
DEFINED_BY = re.compile(r"(?<=\s)DEFINER=(?:`(?:[^`]|``)*`|\"[^\"]*\")(?:@(?:`(?:[^`]|``)*`|\"[^\"]*\"))?")


class MySQLDumps:
    ending = ".sql.gz"

    def __init__(self, url: sa.URL, drill_user: DrillUser | None = None) -> None:
        """`drill_user`: the drill's user, if the address logs in as one."""
        self.url = url
        self._engine = connect(url)
        self._version: str | None = None
        self._drill_user = drill_user
        # For objects loaded here under that user: the dump's definers, by kind and name, and views that the user may
        # not make.
        self._definers: dict[tuple[str, str], bytes] = {}
        self._untried: list[str] = []
        # Events that no server makes again.
        self._gone: list[str] = []

    @property
    def database(self) -> str:
        return str(self.url.database)

    @property
    def engine(self) -> str:
        return "mariadb" if "mariadb" in self.server_version().lower() else "mysql"

    def at(self, url: sa.URL) -> DumpEngine:
        return MySQLDumps(url)

    def server_version(self) -> str:
        if self._version is None:
            with self._engine.connect() as connection:
                self._version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
        return self._version

    @property
    def _dialect(self) -> str:
        return f"{self.engine} {'.'.join(self.server_version().split('.')[:2])}"

    # --- the catalogue -------------------------------------------------------------------------------------

    def schema_state(self) -> str:
        with self._engine.connect() as connection:
            # Sorted here: the server sorts names that differ in their case alone now so, now so.
            tables = sorted((t.name, t.kind, str(t.created)) for t in _tables(connection))
            altered = connection.execute(ALTERED).scalar()
            definitions = sorted(self._definitions(connection).items())
            return fingerprint(tables, altered, self._table_ids(connection), definitions)

    def _table_ids(self, connection: sa.Connection) -> list[Any]:
        """InnoDB's own numbers: TRUNCATE gives a table a new one, even within the same second of CREATE_TIME. Only for
        a user with the right PROCESS, and for names that InnoDB doesn't write in its own way."""
        source = "INNODB_SYS_TABLES" if self.engine == "mariadb" else "INNODB_TABLES"
        if not self.database.replace("_", "").isalnum() or not self.database.isascii():
            return []
        statement = sa.text(
            f"SELECT NAME, TABLE_ID FROM information_schema.{source} WHERE LEFT(NAME, :size) = :name ORDER BY 1"  # noqa: S608
        )
        name = f"{self.database}/"
        try:
            return sorted(tuple(row) for row in connection.execute(statement, {"size": len(name), "name": name}))
        except DBAPIError:
            return []

    def contents(self, like: Contents | None = None) -> Contents:
        how = {name: t.how for name, t in like.tables.items()} if like else {}
        with self._engine.connect() as connection:
            listed = [t for t in _tables(connection) if t.kind != "VIEW"]
            tables = {t.name: _measure(connection, t, how.get(t.name)) for t in listed}
            definitions = self._definitions(connection)
            if like:  # views that the drill's user may not make are named, not compared
                named = {*(f"view {name}" for name in self._untried), *(f"event {name}" for name in self._gone)}
                definitions |= {key: value for key, value in like.definitions.items() if key in named}
            return Contents(tables, definitions, self._dialect)

    def hidden(self) -> str:
        with self._engine.connect() as connection:
            return hidden(connection, self.database, self.engine)

    def _definitions(self, connection: sa.Connection) -> dict[str, str]:
        """Definition hashes of everything but rows. An event's state is left out: a drill switches events off."""
        found = {}
        for table in _tables(connection):
            is_view = table.kind == "VIEW"
            text = _show(connection, "VIEW" if is_view else "TABLE", table.name)
            text = unqualified(text.encode(), self.database).decode()
            kind = "view" if is_view else "table"
            text = CHARACTER_SET.sub("", AUTO_INCREMENT.sub("", text))
            found[f"{kind} {table.name}"] = fingerprint(self._as_dumped(kind, table.name, text))
        for row in connection.execute(TRIGGERS):
            found[f"trigger {row[0]}"] = fingerprint(*self._listed("trigger", row))
        for kind, name in connection.execute(ROUTINES):
            kind, name = _text(kind), _text(name)
            text = self._as_dumped(kind.lower(), name, _show(connection, kind, name))
            found[f"{kind.lower()} {name}"] = fingerprint(text)
        for row in connection.execute(EVENTS):
            found[f"event {row[0]}"] = fingerprint(*self._listed("event", row)[:-1])
        return found

    def _as_dumped(self, kind: str, name: str, text: str) -> str:
        """A definition with the definer that the dump says, in place of the drill's user."""
        if (kind, name) not in self._definers:
            return text
        clause = self._definers[kind, name].decode(errors="replace")
        return DEFINED_BY.sub(lambda _: clause, text, count=1)

    def _listed(self, kind: str, row: Any) -> list[Any]:
        cells = [_text(cell) for cell in row]
        clause = self._definers.get((kind, str(cells[0])))
        if clause is None or self._drill_user is None:
            return cells
        return [definer_of(clause) if cell == self._drill_user.account else cell for cell in cells]

    def objects(self) -> int:
        try:
            with self._engine.connect() as connection:
                counts = [len(_tables(connection))]
                counts += [len(connection.execute(q).all()) for q in (ROUTINES, EVENTS)]
                return sum(counts)
        except DBAPIError as error:
            if getattr(error.orig, "args", (0,))[0] == 1049:  # unknown database
                return -1
            raise

    # --- dumping -------------------------------------------------------------------------------------------

    @contextmanager
    def taking(self) -> Iterator[MySQLTaking]:
        # The first try reads the program's output in large pieces, which is faster (1.5 s a million rows, else 1.7 s),
        # but shows later that its snapshot is open: with many small tables, when the dump is nearly over.
        for number, strategy in enumerate([*["quiet"] * QUIET_TRIES, "locked", "bracketed"]):
            with ExitStack() as stack:
                taking = MySQLTaking(self, stack)
                if taking.begin(strategy, wide=strategy == "quiet" and number == 0):
                    yield taking
                    return

    def _client(self, tables: list[_Table]) -> Client:
        client = dump_client(self.engine)
        more = []
        versioned = [t for t in tables if t.kind == VERSIONED]
        if versioned and dumps_history(self.server_version(), client.mariadb, client.help):
            # Not if a table's versions are numbered by transactions: the program fails at such a table.
            more += ["--dump-history"] * all(kind != "bigint" for t in versioned for _, kind in t.period)
        if any(t.kind == "SEQUENCE" for t in tables):
            # A column's default may be the next value of a sequence, which LOCK TABLES in the dump would lock out.
            more.append("--skip-add-locks")
        if "--init-command-add" in client.help:
            limit = "max_statement_time" if self.engine == "mariadb" else "max_execution_time"
            more.append(f"--init-command-add=SET SESSION {limit} = 0, lock_wait_timeout = {LOCK_PATIENCE}")
        return replace(client, arguments=(*client.arguments, *more))

    # --- restoring -----------------------------------------------------------------------------------------

    def defaults(self) -> dict[str, str]:
        with self._engine.connect() as connection:
            charset, collation = connection.execute(DEFAULTS).one()
            return {"character_set": _text(charset), "collation": _text(collation)}

    def create(self, defaults: Mapping[str, str]) -> None:
        charset, collation = defaults.get("character_set", ""), defaults.get("collation", "")
        with connect(_of_server(self.url)).connect() as connection:
            name = connection.dialect.identifier_preparer.quote(self.database)  # a % doubled, as the driver wants it
            if re.fullmatch(r"\w+", charset) and re.fullmatch(r"\w+", collation):
                with suppress(DBAPIError):  # such as a collation of another version
                    connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET {charset} COLLATE {collation}")
                    return
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")

    def empty(self) -> None:
        with self._engine.connect() as connection:
            quote = connection.dialect.identifier_preparer.quote
            for row in connection.execute(EVENTS).all():
                connection.exec_driver_sql(f"DROP EVENT {quote(_text(row[0]))}")
            routines = [(_text(kind), _text(name)) for kind, name in connection.execute(ROUTINES)]
            if any(kind == "PACKAGE" for kind, _ in routines):
                # MariaDB 10 knows the word in no other mode.
                connection.exec_driver_sql("SET SESSION sql_mode = 'ORACLE'")
            for kind, name in routines:
                if kind != "PACKAGE BODY":  # dropped with its package
                    connection.exec_driver_sql(f"DROP {kind} {quote(name)}")
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 0, lock_wait_timeout = 60")
            for table in _tables(connection):
                kind = {"VIEW": "VIEW", "SEQUENCE": "SEQUENCE"}.get(table.kind, "TABLE")
                connection.exec_driver_sql(f"DROP {kind} {quote(table.name)}")

    def examined(self, chunks: Iterator[bytes], source_database: str) -> Iterator[bytes]:
        passed: list[bytes] = []

        def read() -> Iterator[bytes]:
            for chunk in chunks:
                passed.append(chunk)
                yield chunk

        for _ in self._statements(source_database).read(read()):
            yield from passed
            passed.clear()
        yield from passed

    def _statements(self, source_database: str, tables: Iterable[str] = ()) -> Statements:
        with connect(_of_server(self.url)).connect() as connection:  # the database needn't be there yet
            version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
            folded = _cases(connection) != 0
        mariadb = "mariadb" in version.lower()
        return Statements(
            source_database, self.database, mariadb=mariadb, version=_number(version), folded=folded,
            tables=tables,
        )  # fmt: skip

    def load(self, chunks: Iterator[bytes], source_database: str, *, drill: bool) -> list[str]:
        with self._engine.connect() as connection:
            there = [t.name for t in _tables(connection) if t.kind in ("BASE TABLE", VERSIONED)]
        statements = self._statements(source_database, there)
        user = self._drill_user
        loader = Loader(self.url, definer=user.definer if user else None, admin=user.admin if user else None)
        try:
            loader.load(statements.read(chunks))
        except ProgramFailed as error:
            hint = next((h for word, h in HINTS.items() if word in error.said), "")
            raise ProgramFailed(f"{error}{hint}", error.said) from None
        self._definers |= loader.definers
        self._untried += loader.views_untried
        self._gone += loader.done.get(GONE, [])
        left_out = [f"{what}: {', '.join(names)}" for what, names in loader.done.items()]
        if drill and self._logged():
            left_out.append(
                "the copy for the drill went into the server's binary log, and so to its replicas; RESTORE_DRILL_URL"
                " may name a server without one"
            )
        if loader.views_untried:
            left_out.append(
                f"views that use another database were not tried, since the drill's user may not: "
                f"{', '.join(loader.views_untried)}"
            )
        events = [name for name in statements.events if name not in self._gone]
        if events and not drill:
            names = ", ".join(f"ALTER EVENT {quoted(name).decode()} ENABLE" for name in events)
            left_out.append(
                "events are switched off, since one runs at once, with its definer's rights; look at each and switch it"
                f" on again: {names}"
            )
        return left_out

    @contextmanager
    def scratch(self, server: sa.URL | None, now: datetime, *, own: bool = False) -> Iterator[DumpEngine]:
        base = _of_server(server or self.url)
        where = redacted(base)
        admin = connect(base)
        if not own and server is None:
            _refuse_keys_elsewhere(self._engine)
        name = scratch_name(now)
        try:
            with admin.connect() as connection:
                version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
                if ("mariadb" in version.lower()) != (self.engine == "mariadb"):
                    raise DrillNotPossible(
                        f"RESTORE_DRILL_URL names a {version} server ({where}), and a dump of {self.engine} can only be"
                        f" tried on {self.engine}. Name one in RESTORE_DRILL_URL."
                    )
                if (there := _cases(connection)) != (here := self._name_cases()):
                    raise DrillNotPossible(
                        f"RESTORE_DRILL_URL names a server ({where}) with lower_case_table_names = {there}; the dumped"
                        f" one has {here}, so a copy's tables would be called otherwise. Name one with the same."
                    )
                _drop_leftovers(connection, now)
                connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        except DBAPIError as error:
            raise DrillNotPossible(
                f"No scratch database could be made at {where} ({error_text(error)}). Grant ALL ON"
                f" `{SCRATCH_PREFIX.replace('_', chr(92) + '_')}%`.* to its user, or name another server in"
                " RESTORE_DRILL_URL."
            ) from None
        try:
            with admin.connect() as connection:
                connection.exec_driver_sql(f"CREATE TABLE {name}.{MARKER} (made_at datetime NOT NULL PRIMARY KEY)")
                mark = sa.text(f"INSERT INTO {name}.{MARKER} VALUES (:now)")  # noqa: S608
                connection.execute(mark, {"now": now.replace(tzinfo=None)})
                connection.commit()
                user = None if own else make_user(connection, base, name, named=server is not None)
            yield MySQLDumps(user.url if user else base.set(database=name), user)
        finally:
            with admin.connect() as connection:
                connection.exec_driver_sql("SET SESSION lock_wait_timeout = 60")
                drop_user(connection, name)
                # This run made it: CREATE DATABASE above fails for a name that exists.
                connection.exec_driver_sql(f"DROP DATABASE {name}")
                # MySQL drops no user that still owns objects.
                drop_user(connection, name)

    def _logged(self) -> bool:
        with self._engine.connect() as connection:
            return bool(int(connection.exec_driver_sql("SELECT @@log_bin").scalar_one()))

    def _name_cases(self) -> int:
        with self._engine.connect() as connection:
            return _cases(connection)


# --- the server's answers ----------------------------------------------------------------------------------------


def _refuse_keys_elsewhere(engine: sa.Engine) -> None:
    """A foreign key into another database would, in the copy too, lock and hold that database's rows."""
    with engine.connect() as connection:
        keys = mysql_keys_of_database(connection)
    tables = sorted({key.table for key in keys if not key.refers_here})[:3]
    if tables:
        raise DrillNotPossible(
            f"The foreign keys of {', '.join(tables)} point into another database of the same server, which a copy"
            " would take part in. Name another server in RESTORE_DRILL_URL."
        )


def _cases(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT @@lower_case_table_names").scalar_one())


def _number(version: str) -> int:
    """As the comments for some servers count it: 10.11.6 is 101106, 9.7.0 is 90700."""
    parts = [int(n) for n in re.findall(r"\d+", version)[:3]]
    return (parts[0] * 100 + parts[1]) * 100 + parts[2]


def _of_server(url: sa.URL) -> sa.URL:
    """The address without a database; `URL.set(database=None)` would leave it as it is."""
    return url._replace(database=None)


def _drop_leftovers(connection: sa.Connection, now: datetime) -> None:
    """Databases that a killed drill left: by their name, which says when they were made, and the marker in them, or
    nothing in them."""
    names = [_text(row[0]) for row in connection.exec_driver_sql("SHOW DATABASES")]
    for name in (n for n in left_users(connection) if is_leftover(n, now) and n not in names):
        drop_user(connection, name)
    for name in (n for n in names if is_leftover(n, now)):
        inside = sa.text("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = :name")
        tables = {_text(row[0]) for row in connection.execute(inside, {"name": name})}
        if not tables or MARKER in tables:
            drop_user(connection, name)
            with suppress(DBAPIError):
                connection.exec_driver_sql(f"DROP DATABASE {name}")
            drop_user(connection, name)
