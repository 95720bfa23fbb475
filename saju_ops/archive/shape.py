"""Rows per hour and role of a day, which may be shown. Never content."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saju_ops.rows.days import Day
from saju_ops.rows.digest import constant
from saju_ops.rows.table import TIME_COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

    from saju_ops.archive.verify import Visit
    from saju_ops.rows.engines.open import RowStore

ROLE = "role"
# A role column holds a handful of words. Anything else in it might be somebody's text, so it isn't shown.
KNOWN_ROLES = {"user", "assistant", "tool", "system"}


class RowShape:
    def __init__(self, day: Day, store: RowStore) -> None:
        self._day = day
        self._zone = UTC if store.table.time_type in ("timestamp", "timestamptz") and store.table.engine in (
            "mysql", "mariadb", "postgresql") and not _is_naive(store) else store.zone  # fmt: skip
        self.hours: Counter[tuple[str, str]] = Counter()

    def begin(self) -> Visit:
        self.hours.clear()
        return self._visit

    def _visit(self, batch: pa.RecordBatch, _hashes: object) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        hour = pc.binary_slice(batch.column(TIME_COLUMN).cast(pa.binary()), 0, 13)
        has_role = ROLE in batch.schema.names
        role = batch.column(ROLE).cast(pa.binary()) if has_role else constant(b"rows", pa.binary())
        if has_role and batch.num_rows and not pc.any(pc.not_equal(hour[1:], hour[:-1])).as_py():
            # Rows in the order of time: a batch of one hour, as most are. Saves a quarter of this look.
            counts = role.value_counts()
            for who, rows in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True):
                self._count(hour[0].as_py(), who or b"", has_role, rows)
            return
        both = pc.binary_join_element_wise(
            hour, role, constant(b"|", pa.binary()), null_handling="replace", null_replacement=""
        )
        for pair in both.value_counts():
            at, _, who = pair["values"].as_py().partition(b"|")
            self._count(at, who, has_role, pair["counts"].as_py())

    def _count(self, at: bytes | None, who: bytes, has_role: bool, rows: int) -> None:
        self.hours[self._hour(at), _role(who, has_role)] += rows

    def _hour(self, text: bytes | None) -> str:
        try:
            value = datetime.fromisoformat((text or b"").decode().strip("'") + ":00")
        except ValueError:
            return "?"
        return f"{value.replace(tzinfo=self._zone).astimezone(self._day.zone):%H}"


def _is_naive(store: RowStore) -> bool:
    return store.table.engine == "postgresql" and store.table.time_type == "timestamp"


def _role(value: bytes | None, has_role: bool) -> str:
    name = (value or b"").decode("utf-8", "replace")
    return name if name in KNOWN_ROLES or not has_role else "other"
