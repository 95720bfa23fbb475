"""`saju-ops dump`, `snapshot`, `archive` and `purge`: a backup, or a real purge, now and without Dagster.

The same functions as the jobs and assets, under the same locks. What they made is noted in Dagster's history where
there is one, so that no schedule and no alert thinks that it is missing. The last line says how it ended, and so does
the exit status: 0 all is done and proven, 1 not all of it.
"""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.archive.day import DayResult
    from saju_ops.archive.purge_plan import PurgeResult
    from saju_ops.dumps.take import DumpRun
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import RowStore

DAY = "YYYY-MM-DD"
STOPPED = "stopped by a signal"


@click.command("dump")
@click.option("--masked", is_flag=True, help="A masked dump, for developers, instead of the real one.")
def dump_command(masked: bool) -> None:
    """Takes a proven dump of every configured database, such as before a migration. Changes nothing in them."""
    from saju_ops.cli.progress import progress
    from saju_ops.defs.history import note_dumps
    from saju_ops.dump_all import dump_all, mask_all
    from saju_ops.dumps.take import DumpOptions
    from saju_ops.reports.dumps import dump_report
    from saju_ops.wiring import open_backups

    settings, now = load_settings(), datetime.now(UTC)
    kind, take = ("masked_database_dump", mask_all) if masked else ("database_dump", dump_all)
    options = DumpOptions(settings.timezone, kind, settings.restore_drill_urls, run_id_by_hand(now))  # type: ignore[arg-type]
    with progress("dump", _say) as shown:
        run = take(settings, open_backups(settings), options, shown.line)
    note_dumps(run, masked=masked, say=_warn)
    click.echo(dump_report(run, datetime.now(UTC), masked))
    wrong = [*run.problems.values(), *(r.message for r in run.unproven), *filter(None, [run.incomplete])]
    for sentence in wrong:
        _warn(sentence)
    click.echo(_ended(run))
    sys.exit(1 if wrong else 0)


def _ended(run: DumpRun) -> str:
    proven = len(run.results) - len(run.unproven)
    parts = [f"{counted(proven, 'database')} dumped and proven"]
    parts += [f"{len(run.unproven)} dumped and NOT PROVEN"] if run.unproven else []
    parts += [f"{len(run.problems)} NOT DUMPED"] if run.problems else []
    parts += ["older dumps are not all well"] if run.incomplete else []
    return f"{'Not all is done' if len(parts) > 1 else 'Done'}: {', '.join(parts)}."


@click.command("snapshot")
def snapshot_command() -> None:
    """Takes a proven snapshot of the vector store. Changes nothing in it."""
    from saju_ops.chroma.snapshot import take_snapshot
    from saju_ops.cli.progress import progress
    from saju_ops.defs.history import note_snapshot
    from saju_ops.reports.chroma import snapshot_report
    from saju_ops.wiring import open_backups, source_of

    settings = load_settings()
    with progress("snapshot", _say) as shown:
        snapshot = take_snapshot(
            open_backups(settings), source_of(settings), zone=settings.timezone,
            run_id=run_id_by_hand(datetime.now(UTC)), memory_mb=settings.chroma_proof_memory_mb, progress=shown.line,
        )  # fmt: skip
    note_snapshot(snapshot, say=_warn)
    click.echo(snapshot_report(snapshot, datetime.now(UTC)))
    if snapshot.incomplete:
        _warn(snapshot.incomplete)
    records = counted(snapshot.records, "record")
    rest = "; older snapshots are not all well" if snapshot.incomplete else ""
    click.echo(f"Done: {records} stored in {snapshot.location} and proven{rest}.")
    sys.exit(1 if snapshot.incomplete else 0)


@click.command("archive")
@click.option("--from", "first", default=None, metavar=DAY, help="First day. Default: the oldest that is due.")
@click.option("--to", "last", default=None, metavar=DAY, help="Last day. Default: the last beyond LOG_RETENTION_DAYS.")
def archive_command(first: str | None, last: str | None) -> None:
    """Archives days of the conversation log and proves them. Deletes nothing.

    Without options every day beyond the retention of which the table has rows; with both, each day from the one to the
    other, also younger ones that are over. What is archived and unchanged is left alone.
    """
    from saju_ops.defs.history import note_archive
    from saju_ops.reports.conversation_logs import archive_report
    from saju_ops.rows.days import cutoff_day
    from saju_ops.rows.engines.open import open_log_store

    settings, now = load_settings(), datetime.now(UTC)
    done: list[DayResult] = []
    with open_log_store(settings.database_url, settings.conversation_log_table, settings.database_timezone) as store:
        days = _days_to_archive(settings, store, _perhaps(first, "--from", settings),
                                _perhaps(last, "--to", settings), now)  # fmt: skip
        stopped, problem = True, ""
        try:
            stopped = _archive(settings, store, days, done)
        except ProofFailed as error:
            problem = str(error)
            raise
        finally:
            note_archive(done, store.table, finished=not stopped, problem=problem, say=_warn)
            if len(done) < len(days):
                click.echo(f"{counted(len(done), 'day')} of {len(days)} done; launch again for the others.")
    cutoff = cutoff_day(now, settings.log_retention_days, settings.timezone).date
    written = [each for each in done if each.rows_written]
    files, rows = [each.file for each in written if each.file], sum(each.rows_written for each in done)
    unchanged = sum(each.rows for each in done) - rows
    click.echo(archive_report(files, rows, cutoff, datetime.now(UTC), days=len(done), unchanged=unchanged))
    if stopped:
        raise OperatorError(f"The archive was {STOPPED}. What it finished is stored and proven.")
    full = sum(bool(each.rows) for each in done)
    empty = f"; {counted(len(done) - full, 'day')} without a row" if full < len(done) else ""
    click.echo(f"Done: {counted(full, 'day')} archived and proven, {counted(rows, 'row')} written{empty}.")


def _archive(settings: Settings, store: RowStore, days: Sequence[Day], done: list[DayResult]) -> bool:
    """Day after day, each finished before the next begins. True where a signal stopped it."""
    from saju_ops.archive.day import archive_day
    from saju_ops.cli.progress import progress
    from saju_ops.wiring import open_backups

    storage, run_id = open_backups(settings), run_id_by_hand(datetime.now(UTC))
    with _signals() as stopped, progress("archive", _say) as shown:
        for number, day in enumerate(days, 1):
            if stopped():
                return True
            shown.step(f"day {day}", number - 1, len(days))
            result = archive_day(
                store, storage, day, now=datetime.now(UTC), compression=settings.archive_compression, run_id=run_id
            )
            done.append(result)
            shown.line(f"[{number}/{len(days)}] {result.message} {counted(result.rows_written, 'row')} written.")
    return False


def _days_to_archive(
    settings: Settings, store: RowStore, first: Day | None, last: Day | None, now: datetime
) -> list[Day]:
    """Raises Refused where the days make no sense, before any is archived."""
    from saju_ops.archive.due import due_days
    from saju_ops.rows.days import Day, cutoff_day, days

    begin = Day(settings.archive_start_date, settings.timezone)
    cutoff = cutoff_day(now, settings.log_retention_days, settings.timezone)
    if first is not None and first < begin:
        raise Refused(f"--from is {first}, before ARCHIVE_START_DATE ({begin}). Nothing was touched.")
    for day, option in ((first, "--from"), (last, "--to")):
        if day is not None and not day.is_over(now):
            raise Refused(f"{option} is {day}, which is not over in {settings.timezone_name}. Nothing was touched.")
    if first is not None and last is not None:
        if last < first:
            raise Refused(f"--to is {last}, before --from {first}. Nothing was touched.")
        return list(days(first, last))
    end = Day(last.date + timedelta(days=1), last.zone) if last is not None else cutoff
    return list(due_days(store, first or begin, end))


@click.command("purge")
@click.option("--apply", is_flag=True, help="Delete. Without it, rows are compared and counted only.")
@click.option("--from", "first", default=None, metavar=DAY, help="First day to purge. Default: the oldest.")
@click.option("--to", "last", default=None, metavar=DAY, help="Last day to purge. The retention holds all the same.")
def purge_command(apply: bool, first: str | None, last: str | None) -> None:
    """Counts, or with --apply deletes, rows of the conversation log that a proven archive holds unchanged.

    Days within LOG_RETENTION_DAYS are never purged. Only a restore brings deleted rows back.
    """
    from saju_ops.archive.purge import purge
    from saju_ops.archive.purge_plan import PurgePlan
    from saju_ops.cli.progress import progress
    from saju_ops.defs.history import note_purge
    from saju_ops.reports.conversation_logs import purge_report
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import open_log_store
    from saju_ops.schema.partitions.drop_month import whole_months
    from saju_ops.wiring import open_backups

    settings, now = load_settings(), datetime.now(UTC)
    plan = PurgePlan(
        retention_days=settings.log_retention_days, dry_run=not apply,
        from_day=_perhaps(first, "--from", settings), to_day=_perhaps(last, "--to", settings),
    )  # fmt: skip
    with (
        open_log_store(settings.database_url, settings.conversation_log_table, settings.database_timezone) as store,
        _signals() as stopped,
        progress("purge", _say) as shown,
    ):

        def step(result: PurgeResult, day: Day) -> None:
            verb, rows = ("would be deleted", result.deletable) if result.dry_run else ("deleted", result.deleted)
            shown.step(f"{day}: {counted(rows, 'row')} {verb} so far.")

        result = purge(
            store, open_backups(settings), plan, now=now,
            first_day=Day(settings.archive_start_date, settings.timezone), replicas=settings.replica_urls,
            control=RunControl(lambda: STOPPED if stopped() else None, step),
            months=whole_months(settings.timezone),
        )  # fmt: skip
    note_purge(result, say=_warn)
    click.echo(purge_report(result, datetime.now(UTC)))
    sys.exit(_said_how_it_ended(result))


def _said_how_it_ended(result: PurgeResult) -> int:
    """The sentences behind a purge's report, the last of which says how it ended; and the exit status."""
    if result.doubt:
        _warn(result.doubt)
    for problem in result.problems:
        _warn(problem)
    if result.kept:
        click.echo(f"Kept: {result.kept_because}.")
    for reason, number in result.kept_refused.items():
        click.echo(f"{counted(number, 'row')} kept: the database refused to delete them ({reason}).")
    if result.unarchived_days:
        named = ", ".join(map(str, result.unarchived_days[:10]))
        more = f" and {len(result.unarchived_days) - 10} more" if len(result.unarchived_days) > 10 else ""
        _warn(f"No archive, so nothing was deleted: {named}{more}. `saju-ops archive` makes them.")
    for name in result.months_droppable:
        click.echo(f"{name} would leave in one piece, with its partition.")
    if result.months_dropped:
        click.echo(
            f"Left in one piece: {', '.join(result.months_dropped)}, with {counted(result.rows_dropped, 'row')}."
        )
    for why in result.months_left.values():
        click.echo(f"Not in one piece: {why}")
    left = bool(result.problems or result.unarchived_days or not result.finished)
    rows = counted(result.deletable if result.dry_run else result.deleted, "row")
    days, kept = counted(result.days, "day"), counted(result.kept, "row")
    if result.dry_run:
        ended = f"Nothing was deleted (--apply deletes): {rows} of {days} can be, {kept} would be kept"
    else:
        ended = f"{'Not all is done' if left else 'Done'}: {rows} of {days} deleted, {kept} kept"
    click.echo(f"{ended}." if result.finished else f"{ended}. Stopped early: {result.stopped}.")
    return 1 if left else 0


def _perhaps(text: str | None, option: str, settings: Settings) -> Day | None:
    return None if text is None else chosen_day(text, option, settings)


def chosen_day(text: str, option: str, settings: Settings) -> Day:
    """Raises OperatorError for a text that is no date."""
    from saju_ops.rows.days import parse_day

    try:
        return parse_day(text, settings.timezone)
    except ValueError:
        raise OperatorError(f"{option} is {text!r}; it may be a date as YYYY-MM-DD.") from None


def run_id_by_hand(now: datetime) -> str:
    """In the place of a Dagster run's id."""
    return f"{now:%Y%m%d_%H%M%S}_{secrets.token_hex(3)}"


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether somebody asked to stop: work ends between two transactions, and a second signal ends it at once."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    click.echo(f"  {text}")


def _warn(text: str) -> None:
    click.secho(text, fg="red", err=True)
