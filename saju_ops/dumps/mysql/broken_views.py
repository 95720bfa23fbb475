"""Broken views of MySQL and MariaDB. A single one prevents a dump of the whole database: no dump program can read it,
or no server can make it again.

A view breaks when a table, column, function or other view that it names is dropped, when its definer is (on MySQL), or
when either may no longer read what it names. The service gets an error from it already; that is no reason to go without
a dump of everything else. So such views are left out of the program's work, and of what is proven. Their names are in
the manifest, their definitions in the dump as comments: as statements they would end the restore, since the server
accepts no view of a missing table. They are not in the manifest: a definition may hold literals, and a manifest is
never encrypted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

# The server's errors for a broken view: it is invalid, a definer is gone, it leads to itself. Any other error, such as
# a missing right on the view itself, must make the dump fail.
BROKEN = {1356, 1449, 1462}
SELECTS = sa.text(
    "SELECT VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)
PREPARE = sa.text("PREPARE saju_ops_view FROM :select")
BEFORE = (
    "\n-- Broken views: each names a table, column, function or user that is gone, or that may not be used. They are\n"
    "-- not restored. To have one again, mend what it names and execute its definition.\n"
)


def broken_views(connection: sa.Connection, names: Iterable[str]) -> dict[str, str]:
    """The broken ones among these views, for this user, with their definitions. Reads no row and executes nothing."""
    return {
        name: _definition(connection, name)
        for name in names
        if _fails(_described, connection, name) or _fails(_resolved, connection, name)
    }


def ignored(database: str, broken: Iterable[str]) -> list[str]:
    """The dump program's arguments that leave them out."""
    return [f"--ignore-table={database}.{name}" for name in broken]


def as_comments(broken: Mapping[str, str]) -> Iterator[bytes]:
    """The lines for the end of a dump. They repeat the dump's last line, since operators look for that."""
    if broken:
        yield BEFORE.encode()
        for name, definition in sorted(broken.items()):
            # No line, whatever a name or a definition holds, may begin without the dashes.
            lines = re.split(r"[\r\n]+", f"Broken view {name}\n{definition};")
            yield "".join(f"-- {line}\n" for line in lines).encode()
        yield b"-- Dump completed\n"


def _fails(ask: Callable[[sa.Connection, str], None], connection: sa.Connection, name: str) -> bool:
    try:
        ask(connection, name)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return getattr(error.orig, "args", (0,))[0] in BROKEN
    return False


def _described(connection: sa.Connection, name: str) -> None:
    """The question that the dump programs ask. If the server has the view's columns cached, it doesn't check the
    definer."""
    connection.exec_driver_sql(f"SHOW FIELDS FROM {_quoted(connection, name)}").all()


def _resolved(connection: sa.Connection, name: str) -> None:
    """The question that CREATE VIEW asks: whether what the view selects from is there and may be used, without regard
    to its own definer. So a view whose definer is gone passes, and is restored; a view that selects from such a view
    doesn't, and would end the restore. Preparing a statement executes nothing, no function either; EXPLAIN may."""
    select = connection.execute(SELECTS, {"name": name}).scalar()
    if select:
        connection.execute(PREPARE, {"select": _text(select)})
        connection.exec_driver_sql("DEALLOCATE PREPARE saju_ops_view")


def _definition(connection: sa.Connection, name: str) -> str:
    row = connection.exec_driver_sql(f"SHOW CREATE VIEW {_quoted(connection, name)}").one()
    text, charset, collation = (_text(value) for value in row[1:4])
    return f"SET character_set_client = {charset}, collation_connection = {collation};\n{text}"


def _quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
