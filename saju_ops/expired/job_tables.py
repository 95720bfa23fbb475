"""The tables of jobs and those that reference them; the plan of a purge of jobs, and its result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.expired.batches import (
    DEFAULT_BATCH,
    Limits,
    Outcome,
    open_table,
)
from saju_ops.expired.catalogue import Ref
from saju_ops.expired.foreign_keys import Closure, catalogue_of, require_known
from saju_ops.expired.links import NamedLink, left_out, linked_closure
from saju_ops.expired.orphans import orphan_rows
from saju_ops.rows.engines.open import RowStore

# The settings' own values, which an installation without such tables needn't change.
MAY_BE_MISSING = ("payments", "payment_failures", "job_files")
NONE_OF_THEM = (*MAY_BE_MISSING, "sms_logs", "phone_verification_attempts", "reports", "report_knowledge")


@dataclass(frozen=True)
class JobTables:
    """Which table holds the jobs, which may go with them, which are archived first, and where files are named."""

    root: str
    may_go: tuple[str, ...]
    keep: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    links: tuple[NamedLink, ...] = ()

    def as_named_by(self, store: RowStore) -> JobTables:
        """The same without the schema in which the database looks anyway."""
        plain = catalogue_of(store).plain
        files = tuple((plain(table), column) for table, column in self.files)
        links = tuple(
            replace(each, table=plain(each.table), parent=plain(each.parent)) for each in self.links
        )  # fmt: skip
        found = replace(
            self, may_go=tuple(map(plain, self.may_go)), keep=tuple(map(plain, self.keep)), files=files, links=links
        )
        store.end_read()
        return found


def jobs_closure(store: RowStore, tables: JobTables) -> Closure:
    """All tables that reference a job, by foreign keys or without. Raises Refused, naming the table, if these are more
    than the listed ones, or fewer. Reads the catalogue only."""
    closure = linked_closure(
        store, tables.may_go, "PURGE_TABLES", links=tables.links, may_be_missing=NONE_OF_THEM,
        require=lambda found: require_known(found, tables.may_go, "PURGE_TABLES", tables.keep),
    )  # fmt: skip
    return replace(closure, doubts=(*closure.doubts, *left_out(store, closure, "PURGE_TABLES")))


def job_limits(
    *, dry_run: bool = True, max_jobs: int | None = None, max_runtime_seconds: float | None = None,
    batch_jobs: int = DEFAULT_BATCH, pause_seconds: float = 0.0,
) -> Limits:  # fmt: skip
    """Raises Refused for values that make no sense, before anything is touched."""
    return Limits(dry_run, max_jobs, max_runtime_seconds, batch_jobs, pause_seconds)


@dataclass
class JobPurgeResult(Outcome):
    rows_archived: Counter[str] = field(default_factory=Counter)
    archives: list[str] = field(default_factory=list)
    files: int = 0
    # Files that rows of jobs that stay name too; they were left.
    files_shared: int = 0
    bytes: int = 0


def open_jobs(url: sa.URL, table: str, zone: ZoneInfo) -> RowStore:
    """The table of jobs. `zone` is the zone of times without one. Raises NoSuchTable, Refused, OperatorError."""
    return open_table(url, table, zone, "JOBS_TABLE")


def orphans(store: RowStore, tables: JobTables) -> Counter[str]:
    """Rows whose job is gone, by table and column. Reads only. Raises Refused if PURGE_TABLES or PURGE_LINKS do."""
    tables = tables.as_named_by(store)
    closure = linked_closure(store, tables.may_go, "PURGE_TABLES", links=tables.links, may_be_missing=NONE_OF_THEM)
    return orphan_rows(store, closure, files=file_tables(closure, tables))


def file_tables(closure: Closure, tables: JobTables) -> set[Ref]:
    """The tables of the closure that name files."""
    return {ref for table, _ in tables.files if (ref := closure.find(table)) is not None}
