"""Deletes expired jobs with everything that belongs to them: rows, and files in S3. The only code that does.

For every deleted job: its expires_at was past under a lock that the deleting transaction still held; every table that
references it is listed for deletion; its rows of the tables to keep (payments) are in an archive that was read back,
and were compared with it under that lock; all of its files are gone, and no row that stays names one of them. If one of
these is uncertain, the job stays whole, and the report says why.

One transaction for a batch of jobs does this in order: hold the tables and check that nobody altered one, lock the
rows, judge, compare, delete the rows (not yet committed: now the database has agreed), delete the files, commit. So
nobody can extend a job while its files are being deleted. If a process is killed, or a connection lost, between S3's
answer and the commit, expired jobs remain with rows and without files. The next run deletes their rows, unless the
service extends one of these expired jobs before that, within the hour.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import error_text
from saju_ops.errors import OperatorError
from saju_ops.expired.batches import (
    LOCK_WAIT,
    Limits,
    name_of,
)
from saju_ops.expired.catalogue import Ref, shown
from saju_ops.expired.conditions import Identity
from saju_ops.expired.dependents import Hanging
from saju_ops.expired.finding import Found
from saju_ops.expired.foreign_keys import child_of, parent_of
from saju_ops.expired.job_files import BadKey, JobFiles
from saju_ops.expired.job_preparation import JobPreparation
from saju_ops.expired.job_tables import JobPurgeResult, JobTables, file_tables
from saju_ops.expired.orphans import orphan_rows
from saju_ops.expired.row_archive import FOLDER
from saju_ops.rows.csvfile import Compression
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.engines.session import broken_off
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.storage.open import Storage, StorageError
from saju_ops.words import counted, were

# Jobs whose rows to keep are written into one archive file.
ARCHIVE_JOBS = 5_000


@dataclass(frozen=True)
class _Files:
    """The files that go with a batch, and how many don't because a row that stays names them too."""

    keys: set[str]
    shared: int


class _Again(Exception):
    """Some files did not go: back to the savepoint, and once more without their jobs."""


def purge_expired_jobs(
    store: RowStore,
    storage: Storage,
    tables: JobTables,
    limits: Limits,
    *,
    now: datetime,
    zone: ZoneInfo,
    files: JobFiles | None,
    compression: Compression = "none",
    run_id: str = "",
    control: RunControl = TO_THE_END,
    wait: float = LOCK_WAIT,
) -> JobPurgeResult:
    """Deletes the jobs that were past at `now` (with its zone). `zone`: zone of the archives' names; without `files` S3
    is left alone. `control` is asked between batches.

    Raises Refused or Busy before anything is touched, and OperatorError if the archive can't be written or the database
    is lost; the jobs deleted before that were archived, and their files are gone.
    """
    work = JobPurge(
        store, storage, tables, limits, now, zone=zone, files=files, compression=compression, run_id=run_id,
        control=control,
    )  # fmt: skip
    with broken_off(work.broken_off):
        work.prepare()
        with store.lock("expired jobs", wait):
            return work.run()


@dataclass
class JobPurge(JobPreparation):
    def broken_off(self, text: str) -> str:
        return (
            f"The database broke off the purge of expired jobs ({text}). {counted(self.result.deleted, 'job')}"
            f" {were(self.result.deleted)} deleted before; those at work then are there with all their rows, or gone"
            " with all of them. Launch again to go on."
        )

    # --- the run ---------------------------------------------------------------------------------------------

    def run(self) -> JobPurgeResult:
        if self.archives and not self.limits.dry_run:
            self._ready_storage()
        if self.batches.in_chunks(self.batches.candidates(), ARCHIVE_JOBS, self._chunk):
            self.result.doubts += tuple(self.shared.doubts()) if self.shared is not None else ()
            self.result.orphans = orphan_rows(self.store, self.closure, files=file_tables(self.closure, self.tables))
        self.result.seconds = self.control.clock() - self.started
        return self.result

    def _ready_storage(self) -> None:
        try:
            self.storage.complete(f"{FOLDER}/")
            for archive in self.archives.values():
                archive.clear_unfinished()
        except (StorageError, OSError) as error:
            raise self._storage_failed(error) from error

    def _storage_failed(self, error: Exception) -> OperatorError:
        why = getattr(error, "strerror", None) or str(error)
        return OperatorError(
            f"The rows of {', '.join(shown(r) for r in self.archives)} can't be archived: {self.storage.uri} can't be"
            f" written or read ({why}). {counted(self.result.deleted, 'job')} {were(self.result.deleted)}"
            " deleted before that; no other was touched."
        )

    def _hanging(self, *, lock: bool, only: frozenset[Ref] | None = None) -> Hanging:
        return Hanging(self.store, self.closure, self.expiry, lock=lock, wanted=self.wanted, only=only)

    def _chunk(self, candidates: Sequence[tuple[Identity, datetime]]) -> None:
        if self.shared is not None:
            self.shared.read_odd_names()
        jobs = [job for job, _ in candidates]
        oldest = min(at for _, at in candidates)
        left_out = self._archive(jobs, oldest)
        for job, reason in left_out.items():
            self.result.stay(job, reason)
        self.batches.run([job for job in jobs if job not in left_out], self._batch)

    # --- rows to keep ----------------------------------------------------------------------------------------

    def _archive(self, jobs: Sequence[Identity], oldest: datetime) -> dict[Identity, str]:
        """Archives the rows to keep of these jobs. Returns the jobs for which that is impossible, and why."""
        if not self.archives or self.limits.dry_run:
            return {}
        try:
            self._archive_together(jobs, oldest)
            return {}
        except (StorageError, OSError) as error:
            raise self._storage_failed(error) from error
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            self.batches.stop_if_altered(error)
            reason = f"its rows can't be archived ({error_text(error)})"
        except OperatorError as error:
            reason = f"its rows can't be archived ({error})"
        self.store.end_read()
        if len(jobs) == 1:
            return {jobs[0]: reason}
        half = len(jobs) // 2
        return self._archive(jobs[:half], oldest) | self._archive(jobs[half:], oldest)

    def _archive_together(self, jobs: Sequence[Identity], oldest: datetime) -> None:
        with self.store.snapshot():
            hanging = self._hanging(lock=False, only=self._leading_to(self.archives))
            hanging.collect(jobs)
            for ref, archive in self.archives.items():
                rows = {**hanging.rows.get(ref, {}), **hanging.detached.get(ref, {})}
                if not rows:
                    continue
                names = sorted({name_of(hanging.roots[row.owner]) for row in rows.values()})
                self.result.problems += archive.recall(names, oldest)
                before = archive.rows_written
                written = archive.add(list(rows), names, (oldest, self.now))
                if written is not None:
                    self.result.archives.append(self.storage.location(written))
                    self.result.rows_archived[shown(ref)] += archive.rows_written - before

    def _leading_to(self, wanted: Collection[Ref]) -> frozenset[Ref]:
        """The tables that must be read to find rows of these: they and all that they reference."""
        found, waiting = set(wanted), list(wanted)
        while waiting:
            ref = waiting.pop()
            for key in (*self.closure.hard, *self.closure.soft):
                if child_of(key) == ref and parent_of(key) not in found:
                    found.add(parent_of(key))
                    waiting.append(parent_of(key))
        return frozenset(found)

    def _compare(self, hanging: Hanging) -> None:
        """Keeps every job of which a row to keep is not in an archive as it is now, under lock."""
        for ref, archive in self.archives.items():
            rows = {**hanging.going(ref), **hanging.going(ref, hanging.detached)}
            if not rows or archive.holds(list(rows)):
                continue
            by_owner: dict[int, list[Identity]] = defaultdict(list)
            for identity, row in rows.items():
                by_owner[row.owner].append(identity)
            for owner, identities in by_owner.items():
                if not archive.holds(identities):
                    hanging.keep(owner, f"a row of {shown(ref)} came or changed after it was archived")

    # --- a batch -----------------------------------------------------------------------------------------------

    def _batch(self, jobs: Sequence[Identity]) -> None:
        self._look(jobs) if self.limits.dry_run else self._delete(jobs)
        self.control.progress(self.result)

    def _look(self, jobs: Sequence[Identity]) -> None:
        with self.store.snapshot():
            hanging = self._hanging(lock=False)
            hanging.collect(jobs)
            files = self._keys(hanging, {})
            rows, detached = hanging.counts(), hanging.detachable()
        self._count(hanging, rows, detached, files, self._sizes(hanging, files.keys))

    def _delete(self, jobs: Sequence[Identity]) -> None:
        versions, sizes = self._ask_s3(jobs)
        with self.store.transaction():
            self.traits.hold(list(self.closure.going))
            hanging = self._hanging(lock=True)
            hanging.collect(jobs)
            self._compare(hanging)
            files, detached, rows = self._delete_locked(hanging, versions)
        self._count(hanging, rows, detached, files, sizes or self._sizes(hanging, files.keys))

    def _delete_locked(
        self, hanging: Hanging, versions: dict[str, list[str]]
    ) -> tuple[_Files, Counter[str], Counter[str]]:
        """Deletes the locked and judged rows, then the files. If a file can't be deleted, it rolls back to the
        savepoint and tries again without the file's job: the locks stay, so that nobody extends a job of which other
        files are gone."""
        gone: set[str] = set()
        failed: dict[str, str] = {}
        while True:
            savepoint = self.store.connection.begin_nested()
            try:
                files = self._keys(hanging, failed)
                detached = hanging.detachable()
                rows = hanging.delete()
                self.store.check_now()
                self.traits.look_again()
                self._delete_files(files.keys - gone, versions, gone, failed)
                savepoint.commit()
                return files, detached, rows
            except _Again:
                savepoint.rollback()

    def _delete_files(
        self, keys: set[str], versions: dict[str, list[str]], gone: set[str], failed: dict[str, str]
    ) -> None:
        """The last thing before the commit. Raises _Again where one did not go."""
        if not keys or self.files is None:
            return
        answer = self.files.delete(keys, versions)
        gone |= answer.gone
        if answer.failed:
            failed |= answer.failed
            raise _Again

    def _count(
        self, hanging: Hanging, rows: Counter[str], detached: Counter[str], files: _Files, sizes: dict[str, int]
    ) -> None:
        self.result.deleted += len(hanging.going(self.closure.root))
        self.result.rows += rows
        self.result.detached += detached
        self.result.files += len(files.keys)
        self.result.files_shared += files.shared
        self.result.bytes += sum(sizes.get(key, 0) for key in files.keys)
        for job, reason in hanging.staying().items():
            self.result.stay(job, reason)

    # --- files ---------------------------------------------------------------------------------------------------

    def _keys(self, hanging: Hanging, failed: dict[str, str]) -> _Files:
        """The files that are deleted with the jobs. A job whose files can't be deleted is kept; a file that a staying
        row names too is left."""
        keys = self._named(hanging, failed)
        shared = self.shared.of(hanging, keys) if self.shared is not None else set()
        return _Files(keys - shared, len(shared))

    def _named(self, hanging: Hanging, failed: dict[str, str]) -> set[str]:
        """The keys that the rows of jobs that go name, after those with a bad or failed one were kept."""
        if self.files is None:
            return set()
        for _, found, value in self._file_cells(hanging):
            try:
                key = self.files.place.key_of(value)
            except BadKey as problem:
                hanging.keep(found.owner, str(problem))
                continue
            if key in failed:
                hanging.keep(found.owner, failed[key])
        keys = {self.files.place.key_of(value) for _, _, value in self._file_cells(hanging)}
        return {key for key in keys if key is not None}

    def _file_cells(self, hanging: Hanging) -> Iterator[tuple[Ref, Found, Any]]:
        for ref, columns in self.file_columns.items():
            for found in hanging.going(ref).values():
                for column in columns:
                    yield ref, found, hanging.cell(ref, found, column)

    def _ask_s3(self, jobs: Sequence[Identity]) -> tuple[dict[str, list[str]], dict[str, int]]:
        """Asks S3, file by file, before anything is locked: for versions, and for sizes that no row has."""
        sizes_known = len(self.size_columns) == len(self.file_columns)
        if self.files is None or (sizes_known and not self.files.place.all_versions):
            return {}, {}
        with self.store.snapshot():
            hanging = self._hanging(lock=False, only=self._leading_to(self.file_columns))
            hanging.collect(jobs)
            keys = self._named(hanging, {})
        return self.files.versions(keys), self._sizes(hanging, keys)

    def _sizes(self, hanging: Hanging, keys: set[str]) -> dict[str, int]:
        """Bytes of each file: from its row, or else from S3."""
        if self.files is None or not keys:
            return {}
        sizes: dict[str, int] = {}
        for ref, found, value in self._file_cells(hanging):
            key, column = self.files.place.key_of(value), self.size_columns.get(ref)
            size = _number_of_bytes(hanging.cell(ref, found, column)) if column else None
            if key is not None and size is not None:
                sizes[key] = size
        if len(self.size_columns) < len(self.file_columns) and self.files.down is None:
            sizes |= self.files.sizes(keys - sizes.keys())
        return sizes


def _number_of_bytes(value: Any) -> int | None:
    """The value of a column that only by its name holds sizes; None for anything else in it."""
    try:
        number = Decimal(str(value))
        return int(number) if 0 <= number < 1 << 60 else None
    except ArithmeticError:
        return None
