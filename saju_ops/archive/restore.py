"""Puts archived days back.

It reads every file back and compares every row before it writes the first one. Rows that are there and equal are left
alone; one row that is there and differs stops it, with nothing written. Each part is written in one transaction, which
is committed only after the database itself computed the digest of what arrived. Started again after a kill, it skips
what is there.

Rows that reference others of their table, such as answers in a thread, may come in any order, also over several days: a
file is written after the rows that it references, and files that reference each other are written in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.manifest import DayFiles, Manifest, archived_days, common_key, data_files, day_files
from saju_ops.archive.restore_compare import RestoreComparison
from saju_ops.archive.restore_parents import _PartWork
from saju_ops.archive.restore_plan import TOO_LARGE, RestorePlan, _without_manifest
from saju_ops.archive.restore_rows import _Counted
from saju_ops.archive.verify import Visit, keys_of, part_batches, verify_part
from saju_ops.database.connect import error_text, redacted
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.rows.comeback import TYPED, TYPES_BEHIND, UTC_OFFSET, marked_offset, zone_offsets
from saju_ops.rows.days import Day, parse_day
from saju_ops.rows.digest import EMPTY, Digest, key_hashes, total
from saju_ops.rows.engines.base import NoPartition
from saju_ops.rows.engines.open import RowStore, Selection, open_row_store
from saju_ops.rows.engines.selecting import of_keys
from saju_ops.rows.engines.session import broken_off
from saju_ops.rows.pieces import Pieces
from saju_ops.rows.table import Column
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.storage.open import Storage, StorageError
from saju_ops.storage.outside import require_outside_stores
from saju_ops.words import are, counted, were

if TYPE_CHECKING:
    import pyarrow as pa

# MySQL's and MariaDB's codes for a row that a CHECK refuses.
CHECKS_REFUSED = (3819, 4025)


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
    control: RunControl = TO_THE_END,
) -> RestorePlan:
    """Restores the days from first to last into `table` (default: the table they came from) at `url`.

    Raises ProofFailed for a damaged archive, Refused for rows that differ, missing parents or other columns;
    then nothing was written. A table that doesn't exist is made when the source table is there to copy.
    """
    started = control.clock()
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
        work = Restore(storage, store, plan, created and dry_run, common_key([p for f in files for p in f.parts]))
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
                        control.progress(plan)
    plan.seconds = control.clock() - started
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


def _target(url: sa.URL | str, table: str, source: str, zone: object, dry_run: bool) -> tuple[RowStore, bool]:
    """The table to write to; made like the source table if it isn't there. A dry run uses the source instead."""
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
class Restore(RestoreComparison):
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
                continue  # a session in another zone computed the generated columns
        self._write_in(last, group)

    def _offsets(self, part: Manifest) -> list[str]:
        """Offsets of sessions in which generated columns may get their former values. An archive of an earlier version
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
        """The part; from now on the store has its columns and key."""
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
        """The digest that the database must give of a part that is written whole, as its manifest has it.

        None if the target's columns make another digest of the same row. Pieces are possible only if their range of
        keys was empty and the target can compute them."""
        mine = [(c.name, c.encoding, c.framed) for c in self.store.table.columns]
        alike = mine == [(c.name, c.encoding, c.framed) for c in work.manifest.table_columns]
        if len(work.later) or len(work.there) or not alike:
            return None
        known = work.manifest.content_digest
        askable = isinstance(known, Digest) or (self.store.knows_pieces and before.rows == 0)
        return known if askable else None

    def _writable(self, work: _PartWork) -> list[Column]:
        """The columns as the file writes them. The target decides which are generated, and whether documents have types
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
        """The digest of a file's rows, by a hash of each. The file is proven once more: the loaded rows must be those
        of its manifest, not those of a file that was exchanged since."""
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
        """If parts were written together, rows of another part may be in this part's range of keys."""
        arrived, pieces = loaded.digest, loaded.pieces
        if pieces is not None:
            there = Selection(first=work.first, last=work.last)
            if loaded.rows == work.to_write and self.store.has_pieces(there, pieces):
                return
            # For example, the target's max_allowed_packet is too small for the pieces: then row by row.
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
