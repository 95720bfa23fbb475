"""Executes the statements of a dump in one database of MySQL or MariaDB, each by itself, through the driver.

No client program reads the dump, so nothing in it is a client's command, and on this connection no query may hold a
second statement. While one statement is executed, a thread reads and unpacks the next and compares them with what is
allowed.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.dumps.mysql.judging import Statement
from saju_ops.dumps.programs import ProgramFailed, words_of
from saju_ops.errors import Refused

# Bytes of statements that wait for the server.
AHEAD = 8 << 20
LONG = 1 << 20
# Errors of a server with a binary log for a routine or trigger of a user without SUPER.
LOGGED = {1418, 1419}
EVENT_THERE = (
    "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()"
    " AND EVENT_NAME = %s COLLATE utf8mb4_general_ci"
)
# A view or routine of another database, which a drill's user may not use.
DENIED = {1142, 1143, 1370}
# A server's errors for a table that it holds and would make only with these settings off: rows over 8126 bytes, row
# formats that don't fit, a foreign key to columns that aren't unique, no primary key.
STRICT = {1005, 1031, 1071, 1118, 1478, 1709, 3750, 6125}
SETTINGS = ("innodb_strict_mode", "restrict_fk_on_non_standard_key", "sql_require_primary_key")
# MariaDB's, to rows that are older than a CHECK.
CHECK_FAILED = 4025
RELAXED = f"made with {', '.join(SETTINGS[:-1])} and {SETTINGS[-1]} off, as the server refuses them else"
UNCHECKED = "filled without CHECKs, which rows break"
# Storage engines that keep the rows before a row that a CHECK refuses; the statement can't be executed again then.
KEEPING = re.compile(rb"\bENGINE=(?:MyISAM|Aria|MEMORY|ARCHIVE|CSV|MRG_MyISAM)\b", re.IGNORECASE)
UNTRIED = "filled without CHECKs, since their engine keeps a part of what one refuses"
GONE = "events whose time has passed, which no server makes again"


class Session:
    """One connection of the driver's, in autocommit, on which a query is one statement."""

    def __init__(self, url: sa.URL) -> None:
        from pymysql.constants import CLIENT

        self._raw = connect(url).raw_connection()
        driver: Any = self._raw.driver_connection
        self._driver = driver
        if self._driver.client_flag & CLIENT.MULTI_STATEMENTS:
            self.close()
            raise Refused(
                "The database's address says client_flag, by which one query may hold several statements; a dump is not"
                " loaded so. Take it out of the address. Nothing was touched."
            )
        self._driver.autocommit(True)

    def close(self) -> None:
        self._raw.close()

    def query(self, statement: bytes) -> None:
        """Raises pymysql.err.MySQLError."""
        # Otherwise the driver copies the rest of a long statement with each packet of 16 MB.
        self._driver.query(memoryview(statement) if len(statement) > LONG else statement)

    def row(self, statement: str, *values: str) -> tuple[Any, ...]:
        with self._driver.cursor() as cursor:
            cursor.execute(statement, values or None)
            return tuple(cursor.fetchone())

    def settings(self, *more: str) -> dict[str, Any]:
        """Those that are kept with a routine or trigger that is made, and more."""
        names = ("sql_mode", "character_set_client", "collation_connection", "time_zone", *more)
        return dict(zip(names, self.row(f"SELECT {', '.join(f'@@{n}' for n in names)}"), strict=True))

    def relaxed(self, *, off: bool) -> None:
        """Switches off what keeps a server from making a table that another made, as far as this user may."""
        from pymysql.err import MySQLError

        for name in SETTINGS:
            with suppress(MySQLError):  # unknown there, or not allowed: the table's own error says it
                self.query(f"SET SESSION {name} = {'0' if off else 'DEFAULT'}".encode())

    def checks(self, *, on: bool) -> bool:
        """Switches CHECKs on or off. False where the server can't, as MySQL."""
        from pymysql.err import MySQLError

        with suppress(MySQLError):
            self.query(b"SET SESSION check_constraint_checks = %d" % on)
            return True
        return False

    def set(self, settings: dict[str, Any]) -> None:
        with self._driver.cursor() as cursor:
            cursor.execute(f"SET SESSION {', '.join(f'{name} = %s' for name in settings)}", tuple(settings.values()))


class Loader:
    """`definer`: the clause that replaces the dump's own definers, if they are replaced; `admin`: the address of an
    account that may make what a server with a binary log lets no other user make, in that definer's name."""

    def __init__(self, url: sa.URL, *, definer: bytes | None = None, admin: sa.URL | None = None) -> None:
        self._url, self._definer, self._admin = url, definer, admin
        # By kind and name: the definer that the dump says.
        self.definers: dict[tuple[str, str], bytes] = {}
        # Views that use another database, which the definer may not; each as the placeholder that dump programs make
        # first.
        self.views_untried: list[str] = []
        # Tables or events, by what was done differently from the dump.
        self.done: dict[str, list[str]] = {}
        self._placeholders: dict[str, bytes] = {}
        self._keeping: set[str] = set()

    def load(self, statements: Iterable[Statement]) -> None:
        """Raises ProgramFailed with the server's message, or the statements' own error."""
        from pymysql.err import MySQLError

        with closing(Session(self._url)) as session, ahead(statements, lambda s: len(s.sql)) as read:
            for statement in read:
                try:
                    self._execute(session, statement)
                except MySQLError as error:
                    raise failed(error) from None

    def _execute(self, session: Session, statement: Statement) -> None:
        if statement.kind == "placeholder":
            self._placeholders[statement.name] = statement.sql
        if self._definer is None or not statement.before:
            self._plainly(session, statement)
        else:
            self._without_definer(session, statement)
        if statement.kind == "event" and not session.row(EVENT_THERE, statement.name)[0]:
            self._note(GONE, statement.name)

    def _plainly(self, session: Session, statement: Statement) -> None:
        from pymysql.err import MySQLError

        if statement.kind == "table" and b"CHECK" in statement.sql and KEEPING.search(statement.sql):
            self._keeping.add(statement.name)
        if statement.kind == "rows" and statement.name in self._keeping and session.checks(on=False):
            session.query(statement.sql)
            session.checks(on=True)
            self._note(UNTRIED, statement.name)
            return
        try:
            session.query(statement.sql)
        except MySQLError as error:
            code = error.args[0] if error.args else 0
            if statement.kind == "table" and code in STRICT:
                self._relaxed(session, statement, error)
            elif statement.kind == "rows" and code == CHECK_FAILED and session.checks(on=False):
                session.query(statement.sql)
                session.checks(on=True)
                self._note(UNCHECKED, statement.name)
            else:
                raise

    def _relaxed(self, session: Session, statement: Statement, said: Exception) -> None:
        """Raises the server's first error if this fails too."""
        from pymysql.err import MySQLError

        by: list[Session] = [session]
        with ExitStack() as stack:
            if self._admin is not None:
                admin = stack.enter_context(closing(Session(self._admin.set(database=self._url.database))))
                admin.set(session.settings("foreign_key_checks"))
                by.append(admin)
            for one in by:
                one.relaxed(off=True)
                try:
                    one.query(statement.sql)
                except MySQLError:
                    continue
                finally:
                    one.relaxed(off=False)
                self._note(RELAXED, statement.name)
                return
        raise said

    def _note(self, what: str, name: str) -> None:
        names = self.done.setdefault(what, [])
        if name not in names:
            names.append(name)

    def _without_definer(self, session: Session, statement: Statement) -> None:
        from pymysql.err import MySQLError

        self.definers[statement.kind, statement.name] = statement.definer
        try:
            session.query(statement.by(b""))
        except MySQLError as error:
            code = error.args[0] if error.args else 0
            if code in LOGGED and self._admin is not None:
                self._by_admin(session, statement)
            elif code in DENIED and statement.kind == "view" and statement.name in self._placeholders:
                session.query(self._placeholders[statement.name])
                self.views_untried.append(statement.name)
            else:
                raise

    def _by_admin(self, session: Session, statement: Statement) -> None:
        """Creates the object without running it; when it runs, it has the definer's rights."""
        assert self._admin is not None
        assert self._definer is not None
        with closing(Session(self._admin.set(database=self._url.database))) as admin:
            admin.set(session.settings())
            admin.query(statement.by(self._definer))


def failed(error: Exception) -> ProgramFailed:
    code, text = (*error.args, "", "")[:2]
    said = words_of(f"ERROR {code or 2013}: {text or 'Lost connection'}")
    return ProgramFailed(f"the server took no more of it ({said}).", said)


@contextmanager
def ahead(items: Iterable[Any], size: Callable[[Any], int]) -> Iterator[Iterator[Any]]:
    """The items, read by a thread up to AHEAD bytes before they are asked for. At the block's end the thread has
    ended, and nothing more is taken of the items."""
    waiting: deque[Any] = deque()
    changed = threading.Condition()
    state: dict[str, Any] = {"bytes": 0, "over": False, "stop": False, "error": None}

    def read() -> None:
        try:
            for item in items:
                with changed:
                    while waiting and state["bytes"] + size(item) > AHEAD and not state["stop"]:
                        changed.wait()
                    if state["stop"]:
                        return
                    waiting.append(item)
                    state["bytes"] += size(item)
                    changed.notify_all()
        except BaseException as error:
            state["error"] = error
        finally:
            with changed:
                state["over"] = True
                changed.notify_all()

    def given() -> Iterator[Any]:
        while True:
            with changed:
                while not waiting and not state["over"]:
                    changed.wait()
                if not waiting:
                    break
                item = waiting.popleft()
                state["bytes"] -= size(item)
                changed.notify_all()
            yield item
        if state["error"] is not None:
            raise state["error"]

    thread = threading.Thread(target=read, name="saju_ops dump", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        with changed:
            state["stop"] = True
            changed.notify_all()
        thread.join()
