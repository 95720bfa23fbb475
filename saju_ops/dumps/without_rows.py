"""Tables whose rows are in no dump, though the tables themselves are.

The salt of the masked views is such a table: a thief of a dump must not be able to compute which masked session is
whose. A restore makes the table empty, and the view shows nothing until there is another salt (`saju-ops masked-view`).
"""

from __future__ import annotations

from saju_ops.dumps.contents import TableContents

SALT_TABLE = "masked_view_salt"
WITHOUT_ROWS = (SALT_TABLE,)
# What every engine says of an empty table.
NO_ROWS = TableContents(0, "0" * 16)


def is_without_rows(table: str) -> bool:
    """`table`: as an engine calls it, with its schema in front on PostgreSQL."""
    return table.rpartition(".")[2] in WITHOUT_ROWS
