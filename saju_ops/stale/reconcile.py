"""Settles analysis jobs that a crash left in pending or processing.

A job is stale when neither it nor any of its results moved for N hours, by every time column that both tables have; one
that moved exactly N hours ago is not. A stale job becomes `completed` if some or all of its files have results, and
STALE_JOB_EMPTY_STATUS if none has. Only `status` of `analysis_jobs` is changed, in short transactions. Each of them
locks its jobs, looks at them and their results again, and leaves alone every job that has changed since. The intended
changes are written under BACKUP_URI first, from which `undo` puts them back. The run can be killed at any instruction
and launched again.

If the column can't hold the new status, the run is refused. A job with a time that can't be read or is in the future is
not judged: it is named and left alone. `check` and `stats` change nothing, neither in the database nor in its files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.errors import OperatorError, Refused
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.stale import status_check as stale_holds
from saju_ops.stale.audit import (
    Audit,
    Spool,
    StaleJob,
)
from saju_ops.stale.connections import NoTables, data_version, errors_in_words, read_write, reading
from saju_ops.stale.files import Files
from saju_ops.stale.judge import _id, _judge, _odd_key
from saju_ops.stale.moments import fate
from saju_ops.stale.plan import (
    ODD_NAMED,
    OLD,
    OddJob,
    StalePlan,
    StaleResult,
    _batch_jobs,
    _batches,
)
from saju_ops.stale.settle import Settling
from saju_ops.stale.tables import COMPLETED, OPEN, OpenJob, Tables, normal
from saju_ops.storage.open import Storage


def reconcile(
    url: sa.URL,
    storage: Storage | None,
    plan: StalePlan,
    *,
    now: datetime,
    zone_of_database: ZoneInfo,
    zone: ZoneInfo,
    busy_seconds: float | None = None,
    control: RunControl = TO_THE_END,
) -> StaleResult:
    """Finds the stale jobs and, if the plan says so, settles them.

    `now` is aware; `zone` names the audit's folder. Raises Refused before anything is touched, Busy if a lock is held
    for longer than `busy_seconds` (SQLite) or the session's limit, OperatorError if the database or the storage ends
    the work: the audit has what was committed until then.
    """
    plan.check()
    if plan.changes and storage is None:
        raise Refused("There is no storage for the audit of what is changed. Nothing was touched.")
    began = time.monotonic()
    if plan.changes and storage is not None:
        # Opened first: SQLite then repairs what a killed writer left, and shows whether anybody wrote since.
        with errors_in_words(url), read_write(url, zone_of_database, busy_seconds).connect() as connection:
            version = data_version(connection)
            connection.rollback()
            result = _looked(url, plan, now, zone_of_database, busy_seconds)
            if result.stale:
                tables = Tables(connection, url, zone_of_database)
                audit = Audit(storage, plan.run_id, result.database, now, zone, plan.hours)
                result.audit_files = audit.files
                Settling(tables, audit, plan, result, now, version=version, control=control).run()
    else:
        result = _looked(url, plan, now, zone_of_database, busy_seconds)
    result.seconds = time.monotonic() - began
    return result


def missing_tables(url: sa.URL, zone_of_database: ZoneInfo) -> str | None:
    """Why there is nothing to settle in this installation: a sentence where the tables or the database's file
    don't exist. None where they do, and also where the database can't be asked."""
    try:
        reading(url, zone_of_database, None, lambda c: Tables(c, url, zone_of_database).evidence)
    except NoTables as error:
        return str(error)
    except OperatorError:
        return None
    return None


# --- looking ------------------------------------------------------------------------------------------------


def _looked(url: sa.URL, plan: StalePlan, now: datetime, zone: ZoneInfo, busy_seconds: float | None) -> StaleResult:
    found: StaleResult = reading(url, zone, busy_seconds, lambda c: _survey(Tables(c, url, zone), plan, now))
    return found


def _survey(tables: Tables, plan: StalePlan, now: datetime) -> StaleResult:
    result = StaleResult(plan.mode, plan.dry_run, plan.hours, plan.empty_status, now, plan.run_id)
    result.database, result.evidence = tables.database, tables.evidence
    result.results_indexed = tables.results_indexed
    spelled = tables.statuses()
    result.statuses = _by_name(spelled)
    result.older_than_7_days = tables.older_than(now - OLD)
    tables.end()
    spellings = [s for s, _ in spelled if s is not None and normal(s) in OPEN]
    _find(tables, spellings, plan, now, result)
    if plan.mode != "stats":
        found = [stale_holds.foreseen(tables, samples[0]) for samples in result.samples.values()]
        result.hindrances = [f for f in found if f is not None]
        tables.end()
    return result


def _by_name(spelled: Sequence[tuple[str | None, int]]) -> dict[str, int]:
    counts = dict.fromkeys((*OPEN, COMPLETED), 0)
    for status, number in spelled:
        name = normal(status)
        counts[name] = counts.get(name, 0) + number
    return counts


def _find(tables: Tables, spellings: list[str], plan: StalePlan, now: datetime, result: StaleResult) -> None:
    if not spellings:
        return
    cutoff = now - timedelta(hours=plan.hours)
    # Put aside, so that the query that finds them ends before anything else is done.
    candidates: Spool[OpenJob] = Spool()
    for job in tables.open_jobs(spellings, cutoff, now):
        # Its own times alone may show that it moved; only the others' results are looked at.
        if odd := _odd_key(job):
            _note(result, odd)
            continue
        what, column = fate(job.created, (job.updated,), cutoff, now)
        if what == "stale":
            candidates.append(job)
        elif what != "moving":
            _note(result, OddJob(_id(job), job.status, what, column))
    tables.end()
    for jobs in _batches(candidates, _batch_jobs(tables)):
        files = tables.files_of([job.key for job in jobs])
        tables.end()
        for job in jobs:
            found = _judge(job, files.get(job.key, Files()), plan, cutoff, now)
            if isinstance(found, OddJob):
                _note(result, found)
            elif found is not None:
                _list(result, found)


def _note(result: StaleResult, odd: OddJob) -> None:
    result.odd_count += 1
    if len(result.odd) < ODD_NAMED:
        result.odd.append(odd)


def _list(result: StaleResult, job: StaleJob) -> None:
    result.jobs.append(job)
    samples = result.samples.setdefault(job.becomes, [])
    if len(samples) < stale_holds.TRIES:
        samples.append(job)
    if job.done:
        result.to_complete += 1
        result.to_complete_partly += job.partly_done
    else:
        result.to_empty += 1


# --- settling -----------------------------------------------------------------------------------------------
