"""Looks every hour whether purges keep up with the rows that become due; the sensor `alerts` sends what it finds.

No other alert asks the production database, so this is a sensor of its own: a database that hangs holds up no alert,
and failing ticks are reported like any sensor's. Dagster reads annotations when a sensor is defined, so this module
can't postpone their evaluation.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from saju_ops.defs.conversation_logs.asset import LOGS
from saju_ops.defs.resources import LogDatabase
from saju_ops.defs.run_errors import without_secrets
from saju_ops.settings.settings import Settings
from saju_ops.words import are, counted

INTERVAL_SECONDS = 3600
FACT = "backlog"


def purge_backlog_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="purge_backlog",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Counts the rows of the conversation log that the last clean-up should have deleted, and reports"
        " when they become more. Reads only.",
    )
    @without_secrets
    def purge_backlog(context: dg.SensorEvaluationContext, log_database: LogDatabase) -> dg.SkipReason:
        return dg.SkipReason(measure(context.instance, log_database, settings, datetime.now(UTC)))

    return purge_backlog


def measure(instance: dg.DagsterInstance, database: LogDatabase, settings: Settings, now: datetime) -> str:
    """Counts, compares, and puts messages about changes into the outbox. Returns what it saw."""
    from saju_ops.alerts.attachments import open_outbox
    from saju_ops.alerts.backlog import KEY, Measured, judge, kept, last_clean_up, overdue_rows, problem
    from saju_ops.alerts.problems import Seen, settle
    from saju_ops.defs.alerts.sensor import outbox_folder
    from saju_ops.rows.days import Day, cutoff_day
    from saju_ops.wiring import channel_names

    zone = settings.timezone
    cutoff = cutoff_day(last_clean_up(settings.log_cleanup_cron, now, zone), settings.log_retention_days, zone)
    with database.open() as store:
        overdue = overdue_rows(store, Day(settings.archive_start_date, zone), cutoff)
    outbox = open_outbox(outbox_folder(instance), now)
    before = kept(outbox.fact(FACT), now)
    measurements = [*before, Measured(now, overdue, _purged(instance, before[-1].at if before else now))]
    outbox.set_fact(FACT, [m.to_json() for m in measurements])
    verdict = judge(measurements)
    # A backlog that neither grows nor shrinks keeps its last state.
    lasts = verdict == "grows" or (verdict == "stays" and KEY in outbox.problems())
    seen = Seen(problems=[problem(measurements)] if lasts else [], kinds={"backlog"})
    settle(
        outbox, seen, channel_names(settings), now, zone=zone, reminder=timedelta(hours=settings.alert_reminder_hours)
    )
    return f"{counted(overdue, 'row')} before {cutoff} {are(overdue)} overdue: {verdict}"


def _purged(instance: dg.DagsterInstance, after: datetime) -> int:
    wanted = dg.AssetRecordsFilter(asset_key=LOGS, after_timestamp=after.timestamp())
    deleted = 0
    for record in instance.fetch_observations(wanted, limit=1000).records:
        if record.asset_observation is not None and "rows_deleted" in record.asset_observation.metadata:
            deleted += int(record.asset_observation.metadata["rows_deleted"].value or 0)  # type: ignore[arg-type]
    return deleted
