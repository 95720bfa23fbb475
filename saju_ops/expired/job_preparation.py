"""Looks at the tables of jobs before anything is touched."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from saju_ops.errors import Refused
from saju_ops.expired.batches import (
    Batches,
    Limits,
    settled,
)
from saju_ops.expired.catalogue import Ref, shown
from saju_ops.expired.clocks import Clock
from saju_ops.expired.expiry import Expiry
from saju_ops.expired.foreign_keys import Closure, require_seen_whole
from saju_ops.expired.job_files import JobFiles
from saju_ops.expired.job_tables import MAY_BE_MISSING, JobPurgeResult, JobTables, jobs_closure
from saju_ops.expired.row_archive import RowArchive, require_archivable
from saju_ops.expired.shared_files import SharedFiles
from saju_ops.rows.csvfile import Compression
from saju_ops.rows.engines.open import RowStore
from saju_ops.run_control import RunControl
from saju_ops.storage.open import Storage

# Columns in which a table of files may keep their sizes, so that S3 needn't be asked for each.
SIZE_COLUMNS = ("size_bytes", "file_size", "size")


@dataclass
class JobPreparation:
    """Reads the catalogue, and refuses impossible settings."""

    store: RowStore

    storage: Storage

    tables: JobTables

    limits: Limits

    now: datetime

    zone: ZoneInfo

    files: JobFiles | None

    compression: Compression

    run_id: str

    control: RunControl

    def __post_init__(self) -> None:
        self.result = JobPurgeResult(self.now, self.limits.dry_run)
        self.started = self.control.clock()
        self.archives: dict[Ref, RowArchive] = {}
        self.file_columns: dict[Ref, list[str]] = defaultdict(list)
        self.size_columns: dict[Ref, str] = {}
        self.shared: SharedFiles | None = None

    def prepare(self) -> None:
        """Reads the catalogue. Raises Refused."""
        self.expiry = Expiry(self.store, self.now)
        self.store.require_transactions()
        clock = Clock(self.store, "JOBS_DATABASE_TIMEZONE", self.now)
        clock.require("Jobs would be deleted too early or too late. Nothing was deleted")
        self.tables = self.tables.as_named_by(self.store)
        self.closure: Closure
        self.closure, self.traits = settled(self.store, self._look_at_closure)
        if not self.limits.dry_run:
            require_seen_whole(self.closure)
        self.result.doubts = (*self.closure.doubts, *clock.doubts([ZoneInfo("UTC"), self.zone]))
        for name in self.tables.keep:
            if (ref := self.closure.find(name)) is not None:
                self._keep(ref)
            elif name not in MAY_BE_MISSING:
                self._require_table(name, "PURGE_KEEP_TABLES", "rows that must be kept would be deleted")
        for table, column in self.tables.files:
            self._name_files(table, column)
        if self.files is not None:
            self.shared = SharedFiles(self.store, self.closure, self.files.place, self.file_columns)
        self.wanted: dict[Ref, list[str]] = {ref: list(cols) for ref, cols in self.file_columns.items()}
        for ref in self.archives:
            self.wanted.setdefault(ref, [])
        for ref, column in self.size_columns.items():
            self.wanted[ref].append(column)
        self.batches = Batches(
            self.store, self.closure, self.expiry, self.limits, self.result, control=self.control,
            started=self.started, traits=self.traits,
        )  # fmt: skip
        self.store.wait_briefly()

    def _look_at_closure(self) -> Closure:
        return jobs_closure(self.store, self.tables)

    def _keep(self, ref: Ref) -> None:
        identity = self.closure.tables[ref].identity
        if ref == self.closure.root or not identity:
            raise Refused(
                f"PURGE_KEEP_TABLES names {shown(ref)}, which is the table of jobs itself or has no key. Nothing was"
                " deleted."
            )
        self.archives[ref] = RowArchive(
            require_archivable(self.store, ref[1], ref[0]), self.storage, identity, root=shown(self.closure.root),
            now=self.now, zone=self.zone, compression=self.compression, run_id=self.run_id,
        )  # fmt: skip

    def _require_table(self, name: str, setting: str, otherwise: str) -> None:
        """Raises Refused for a name that no table has: taken for none, a mistyped one would do harm."""
        if "." in name or not self.store.has_table(name):
            raise Refused(
                f"{setting} names {name}, but no such table hangs on {self.tables.root}, and {otherwise}. Nothing was"
                " deleted; correct the name."
            )

    def _name_files(self, table: str, column: str) -> None:
        ref = self.closure.find(table)
        if ref is None:
            if self.files is not None and table not in MAY_BE_MISSING:
                self._require_table(table, "PURGE_FILE_COLUMNS", "the files of a job would be left for ever")
            if self.files is not None and self.store.has_table(table):
                raise Refused(
                    f"No foreign key leads from {table} to {self.tables.root}, and PURGE_TABLES doesn't name it, so the"
                    " files of a job can't be found and would be left for ever. Nothing was deleted; add the table to"
                    " PURGE_TABLES, or take it out of PURGE_FILE_COLUMNS."
                )
            return
        if column not in self.closure.tables[ref].columns:
            raise Refused(
                f"PURGE_FILE_COLUMNS names {table}.{column}, but there is no such column. Nothing was deleted."
            )
        if self.files is not None:
            if not self.closure.tables[ref].identity:
                raise Refused(
                    f"The table {shown(ref)} has no primary key and no unique key without NULLs, so the rows of a job"
                    " that name files can't be distinguished (PURGE_FILE_COLUMNS). Nothing was deleted; give the table"
                    " a key."
                )
            self.file_columns[ref].append(column)
            sizes = (c for c in SIZE_COLUMNS if c in self.closure.tables[ref].columns)
            if (size := next(sizes, None)) is not None:
                self.size_columns[ref] = size
