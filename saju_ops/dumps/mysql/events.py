"""Events of MySQL and MariaDB on which the dump programs loop for ever: those with two semicolons in their text.

The programs look for a delimiter that isn't in the text, and don't find one. So if there is such an event, all events
are written here, in the programs' own form. Two semicolons inside a text end no statement for any reader of a dump.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

NAMES = sa.text(
    "SELECT EVENT_NAME, EVENT_DEFINITION, EVENT_COMMENT FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()"
    " ORDER BY EVENT_NAME"
)
BEFORE = (
    "\n-- Events\nSET @saju_ops_zone = @@SESSION.time_zone;\nSET @saju_ops_mode = @@SESSION.sql_mode;\n"
    "SET @saju_ops_client = @@SESSION.character_set_client;\nSET @saju_ops_results = @@SESSION.character_set_results;\n"
    "SET @saju_ops_collation = @@SESSION.collation_connection;\nDELIMITER ;;\n"
)
AFTER = (
    "DELIMITER ;\nSET time_zone = @saju_ops_zone;\nSET sql_mode = @saju_ops_mode;\n"
    "SET character_set_client = @saju_ops_client;\nSET character_set_results = @saju_ops_results;\n"
    "SET collation_connection = @saju_ops_collation;\n-- Dump completed\n"
)


def events_that_spin(connection: sa.Connection) -> list[str]:
    """The names of all events, if there is one such; else none."""
    rows = [[_text(cell) for cell in row] for row in connection.execute(NAMES)]
    spins = any(";;" in text for _, *texts in rows for text in texts)
    return [row[0] for row in rows] if spins else []


def events_written(connection: sa.Connection, names: Iterable[str]) -> Iterator[bytes]:
    """The statements for a dump's end. They repeat the dump's last line."""
    for number, name in enumerate(names):
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        row = connection.exec_driver_sql(f"SHOW CREATE EVENT {quoted}").one()
        _, mode, zone, text, client, collation = (_text(cell) for cell in row[:6])
        head, _, body = text.partition(" EVENT ")
        settings = {
            "character_set_client": client, "character_set_results": client, "collation_connection": collation,
            "sql_mode": f"'{mode}'", "time_zone": f"'{zone}'",
        }  # fmt: skip
        lines = [f"SET {name} = {value} ;;\n" for name, value in settings.items()]
        definer = head.removeprefix("CREATE").strip()
        lines.append(f"/*!50106 CREATE*/ /*!50117 {definer}*/ /*!50106 EVENT {body} */ ;;\n")
        yield ("" if number else BEFORE).encode() + "".join(lines).encode()
    if names:
        yield AFTER.encode()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
