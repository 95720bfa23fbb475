"""Puts back what a run of `reconcile_stale_jobs` changed, from its audit.

Jobs that the run changed and that still have the status it set get their former status back. A job whose status or
results were changed since, or that is gone, is left alone and counted: a worker that continued it may have completed it
for good. For a part that a killed run left without an outcome, the rows decide: each transaction was done whole or not
at all. If they show both, because others changed some of them, the jobs are left alone and named. A run is put back
once. It can be killed and launched again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.families import family_of
from saju_ops.errors import Refused
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.stale.audit import (
    LaterRuns,
    Meant,
    Part,
    key_from_json,
    key_shown,
    later_runs,
    mark_undone,
    parts_of,
)
from saju_ops.stale.connections import errors_in_words, read_write, reading
from saju_ops.stale.files import Files
from saju_ops.stale.tables import Tables, normal
from saju_ops.storage.open import Storage

BATCH_JOBS = 1_000
NAMED = 100


@dataclass
class UndoResult:
    run_id: str
    undo_run_id: str
    dry_run: bool
    at: datetime
    # Jobs that the run is known to have changed.
    changed_then: int = 0
    put_back: int = 0
    # Their status is no longer the one that the run set, their results changed since, or they are gone.
    kept: int = 0
    # The rows don't show whether these were changed: named, left alone.
    in_doubt: list[str] = field(default_factory=list)
    audit_file: str = ""
    # Stopped before the end: launched again, it continues.
    stopped: bool = False
    seconds: float = 0.0


def undo(
    url: sa.URL,
    storage: Storage,
    run_id: str,
    *,
    undo_run_id: str,
    dry_run: bool,
    now: datetime,
    zone_of_database: ZoneInfo,
    busy_seconds: float | None = None,
    control: RunControl = TO_THE_END,
) -> UndoResult:
    """Raises Refused, before anything is touched, for a run that is unknown, was put back, or was another
    database's; Busy and OperatorError as `reconcile` does."""
    began = time.monotonic()
    parts = parts_of(storage, run_id)
    _require_same_database(parts, url)
    result = UndoResult(run_id, undo_run_id, dry_run, now)
    if dry_run:
        reading(
            url,
            zone_of_database,
            busy_seconds,
            lambda c: _look(Tables(c, url, zone_of_database), storage, parts, result),
        )
    else:
        with errors_in_words(url), read_write(url, zone_of_database, busy_seconds).connect() as connection:
            tables = Tables(connection, url, zone_of_database)
            result.stopped = _put_back(tables, storage, parts, result, control)
        if not result.stopped:
            result.audit_file = mark_undone(storage, parts[0], _for_audit(result))
    result.seconds = time.monotonic() - began
    return result


def _require_same_database(parts: Sequence[Part], url: sa.URL) -> None:
    then = sa.make_url(parts[0].database)
    # Not the host: after a failover the same database is at another address.
    if (family_of(then), _name(then)) != (family_of(url), _name(url)):
        raise Refused(
            f"The run {parts[0].run_id} was on {parts[0].database}, which is not the database that"
            " ANALYSIS_DATABASE_URL (or DATABASE_URL) names now. Nothing was touched."
        )


def _name(url: sa.URL) -> str:
    return (url.database or "").rpartition("/")[2]


def _look(tables: Tables, storage: Storage, parts: Sequence[Part], result: UndoResult) -> None:
    result.changed_then = result.put_back = result.kept = 0
    result.in_doubt = []
    for jobs in _changed(tables, storage, parts, result):
        same = _with_same_results(tables, jobs, parts[0])
        now = tables.statuses_of([key_from_json(m.key) for m in jobs], lock=False)
        tables.end()
        _count(result, jobs, [m for m in same if _still_set(m, now)])


def _put_back(tables: Tables, storage: Storage, parts: Sequence[Part], result: UndoResult, control: RunControl) -> bool:
    """Returns whether it was stopped before the end."""
    for jobs in _changed(tables, storage, parts, result):
        if control.should_stop():
            return True
        # Before the lock: without an index on the results it takes long.
        same = _with_same_results(tables, jobs, parts[0])
        tables.begin()
        try:
            now = tables.statuses_of([key_from_json(m.key) for m in jobs], lock=True)
            mine = [m for m in same if _still_set(m, now)]
            groups: dict[tuple[str, str], list[Any]] = {}
            for each in mine:
                key = key_from_json(each.key)
                groups.setdefault((now[key], each.status), []).append(key)
            for (current, status), keys in groups.items():
                tables.set_status(keys, current, status)
            tables.commit()
        except BaseException:
            tables.end()
            raise
        _count(result, jobs, mine)
    return False


def _with_same_results(tables: Tables, jobs: Sequence[Meant], part: Part) -> list[Meant]:
    """The jobs whose results are as the run saw them, by their numbers and times."""
    files = tables.files_of([key_from_json(m.key) for m in jobs])
    tables.end()
    then = datetime.fromisoformat(part.created_at)

    def same(job: Meant) -> bool:
        now = files.get(key_from_json(job.key), Files())
        moved = any(m.at is not None and m.at > then for m in now.moments)
        return (now.total, now.done) == (job.files, job.done) and not moved

    return [job for job in jobs if same(job)]


def _still_set(job: Meant, now: dict[Any, str]) -> bool:
    return normal(now.get(key_from_json(job.key))) == normal(job.becomes)


def _count(result: UndoResult, jobs: Sequence[Meant], mine: Sequence[Meant]) -> None:
    result.changed_then += len(jobs)
    result.put_back += len(mine)
    result.kept += len(jobs) - len(mine)


def _changed(tables: Tables, storage: Storage, parts: Sequence[Part], result: UndoResult) -> Iterator[list[Meant]]:
    """What the run changed, transaction by transaction, the last first."""
    later: LaterRuns | None = None
    for part in reversed(parts):
        outcome = {b.batch: {key_shown(k) for k in b.changed} for b in part.outcome or []}
        batches: dict[int, list[Meant]] = {}
        for job in part.meant:
            batches.setdefault(job.batch, []).append(job)
        for number in sorted(batches, reverse=True):
            jobs = batches[number]
            if number in outcome:
                jobs = [j for j in jobs if key_shown(j.key) in outcome[number]]
            else:
                later = later or later_runs(storage, part.run_id, parts[0].created_at)
                jobs = _committed_by_rows(tables, jobs, later, result)
            for start in range(0, len(jobs), BATCH_JOBS):
                yield jobs[start : start + BATCH_JOBS]


def _committed_by_rows(tables: Tables, jobs: list[Meant], later: LaterRuns, result: UndoResult) -> list[Meant]:
    """The jobs of a transaction without an outcome, if it was committed; none, if it wasn't."""
    now: dict[Any, str] = {}
    for start in range(0, len(jobs), BATCH_JOBS):
        now |= tables.statuses_of([key_from_json(j.key) for j in jobs[start : start + BATCH_JOBS]], lock=False)
    tables.end()
    names = {key_shown(j.key) for j in jobs}
    set_since = [j for j in jobs if _still_set(j, now)]
    # A later run found one of them still open: then this transaction was rolled back.
    if not set_since or names & later.changed:
        return []
    still_open = any(normal(now.get(key_from_json(j.key))) == normal(j.status) for j in jobs)
    if still_open or names & later.perhaps:
        result.in_doubt += [key_shown(j.key) for j in set_since][: NAMED - len(result.in_doubt)]
        return []
    return set_since


def _for_audit(result: UndoResult) -> dict[str, Any]:
    return {
        "undo_run_id": result.undo_run_id,
        "created_at": result.at.isoformat(),
        "put_back": result.put_back,
        "kept": result.kept,
        "in_doubt": result.in_doubt,
    }
