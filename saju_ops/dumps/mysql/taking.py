"""One dump of MySQL or MariaDB: a snapshot, the dump program's output, and the contents of the snapshot."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.snapshots import Held, begin_reading
from saju_ops.dumps.contents import Contents, TableContents, merged
from saju_ops.dumps.engine import LOCKED, MARKER, DumpSpoilt
from saju_ops.dumps.mysql.broken_views import as_comments, broken_views, ignored
from saju_ops.dumps.mysql.catalogue import VERSIONED, _measure, _show, _Table, _tables, _text
from saju_ops.dumps.mysql.clients import Client, as_argument
from saju_ops.dumps.mysql.events import events_that_spin, events_written
from saju_ops.dumps.mysql.exact_floats import FloatTable, exact_floats, float_table, retyped, rounded
from saju_ops.dumps.mysql.words import unqualified
from saju_ops.dumps.programs import Output, ProgramFailed
from saju_ops.dumps.without_rows import NO_ROWS, WITHOUT_ROWS
from saju_ops.errors import OperatorError

if TYPE_CHECKING:
    from saju_ops.dumps.mysql.engine import MySQLDumps


# Seconds. While FLUSH TABLES WITH READ LOCK waits for a long query, new writes wait behind it.
LOCK_WAIT_SECONDS = 1
# Seconds that the lock is held at most: the dump program connects and opens its snapshot in 0.05.
LOCK_HELD_SECONDS = 3.0
# Seconds that a dump waits for somebody else's lock, and after which a program that says nothing is looked at.
LOCK_PATIENCE = 60
# Seconds after which a program that says nothing is ended, even if the server is at work for it.
LONGEST_SILENCE = 3600
# Dates that a server took in which that is allowed, such as 31 February, would be restored as 0000-00-00.
SQL_MODE = re.compile(rb"(\n/\*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO)'")
SANDBOX = re.compile(rb"\A/\*M?!999999\\- [^\n]*\n")
COMPLETED = re.compile(rb"\n-- Dump completed(?: on [^\n]*)?\n?\Z")
# The first line after the header; the dump's snapshot is open by then.
BEGUN = re.compile(rb"\n-- (?:Table structure|Temporary|Dumping|Final view|Sequence)|SEQUENCE")
# The last of the settings that each program begins a dump with; the first table comes after it.
HEADER = re.compile(rb"\n/\*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 \*/;\n")
TAIL = 512
PROCESSES = "SELECT ID, USER, DB, COMMAND, STATE FROM information_schema.PROCESSLIST"


class MySQLTaking:
    _client: Client
    _apart: Held
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
        self._empty: list[str] = []
        self._made_empty = b""

    def begin(self, strategy: str, *, wide: bool = False) -> bool:
        """Opens the dump and the snapshots by which it is measured. False: try the next strategy."""
        look = self._connection()
        # Till its end: no month of a partitioned table leaves while the snapshots are open.
        self._apart = begin_reading(look)
        tables = _tables(look)
        # Asked by the connection that is there: another one takes 25 ms, nearly all of it for TLS.
        self._client = self._dumps._client(tables)
        self.tool = self._client.version
        self._loose = {t.name: _measure(look, t) for t in tables if t.kind != "VIEW" and not t.transactional}
        broken = broken_views(look, [t.name for t in tables if t.kind == "VIEW"])
        database = self._dumps.database
        self._broken = {name: unqualified(text.encode(), database).decode() for name, text in broken.items()}
        self._empty = [t.name for t in tables if t.name in WITHOUT_ROWS]
        self._made_empty = tables_without_rows(look, self._empty)
        self._events = events_that_spin(look)
        if self._events:
            self._client = replace(self._client, arguments=tuple(a for a in self._client.arguments if a != "--events"))
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
        arguments = [*ignored(database, [MARKER, *self._broken, *self._empty]), *as_argument(database)]
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
        """The program's next output. Raises OperatorError if the program waits for something that doesn't come."""
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
        if self._made_empty:
            head = _with_tables(head, self._made_empty)
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
        """What the program leaves out and is added here, and what is left out all the same."""
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
                " The server ends long statements (max_execution_time, max_statement_time), and this program has no"
                " option to switch that off: install MySQL's own client from version 9 on, or set it to 0 on the server"
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
            if table.name in self._empty:
                tables[table.name] = NO_ROWS
                continue
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
        if not self._apart():
            raise DumpSpoilt(
                f"The connection was lost that keeps a rotation of partitions from {self._dumps.database} while it is"
                " dumped. Nothing was kept."
            )
        broken = {f"view {name}" for name in self._broken}
        definitions = {k: v for k, v in self._dumps._definitions(self._after).items() if k not in broken}
        return Contents(tables, definitions, self._dumps._dialect, self._notes, sorted(self._broken))


def tables_without_rows(connection: sa.Connection, names: Sequence[str]) -> bytes:
    """Their definitions, as a dump program writes them."""
    made = [f"DROP TABLE IF EXISTS `{name}`;\n{_show(connection, 'TABLE', name)};\n" for name in names]
    return "".join(made).encode()


def _with_tables(head: bytes, made: bytes) -> bytes:
    """The beginning of a dump with tables that the program leaves out, before the program's own output. Raises
    OperatorError where it begins in another way than every program's that is known."""
    found = HEADER.search(head)
    if found is None:
        raise OperatorError(
            "The dump program's first lines are not those that are known, so the table of the masked views' salt can't"
            " be put into the dump without its rows. Nothing was kept. Use MySQL's or MariaDB's own program."
        )
    return head[: found.end()] + made + head[found.end() :]


def _snapshot(connection: sa.Connection) -> sa.Connection:
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    return connection


def _log_position(connection: sa.Connection) -> int | None:
    """InnoDB's log position: it doesn't move while nothing is written or committed."""
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
