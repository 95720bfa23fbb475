"""The weekly clean-up: which days it asks to be archived.

After downtime only a schedule's latest tick runs, so a tick asks for whatever is due and not done, not for
"last week". What it asks for carries the tick's name; the sensor `purge_after_archive` purges when all of it
succeeded.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from saju_ops.defs.conversation_logs.asset import ARCHIVE
from saju_ops.defs.conversation_logs.checks import due_with_rows
from saju_ops.defs.resources import LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.settings.settings import Settings
from saju_ops.tags import CLEANUP, CLEANUP_RUNS, RANGE_END, RANGE_START

ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def cleanup_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="log_cleanup",
        job=job,
        cron_schedule=settings.log_cleanup_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Archives every day beyond the retention that still has rows in the table or was never archived,"
        " whatever was missed while the daemon was down; then the sensor purge_after_archive purges.",
    )
    @without_secrets
    def log_cleanup(context: dg.ScheduleEvaluationContext, log_database: LogDatabase) -> list[dg.RunRequest]:
        # The HTTP trigger asks by a dry run, which Dagster evaluates for the next tick: not all of that is due yet.
        now = min(context.scheduled_execution_time.astimezone(UTC), datetime.now(UTC))
        due = _due(settings, log_database, context.instance, now)
        ranges = list(contiguous(sorted(due - _active_days(context.instance))))
        return [_request(first, last, now, len(ranges)) for first, last in ranges]

    return log_cleanup


def _due(settings: Settings, database: LogDatabase, instance: dg.DagsterInstance, now: datetime) -> set[date]:
    """Days to archive: with rows left in the table, or never materialized; and one at least, so that the chain
    runs and an operator hears that there was nothing to do."""
    from saju_ops.rows.days import cutoff_day

    with database.open() as store:
        due = {d.date for d in due_with_rows(settings, store, now)}
    cutoff = cutoff_day(now, settings.log_retention_days, settings.timezone).date
    known = {date.fromisoformat(k) for k in instance.get_materialized_partitions(ARCHIVE)}
    day = settings.archive_start_date
    while day < cutoff:
        if day not in known:
            due.add(day)
        day += timedelta(days=1)
    newest = cutoff - timedelta(days=1)
    return due or ({newest} if newest >= settings.archive_start_date else set())


def _active_days(instance: dg.DagsterInstance) -> set[date]:
    """Days that a run which hasn't ended yet is working on."""
    found: set[date] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=ACTIVE)):
        if run.asset_selection is not None and ARCHIVE not in run.asset_selection:
            continue
        single = run.tags.get("dagster/partition")
        first, last = run.tags.get(RANGE_START, single), run.tags.get(RANGE_END, single)
        if first and last:
            try:
                found |= set(_dates(date.fromisoformat(first), date.fromisoformat(last)))
            except ValueError:
                continue  # another partition scheme's run
    return found


def _dates(first: date, last: date) -> Iterator[date]:
    while first <= last:
        yield first
        first += timedelta(days=1)


def contiguous(days: Iterable[date]) -> Iterator[tuple[date, date]]:
    """Ranges of days without a gap, from sorted days."""
    first = last = None
    for day in days:
        if last is not None and day == last + timedelta(days=1):
            last = day
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = day
    if first is not None and last is not None:
        yield first, last


def _request(first: date, last: date, tick: datetime, runs: int) -> dg.RunRequest:
    name = tick.strftime("%Y-%m-%dT%H:%MZ")
    return dg.RunRequest(
        run_key=f"archive-{name}-{first}-{last}",
        tags={
            RANGE_START: first.isoformat(),
            RANGE_END: last.isoformat(),
            CLEANUP: name,
            CLEANUP_RUNS: str(runs),
        },
    )
