"""Values that a restore into MySQL or MariaDB would not give back: types in documents, generated columns of another
zone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from saju_ops.rows.comeback import TYPED, UTC_OFFSET, Comeback, offset, zone_offsets
from saju_ops.rows.days import Day
from saju_ops.rows.engines.interface import Selection
from saju_ops.rows.engines.mysql import json_types as mysql_json
from saju_ops.rows.engines.mysql.catalogue import (
    INTEGERS,
    JSON,
    TEXTS,
    TIMES,
    _str,
)
from saju_ops.rows.engines.mysql.text import MySQLText
from saju_ops.rows.table import Column


class MySQLComeback(MySQLText):
    """Looks at a day's rows before they are archived."""

    # Columns that no session may write; generated columns that a session's zone decides, with their expressions.
    _unwritable: tuple[str, ...]
    _zoned: dict[str, str]
    # The session's offset, in which TIMESTAMP columns are compared and loaded.
    _offset: str

    @property
    def doubtful_columns(self) -> tuple[Column, ...]:
        # MariaDB's JSON is a text.
        return tuple(c for c in self.table.columns if c.family in JSON)

    def read_types(self, names: Collection[str]) -> None:
        family = {c.name: TYPED if c.name in names else "json" for c in self.doubtful_columns}
        if any(family[c.name] != c.family for c in self.doubtful_columns):
            self.use([replace(c, family=family.get(c.name, c.family)) for c in self.table.columns])

    @property
    def has_doubts(self) -> bool:
        return bool(self._unwritable or self._zoned)

    def comeback(self, day: Day, *, documents: bool) -> Comeback:
        columns = self.doubtful_columns if documents else ()
        typed = self._count_of({c.name: self._holds(c, mysql_json.HIDDEN) for c in columns}, day)
        lost = {c.name: self._holds(c, mysql_json.LOST) for c in columns if c.name in typed}
        lacking = self._count_of(lost | dict.fromkeys(self._unwritable, sa.true()), day)
        offset, others = self._computed_in(day)
        return Comeback(lacking | others, offset, tuple(typed))

    def _holds(self, column: Column, condition: str) -> Any:
        return sa.literal_column(mysql_json.holds(self._cell(column), condition))

    def _count_of(self, conditions: dict[str, Any], day: Day) -> dict[str, int]:
        if not conditions:
            return {}
        counts = (sa.func.coalesce(sa.func.sum(sa.case((so, 1), else_=0)), 0) for so in conditions.values())
        query = sa.select(*counts).select_from(self.from_).where(*self.day_condition(day))
        row = self.connection.execute(self._hinted(query, Selection(day))).one()
        return {name: int(count) for name, count in zip(conditions, row, strict=True) if count}

    def _computed_in(self, day: Day) -> tuple[str, dict[str, int]]:
        """The offset of a session that computes the day's stored generated columns to their present values; if there is
        none, how many rows of each differ."""
        found: dict[str, dict[str, int]] = {}
        if not self._zoned:
            return UTC_OFFSET, {}
        differ = {name: self._differs(name, expression) for name, expression in self._zoned.items()}
        for each in [*zone_offsets(day, self.zone), self._servers_offset()]:
            try:
                with self.generating(each):
                    found[each] = self._count_of(differ, day)
            except sa.exc.ProgrammingError:
                # The catalogue doesn't show the expression as SQL. The restored values are compared all the same.
                return UTC_OFFSET, {}
            if not found[each]:
                return each, {}
        # The same in all zones: the comparison isn't the server's own, and the zone not the reason.
        same = all(counts == found[UTC_OFFSET] for counts in found.values())
        return UTC_OFFSET, {} if same else found[UTC_OFFSET]

    def _differs(self, name: str, expression: str) -> Any:
        column = self.table.column(name)
        value: Any = sa.literal_column(f"({expression})")
        computed: Any = value
        if column.family in INTEGERS or column.family == "decimal":
            _, _, scale = column.type.partition(",")
            computed = sa.func.round(value, int(scale.split(")")[0]) if column.family == "decimal" and scale else 0)
        elif column.family in TIMES - {"year"}:
            digits = re.search(r"\((\d)\)", column.type)
            family = "datetime" if column.family == "timestamp" else column.family
            target = f"{family}({digits[1]})" if digits else family
            computed = sa.literal_column(f"CAST(({expression}) AS {target})")
        elif column.family in TEXTS:
            computed = sa.cast(value, sa.CHAR)
        return sa.not_(self.col(name).op("<=>", is_comparison=True)(computed))

    def _servers_offset(self) -> str:
        """That of sessions which set no zone of their own."""
        with self._session_in("@@GLOBAL.time_zone"):
            query = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())"
            return offset(timedelta(seconds=int(self.connection.exec_driver_sql(query).scalar() or 0)))

    @contextmanager
    def _session_in(self, zone: str) -> Iterator[None]:
        self.connection.exec_driver_sql(f"SET SESSION time_zone = {zone}")
        try:
            yield
        finally:
            if not self.connection.invalidated:
                self.connection.exec_driver_sql(f"SET SESSION time_zone = '{UTC_OFFSET}'")

    @contextmanager
    def generating(self, offset: str) -> Iterator[None]:
        if not self._zoned or offset == UTC_OFFSET:
            yield
            return
        self._offset = offset
        try:
            with self._session_in(f"'{offset}'"):
                yield
        finally:
            self._offset = UTC_OFFSET

    def _hinted(self, query: Any, selection: Selection) -> Any:
        """By day alone the time index; by keys the key. The optimiser prefers a full scan for large days."""
        whole = selection.first is None and selection.keys is None and not selection.where
        index = self.table.time_index if whole else None
        return query.with_hint(self.from_, f"FORCE INDEX ({self._quote(index)})") if index else query


def _zoned(rows: Sequence[Any], columns: Sequence[Column], *, mariadb: bool) -> dict[str, str]:
    """The stored generated columns computed from a TIMESTAMP in a session's time zone, with their expressions."""
    zoned: dict[str, str] = {}
    of_zone = {c.name for c in columns if c.family == "timestamp"}
    stored = [tuple(map(_str, row)) for row in rows if "STORED GENERATED" in _str(row[6]).upper()]
    for name, *_, expression, _extra in stored:
        names = {part.replace("``", "`") for part in re.findall(r"`((?:[^`]|``)+)`", expression)}
        if "from_unixtime" in expression.lower() or names & of_zone:
            zoned[name] = expression if mariadb else _expression(expression)
            of_zone.add(name)
    return {c.name: zoned[c.name] for c in columns if c.name in zoned and c.generated and c.family != "json"}


def _expression(shown: str) -> str:
    """An expression of MySQL's catalogue as SQL: its strings are shown with escapes, in Latin-1."""
    plain = re.sub(r"\\(['\\])", r"\1", shown)
    try:
        return plain.encode("latin-1").decode()
    except UnicodeError:
        return plain
