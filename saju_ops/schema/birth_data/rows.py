"""The rows of user_sessions that hold a birth, in the clear or encrypted: read in chunks, changed a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import SQLiteText, redacted
from saju_ops.errors import Refused
from saju_ops.rows.engines.interface import NoSuchTable
from saju_ops.rows.engines.open import RowStore, open_row_store
from saju_ops.schema.birth_data.swap import Identity, Swap, Swaps
from saju_ops.schema.birth_data.tokens import LEAP, LUNAR, MOMENT, Birth, Flag

HIDDEN = "birth_datetime_encrypted"
CHUNK = 2_000


FLAGS: dict[str, Flag] = {"0": False, "1": True, "false": False, "true": True}


class Row(NamedTuple):
    """One row as it was read; its cells as `Swaps.shown` gives them."""

    identity: Identity
    clear: Any
    lunar: Any
    leap: Any
    hidden: str | None

    @property
    def birth(self) -> Birth | None:
        """None where there is none in the clear, or one that is no text: a number or bytes in SQLite."""
        if not isinstance(self.clear, str) or not self.clear.strip():
            return None
        return Birth(self.clear, _flag(self.lunar), _flag(self.leap))


class Change(NamedTuple):
    """What a row is to hold: a token, and whether the clear birth becomes NULL."""

    row: Row
    token: str
    clears: bool


def open_sessions(url: sa.URL, table: str, zone: ZoneInfo) -> RowStore:
    """Raises NoSuchTable, Refused and OperatorError. Nothing is changed."""
    try:
        store = open_row_store(url, table, zone)
    except NoSuchTable:
        raise NoSuchTable(
            f"SESSIONS_TABLE holds {table!r}, but the database {redacted(url)} has no such table. Nothing was done."
        ) from None
    missing = [name for name in (MOMENT, HIDDEN) if name not in store.table.names]
    if not missing:
        return store
    store.close()
    raise Refused(
        f"The table {table} of {redacted(url)} has no column {' and no column '.join(missing)}, so no birth date can be"
        " encrypted in it. Nothing was touched. `saju-ops migrate status` shows what the schema lacks."
    )


class SessionRows:
    """One table of sessions on a store's connection."""

    def __init__(self, store: RowStore) -> None:
        self.store = store
        self.swaps = Swaps(store)
        self.flags = {name: name in store.table.names for name in (LUNAR, LEAP)}

    def chunk(self, after: Identity | None, limit: int = CHUNK, *, encrypted_only: bool = False) -> list[Row]:
        """The next rows with a birth, in the order of the key. In a read of its own."""
        there = [self.store.col(name).is_not(None) for name in ([HIDDEN] if encrypted_only else [MOMENT, HIDDEN])]
        query = self._select().where(sa.or_(*there))
        if after is not None:
            query = query.where(self.swaps.beyond(after))
        query = query.order_by(*(self.store.col(name) for name in self.store.table.key)).limit(limit)
        found = self._rows(query)
        self.store.end_read()
        return found

    def written(self, rows: Sequence[Row]) -> dict[Identity, tuple[str, Any]]:
        """What is in both columns of these rows, and perhaps of rows between them, which are in the key's order; inside
        the transaction that changed them. Rows without a token are left out."""
        table = self.store.table
        cells = [*(self.store.col(name) for name in table.key), self.store.col(HIDDEN), self.swaps.shown(MOMENT)]
        query = sa.select(*(c.label(f"saju_{i}") for i, c in enumerate(cells))).select_from(self.store.from_)
        query = query.where(self.store.col(HIDDEN).is_not(None), self.swaps.between([row.identity for row in rows]))
        found: Sequence[Any] = self.store.connection.execute(query).all()
        if self.swaps.is_sqlite:
            found = [tuple(map(plain, row)) for row in found]
        width = len(table.key)
        return {tuple(row[:width]): (row[width], row[width + 1]) for row in found}

    def any_without_clear(self) -> bool:
        """Whether a birth is encrypted alone, so that the service does without the clear one."""
        there = sa.and_(self.store.col(HIDDEN).is_not(None), self.store.col(MOMENT).is_(None))
        query = sa.select(sa.literal(1)).select_from(self.store.from_).where(there).limit(1)
        found = self.store.connection.execute(query).first() is not None
        self.store.end_read()
        return found

    def change(self, changes: Sequence[Change]) -> int:
        """Changes those of the rows that still hold what was read; returns how many. Inside a transaction."""
        flags = [name for name, there in self.flags.items() if there]
        held = [MOMENT, HIDDEN, *flags]
        count = 0
        for clears in (True, False):
            swaps = [self._swap(change, flags) for change in changes if change.clears == clears]
            count += self.swaps.apply(swaps, held, [HIDDEN, *[MOMENT] * clears])
        return count

    def _swap(self, change: Change, flags: Sequence[str]) -> Swap:
        row = change.row
        cells = {LUNAR: row.lunar, LEAP: row.leap}
        held = (row.clear, row.hidden, *(cells[name] for name in flags))
        return Swap(row.identity, held, (change.token, *[None] * change.clears))

    def _select(self) -> sa.Select[Any]:
        flags = [self.swaps.shown(name) if there else sa.null() for name, there in self.flags.items()]
        cells = [*(self.store.col(name) for name in self.store.table.key), self.swaps.shown(MOMENT), *flags,
                 self.store.col(HIDDEN)]  # fmt: skip
        return sa.select(*(c.label(f"saju_{i}") for i, c in enumerate(cells))).select_from(self.store.from_)

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        found = []
        for cells in self.store.connection.execute(query).all():
            *identity, clear, lunar, leap, hidden = map(plain, cells) if self.swaps.is_sqlite else cells
            if hidden is not None and not isinstance(hidden, str):
                hidden = hidden.decode(errors="replace") if isinstance(hidden, bytes) else str(hidden)
            found.append(Row(tuple(identity), clear, lunar, leap, hidden))
        return found


def plain(value: Any) -> Any:
    """A cell as it can be given back to the driver; a SQLite text that isn't UTF-8 as its bytes."""
    if not isinstance(value, SQLiteText):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return bytes(value)


def _flag(value: Any) -> Flag:
    return None if value is None else FLAGS.get(str(value).lower(), str(value))
