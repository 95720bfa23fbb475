"""MySQL and MariaDB: dumped by mysqldump or mariadb-dump, whichever is there, restored by mysql or mariadb.

mysqldump --single-transaction reads one consistent snapshot that no other connection can share. So that the server
can still be asked what that snapshot holds, a second snapshot is opened right after it, and

1. if the server's log position (LSN) is the same before the one and after the other, nothing was written in between
   and the two are the same snapshot: tried a few times, it harms nobody;
2. else, with the right to, under FLUSH TABLES WITH READ LOCK, for the milliseconds that opening the two takes, and
   never waiting for that lock longer than LOCK_WAIT_SECONDS;
3. else a third snapshot is opened before, and each table that is alike in both is proven (`bracketed`).

It never reads or writes another database than the one it is told. What of a dump is executed: see
`dump_mysql_allowed.py`; as whom: `dump_mysql_drill.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.dumps.contents import Contents, TableContents, merged
from saju_ops.dumps.engine import (
    LOCKED,
    MARKER,
    SCRATCH_PREFIX,
    DrillNotPossible,
    DumpEngine,
    DumpSpoilt,
    fingerprint,
    is_leftover,
    scratch_name,
)
from saju_ops.dumps.mysql.allowed import Statements
from saju_ops.dumps.mysql.broken_views import as_comments, broken_views, ignored
from saju_ops.dumps.mysql.clients import Client, as_argument, dump_client
from saju_ops.dumps.mysql.drill import DrillUser, definer_of, drop_user, left_users, make_user
from saju_ops.dumps.mysql.events import events_that_spin, events_written
from saju_ops.dumps.mysql.exact_floats import (
    FloatTable,
    dumps_history,
    exact_floats,
    float_table,
    read_again,
    retyped,
    rounded,
)
from saju_ops.dumps.mysql.load import GONE, Loader
from saju_ops.dumps.mysql.rights import hidden
from saju_ops.dumps.mysql.words import quoted, unqualified
from saju_ops.dumps.programs import Output, ProgramFailed
from saju_ops.errors import OperatorError

# Seconds. While FLUSH TABLES WITH READ LOCK waits for a long query, new writes wait behind it.
LOCK_WAIT_SECONDS = 1
# Seconds that the lock is held at most: the dump program connects and opens its snapshot in 0.05.
LOCK_HELD_SECONDS = 3.0
# Seconds that a dump waits for somebody else's lock, and after which a program that says nothing is looked at.
LOCK_PATIENCE = 60
# Seconds after which a program that says nothing is ended, even if the server is at work for it.
LONGEST_SILENCE = 3600
# Times that a quiet moment is looked for: at ten commits a second two of three tries find one. The first is wide.
QUIET_TRIES = 4
# Dates that a server took in which that is allowed, such as 31 February, would be restored as 0000-00-00.
SQL_MODE = re.compile(rb"(\n/\*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO)'")
SANDBOX = re.compile(rb"\A/\*M?!999999\\- [^\n]*\n")
COMPLETED = re.compile(rb"\n-- Dump completed(?: on [^\n]*)?\n?\Z")
# The first line after the header; the dump's snapshot is open by then.
BEGUN = re.compile(rb"\n-- (?:Table structure|Temporary|Dumping|Final view|Sequence)|SEQUENCE")
TAIL = 512
LONG_TYPES = {
    "mediumtext", "longtext", "json", "tinyblob", "blob", "mediumblob", "longblob", "vector", "geometry", "point",
    "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection",
    "geometrycollection", "text", "varbinary",
}  # fmt: skip
TEXTS = {"char", "varchar", "tinytext", "enum", "set", "binary"}

TABLES = sa.text(
    "SELECT t.TABLE_NAME, t.TABLE_TYPE, t.ENGINE, COALESCE(e.TRANSACTIONS, 'NO'), t.CREATE_TIME"
    " FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE"
    " WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME <> :marker ORDER BY t.TABLE_NAME"
)
COLUMNS = sa.text(
    "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, EXTRA, GENERATION_EXPRESSION FROM information_schema.COLUMNS"
    " WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, ORDINAL_POSITION"
)
TRIGGERS = sa.text(
    "SELECT TRIGGER_NAME, EVENT_MANIPULATION, EVENT_OBJECT_TABLE, ACTION_TIMING, ACTION_ORDER, ACTION_STATEMENT,"
    " SQL_MODE, DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() ORDER BY 1"
)
ROUTINES = sa.text(
    "SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE() ORDER BY 1, 2"
)
EVENTS = sa.text(
    "SELECT EVENT_NAME, EVENT_DEFINITION, EVENT_TYPE, EXECUTE_AT, INTERVAL_VALUE, INTERVAL_FIELD, STARTS, ENDS,"
    " ON_COMPLETION, SQL_MODE, DEFINER, TIME_ZONE, EVENT_COMMENT, STATUS FROM information_schema.EVENTS"
    " WHERE EVENT_SCHEMA = DATABASE() ORDER BY 1"
)
ALTERED = sa.text(
    "SELECT GROUP_CONCAT(CONCAT_WS('|', ROUTINE_TYPE, ROUTINE_NAME, LAST_ALTERED) ORDER BY 1 SEPARATOR ';')"
    " FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()"
)
DEFAULTS = sa.text(
    "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
    " WHERE SCHEMA_NAME = DATABASE()"
)
ELSEWHERE = sa.text(
    "SELECT DISTINCT TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE()"
    " AND REFERENCED_TABLE_SCHEMA IS NOT NULL AND REFERENCED_TABLE_SCHEMA <> DATABASE() LIMIT 3"
)
RELAX = (
    " The table was made with {} off: grant SESSION_VARIABLES_ADMIN ON *.* to the user that restores, or to the one"
    " that tries restores, or switch it off there (SET GLOBAL {} = OFF) as long as the restore takes."
)
# What a server said when it refused a dump → what to do about it.
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
    # What a client says that was still sending when the server, having answered 1153, hung up.
    "ERROR 2006": " If that server didn't stop, a row is larger there than its max_allowed_packet, binary values being"
    " twice as long as hex: set it to 1G on that server.",
}
PROCESSES = "SELECT ID, USER, DB, COMMAND, STATE FROM information_schema.PROCESSLIST"
VERSIONED = "SYSTEM VERSIONED"
IMPLICIT_PERIOD = (("row_start", "timestamp"), ("row_end", "timestamp"))
AUTO_INCREMENT = re.compile(r" AUTO_INCREMENT=\d+")
# MySQL names a column's character set only where a statement gave one, as every dump does; the sort order tells it.
CHARACTER_SET = re.compile(r" CHARACTER SET \w+(?= COLLATE \w)")
DEFINED_BY = re.compile(r"(?<=\s)DEFINER=(?:`(?:[^`]|``)*`|\"[^\"]*\")(?:@(?:`(?:[^`]|``)*`|\"[^\"]*\"))?")


@dataclass(frozen=True)
class _Table:
    name: str
    kind: str
    transactional: bool
    created: Any
    columns: tuple[tuple[str, str], ...]
    # Of a system-versioned table: the columns that say since when and until when a row was so, and their type.
    period: tuple[tuple[str, str], ...] = ()

    @property
    def floats(self) -> list[str]:
        return self._of("float")

    @property
    def json(self) -> list[str]:
        return self._of("json")

    def _of(self, wanted: str) -> list[str]:
        return [name for name, kind in self.columns if kind == wanted]


class MySQLDumps:
    ending = ".sql.gz"

    def __init__(self, url: sa.URL, drill_user: DrillUser | None = None) -> None:
        """`drill_user`: the one that the address logs in as, where it is a drill's."""
        self.url = url
        self._engine = connect(url)
        self._version: str | None = None
        self._drill_user = drill_user
        # Of what was loaded here under that user: the definers that the dump says, by kind and name, and views that it
        # may not make.
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

    # --- what is there -------------------------------------------------------------------------------------

    def schema_state(self) -> str:
        with self._engine.connect() as connection:
            # Sorted here: the server sorts names that differ in their case alone now so, now so.
            tables = sorted((t.name, t.kind, str(t.created)) for t in _tables(connection))
            altered = connection.execute(ALTERED).scalar()
            definitions = sorted(self._definitions(connection).items())
            return fingerprint(tables, altered, self._table_ids(connection), definitions)

    def _table_ids(self, connection: sa.Connection) -> list[Any]:
        """InnoDB's own numbers: TRUNCATE gives a table another one, within the second that CREATE_TIME tells. Only
        for a user with the right PROCESS, and names that InnoDB doesn't write in its own way."""
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
            if like:  # what the drill's user may not make is named, not compared
                named = {*(f"view {name}" for name in self._untried), *(f"event {name}" for name in self._gone)}
                definitions |= {key: value for key, value in like.definitions.items() if key in named}
            return Contents(tables, definitions, self._dialect)

    def hidden(self) -> str:
        with self._engine.connect() as connection:
            return hidden(connection, self.database, self.engine)

    def _definitions(self, connection: sa.Connection) -> dict[str, str]:
        """Definition hashes of everything but rows. An event's state stands apart: a drill's are switched off."""
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
            # Not of a table whose versions are told by transactions: the program fails at one.
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
                if kind != "PACKAGE BODY":  # goes with its package
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
        if not own:
            self._refuse_on_own_server(server is None)
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
                # MySQL drops nobody of whose objects any are left.
                drop_user(connection, name)

    def _logged(self) -> bool:
        with self._engine.connect() as connection:
            return bool(int(connection.exec_driver_sql("SELECT @@log_bin").scalar_one()))

    def _name_cases(self) -> int:
        with self._engine.connect() as connection:
            return _cases(connection)

    def _refuse_on_own_server(self, own: bool) -> None:
        """A foreign key into another database would, in the copy too, lock and hold that database's rows."""
        if not own:
            return
        with self._engine.connect() as connection:
            tables = [_text(row[0]) for row in connection.execute(ELSEWHERE)]
        if tables:
            raise DrillNotPossible(
                f"The foreign keys of {', '.join(tables)} point into another database of the same server, which a copy"
                " would take part in. Name another server in RESTORE_DRILL_URL."
            )


class MySQLTaking:
    _client: Client
    tool: str

    def __init__(self, dumps: MySQLDumps, stack: ExitStack) -> None:
        self._dumps, self._stack = dumps, stack
        self._head = b""
        self._before: sa.Connection | None = None
        self._loose: dict[str, TableContents] = {}
        self._notes: list[str] = []
        self._how: dict[str, str] = {}
        self._broken: dict[str, str] = {}
        self._own: set[int] = set()
        self._events: list[str] = []

    def begin(self, strategy: str, *, wide: bool = False) -> bool:
        """Opens the dump and the snapshots by which it is measured. False: try the next strategy."""
        look = self._connection()
        tables = _tables(look)
        # Asked by the connection that is there: another one takes 25 ms, nearly all of it for TLS.
        self._client = self._dumps._client(tables)
        self.tool = self._client.version
        self._loose = {t.name: _measure(look, t) for t in tables if t.kind != "VIEW" and not t.transactional}
        broken = broken_views(look, [t.name for t in tables if t.kind == "VIEW"])
        database = self._dumps.database
        self._broken = {name: unqualified(text.encode(), database).decode() for name, text in broken.items()}
        self._events = events_that_spin(look)
        if self._events:
            self._client = replace(
                self._client, arguments=tuple(a for a in self._client.arguments if a != "--events")
            )
        look.commit()
        if strategy == "bracketed":
            self._before = _snapshot(self._connection())
        # Nobody shall wait for a connection under the lock; else it is made while the program starts.
        after = self._connection() if strategy == "locked" else None
        if strategy == "locked" and not _read_lock(look):
            return False
        mark = _log_position(look)
        if strategy == "quiet" and mark is None:
            return False
        arguments = [*ignored(database, [MARKER, *self._broken]), *as_argument(database)]
        program = self._stack.enter_context(self._client.program(self._dumps.url, arguments))
        self._output = self._stack.enter_context(Output(program, wide=wide))
        after = after or self._connection()
        if not self._begun(LOCK_HELD_SECONDS if strategy == "locked" else None):
            return False
        self._after = _snapshot(after)
        if strategy == "locked":
            look.exec_driver_sql("UNLOCK TABLES")
        return strategy != "quiet" or _log_position(look) == mark

    def _connection(self) -> sa.Connection:
        connection = self._stack.enter_context(self._dumps._engine.connect())
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_PATIENCE}")
        self._own.add(int(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()))
        return connection

    def _read(self) -> bytes:
        """What the program writes next. Raises OperatorError where it waits for what doesn't come."""
        began = time.monotonic()
        while not self._output.ready(LOCK_PATIENCE):
            silent = time.monotonic() - began
            why = self._why_silent()
            if not why and silent > LONGEST_SILENCE:
                why = "the server executes a statement of this user's; look at it with SHOW FULL PROCESSLIST."
            if why:
                name = self._client.name
                raise OperatorError(f"{name} has written nothing for {silent:.0f} s: {why} Nothing was kept.")
        return self._output.read()

    def _why_silent(self) -> str:
        """Empty while a statement is executed that may be the program's."""
        with self._dumps._engine.connect() as connection:
            connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")
            self._own.add(int(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()))
            rows = [[_text(cell) for cell in row] for row in connection.exec_driver_sql(PROCESSES)]
            mine = str(connection.exec_driver_sql("SELECT SUBSTRING_INDEX(USER(), '@', 1)").scalar())
        working = [
            str(state).lower() for number, user, database, command, state in rows
            if number not in self._own and user == mine and database == self._dumps.database and command == "Query"
        ]  # fmt: skip
        if any("waiting for" in state and "lock" in state for state in working):
            return LOCKED
        if not working:
            return (
                "it waits for nothing from the server. It may be stuck at a definition that it can't write, or at one"
                " of an event, routine or trigger; MySQL's own client, or MariaDB's, may do better."
            )
        return ""

    def _begun(self, seconds: float | None) -> bool:
        """Waits until the dump's snapshot is open. False when that takes too long, the service's writes waiting."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not BEGUN.search(self._head):
            if deadline is not None and not self._output.ready(deadline - time.monotonic()):
                return False
            data = self._read()
            if not data:
                return True
            self._head += data
        return True

    def chunks(self) -> Iterator[bytes]:
        # MariaDB's first line switches its own client into a sandbox; older clients and MySQL's choke on it.
        head = SQL_MODE.sub(rb"\1,ALLOW_INVALID_DATES'", SANDBOX.sub(b"", self._head), count=1)
        tail = head[-TAIL:]
        if head:
            yield head
        while data := self._read():
            tail = (tail + data[-TAIL:])[-TAIL:]
            yield data
        try:
            self._output.finish()
        except ProgramFailed as error:
            self._explain(error)
        if not COMPLETED.search(tail):
            raise DumpSpoilt(
                f"{self._client.name} ended well, and yet its last line is not there: the dump of"
                f" {self._dumps.database} is not whole. Nothing was kept."
            )
        yield from self._more()

    def _more(self) -> Iterator[bytes]:
        """What the program left out, and what it leaves out all the same."""
        wrong: list[tuple[FloatTable, str]] = []
        short, past = [], []
        for table in _tables(self._after):
            if table.kind == VERSIONED:
                if "--dump-history" not in self._client.arguments:
                    past.append(table.name)
                elif table.transactional:
                    self._how[table.name] = "history"
            elif table.kind == "BASE TABLE" and table.floats:
                where = rounded(self._after, table.name, table.floats)
                way = float_table(self._after, table.name, table.floats) if where and self._stood_still(table) else None
                if where and way is None:
                    short.append(table.name)
                elif table.transactional:
                    self._how[table.name] = "floats"
                wrong += [(way, where)] if way else []
        if short:
            self._notes.append(f"FLOAT columns hold six digits, as the server shows them: {', '.join(short)}")
        if past:
            self._notes.append(f"the history of system-versioned tables is not in it: {', '.join(past)}")
        yield from as_comments(self._broken)
        yield from events_written(self._after, self._events)
        if wrong:
            yield from exact_floats(self._after, wrong)

    def _look_at_json(self, table: _Table) -> None:
        otherwise, lost = retyped(self._after, table.name, table.json)
        if otherwise:
            self._how[table.name] = f"{self._how.get(table.name, '')} json".strip()
        if lost:
            self._notes.append(
                "JSON text can't say what these columns hold, such as a DECIMAL beyond double precision, a time or"
                f" binary values; a restore brings back a DOUBLE or a string:"
                f" {', '.join(f'{table.name}.{column}' for column in lost)}"
            )

    def _stood_still(self, table: _Table) -> bool:
        """Whether our snapshot of the table is the dump's."""
        if self._before is None or not table.transactional:
            return table.transactional
        return _measure(self._before, table, "floats") == _measure(self._after, table, "floats")

    def _explain(self, error: ProgramFailed) -> None:
        if any(text in error.said for text in ("1412", "1146", "definition has changed", "doesn't exist")):
            raise DumpSpoilt(f"A table was changed while it was dumped. {error}") from None
        if "references invalid" in error.said:  # a view broke, or its definer lost a right, since it was looked at
            raise DumpSpoilt(f"A view broke while it was dumped. {error}") from None
        hint = ""
        if "1205" in error.said:
            hint = f" {LOCKED}"
        elif "3024" in error.said or "1969" in error.said:
            hint = (
                " The server ends long statements (max_execution_time, max_statement_time), and this program can't be"
                " told to switch that off: install MySQL's own client from version 9 on, or set it to 0 on the server"
                " while dumps are taken."
            )
        elif self._client.mariadb and self._dumps.engine == "mysql" and "denied" not in error.said:
            hint = " It is MariaDB's client on a MySQL server; MySQL's own mysqldump may do better."
        raise ProgramFailed(f"The dump of {self._dumps.database} was not kept: {error}{hint}", error.said) from None

    def contents(self) -> Contents:
        tables = {}
        for table in (t for t in _tables(self._after) if t.kind != "VIEW"):
            if table.json:
                self._look_at_json(table)
            how = self._how.get(table.name)
            after = _measure(self._after, table, how)
            if table.kind == "SEQUENCE":
                # Drawn from meanwhile, it may have either value.
                tables[table.name] = after if self._loose.get(table.name) == after else TableContents(1, None)
            elif not table.transactional:
                tables[table.name] = merged(self._loose.get(table.name, after), after)
                self._notes.append(f"{table.name} is in no transaction: the dump's snapshot doesn't cover it")
            elif self._before is not None:
                tables[table.name] = merged(_measure(self._before, table, how), after)
            else:
                tables[table.name] = after
        for connection in (self._before, self._after):
            if connection is not None:
                connection.rollback()
        broken = {f"view {name}" for name in self._broken}
        definitions = {k: v for k, v in self._dumps._definitions(self._after).items() if k not in broken}
        return Contents(tables, definitions, self._dumps._dialect, self._notes, sorted(self._broken))


# --- the server's answers ----------------------------------------------------------------------------------------


def _cases(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT @@lower_case_table_names").scalar_one())


def _number(version: str) -> int:
    """As the comments for some servers count it: 10.11.6 is 101106, 9.7.0 is 90700."""
    parts = [int(n) for n in re.findall(r"\d+", version)[:3]]
    return (parts[0] * 100 + parts[1]) * 100 + parts[2]


def _of_server(url: sa.URL) -> sa.URL:
    """The address without a database; `URL.set(database=None)` would leave it as it is."""
    return url._replace(database=None)


def _snapshot(connection: sa.Connection) -> sa.Connection:
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    return connection


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _tables(connection: sa.Connection) -> list[_Table]:
    columns: dict[str, list[tuple[str, str]]] = {}
    periods: dict[str, list[tuple[str, str]]] = {}
    for row in connection.execute(COLUMNS):
        table, column, data_type, extra, expression = (_text(v) for v in row)
        if expression in ("ROW START", "ROW END"):
            periods.setdefault(table, []).append((column, data_type.lower()))
        # A generated column follows from the others; a client may not even dump it.
        elif "GENERATED" not in str(extra).upper().replace("DEFAULT_GENERATED", ""):
            columns.setdefault(table, []).append((column, data_type.lower()))
    rows = [[_text(v) for v in row] for row in connection.execute(TABLES, {"marker": MARKER})]
    found = []
    for name, kind, _, transactions, created in rows:
        if "VIEW" not in kind or kind == "VIEW":
            period = tuple(periods.get(name, IMPLICIT_PERIOD)) if kind == VERSIONED else ()
            covered = transactions == "YES" and kind != "SEQUENCE"
            found.append(_Table(name, kind, covered, created, tuple(columns.get(name, ())), period))
    return found


def _show(connection: sa.Connection, kind: str, name: str) -> str:
    quoted = connection.dialect.identifier_preparer.quote(name)
    row = connection.exec_driver_sql(f"SHOW CREATE {kind} {quoted}").one()
    place = {"TABLE": 1, "VIEW": 1}.get(kind, 2)
    text = _text(row[place])
    if text is None:
        raise OperatorError(
            f"The definition of {kind.lower()} {name} is not shown to this user, so a dump would lack it. Grant it"
            " SHOW_ROUTINE (MySQL) or SELECT on mysql.proc (MariaDB)."
        )
    return str(text)


def _measure(connection: sa.Connection, table: _Table, how: str | None = None) -> TableContents:
    """Rows, and the sum of 60 bits of each row's SHA-256. `how`: see TableContents."""
    quote = connection.dialect.identifier_preparer.quote
    if table.kind == "SEQUENCE":
        (value,) = connection.exec_driver_sql(f"SELECT next_not_cached_value FROM {quote(table.name)}").one()  # noqa: S608
        return TableContents(1, str(value))
    cells = []
    ways = (how or "").split()
    for name, kind in [*table.columns, *(table.period if "history" in ways else ())]:
        column = quote(name)
        column = read_again(column) if kind == "json" and "json" in ways else column
        # Large values are hashed alone: a joined row must not exceed max_allowed_packet, or it becomes NULL.
        text = f"SHA2({column}, 256)" if kind in LONG_TYPES else column
        text = f"CAST({column} AS BINARY)" if kind in TEXTS else text
        text = f"{column}+0" if kind == "bit" else text
        text = f"{column}+0e0" if kind == "float" and "floats" in ways else text
        text = f"CAST({column} AS CHAR)" if kind in ("uuid", "inet4", "inet6") else text
        cells.append(f"COALESCE({text}, '\\\\N')")
    joined = f"CONCAT_WS(CAST(x'1f' AS BINARY), {', '.join(cells)})" if cells else "''"
    hashed = f"CAST(CONV(LEFT(SHA2({joined}, 256), 15), 16, 10) AS UNSIGNED)"
    which = " FOR SYSTEM_TIME ALL" if "history" in ways else ""
    statement = f"SELECT COUNT(*), SUM({hashed}) FROM {quote(table.name)}{which}"  # noqa: S608 (quoted by the dialect)
    rows, total = connection.exec_driver_sql(statement).one()
    return TableContents(int(rows), f"{int(total or 0) % 2**64:016x}", how=how)


def _log_position(connection: sa.Connection) -> int | None:
    """InnoDB's log position: it stands still while nothing is written or committed."""
    for variable in ("Innodb_redo_log_current_lsn", "Innodb_lsn_current"):
        row = connection.exec_driver_sql(f"SHOW GLOBAL STATUS LIKE '{variable}'").fetchone()
        if row is not None:
            connection.commit()
            return int(row[1])
    return None


def _read_lock(connection: sa.Connection) -> bool:
    """Whether nobody can write now, until UNLOCK TABLES or the connection's end."""
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")
    try:
        connection.exec_driver_sql("FLUSH TABLES WITH READ LOCK")
    except DBAPIError:
        return False
    return True


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
