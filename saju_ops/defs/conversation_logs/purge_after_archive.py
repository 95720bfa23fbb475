"""Purges when every archive run of a weekly clean-up succeeded.

It keeps no state of its own: everything it needs is in the runs' tags, and Dagster never launches the same run_key
twice. So a daemon that restarts between archive and purge continues where it was.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from saju_ops.defs.conversation_logs.purge import PurgeConfig
from saju_ops.defs.run_errors import without_secrets
from saju_ops.tags import CLEANUP, CLEANUP_RUNS, RANGE_END, RANGE_START
from saju_ops.words import counted, were

# A clean-up whose archive is mended within this time is still followed by its purge.
LOOK_BACK = timedelta(days=8)
INTERVAL_SECONDS = 30


def purge_after_archive(archive_job: str, purge_job: dg.JobDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name="purge_after_archive",
        job=purge_job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts purge_conversation_logs once all archive runs of a weekly clean-up succeeded.",
    )
    @without_secrets
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        since = datetime.now(UTC) - LOOK_BACK
        runs = context.instance.get_runs(dg.RunsFilter(job_name=archive_job, created_after=since))
        requests, waiting = [], []
        for tick, latest in sorted(latest_runs(runs).items()):
            if context.instance.get_runs_count(dg.RunsFilter(job_name=purge_job.name, tags={CLEANUP: tick})):
                continue
            verdict = why_not_yet(latest)
            if verdict:
                waiting.append(f"{tick}: {verdict}")
            else:
                requests.append(_request(tick))
        reason = "; ".join(waiting) or "no weekly clean-up is waiting for its purge"
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else dg.SkipReason(reason))

    return sensor


def latest_runs(runs: Sequence[dg.DagsterRun]) -> dict[str, list[dg.DagsterRun]]:
    """Per clean-up, the newest run of each of its ranges: a range that was run again counts as it ended then."""
    found: dict[str, dict[str, dg.DagsterRun]] = defaultdict(dict)
    for run in runs:  # newest first
        tick = run.tags.get(CLEANUP)
        if tick:
            found[tick].setdefault(f"{run.tags.get(RANGE_START)}-{run.tags.get(RANGE_END)}", run)
    return {tick: list(ranges.values()) for tick, ranges in found.items()}


def why_not_yet(latest: Sequence[dg.DagsterRun]) -> str | None:
    """None when the purge may start."""
    expected = max((int(r.tags.get(CLEANUP_RUNS, "1")) for r in latest), default=1)
    if len(latest) < expected:
        return f"{len(latest)} of {counted(expected, 'archive run')} {were(expected)} started"
    return next(_unfinished(latest), None)


def _unfinished(latest: Sequence[dg.DagsterRun]) -> Iterator[str]:
    for run in latest:
        if run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
            yield f"archive run {run.run_id[:8]} ended with {run.status.value}; nothing is purged until it is run again"
        elif run.status is not dg.DagsterRunStatus.SUCCESS:
            yield f"archive run {run.run_id[:8]} is {run.status.value}"


def _request(tick: str) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"purge-{tick}",
        run_config=dg.RunConfig(ops={"purge_conversation_logs": PurgeConfig(dry_run=False)}),
        tags={CLEANUP: tick},
    )
