"""Whether a MySQL or MariaDB user sees all that is in a database.

What a user has no right on isn't refused but left out, by the server's own lists and by the dump programs alike: a
dump would lack it, and nothing that the server says to this user could tell.
"""

from __future__ import annotations

import re

import sqlalchemy as sa

_NAME = r"(?:\*|`(?:[^`]|``)+`|\"(?:[^\"]|\"\")+\")"
_GRANT = re.compile(rf"(GRANT|REVOKE) (.+?) ON ({_NAME})\.({_NAME}) (?:TO|FROM) ", re.DOTALL)
ROUTINES = {"SHOW_ROUTINE", "SHOW CREATE ROUTINE", "EXECUTE", "CREATE ROUTINE", "ALTER ROUTINE"}


def hidden(connection: sa.Connection, database: str, engine: str) -> str:
    """What of the database this user might not see, and the rights for it; empty if it sees all. Roles that are
    active count."""
    grants = [str(row[0]) for row in connection.exec_driver_sql("SHOW GRANTS")]
    return missing_rights(grants, database, engine)


def missing_rights(grants: list[str], database: str, engine: str) -> str:
    rights = _of_database(grants, database)
    everything = "ALL PRIVILEGES" in rights
    unseen = [f"{kind}s ({right})" for kind, right in (("table", "SELECT"), ("trigger", "TRIGGER"), ("event", "EVENT"))
              if not everything and right not in rights]  # fmt: skip
    if not (everything or rights & ROUTINES or _sees_routines(grants, engine)):
        unseen.append(f"routines ({'SELECT on mysql.proc' if engine == 'mariadb' else 'SHOW_ROUTINE'})")
    return ", ".join(unseen)


def _of_database(grants: list[str], database: str) -> set[str]:
    """The rights on all of a database; one on some table or routine of it says nothing about the others."""
    rights: set[str] = set()
    for verb, listed, of, what in _matches(grants):
        if what == "*" and (of == "*" or _like(of, database)):
            named = {word.strip().upper() for word in listed.split(",")}
            rights = rights | named if verb == "GRANT" else rights - named
    return rights


def _sees_routines(grants: list[str], engine: str) -> bool:
    """By a SELECT on where the server keeps them."""
    kept = [("*", "*"), ("mysql", "*"), ("mysql", "proc")] if engine == "mariadb" else [("*", "*")]
    return any(
        verb == "GRANT" and (of, what) in kept and "SELECT" in {word.strip().upper() for word in listed.split(",")}
        for verb, listed, of, what in _matches(grants)
    )


def _matches(grants: list[str]) -> list[tuple[str, str, str, str]]:
    found = [match for grant in grants if (match := _GRANT.match(grant))]
    return [(m[1], m[2], _unquoted(m[3]), _unquoted(m[4])) for m in found]


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace(name[0] * 2, name[0])


def _like(pattern: str, name: str) -> bool:
    """A grant's database may hold the wildcards % and _, and \\ before one that is meant as it stands."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    words = {"%": ".*", "_": "."}
    regex = "".join(words.get(part, re.escape(part[-1])) for part in parts)
    return re.fullmatch(regex, name, re.DOTALL | re.IGNORECASE) is not None
