"""`masked_database_dump`: a dump that is safe for developers.

The database is copied into a scratch one with every value of a masked column replaced on the way, the copy is looked
through for any true value that is left, and then dumped, stored and proven like any other. Refuses to write a dump
when a column without a rule looks personal, and when a true value is found.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text, redacted
from saju_ops.dumps.engine import DrillNotPossible, DumpEngine, what_it_said
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.take import DumpOptions, DumpResult, DumpRun, over_databases, take_dump
from saju_ops.errors import OperatorError
from saju_ops.masking.copy import copier
from saju_ops.masking.copy_base import Copier, Row
from saju_ops.masking.definitions import personal_definitions, shown
from saju_ops.masking.detection import (
    NUMERIC,
    Originals,
    is_moment,
    is_number,
    is_plain,
    personal_value,
    suspicious_columns,
)
from saju_ops.masking.masker import (
    MaskedColumn,
    Masker,
    MaskingRefused,
    follow_keys,
    rule_of,
)
from saju_ops.masking.people import People
from saju_ops.masking.people_values import SYSTEM_SINCE
from saju_ops.masking.rules import Mask
from saju_ops.storage.open import Storage
from saju_ops.words import counted

# Masks with so few possible values that a false one could be a true one by chance.
SMALL: tuple[Mask, ...] = ("birth", "number", "category")
NAMED = 12
# The share of the times in a column without a rule that may equal a birth: children are born every day.
BY_CHANCE = 0.1
# A text column without a rule holds codes if it has no more different values than that, or if each of no more than the
# most is there so often on average.
FEW, MOST_DIFFERENT, REPEATED = 8, 1_000, 5


@dataclass
class MaskingReport:
    """What was masked, in numbers."""

    tables: int = 0
    rows: int = 0
    columns_masked: int = 0
    values_masked: int = 0
    values_checked: int = 0
    notes: list[str] = field(default_factory=list)


def mask_databases(
    urls: Sequence[sa.URL],
    storage: Storage,
    options: DumpOptions,
    *,
    log_table: str = "conversation_logs",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
) -> DumpRun:
    """A masked dump of every database. `log_table`: the name of the conversation log."""

    def take(url: sa.URL, storage: Storage, options: DumpOptions, **more: Any) -> DumpResult:
        return take_masked_dump(url, storage, options, log_table=log_table, **more)

    return over_databases(urls, storage, options, take, now=now, say=say)


def take_masked_dump(
    url: sa.URL,
    storage: Storage,
    options: DumpOptions,
    *,
    label: str | None = None,
    log_table: str = "conversation_logs",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
) -> DumpResult:
    """Raises MaskingRefused, with the columns, when something personal would be in it; then nothing is stored."""
    source = open_engine(url)
    options = replace(options, kind="masked_database_dump")
    aliases = {log_table.lower(): "conversation_logs", "conversation_log": "conversation_logs"}
    try:
        unseen = _require_tables_seen(source)
        with source.scratch(options.drill_server(url), now(), own=True) as scratch:
            with copier(source, scratch) as work:
                report = _copy_masked(work, aliases, say)
            report.notes += [f"its user may not see these, so they may be missing: {unseen}"] if unseen else []
            masked = counted(report.values_masked, "value")
            say(f"{source.database}: {masked} masked, none of {report.values_checked:,} true.")
            # The copy is entered by a user that can make no other one.
            tried_on = (options.drill_server(url) or url,) if source.engine == "postgresql" else options.drill_servers
            return take_dump(
                scratch.url, storage, replace(options, drill_servers=tried_on), label=label, now=now, say=say,
                shown_as=source, masked=vars(report),
            )  # fmt: skip
    except DrillNotPossible as error:
        raise OperatorError(f"A masked dump is made in a scratch database. {error}") from None
    except DBAPIError as error:
        raise OperatorError(
            f"The masked dump of {redacted(url)} ended with what the database said {what_it_said(error)} Nothing"
            " was kept."
        ) from None


def _require_tables_seen(source: DumpEngine) -> str:
    """What else its user may not see. Raises MaskingRefused if tables or columns might be left out: the comparison
    afterwards sees only the copy."""
    unseen = source.hidden()
    if unseen.startswith("tables"):
        raise MaskingRefused(
            f"No masked dump was written: {redacted(source.url)} may hold more than its user sees: {unseen}. Grant it"
            " what is in brackets, on the whole database."
        )
    return unseen


def _copy_masked(work: Copier, aliases: dict[str, str], say: Callable[[str], None]) -> MaskingReport:
    columns = _with_rules(work, aliases)
    _refuse(suspicious_columns(columns))
    tables = [list(group) for _, group in groupby(columns, key=lambda c: c.table)]
    with closing(Masker()) as masker, closing(Originals()) as originals, closing(People(tables, work.keys())) as people:
        return _masked_and_checked(work, tables, masker, Truth(originals, people), say)


@dataclass(frozen=True)
class Truth:
    """What was true: as it was, and in whatever form."""

    originals: Originals
    people: People


def _masked_and_checked(
    work: Copier, tables: list[list[MaskedColumn]], masker: Masker, truth: Truth, say: Callable[[str], None]
) -> MaskingReport:
    # The copiers of PostgreSQL and SQLite use the driver itself, whose errors quote rows.
    import psycopg

    report = MaskingReport(notes=work.notes)
    for column in (c for table in tables for c in table if c.mask in SMALL):
        masker.avoid(column.mask, f"{column.table}.{column.column}", work.values(column))  # type: ignore[arg-type]
    work.begin()
    seen: Counter[Any] = Counter()
    unnamed: list[str] = []
    for table in tables:
        change = _Change(table, masker, truth, seen)
        try:
            report.rows += work.copy(table, change)
        except (DBAPIError, sqlite3.Error, psycopg.Error) as error:
            raise OperatorError(
                f"The masked copy of {table[0].table} ended with what the database said ({error_text(error)}). If a"
                " constraint there doesn't take a false value, give its column another rule in"
                " saju_ops/masking/rules.py. No masked dump was written."
            ) from None
        report.values_masked += change.masked
        unnamed += change.of_many_values()
        say(f"{table[0].table}: copied, {counted(change.masked, 'value')} masked.")
    looks = [f"{where} holds what looks like {what} ({counted(n, 'time')})" for (where, what), n in _pairs(seen)]
    _refuse([*looks, *unnamed])
    work.finish()
    _refuse_definitions(personal_definitions(work.definitions(), work.counters(), truth.originals, truth.people))
    report.values_checked = _require_nothing_true(work, tables, truth)
    report.tables = len(tables)
    report.columns_masked = sum(c.masked for table in tables for c in table)
    return report


def _with_rules(work: Copier, aliases: dict[str, str]) -> list[MaskedColumn]:
    found = [replace(c, mask=rule_of(plain_name(c.table), c.column, aliases)) for c in work.columns()]
    for c in found:
        if c.mask == "null" and not c.nullable:
            raise MaskingRefused(
                f"The rule of {c.table}.{c.column} is null, and the column takes no NULL; give it another in"
                " saju_ops/masking/rules.py. No masked dump was written."
            )
    return follow_keys(found, work.keys())


def plain_name(table: str) -> str:
    """`users` of `public.users`, and of `"my schema".users`."""
    return table.rpartition(".")[2].strip('"') if table.endswith('"') or "." in table else table


class _Change:
    """Masks the rows of one table, remembers the true values, and looks at columns without a rule."""

    def __init__(self, columns: Sequence[MaskedColumn], masker: Masker, truth: Truth, seen: Counter[Any]) -> None:
        self._columns, self._masker, self._truth, self._seen = columns, masker, truth, seen
        self._different = {c.column: _Different(c) for c in columns if c.mask is None and not is_plain(c)}
        self.masked = 0

    def __call__(self, rows: list[Row]) -> list[Row]:
        true = [list(cells) for cells in zip(*rows, strict=True)]
        false = list(true)
        for number, column in enumerate(self._columns):
            cells = true[number]
            if column.masked:
                self._truth.originals.add(column, cells)
                false[number] = self._mask(column, cells)
            elif column.mask is None:
                self._look_at(column, cells)
        self._truth.people.add(self._columns, true, false)
        return list(zip(*false, strict=True))

    def _look_at(self, column: MaskedColumn, cells: list[Any]) -> None:
        where = f"{column.table}.{column.column}"
        # PostgreSQL's numbers come as text; the number is compared with the true values.
        numbers = is_number(column)
        for (_, cell), times in _different(cells).items():
            if not (numbers and NUMERIC.fullmatch(str(cell))) and (what := personal_value(cell)):
                self._seen[where, what] += times
            if column.column in self._different:
                self._different[column.column].add(cell, times)

    def of_many_values(self) -> list[str]:
        return [says for some in self._different.values() if (says := some.too_many())]

    def _mask(self, column: MaskedColumn, cells: list[Any]) -> list[Any]:
        self.masked += sum(c is not None for c in cells)
        false = {key: self._masker.of(column, key[1]) for key in _different(cells)}
        return [false[type(c), c] for c in cells]


class _Different:
    """How many different values a column without a rule holds."""

    def __init__(self, column: MaskedColumn) -> None:
        self._where = f"{column.table}.{column.column}"
        self._hashes = set[int]()
        self._times = 0

    def add(self, cell: Any, times: int) -> None:
        if cell is not None and cell != "":
            self._times += times
            if len(self._hashes) <= MOST_DIFFERENT:
                self._hashes.add(hash(cell))

    def too_many(self) -> str | None:
        """In a code each value is there again and again."""
        count = len(self._hashes)
        if count <= FEW or (count <= MOST_DIFFERENT and count * REPEATED <= self._times):
            return None
        more = "more than " if count > MOST_DIFFERENT else ""
        different = counted(min(count, MOST_DIFFERENT), "different value")
        return f"{self._where} holds {more}{different} in {counted(self._times, 'row')}"


def _different(cells: list[Any]) -> Counter[tuple[type, Any]]:
    """Each value with its type, since 1 and 1.0 are equal, and how often it is there."""
    return Counter((type(c), c) for c in cells)


def _pairs(seen: Counter[Any]) -> Iterable[tuple[tuple[str, str], int]]:
    return sorted(seen.items())


def _require_nothing_true(work: Copier, tables: list[list[MaskedColumn]], truth: Truth) -> int:
    """Reads the whole copy again. Returns how many values were looked at."""
    originals, people = truth.originals, truth.people
    checked, found = 0, []
    for table in tables:
        hits: Counter[str] = Counter()
        births: Counter[str] = Counter()
        there: Counter[str] = Counter()
        for rows in work.rows(table):
            by_column = list(zip(*rows, strict=True))
            people.look(table, by_column)
            for column, cells in zip(table, by_column, strict=True):
                checked += len(cells)
                if column.mask != "null" or any(c is not None for c in cells):
                    hits[column.column] += originals.hits(column, cells)
                if column.mask is None and is_moment(column):
                    births[column.column] += originals.moments(cells)
                    there[column.column] += sum(c is not None for c in cells)
        hits.update({name: n for name, n in births.items() if n > there[name] * BY_CHANCE})
        # The larger of the two counts: both count values that were left as they were.
        hits |= people.found(table[0].table)
        where = shown(table[0].table, people)
        true = {name: counted(n, "true value") for name, n in sorted(hits.items()) if n}
        found += [f"{where}.{shown(name, people)} holds {values}" for name, values in true.items()]
        found += [
            f"{where}.{shown(name, people)} holds times before {SYSTEM_SINCE.year}, which are none of the service's own"
            for name in people.early(table[0].table)
            if not hits[name]
        ]
    _refuse(found)
    return checked


def _refuse_definitions(found: list[str]) -> None:
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise MaskingRefused(
            f"No masked dump was written: {'; '.join(found[:NAMED])}{more}. Change it in the database, or, if the text"
            " is nobody's, name it in HARMLESS_TEXTS in saju_ops/masking/rules.py."
        )


def _refuse(found: list[str]) -> None:
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise MaskingRefused(
            f"No masked dump was written: {'; '.join(found[:NAMED])}{more}. Give each column a rule in"
            " saju_ops/masking/rules.py (keep, if it says nothing about a person; public, if what is found in it"
            " is nobody's)."
        )
