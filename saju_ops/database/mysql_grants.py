"""The rights of a MySQL or MariaDB account, asked of the server and not inferred from what its lists happen to show.

The servers' information_schema leaves out, without a word, everything on which the account has no right. SHOW GRANTS
names the rights of the account and of its active roles; a SELECT from a table that isn't there shows whether the
account may read the whole database, in whichever way it got the right.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

_NAME = r"(?:\*|`(?:[^`]|``)+`|\"(?:[^\"]|\"\")+\")"
_GRANT = re.compile(rf"(GRANT|REVOKE) (.+?) ON ({_NAME})\.({_NAME}) (?:TO|FROM) (\S+)", re.DOTALL)
# The server's numbers for: no right on a table, on a column, on a database; no such table, no such setting.
DENIED = {1044, 1142, 1143}
NO_TABLE = 1146
NO_SETTING = 1193

# Verb, rights, database, table and grantee of a line of SHOW GRANTS.
Grant = tuple[str, frozenset[str], str, str, str]


def error_number(error: DBAPIError) -> int | None:
    number = getattr(error.orig, "args", (None,))[0]
    return number if isinstance(number, int) else None


def grants_of(connection: sa.Connection) -> list[str]:
    """The lines of SHOW GRANTS, those of active roles included. MariaDB's hold a hash of the password: never to be
    shown."""
    return [str(row[0]) for row in connection.exec_driver_sql("SHOW GRANTS")]


def parsed(grants: Sequence[str]) -> list[Grant]:
    found = [match for grant in grants if (match := _GRANT.match(grant))]
    return [(m[1], _rights(m[2]), _unquoted(m[3]), _unquoted(m[4]), m[5]) for m in found]


def rights_on(grants: Sequence[str], database: str, *, literal: bool = False) -> set[str]:
    """The rights on all of a database; one on some table or routine of it says nothing about the others. `literal`: the
    server takes % and _ in a grant's database as they are. If several grants of one account have fitting patterns, a
    server uses one: only what is in all of them counts."""
    rights: set[str] = set()
    of_database: dict[str, frozenset[str]] = {}
    revoked: set[str] = set()
    for verb, named, of, what, whose in parsed(grants):
        if what != "*" or not (of == "*" or _is_like(of, database, literal)):
            continue
        if verb == "REVOKE":
            revoked |= named
        elif of == "*":
            rights |= named
        else:
            before = of_database.get(whose, named)
            of_database[whose] = _in_both(before, named)
    return rights.union(*of_database.values()) - revoked


def database_in_grant(grants: Sequence[str], database: str, *, literal: bool = False) -> list[str]:
    """How a GRANT on the database must write it, so that it adds to what the account has there: a server uses one grant
    alone of those whose patterns fit. As those write it that are there, else with its wildcards escaped."""
    there = {of for verb, _, of, what, _ in parsed(grants)
             if verb == "GRANT" and what == "*" != of and _is_like(of, database, literal)}  # fmt: skip
    names = sorted(there) or [database if literal else re.sub(r"([_%\\])", r"\\\1", database)]
    return ["`" + name.replace("`", "``") + "`" for name in names]


def sees_all_databases(grants: Sequence[str]) -> bool:
    """Whether SELECT is granted on everything, and revoked on nothing."""
    found = parsed(grants)
    everywhere = any(
        verb == "GRANT" and (of, what) == ("*", "*") and rights & {"SELECT", "ALL PRIVILEGES"}
        for verb, rights, of, what, _ in found
    )
    return everywhere and all(verb == "GRANT" for verb, *_ in found)


def takes_names_literally(connection: sa.Connection) -> bool:
    """MySQL with partial_revokes: `my\\_db` in a grant is then a database with a backslash in its name."""
    try:
        return bool(connection.exec_driver_sql("SELECT @@partial_revokes").scalar())
    except DBAPIError as error:
        if error_number(error) != NO_SETTING:
            raise
        return False


def may_read_database(connection: sa.Connection) -> bool:
    """Whether the account may read every table of the connection's database. A server looks at the right before it
    looks for the table; no grant on a single table can be one on this name."""
    try:
        connection.exec_driver_sql(f"SELECT 1 FROM saju_ops_{secrets.token_hex(12)} LIMIT 0")  # noqa: S608
    except DBAPIError as error:
        if error_number(error) == NO_TABLE:
            return True
        if error_number(error) not in DENIED:
            raise
    return False


def account(connection: sa.Connection) -> str:
    """The account as a GRANT names it: 'ops'@'%'."""
    name, _, host = str(connection.exec_driver_sql("SELECT CURRENT_USER()").scalar()).rpartition("@")
    return f"'{name}'@'{host}'"


def _in_both(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    if "ALL PRIVILEGES" in one:
        return other
    return one if "ALL PRIVILEGES" in other else one & other


def _rights(listed: str) -> frozenset[str]:
    return frozenset(word.strip().upper() for word in listed.split(","))


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace(name[0] * 2, name[0])


def _is_like(pattern: str, name: str, literal: bool) -> bool:
    """A grant's database may hold the wildcards % and _, and \\ before one that is meant as it is."""
    if literal:
        return pattern.casefold() == name.casefold()
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    words = {"%": ".*", "_": "."}
    regex = "".join(words.get(part, re.escape(part[-1])) for part in parts)
    return re.fullmatch(regex, name, re.DOTALL | re.IGNORECASE) is not None
