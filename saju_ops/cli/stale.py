"""`saju-ops reconcile-stale-jobs`: the same as the job, for the night when Dagster is down, and for scripts.

Exit status: 0 done, also if a check found something to do, as cron expects; 1 refused, failed or wrong usage; with
--exit-code, 2 if a check found something to do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from saju_ops.bounds import StaleHours, bounds_of
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.stale.audit import StaleJob
    from saju_ops.stale.plan import StaleResult

SOMETHING_TO_DO = 2
HOURS = f"Hours without a move, {bounds_of(StaleHours)}. Default: STALE_JOB_HOURS."


class _WrongUsage(click.UsageError):
    """click ends wrong usage with 2, which for this command means that there is something to do."""

    exit_code = 1


class _Command(click.Command):
    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **more)
        except click.UsageError as error:
            raise _WrongUsage(error.format_message(), error.ctx) from error


def _one_mode(check: bool, apply: bool, stats: bool, undo: str | None) -> Literal["check", "apply", "stats", "undo"]:
    if sum((check, apply, undo is not None)) > 1:
        raise _WrongUsage("--check, --apply and --undo exclude each other.")
    if stats and undo is not None:
        raise _WrongUsage("--stats doesn't go with --undo.")
    return "apply" if apply else "undo" if undo is not None else "stats" if stats and not check else "check"


@click.command("reconcile-stale-jobs", cls=_Command)
@click.option("--check", is_flag=True, help="List what would be settled; changes nothing (the default).")
@click.option("--apply", is_flag=True, help="Settle them: set their status.")
@click.option("--stats", is_flag=True, help="The numbers, alone or before the list of --check or --apply.")
@click.option(
    "--undo", metavar="RUN_ID", default=None, help="Put back what a run changed, where it is unchanged since."
)
@click.option("--hours", type=int, default=None, help=HOURS)
@click.option("--dry-run", is_flag=True, help="With --apply or --undo: only say what would be done.")
@click.option(
    "--accept-unsealed", is_flag=True,
    help="With --undo: also where no key of yours sealed the audit. Whoever can write into the store may have made it.",
)  # fmt: skip
@click.option("--exit-code", is_flag=True, help="With --check: exit status 2 where there is something to settle.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
def reconcile_stale_jobs(
    check: bool, apply: bool, stats: bool, undo: str | None, hours: int | None, dry_run: bool, accept_unsealed: bool,
    exit_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """Settles analysis jobs that a crash left in pending or processing.

    Exit status: 0 done; 1 refused or failed; with --exit-code, 2 where a check found something to settle.
    """
    mode = _one_mode(check, apply, stats, undo)
    if exit_code and mode != "check":
        raise _WrongUsage("--exit-code works with --check only.")
    settings = load_settings()
    if mode == "undo":
        _undo(undo or "", settings, dry_run, as_json, ("all",) if accept_unsealed else ())
        return
    result = _reconcile(mode, settings, hours, dry_run)
    if as_json:
        for piece in as_pieces(result):
            click.echo(piece, nl=False)
    else:
        from saju_ops.reports.stale import console_lines

        for line in console_lines(result, settings.analysis_database_timezone, statistics=stats):
            click.echo(line)
    if exit_code and result.stale:
        sys.exit(SOMETHING_TO_DO)


def _new_run_id(now: datetime) -> str:
    import secrets

    return f"{now:%Y%m%d_%H%M%S}_{secrets.token_hex(3)}"


def _reconcile(
    mode: Literal["check", "apply", "stats"], settings: Settings, hours: int | None, dry_run: bool
) -> StaleResult:
    from saju_ops.cli.progress import progress, to_stderr
    from saju_ops.stale.plan import StalePlan
    from saju_ops.stale.reconcile import reconcile
    from saju_ops.wiring import open_backups

    now = datetime.now(UTC)
    plan = StalePlan(
        mode=mode,
        hours=settings.stale_job_hours if hours is None else hours,
        dry_run=dry_run or mode != "apply",
        empty_status=settings.stale_job_empty_status,
        run_id=_new_run_id(now),
    )
    # The report is known to scripts by the letter, so nothing else is on standard output.
    with progress("stale jobs", to_stderr) as shown:
        return reconcile(
            settings.analysis_database_url,
            open_backups(settings) if plan.changes else None,
            plan,
            now=now,
            zone_of_database=settings.analysis_database_timezone,
            zone=settings.timezone,
            control=RunControl(
                progress=lambda r: shown.step(f"{r.settled:,} of {counted(r.stale, 'job')} settled", r.settled, r.stale)
            ),
        )


def _undo(run_id: str, settings: Settings, dry_run: bool, as_json: bool, accept_unsealed: tuple[str, ...]) -> None:
    from saju_ops.reports.stale import undo_lines
    from saju_ops.stale.undo import undo
    from saju_ops.wiring import open_backups

    now = datetime.now(UTC)
    result = undo(
        settings.analysis_database_url,
        open_backups(settings, accept_unsealed=accept_unsealed),
        run_id,
        undo_run_id=_new_run_id(now),
        dry_run=dry_run,
        now=now,
        zone_of_database=settings.analysis_database_timezone,
    )
    if as_json:
        click.echo(json.dumps({**asdict(result), "at": result.at.isoformat()}, ensure_ascii=False))
        return
    for line in undo_lines(result):
        click.echo(line)


# --- JSON ---------------------------------------------------------------------------------------------------


def as_pieces(result: StaleResult) -> Iterator[str]:
    """The result as one JSON object, piece by piece: the jobs come last and are never all in memory."""
    head = {
        "mode": result.mode,
        "dry_run": result.dry_run,
        "hours": result.hours,
        "at": result.at.isoformat(),
        "database": result.database,
        "statuses": result.statuses,
        "total": result.total,
        "older_than_7_days": result.older_than_7_days,
        "to_settle": result.stale,
        "to_complete": result.to_complete,
        "to_complete_partly": result.to_complete_partly,
        "to_empty": result.to_empty,
        "empty_status": result.empty_status,
        "judged_by": result.evidence,
        "hindrances": result.hindrances,
        "settled": result.settled,
        "settled_completed": result.settled_completed,
        "settled_partly": result.settled_partly,
        "settled_empty": result.settled_empty,
        "left_moved": result.left_moved,
        "stopped": result.stopped,
        "run_id": result.run_id if result.audit_files else None,
        "audit_files": result.audit_files,
        "not_judged": result.odd_count,
        "not_judged_jobs": [asdict(odd) for odd in result.odd],
        "seconds": round(result.seconds, 3),
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "jobs": ['
    if result.mode != "stats":
        for number, job in enumerate(result.jobs):
            yield (",\n" if number else "\n") + json.dumps(_job(job, result.at), ensure_ascii=False)
    yield "]}\n"


def _job(job: StaleJob, now: datetime) -> dict[str, Any]:
    created = datetime.fromisoformat(job.created)
    return {
        "job_id": job.key if isinstance(job.key, int) else job.job_id,
        "status": job.status,
        "becomes": job.becomes,
        "partly_done": job.partly_done,
        "folder": job.folder,
        "created_at": job.created,
        "age_seconds": int((now - created).total_seconds()),
        "last_moved_at": job.moved,
        "files": job.files,
        "done": job.done,
    }
