"""The user under which a MySQL or MariaDB dump is tried: made for the one drill, with rights on its scratch database
alone, and dropped with it.

Whatever a dump holds can do no more than this user. Its name is that of the scratch database in other words, so that
the next drill finds what a killed one left.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text, redacted
from saju_ops.database.mysql_grants import error_number, grants_of, takes_names_literally
from saju_ops.dumps.engine import SCRATCH_PREFIX, DrillNotPossible
from saju_ops.dumps.mysql.rights import rights_outside
from saju_ops.dumps.mysql.words import quoted

# With the scratch database's time and random part, 32 characters: the longest name that MySQL takes.
USER_PREFIX = "saju"
# As a grant writes it: _ is a wildcard there.
DATABASES = SCRATCH_PREFIX.replace("_", "\\_")
# What the server says to a GRANT of rights that the account has, but not to give.
DENIED_DATABASE = 1044
# Connections at once: one loads, one compares.
CONNECTIONS = 8


@dataclass(frozen=True)
class DrillUser:
    """The user that loads a dump into a scratch database: `name` and `host` of its account."""

    url: sa.URL
    name: str
    host: str
    # The account that made it, for statements that only such a user may run. None if the drill runs as the configured
    # account.
    admin: sa.URL | None

    @property
    def definer(self) -> bytes:
        return b"DEFINER=" + quoted(self.name) + b"@" + quoted(self.host)

    @property
    def account(self) -> str:
        return f"{self.name}@{self.host}"


def user_of(database: str) -> str:
    return USER_PREFIX + database.removeprefix(SCRATCH_PREFIX)


def make_user(connection: sa.Connection, base: sa.URL, database: str, *, named: bool) -> DrillUser:
    """Makes a user for the scratch database, which exists. `named`: the address is one of RESTORE_DRILL_URL; its own
    account will do if it has no rights elsewhere. Raises DrillNotPossible."""
    me, host = str(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar()).rsplit("@", 1)
    name, password = user_of(database), secrets.token_urlsafe(24) + "aA1!"
    try:
        limits = f"WITH MAX_USER_CONNECTIONS {CONNECTIONS}"
        _execute(connection, f"CREATE USER %s@%s IDENTIFIED BY %s {limits}", name, host, password)
        literal = takes_names_literally(connection)
        _grant_all(connection, database if literal else database.replace("_", "\\_"), name, host)
    except DBAPIError as error:
        with suppress(DBAPIError):
            _execute(connection, "DROP USER IF EXISTS %s@%s", name, host)
        said = error_text(error)
    else:
        return DrillUser(base.set(username=name, password=password, database=database), name, host, base)
    to = f"TO '{me}'@'{host}'"
    grant = f"GRANT CREATE USER ON *.* {to}; GRANT ALL ON `{DATABASES}%`.* {to} WITH GRANT OPTION"
    if not named:
        raise DrillNotPossible(
            f"A restore is tried by a user that is made for it, and {redacted(base)} may not make one ({said})."
            f" {grant}; or name in RESTORE_DRILL_URL an account that has rights on such databases alone: Grant ALL ON"
            f" `{DATABASES}%`.* to it."
        )
    if outside := rights_outside(grants_of(connection), SCRATCH_PREFIX):
        raise DrillNotPossible(
            f"The account of RESTORE_DRILL_URL ({redacted(base)}) may not make a user for the drill ({said}), and has"
            f" rights of its own elsewhere ({outside}), which what is in a dump would have too. {grant}; or take those"
            f" rights from it and Grant ALL ON `{DATABASES}%`.* to it."
        )
    return DrillUser(base.set(database=database), me, host, None)


def _grant_all(connection: sa.Connection, database: str, name: str, host: str) -> None:
    """`database`: as a grant writes it. An account that has every right but may not pass them on may still be able to
    write to the server's own tables of rights; then the user gets the same rights that way."""
    try:
        _execute(connection, f"GRANT ALL ON `{database}`.* TO %s@%s", name, host)
    except DBAPIError as error:
        if error_number(error) != DENIED_DATABASE:
            raise
        try:
            columns = [_text(row[0]) for row in connection.exec_driver_sql("SHOW COLUMNS FROM mysql.db")]
            rights = [c for c in columns if c.endswith("_priv") and c != "Grant_priv"]
            row = f"INSERT INTO mysql.db (Host, Db, User, {', '.join(rights)})"
            values = (host, database, name, *"Y" * len(rights))
            _execute(connection, f"{row} VALUES ({', '.join(['%s'] * len(values))})", *values)
            connection.commit()
            connection.exec_driver_sql("FLUSH PRIVILEGES")
        except DBAPIError:
            raise error from None


def drop_user(connection: sa.Connection, database: str) -> None:
    """Drops the user of a scratch database, if the account may: a user that is left has no rights once that is gone."""
    host = str(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar()).rsplit("@", 1)[1]
    with suppress(DBAPIError):
        _execute(connection, "DROP USER IF EXISTS %s@%s", user_of(database), host)


def left_users(connection: sa.Connection) -> list[str]:
    """The scratch databases of which a user is still there, as far as the account sees users."""
    for listed in ("SELECT User FROM mysql.user", "SELECT USER FROM information_schema.USER_ATTRIBUTES"):
        with suppress(DBAPIError):
            names = [_text(row[0]) for row in connection.exec_driver_sql(listed)]
            return [SCRATCH_PREFIX + n.removeprefix(USER_PREFIX) for n in names if n.startswith(USER_PREFIX)]
    return []


def definer_of(clause: bytes) -> str:
    """DEFINER=`a`@`b` as the server's lists have it: a@b."""
    text = clause.decode(errors="replace").partition("=")[2].strip()
    parts = re.findall(r"`(?:[^`]|``)*`|\"[^\"]*\"|'[^']*'|[^@\s]+", text)
    return "@".join(p[1:-1].replace("``", "`") if p[:1] in "`\"'" else p for p in parts)


def _execute(connection: sa.Connection, statement: str, *values: str) -> None:
    connection.exec_driver_sql(statement, values)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
