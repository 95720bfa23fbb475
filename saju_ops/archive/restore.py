"""Puts archived days back.

It reads every file back and compares every row before it writes the first one. Rows that are there and equal
are left alone; one row that is there and differs stops it, with nothing written. Each part goes in by one
transaction, which is committed only after the database itself computed the digest of what arrived. Started
again after a kill, it skips what is there.

Rows that reference others of their table, such as answers in a thread, may come in any order, also over several days:
what a file references goes in before it, and files that reference each other go in by one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.held import HeldRows
from saju_ops.archive.manifest import DayFiles, Manifest, archived_days, common_key, data_files, day_files
from saju_ops.archive.restore_rows import _Counted, _is_instant
from saju_ops.archive.verify import Visit, each_visit, keys_of, part_batches, verify_part
from saju_ops.database.connect import error_text, redacted
from saju_ops.errors import OperatorError, ProofFailed, Refused, shown
from saju_ops.rows.comeback import DECIMAL, TYPED, TYPES_BEHIND, UTC_OFFSET, Doubts, marked_offset, zone_offsets
from saju_ops.rows.days import Day, parse_day
from saju_ops.rows.digest import EMPTY, Digest, key_hashes, row_hashes, total
from saju_ops.rows.engines.base import NoPartition, broken_off, of_keys
from saju_ops.rows.engines.interface import Key
from saju_ops.rows.engines.open import LogStore, Selection, open_row_store
from saju_ops.rows.pieces import Pieces
from saju_ops.rows.table import TIME_COLUMN, Column, ForeignKey
from saju_ops.storage.open import Storage, StorageError
from saju_ops.storage.outside import require_outside_stores
from saju_ops.words import are, counted, its, were

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# Differing keys and missing parents named in a message; the counts are whole.
NAMED = 20
# MySQL's and MariaDB's codes for a row that a CHECK refuses.
CHECKS_REFUSED = (3819, 4025)
FAMILIES = {"mysql": "mysql", "mariadb": "mysql"}


# Where the server's binary log takes no transaction of that size.
TOO_LARGE = (
    " A file is one transaction: first set max_binlog_cache_size on the server above the size of the largest file,"
    " which its manifest says (SET GLOBAL works at once, for connections that are made later)."
)


@dataclass
class RestorePlan:
    """What a restore would do, or did."""

    source: str
    target: str
    first: Day
    last: Day
    days: list[str] = field(default_factory=list)
    files: int = 0
    rows_archived: int = 0
    superseded: int = 0
    # Data files of the range that no manifest describes.
    undescribed: list[str] = field(default_factory=list)
    # Days of the range, YYYY-MM-DD, of which the store holds no file at all: nobody wrote that day, or nobody archived
    # it, or its files are lost.
    not_archived: list[str] = field(default_factory=list)
    # Why a day of the range is left: its manifest can't be believed.
    refused: dict[str, str] = field(default_factory=dict)
    to_write: int = 0
    already_there: int = 0
    conflicts: int = 0
    conflict_keys: list[str] = field(default_factory=list)
    missing_parents: int = 0
    missing_parent_keys: list[str] = field(default_factory=list)
    creates_table: bool = False
    compared_by: str = "row digests"
    written: int = 0
    # What an operator has to do besides.
    remarks: list[str] = field(default_factory=list)
    dry_run: bool = True
    seconds: float = 0.0

    def broken_off(self, text: str) -> str:
        why = TOO_LARGE if "max_binlog_cache_size" in text else ""
        return (
            f"The database broke off the restore ({text}). {counted(self.written, 'row')} {were(self.written)}"
            f" written, each file as a whole or not at all; launch again: what is there is skipped.{why}"
        )

    @property
    def incomplete(self) -> str:
        """What of the range is not restored, as one sentence; empty where all of it is."""
        parts = []
        if self.undescribed:
            parts.append(_without_manifest(self.undescribed))
        if self.not_archived:
            days = _spans(self.not_archived)
            rest = f" and {counted(len(days) - NAMED, 'more span')} of days" if len(days) > NAMED else ""
            parts.append(f"there is no archive of {', '.join(days[:NAMED])}{rest}")
        parts += [f"{day}: {why.rstrip('.')}" for day, why in list(self.refused.items())[:NAMED]]
        if len(self.refused) > NAMED:
            more = len(self.refused) - NAMED
            whose = "whose manifest" if more == 1 else "whose manifests"
            parts.append(f"and {counted(more, 'more day')} {whose} can't be believed")
        return shown(f"NOT RESTORED: {'; '.join(parts)}.") if parts else ""

    def sentences(self) -> list[str]:
        """For the operator, before and after."""
        lines = [
            f"From {self.source}: {counted(len(self.days), 'archived day')} from {self.first} to {self.last},"
            f" {counted(self.files, 'file')}, all read back and proven; {counted(self.rows_archived, 'row')}.",
            f"Into {self.target}{' (a new table without foreign keys)' if self.creates_table else ''}.",
            f"{counted(self.already_there, 'row')} {are(self.already_there)} there already and equal;"
            f" {'it is' if self.already_there == 1 else 'they are'} skipped.",
            f"{counted(self.to_write, 'row')} {'would be' if self.dry_run else are(self.to_write) + ' to be'} written.",
        ]
        if self.incomplete:
            lines.append(self.incomplete)
        if self.superseded:
            older = f"{counted(self.superseded, 'row')} {are(self.superseded)} in an older part too"
            lines.append(f"{older}; the later part counts.")
        if self.compared_by != "row digests":
            lines.append(f"The target is another kind of database: what arrives is compared by {self.compared_by}.")
        return [shown(line) for line in [*lines, *self.remarks]]


@dataclass(frozen=True)
class _PartWork:
    manifest: Manifest
    later: HeldRows
    there: HeldRows
    first: Key
    last: Key
    to_write: int
    # Of the rows that reference others of their table: keys that are there to be referenced, and values of which the
    # file itself has none, by foreign key.
    offers: dict[ForeignKey, HeldRows]
    asks: dict[ForeignKey, set[Key]]
    # Whether JSON of an earlier version's archive shows decimals.
    decimals: bool = False

    @property
    def in_order(self) -> bool:
        """Whether a range of its key is the same rows in the file and in every database."""
        return all(column.ordered for column in self.manifest.key_columns)


def restore(
    storage: Storage,
    url: sa.URL | str,
    first: Day,
    last: Day,
    *,
    zone_of_database: object,
    table: str | None = None,
    source_table: str = "conversation_logs",
    dry_run: bool = True,
    announce: Callable[[RestorePlan], None] = lambda plan: None,
    progress: Callable[[RestorePlan], None] = lambda plan: None,
) -> RestorePlan:
    """Restores the days from first to last into `table` (default: the table they came from) at `url`.

    Raises ProofFailed for a damaged archive, Refused for rows that differ, missing parents or other columns;
    then nothing was written. A table that doesn't exist is made when the source table is there to copy.
    """
    started = time.monotonic()
    if last < first:
        raise Refused(f"The last day {last} is before the first {first}. Nothing was written.")
    require_outside_stores(storage, url, "--into-url or --into-setting")
    files, refused = _files(storage, first, last)
    plan = RestorePlan(storage.uri, f"{redacted(url)}, table {table or source_table}", first, last, dry_run=dry_run)
    plan.refused = {str(day): str(error) for day, error in refused.items()}
    described = {part.file for day in files for part in day.parts}
    plan.undescribed = [name for name in _data_files(storage, first, last, refused) if name not in described]
    if not files and refused:
        raise next(iter(refused.values()))
    if not files:
        there = f" ({_without_manifest(plan.undescribed)})" if plan.undescribed else ""
        raise Refused(f"{storage.uri} holds no archive of any day from {first} to {last}{there}. Nothing was written.")
    plan.days = [f.parts[0].day for f in files]
    plan.not_archived = _not_archived(storage, first, last)
    with broken_off(lambda text: f"{plan.target} can't be written to ({text}). Nothing was written."):
        store, created = _target(url, table or source_table, source_table, zone_of_database, dry_run)
    plan.creates_table = created
    with broken_off(plan.broken_off), store:
        if not (created and dry_run):
            store.require_writable(store.table.columns)
        work = _Restore(storage, store, plan, created and dry_run, common_key([p for f in files for p in f.parts]))
        parts = [w for f in files for w in work.examine(f)]
        groups = work.ordered(parts)
        work.refuse_if_unsafe()
        announce(plan)
        if not dry_run:
            with store.lock("purge", 10.0):
                for group in groups:
                    if any(part.to_write for part in group):
                        work.write([part for part in group if part.to_write])
                        plan.remarks = list(store.remarks)
                        progress(plan)
    plan.seconds = time.monotonic() - started
    return plan


def _files(storage: Storage, first: Day, last: Day) -> tuple[list[DayFiles], dict[Day, OperatorError]]:
    """The days of the range, and those of which a manifest can't be believed, or isn't given, such as from Glacier:
    that is no other day's fault."""
    found, refused = [], dict[Day, OperatorError]()
    for stamp in archived_days(storage):
        day = parse_day(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}", first.zone)
        if first <= day <= last:
            try:
                found.append(day_files(storage, day))
            except (ProofFailed, StorageError) as error:
                refused[day] = error
    return found, refused


def _data_files(storage: Storage, first: Day, last: Day, but: Collection[Day]) -> list[str]:
    stamps, others = (first.stamp, last.stamp), {day.stamp for day in but}
    return sorted(n for stamp, n in data_files(storage) if stamps[0] <= stamp <= stamps[1] and stamp not in others)


def _not_archived(storage: Storage, first: Day, last: Day) -> list[str]:
    known = {*archived_days(storage), *(stamp for stamp, _ in data_files(storage))}
    dates = (first.date + timedelta(days=n) for n in range((last.date - first.date).days + 1))
    return [f"{date}" for date in dates if f"{date:%Y%m%d}" not in known]


def _spans(days: Sequence[str]) -> list[str]:
    """`2026-10-03`, or `2026-10-05 to 2026-10-09` for days one after the other."""
    spans: list[list[date]] = []
    for day in map(date.fromisoformat, days):
        if spans and day - spans[-1][-1] == timedelta(days=1):
            spans[-1].append(day)
        else:
            spans.append([day])
    return [f"{span[0]}" if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans]


def _without_manifest(names: Sequence[str]) -> str:
    return f"without its manifest nothing is known of: {_listed(names[:NAMED], len(names))}"


def _target(url: sa.URL | str, table: str, source: str, zone: object, dry_run: bool) -> tuple[LogStore, bool]:
    """The table to write to; made like the source table if it isn't there. In a dry run the source stands in."""
    try:
        return open_row_store(url, table, zone, bulk_load=True), False  # type: ignore[arg-type]
    except Refused:
        if table == source:
            raise
        store = open_row_store(url, source, zone)  # type: ignore[arg-type]
        if store.has_table(table):
            store.close()
            raise
        try:
            store.require_creatable(table)
        except BaseException:
            store.close()
            raise
    if dry_run:
        return store, True
    with store:
        store.create_like(table)
    return open_row_store(url, table, zone, bulk_load=True), True  # type: ignore[arg-type]


@dataclass
class _Restore:
    storage: Storage
    store: LogStore
    plan: RestorePlan
    # A dry run into a table that isn't there yet: nothing can be in the way.
    nothing_there: bool
    # What tells archived rows apart, whichever part they stand in.
    identity: Sequence[str]

    def __post_init__(self) -> None:
        self.columns = self.store.table.columns
        # Parents that were found missing: several files may lack the same one.
        self.examined: list[tuple[str, HeldRows]] = []
        self.orphaned: set[tuple[str, Key]] = set()

    def examine(self, files: DayFiles) -> list[_PartWork]:
        """Reads a day's parts back and compares them with the target. Writes nothing."""
        work = []
        for number, part in enumerate(files.parts):
            later, own = HeldRows(), HeldRows()
            for newer in files.parts[number + 1 :]:
                verify_part(self.storage, newer, later.collect_keys(newer.hashed_by(self.identity)))
            self._collect_alike(part, files.parts[number + 1 :], later)
            unasked = [c for c in part.table_columns if c.family == "json" and marked_offset(part) is None]
            doubts = Doubts(unasked, DECIMAL)
            offers = self._offers(part)
            collects = [own.collect_keys(part.hashed_by(self.identity)), self._collect_offers(part, later, offers)]
            found = verify_part(self.storage, part, lambda: each_visit(*(c() for c in collects), doubts.visit))  # noqa: B023
            self.plan.files += 1
            self.plan.rows_archived += part.rows
            if found.first_key is None or found.last_key is None:
                continue
            if later.has_keys(own.keys()).all():
                # Such as a part from before the table was altered: its columns needn't be there any more.
                self.plan.superseded += part.rows
                continue
            self._take_columns(part)
            self._take_key(part)
            self._refuse_second_day(part, own)
            compared = self._compare(part, later, found.first_key, found.last_key, offers)
            work.append(replace(compared, decimals=doubts.found))
        self.store.end_read()
        return work

    def _collect_alike(self, part: Manifest, newer: Sequence[Manifest], later: HeldRows) -> None:
        """Adds to `later` keys of the part which the table takes for one of a newer part, though they are written
        otherwise: a key whose letters' case was changed after it was archived."""
        import pyarrow as pa

        self.store.use(self.columns)
        if not newer or not {*self.identity} <= {*self.store.table.names}:
            return
        self.store.use(self.columns, self.identity)
        if all(c.encoding in ("number", "hex") for c in self.store.table.key_columns):
            return
        known: dict[Key, set[Key]] = {}
        for each in newer:
            for batch in part_batches(self.storage, each):
                for key in keys_of(batch, self.identity):
                    known.setdefault(_folded(key), set()).add(key)
        collect = later.collect_keys(part.hashed_by(self.identity))()
        for batch in part_batches(self.storage, part):
            alike = [self._is_known(key, known.get(_folded(key), set())) for key in keys_of(batch, self.identity)]
            if any(alike):
                collect(batch.filter(pa.array(alike)), dict)  # type: ignore[arg-type]
        self.store.end_read()

    def _is_known(self, key: Key, others: set[Key]) -> bool:
        return key not in others and any(self.store.is_one_key(key, other) for other in others)

    def _refuse_second_day(self, part: Manifest, own: HeldRows) -> None:
        """A row whose created_at was changed after its day was archived stands in two days' archives."""
        for day, keys in self.examined:
            again = int(keys.has_keys(own.keys()).sum()) if day != part.day else 0
            if again:
                raise Refused(
                    f"{counted(again, 'row')} {are(again)} in the archives of both {day} and {part.day}:"
                    f" {its(again)} created_at was changed"
                    " in between. Nothing was written; restore the two days one by one, the right one first, the"
                    " other into another table with --into-table."
                )
        self.examined.append((part.day, own))

    def _take_columns(self, part: Manifest) -> None:
        self.store.use(self.columns)
        mine = {c.name for c in self.columns}
        missing = [c.name for c in part.table_columns if c.name not in mine]
        if missing:
            raise Refused(
                f"{self.plan.target} has no column {', '.join(missing)}, which the archive of {part.day} has."
                " Nothing was written; restore into a table with the archive's columns."
            )
        if self._same_family(part) and self.store.table.engine == "sqlite":
            generated = {c.name: c.generated for c in self.columns}
            self.store.use([replace(c, generated=generated[c.name]) for c in part.table_columns])
            return
        literal = [c.name for c in part.table_columns if c.encoding == "literal"]
        if literal:
            raise Refused(
                f"The archive of {part.day} has several types in the column {', '.join(literal)}, as only SQLite can"
                " hold them. Nothing was written; restore into a SQLite database."
            )
        self.store.use([self.store.table.column(c.name) for c in part.table_columns])
        self.store.read_types({c.name for c in part.table_columns if c.family == TYPED})
        self._refuse_shifted_time(part)

    def _take_key(self, part: Manifest) -> None:
        """The file's own key, in whose order it is, also where the target has another."""
        self.store.use(self.store.table.columns, part.key)

    def _refuse_shifted_time(self, part: Manifest) -> None:
        """An archive of another engine is written as its text; with another meaning of time it would shift."""
        if self._same_family(part):
            return
        theirs = next(c.family for c in part.table_columns if c.name == TIME_COLUMN)
        instants = [_is_instant(part.engine, theirs), _is_instant(self.store.table.engine, self.store.table.time_type)]
        if instants[0] != instants[1] and self.store.zone.key != "UTC":
            raise Refused(
                f"{TIME_COLUMN} is in UTC in the archive or in {self.plan.target}, and in {self.store.zone.key} in the"
                " other. Nothing was written; restore into a database of the same kind."
            )

    def _same_family(self, part: Manifest) -> bool:
        mine = self.store.table.engine
        same = FAMILIES.get(mine, mine) == FAMILIES.get(part.engine, part.engine)
        documents = {c.name for c in self.store.doubtful_columns}
        alike = all(
            self.store.table.column(c.name).encoding == c.encoding and (c.family != TYPED or c.name in documents)
            for c in part.table_columns
        )
        return same and (alike or mine == "sqlite")

    def _offers(self, part: Manifest) -> dict[ForeignKey, HeldRows]:
        """For the keys that others of the table reference."""
        return {key: HeldRows() for key in self.store.own_parents if part.has_columns(key.parent_columns)}

    def _collect_offers(
        self, part: Manifest, later: HeldRows, offers: dict[ForeignKey, HeldRows]
    ) -> Callable[[], Visit]:
        """Of the part's rows that count: one that a newer part has is written with that, and not before."""
        import pyarrow as pa

        collects = [held.collect_keys(self._columns_named(key.parent_columns)) for key, held in offers.items()]

        def begin() -> Visit:
            visits = [collect() for collect in collects]

            def visit(batch: pa.RecordBatch, hashes: Callable[[], np.ndarray]) -> None:
                if visits and len(later):
                    batch = batch.filter(pa.array(~later.has_keys(self._archived_keys(batch, part))))
                each_visit(*visits)(batch, hashes)

            return visit

        return begin

    def _columns_named(self, names: Sequence[str]) -> list[Column]:
        return [next(c for c in self.columns if c.name == name) for name in names]

    def _compare(
        self, part: Manifest, later: HeldRows, first: Key, last: Key, offers: dict[ForeignKey, HeldRows]
    ) -> _PartWork:
        work = _PartWork(part, later, HeldRows(), first, last, 0, offers, {key: set() for key in offers})
        selection, there = Selection(first=first, last=last), work.there
        if not self._same_family(part):
            self.plan.compared_by = "number of rows"
        if self.nothing_there:
            pass
        elif not work.in_order or not self._in_order_here():
            # A range of texts is other rows to another collation: they are looked for key by key.
            if self.store.count(Selection()):
                self._find(part, later, there)
        elif self.store.count(selection):
            visit = there.collect(self.store.table.key_columns)()
            for batch in self.store.batches(selection):
                visit(batch, partial(row_hashes, batch, self.store.table.columns))
        parents: list[set[Key]] = [set() for _ in self.store.table.parents]
        # With nothing to compare them with, the rows needn't be read once more.
        compared = len(later) or len(there) or parents
        to_write = self._look_at_rows(work, parents) if compared else part.rows
        self.plan.to_write += to_write
        if not self.nothing_there:
            self._look_for_parents(parents)
        self.store.end_read()
        return replace(work, to_write=to_write)

    def _in_order_here(self) -> bool:
        return all(column.ordered for column in self.store.table.key_columns)

    def _find(self, part: Manifest, later: HeldRows, there: HeldRows) -> None:
        """Which rows of the part the target has. One under a key that it takes for the same, such as `A1` for `a1`,
        stops the restore."""
        import pyarrow as pa

        visit = there.collect(self.store.table.key_columns)()
        for batch in part_batches(self.storage, part):
            old = later.has_keys(self._archived_keys(batch, part)) if len(later) else None
            wanted = batch if old is None else batch.filter(pa.array(~old))
            asked = keys_of(wanted, part.key)
            known = {*asked}
            for selection in of_keys(None, asked):
                for found in self.store.batches(selection):
                    visit(found, partial(row_hashes, found, self.store.table.columns))
                    for key in (k for k in keys_of(found, part.key) if k not in known):
                        self.plan.conflicts += 1
                        if len(self.plan.conflict_keys) < NAMED:
                            self.plan.conflict_keys.append(_text_of(key))

    def _look_at_rows(self, work: _PartWork, parents: Sequence[set[Key]]) -> int:
        """Compares a part's rows with those that are there and collects their parents; how many are to be written."""
        part, to_write = work.manifest, 0
        comparable = self._same_family(part)
        for batch in part_batches(self.storage, part):
            new = self._new_rows(batch, work.later, work.there, part, comparable)
            to_write += new.num_rows
            for values, parent in zip(parents, self.store.table.parents, strict=True):
                if not part.has_columns(parent.columns):
                    continue
                if parent in work.offers:
                    work.asks[parent].update(self._not_offered(new, parent, work.offers[parent]))
                else:
                    values.update(k for k in keys_of(new, parent.columns) if None not in k)
        return to_write

    def _not_offered(self, batch: pa.RecordBatch, parent: ForeignKey, offered: HeldRows) -> set[Key]:
        """What these rows reference and their own file doesn't have."""
        if not batch.num_rows:
            return set()
        known = offered.has_keys(self._hashes_of(batch, parent))
        values = keys_of(batch, parent.columns)
        return {key for key, is_known in zip(values, known, strict=True) if not is_known and None not in key}

    def _hashes_of(self, batch: pa.RecordBatch, parent: ForeignKey) -> np.ndarray:
        """The hashes of what the rows reference, made as those of the keys that they reference."""
        import pyarrow as pa

        cells = [batch.column(name) for name in parent.columns]
        named = pa.RecordBatch.from_arrays(cells, names=list(parent.parent_columns))
        return key_hashes(named, self._columns_named(parent.parent_columns))

    def ordered(self, works: Sequence[_PartWork]) -> list[list[_PartWork]]:
        """The parts in the order in which they are written; those that reference each other in one group. Counts the
        parents that neither they nor the target have."""
        needs: list[set[int]] = [set() for _ in works]
        for number, work in enumerate(works):
            for parent, asked in work.asks.items():
                missing = asked
                for other, offering in enumerate(works):
                    if missing and other != number and parent in offering.offers:
                        found = self._offered(offering.offers[parent], parent, missing)
                        needs[number] |= {other} if found else set()
                        missing = missing - found
                if missing and self.store.folds(self._columns_named(parent.parent_columns)):
                    missing = self._unlike(works, parent, missing)
                self._name_missing(parent, missing)
        self.store.end_read()
        return [[works[number] for number in group] for group in in_order(needs)]

    def _unlike(self, works: Sequence[_PartWork], parent: ForeignKey, values: set[Key]) -> set[Key]:
        """Those that no key of the files is to the target either, whose collation may take `A1` for `a1`."""
        columns, listed = self._columns_named(parent.parent_columns), sorted(values)
        wanted = dict(zip(self.store.folded(columns, listed), listed, strict=True))
        for work in works:
            if parent in work.offers and wanted:
                for batch in part_batches(self.storage, work.manifest):
                    for key in self.store.folded(columns, keys_of(batch, parent.parent_columns)):
                        wanted.pop(key, None)
        return {*wanted.values()}

    def _offered(self, offered: HeldRows, parent: ForeignKey, values: set[Key]) -> set[Key]:
        import pyarrow as pa

        listed = sorted(values)
        arrays = [pa.array(cells, pa.binary()) for cells in zip(*listed, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, names=list(parent.columns))
        known = offered.has_keys(self._hashes_of(batch, parent))
        return {key for key, is_known in zip(listed, known, strict=True) if is_known}

    def _look_for_parents(self, parents: Sequence[set[Key]]) -> None:
        for values, parent in zip(parents, self.store.table.parents, strict=True):
            self._name_missing(parent, values)

    def _name_missing(self, parent: ForeignKey, values: set[Key]) -> None:
        if self.nothing_there or not values:
            return
        known = {key for table, key in self.orphaned if table == parent.parent}
        missing = sorted(self.store.missing_parents(parent, values - known))
        self.orphaned |= {(parent.parent, key) for key in missing}
        self.plan.missing_parents += len(missing)
        names = [f"{parent.parent} {_text_of(key)}" for key in missing]
        self.plan.missing_parent_keys += names[: NAMED - len(self.plan.missing_parent_keys)]

    def _new_rows(
        self, batch: pa.RecordBatch, later: HeldRows, there: HeldRows, part: Manifest, comparable: bool
    ) -> pa.RecordBatch:
        """The rows of a part that count and aren't there yet. Notes those that are there and differ."""
        import pyarrow as pa

        if not len(later) and not len(there):
            return batch  # nothing to compare with: 1.6 µs a row less
        keys = key_hashes(batch, self.store.table.key_columns)
        old, present = later.has_keys(self._archived_keys(batch, part)), there.has_keys(keys)
        same = there.holds(keys, row_hashes(batch, self.store.table.columns)) if comparable else present & False
        differs = present & ~same & ~old
        self.plan.superseded += int(old.sum())
        self.plan.already_there += int((same & ~old).sum())
        self.plan.conflicts += int(differs.sum())
        if differs.any():
            self._name_conflicts(batch, part, differs)
        return batch.filter(pa.array(~old & ~present))

    def _archived_keys(self, batch: pa.RecordBatch, part: Manifest) -> np.ndarray:
        """The keys as `later` hashes them; an empty SQLite table calls every column text, for one."""
        return key_hashes(batch, part.hashed_by(self.identity))

    def _name_conflicts(self, batch: pa.RecordBatch, part: Manifest, differs: np.ndarray) -> None:
        import pyarrow as pa

        for key in keys_of(batch.filter(pa.array(differs)), part.key)[: NAMED - len(self.plan.conflict_keys)]:
            self.plan.conflict_keys.append(_text_of(key))

    def refuse_if_unsafe(self) -> None:
        if self.plan.conflicts:
            raise Refused(
                f"{counted(self.plan.conflicts, 'row')} {are(self.plan.conflicts)} in {self.plan.target} and"
                f" {'differs' if self.plan.conflicts == 1 else 'differ'} from the archive; their"
                f" keys: {_listed(self.plan.conflict_keys, self.plan.conflicts)}. Nothing was written; look at them, or"
                " restore into another table with --into-table."
            )
        if self.plan.missing_parents:
            raise Refused(
                f"{counted(self.plan.missing_parents, 'parent row')} {are(self.plan.missing_parents)} missing:"
                f" {_listed(self.plan.missing_parent_keys, self.plan.missing_parents)}. Nothing was written; restore"
                f" into a table without the foreign key with --into-table {self.store.table.name}_restored."
            )

    # --- writing -------------------------------------------------------------------------------------------

    def write(self, group: Sequence[_PartWork]) -> None:
        """One part, or several that reference each other, by one transaction."""
        if not all(self._same_family(self._taken(work)) for work in group):
            # LOAD DATA LOCAL turns errors into warnings and cuts what doesn't fit. Digests would show it, but not
            # where only the number of rows is compared; INSERT is strict.
            self.store.bulk_load = False
        *others, last = dict.fromkeys(offset for work in group for offset in self._offsets(work.manifest))
        for offset in others:
            try:
                return self._write_in(offset, group)
            except ProofFailed:
                continue  # another session's zone gave the generated columns what they hold
        self._write_in(last, group)

    def _offsets(self, part: Manifest) -> list[str]:
        """Of the sessions in which generated columns may come out as they were. An archive of an earlier version
        doesn't say it."""
        if not self.store.has_doubts or not self._same_family(part):
            return [UTC_OFFSET]
        marked = marked_offset(part)
        day = parse_day(part.day, self.plan.first.zone)
        return [marked] if marked is not None else zone_offsets(day, self.store.zone)

    def _write_in(self, offset: str, group: Sequence[_PartWork]) -> None:
        days = [parse_day(work.manifest.day, ZoneInfo(work.manifest.timezone)) for work in group]
        self.store.takes_old_rows = all(self._same_family(self._taken(work)) for work in group)
        with self.store.restoring():
            loads, before = [], []
            for work in group:
                self._taken(work)
                before.append(self._state(work))
                known = self._known_digest(work, before[-1])
                loads.append(_Counted(self._rows_to_write(work), self.store.table.columns, known))
            with self.store.in_any_order(days) if self.store.own_parents else nullcontext():
                self._load(offset, group, loads)
            for work, loaded, state in zip(group, loads, before, strict=True):
                self._taken(work)
                self._prove(work, loaded, state, alone=len(group) == 1)
                self._refuse_altered(work.manifest)
        self.plan.written += sum(loaded.rows for loaded in loads)

    def _taken(self, work: _PartWork) -> Manifest:
        """The part, whose columns and key the store has from now on."""
        self._take_columns(work.manifest)
        self._take_key(work.manifest)
        return work.manifest

    def _load(self, offset: str, group: Sequence[_PartWork], loads: Sequence[_Counted]) -> None:
        columns = []
        for work in group:
            self._taken(work)
            columns.append(self._writable(work))
        # As one statement where that is possible, since PostgreSQL looks at foreign keys when one ends.
        together = all(each == columns[0] for each in columns)
        apart = zip(group, map(iter, loads), strict=True)
        for work, rows in [(group[0], chain.from_iterable(loads))] if together else apart:
            part = self._taken(work)
            try:
                with self.store.generating(offset):
                    self.store.load(self.store.table.name, rows, self._writable(work))
            except (sa.exc.DBAPIError, NoPartition) as error:
                why = str(error) if isinstance(error, NoPartition) else error_text(error)
                raise OperatorError(
                    f"The database refused rows of {part.day} ({why}). Nothing of {part.file} was"
                    f" written; {counted(self.plan.written, 'row')} before it {were(self.plan.written)}."
                    f"{self._what_else(error)}"
                ) from None

    def _what_else(self, error: Exception) -> str:
        if "max_binlog_cache_size" in str(error):
            return TOO_LARGE
        return self._for_a_check(error)

    def _for_a_check(self, error: Exception) -> str:
        """For a row that a CHECK refuses, which is older than that."""
        orig = getattr(error, "orig", None)
        if getattr(orig, "sqlstate", None) != "23514" and getattr(orig, "args", (0,))[0] not in CHECKS_REFUSED:
            return ""
        return (
            " A CHECK of the table refuses them, which they are older than: restore as the table's owner, or into"
            f" another table with --into-table {self.store.table.name}_restored."
        )

    def _refuse_altered(self, part: Manifest) -> None:
        """What was compared with the archive are the columns that the table had when it was looked at."""
        if what := self.store.traits.changed(("engine", "column", "trigger", "rule")):
            raise OperatorError(
                f"{self.store.table.name} was altered since the restore began: {what}. {part.file} was rolled back;"
                f" {counted(self.plan.written, 'row')} before it {are(self.plan.written)} written. Launch again when"
                " nobody alters the table: what is there is skipped."
            )

    def _known_digest(self, work: _PartWork, before: Digest) -> Digest | Pieces | None:
        """What the database must say of a part that is written whole: its manifest tells already.

        Not where the target's columns make another digest of the same row, and pieces only where their range of
        keys was empty and the target can be asked for them."""
        mine = [(c.name, c.encoding, c.framed) for c in self.store.table.columns]
        alike = mine == [(c.name, c.encoding, c.framed) for c in work.manifest.table_columns]
        if len(work.later) or len(work.there) or not alike:
            return None
        known = work.manifest.content_digest
        askable = isinstance(known, Digest) or (self.store.knows_pieces and before.rows == 0)
        return known if askable else None

    def _writable(self, work: _PartWork) -> list[Column]:
        """The columns as the file writes them; what is generated, the target decides, and whether documents have types
        that a text doesn't show."""
        documents = {c.name for c in self.store.doubtful_columns}

        def family(column: Column) -> str:
            if column.name in documents:
                return TYPED if work.decimals else column.family
            return "json" if column.family == TYPED else column.family

        mine = self.store.table.column
        return [
            replace(c, generated=mine(c.name).generated, family=family(c)) for c in work.manifest.table_columns
        ]  # fmt: skip

    def _rows_to_write(self, work: _PartWork) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        foreign = not self._same_family(work.manifest)
        for batch in part_batches(self.storage, work.manifest):
            batch = as_others_have_it(batch, work.manifest) if foreign else batch
            if not len(work.later) and not len(work.there):
                yield batch
                continue
            keys = key_hashes(batch, self.store.table.key_columns)
            old = work.later.has_keys(self._archived_keys(batch, work.manifest))
            wanted = ~(old | work.there.has_keys(keys))
            if wanted.any():
                yield batch if wanted.all() else batch.filter(pa.array(wanted))

    def _hashed(self, work: _PartWork) -> Digest:
        """The digest of a file's rows, by a hash of each. The file is proven once more: what was loaded is to be what
        its manifest says, and not what a file holds that was exchanged since."""
        passed: list[Digest] = []

        def begin() -> Visit:
            passed.clear()
            return lambda _batch, hashes: passed.append(Digest.of(hashes()))

        verify_part(self.storage, work.manifest, begin)
        return total(passed)

    def _state(self, work: _PartWork) -> Digest:
        """What the database says of the part's range of keys."""
        selection = Selection(first=work.first, last=work.last)
        if self._same_family(work.manifest):
            return self.store.digest(selection)
        return Digest(self.store.count(selection), 0)

    def _state_by_key(self, work: _PartWork) -> Digest:
        """What the database says of the rows that were written: where their keys are texts, the part's range may be
        other rows to it."""
        found = EMPTY
        for batch in self._rows_to_write(work):
            for selection in of_keys(None, keys_of(batch, work.manifest.key)):
                same = self._same_family(work.manifest)
                found += self.store.digest(selection) if same else Digest(self.store.count(selection), 0)
        return found

    def _prove(self, work: _PartWork, loaded: _Counted, before: Digest, *, alone: bool) -> None:
        """Where parts were written together, rows of another may lie in this one's range of keys."""
        arrived, pieces = loaded.digest, loaded.pieces
        if pieces is not None:
            there = Selection(first=work.first, last=work.last)
            if loaded.rows == work.to_write and self.store.has_pieces(there, pieces):
                return
            # Such as a target whose max_allowed_packet is too small for the pieces: row by row, then.
            arrived = self._hashed(work)
        found = self._state(work)
        expected = before + (arrived if self._same_family(work.manifest) else Digest(arrived.rows, 0))
        if found != expected and not (alone and work.in_order and self._in_order_here()):
            found, expected = self._state_by_key(work), expected - before
        if found != expected or loaded.rows != work.to_write:
            raise ProofFailed(
                f"After writing {work.manifest.file} the database has {counted(found.rows, 'row')} in its range where"
                f" {expected.rows} {were(expected.rows)} expected, or their contents differ; this file was rolled back."
                f" {counted(self.plan.written, 'row')} before it {are(self.plan.written)} written. Look for triggers,"
                " generated columns or a writer on the target."
            )


def _folded(key: Key) -> Key:
    """The same for keys that a collation may take for one: letters of either case, with or without accents."""
    from unicodedata import combining, normalize

    texts = (normalize("NFKD", cell.decode("utf-8", "replace").casefold()) for cell in key)
    return tuple("".join(c for c in text if not combining(c)).rstrip().encode() for text in texts)


# What other engines than the file's own can't read: PostgreSQL writes an instant with +00, always, its session being in
# UTC, and MySQL's documents may have types behind their text.
OWN_ENDINGS = {"timestamptz": r"\+00$", TYPED: rf"{TYPES_BEHIND}.*$"}


def as_others_have_it(batch: pa.RecordBatch, part: Manifest) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = [
        pc.replace_substring_regex(batch.column(c.name).cast(pa.string()), OWN_ENDINGS[c.family], "").cast(pa.binary())
        if c.family in OWN_ENDINGS
        else batch.column(c.name)
        for c in part.table_columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[c.name for c in part.table_columns])


def _text_of(key: Key) -> str:
    return ", ".join(v.decode("utf-8", "replace") for v in key)


def in_order(needs: Sequence[set[int]]) -> list[list[int]]:
    """Numbers, each after those that it needs; those that need each other together. Else as they are."""
    groups: list[list[int]] = []
    done, left = set[int](), list(range(len(needs)))
    while left:
        ready = next((number for number in left if needs[number] <= done), None)
        group = [ready] if ready is not None else min((_reached(n, needs, done) for n in left), key=len)
        groups.append(sorted(group))
        done |= {*group}
        left = [number for number in left if number not in done]
    return groups


def _reached(start: int, needs: Sequence[set[int]], done: set[int]) -> list[int]:
    found, todo = {start}, [start]
    while todo:
        fresh = needs[todo.pop()] - done - found
        found |= fresh
        todo += fresh
    return list(found)


def _listed(names: Sequence[str], count: int) -> str:
    return "; ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
