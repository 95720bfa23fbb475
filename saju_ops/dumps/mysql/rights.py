"""Whether a MySQL or MariaDB user sees everything in a database.

Objects on which a user has no right aren't refused but left out, by the server's own lists and by the dump programs
alike: a dump would lack them, and no answer of the server to this user would show it.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from saju_ops.database.mysql_grants import grants_of, may_read_database, parsed, rights_on, takes_names_literally

TABLES = "tables (SELECT)"
ROUTINES = {"SHOW_ROUTINE", "SHOW CREATE ROUTINE", "EXECUTE", "CREATE ROUTINE", "ALTER ROUTINE"}


def hidden(connection: sa.Connection, database: str, engine: str) -> str:
    """What of the database, which is the connection's, this user might not see, and the rights for it; empty if it
    sees all. Roles that are active count."""
    literal = takes_names_literally(connection)
    unseen = _missing(grants_of(connection), database, engine, literal)
    # For tables the server itself is asked, whose answer counts whatever SHOW GRANTS says.
    tables = [] if may_read_database(connection) else [TABLES]
    return ", ".join([*tables, *(what for what in unseen if what != TABLES)])


def missing_rights(grants: Sequence[str], database: str, engine: str, *, literal: bool = False) -> str:
    return ", ".join(_missing(grants, database, engine, literal))


def _missing(grants: Sequence[str], database: str, engine: str, literal: bool) -> list[str]:
    rights = rights_on(grants, database, literal=literal)
    everything = "ALL PRIVILEGES" in rights
    unseen = [f"{kind}s ({right})" for kind, right in (("table", "SELECT"), ("trigger", "TRIGGER"), ("event", "EVENT"))
              if not everything and right not in rights]  # fmt: skip
    if not (everything or rights & ROUTINES or _sees_routines(grants, engine)):
        unseen.append(f"routines ({'SELECT on mysql.proc' if engine == 'mariadb' else 'SHOW_ROUTINE'})")
    return unseen


def _sees_routines(grants: Sequence[str], engine: str) -> bool:
    """By a SELECT on where the server keeps them."""
    kept = [("*", "*"), ("mysql", "*"), ("mysql", "proc")] if engine == "mariadb" else [("*", "*")]
    found = parsed(grants)
    return any(verb == "GRANT" and (of, what) in kept and "SELECT" in rights for verb, rights, of, what, _ in found)


def rights_outside(grants: Sequence[str], prefix: str) -> str:
    """A user's rights in databases other than those whose names begin so; empty if there are none. Grants that can't be
    interpreted count too: a role, a proxy, a right on one routine."""
    found = []
    for grant in grants:
        of = parsed([grant])
        if not of:
            found.append(" ".join(grant.split()[:3]) + " …")
        found += [
            f"{', '.join(sorted(rights))} ON {database}.{what}"
            for verb, rights, database, what, _ in of
            if verb == "GRANT" and set(rights) != {"USAGE"} and not database.replace("\\_", "_").startswith(prefix)
        ]
    return "; ".join(found)
