"""saju-ops: for the night when Dagster itself is down. It calls the same functions as the jobs.

Exit status: 0 done, 1 refused or failed (one sentence on standard error, nothing half-done) or not all of what was
asked for was there (the last line says what), 2 wrong usage.
"""

from __future__ import annotations

import io
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy.exc import DBAPIError

from saju_ops.cli.address import INTO_SETTING, chosen_address, hide_addresses
from saju_ops.cli.alerts import test_alert
from saju_ops.cli.backups import prune_command, verify_command
from saju_ops.cli.chroma import restore_chroma
from saju_ops.cli.dumps import restore_dump
from saju_ops.cli.now import archive_command, chosen_day, dump_command, purge_command, snapshot_command
from saju_ops.cli.seals import accept_unsealed, seal_command
from saju_ops.cli.stale import reconcile_stale_jobs
from saju_ops.cli.trigger import serve_trigger
from saju_ops.database.connect import error_text
from saju_ops.errors import OperatorError
from saju_ops.logins import hide_logins
from saju_ops.settings.settings import SettingsError, load_settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.archive.restore import RestorePlan


def _print_without_logins(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error that nobody foresaw, with its stack trace."""
    import traceback

    sys.stderr.write(hide_logins("".join(traceback.format_exception(kind, error, trace))))


def _print_anything() -> None:
    """A terminal that isn't UTF-8 gets a question mark for what it can't show, and not a traceback after a line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Sentences(click.Group):
    """Errors that are meant for the operator are printed as their sentence, without a stack trace."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _print_anything()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        sys.excepthook = _print_without_logins
        hide_addresses(sys.argv[1:])
        try:
            return super().invoke(ctx)
        except (OperatorError, SettingsError) as error:
            click.secho(hide_logins(str(error)), fg="red", err=True)
            ctx.exit(1)
        except (DBAPIError, sqlite3.Error) as error:
            click.secho(
                f"The database ended the work ({error_text(error)}). What was not committed was rolled back; look at"
                " the database and start again: what is there already is skipped.",
                fg="red",
                err=True,
            )
            ctx.exit(1)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Archives, backups and restores of the chatbot's data, without Dagster."""


@main.command()
@click.option("--folder", default=".demo", show_default=True, help="Where the demo lives; made if it isn't there.")
@click.option("--ui", is_flag=True, help="Open the Dagster UI on the demo, on 127.0.0.1:3000, after it ran.")
def demo(folder: str, ui: bool) -> None:
    """Makes a small realistic service and runs the main job on it. Touches nothing else."""
    from saju_ops.demo.run import open_ui, run_demo
    from saju_ops.dev import HOST, PORT
    from saju_ops.processes import require_free

    if ui:
        require_free(HOST, PORT, "`saju-ops dev --port`")
    run_demo(Path(folder), echo=click.echo)
    if ui:
        open_ui(Path(folder))


@main.command()
@click.option("--port", default=3000, show_default=True, help="The UI's port on 127.0.0.1.")
def dev(port: int) -> None:
    """Starts the Dagster UI and daemon, with their history in .dagster_home."""
    from saju_ops.dev import start_dev

    start_dev(Path(".dagster_home"), port)


@main.command()
def status() -> None:
    """Says for each setting, database and folder whether it is usable, and why not."""
    from saju_ops.cli.status_report import report

    lines, usable = report()
    for line in lines:
        click.echo(line)
    sys.exit(0 if usable else 1)


@main.command("restore-logs")
@click.option("--from", "first", required=True, metavar="YYYY-MM-DD", help="First archived day to put back.")
@click.option("--to", "last", required=True, metavar="YYYY-MM-DD", help="Last archived day to put back.")
@click.option("--into-table", default=None, help="Another table; made, without foreign keys, if it isn't there.")
@click.option("--into-url", default=None, help="Another database's address; - asks for it. Default: DATABASE_URL.")
@click.option("--into-setting", default=None, metavar="NAME", help=INTO_SETTING)
@click.option("--dry-run", is_flag=True, help="Only prove the archives and say what would be done.")
@accept_unsealed
def restore_logs(
    first: str, last: str, into_table: str | None, into_url: str | None, into_setting: str | None, dry_run: bool,
    accept_unsealed: tuple[str, ...],
) -> None:  # fmt: skip
    """Puts archived days of the conversation log back."""
    from saju_ops.archive.restore import restore
    from saju_ops.storage.open import open_backups

    settings = load_settings()
    into = chosen_address(into_url, into_setting, "--into-url")
    plan = restore(
        open_backups(settings, reading=True, accept_unsealed=accept_unsealed),
        into or settings.database_url,
        chosen_day(first, "--from", settings),
        chosen_day(last, "--to", settings),
        zone_of_database=settings.database_timezone,
        table=into_table,
        source_table=settings.conversation_log_table,
        dry_run=dry_run,
        announce=_announce,
        progress=lambda plan: click.echo(f"  {plan.written:,} of {counted(plan.to_write, 'row')} written"),
    )
    if dry_run:
        click.echo("Nothing was written (--dry-run).")
    else:
        click.echo(f"Done: {counted(plan.written, 'row')} written and proven in {plan.seconds:.1f} s.")
    for remark in plan.remarks:
        click.echo(remark)
    if not dry_run and into_table is None and into is None:
        click.echo(
            "These days are archived and beyond the retention, so the next purge deletes them again;"
            " use --into-table to keep them."
        )
    # The last line, and the status: who restores a month at night must not take a part for the whole.
    if plan.incomplete:
        click.echo(plan.incomplete)
        sys.exit(1)


def _announce(plan: RestorePlan) -> None:
    for sentence in plan.sentences():
        click.echo(sentence)


main.add_command(serve_trigger)
main.add_command(test_alert)
main.add_command(reconcile_stale_jobs)
for command in (dump_command, snapshot_command, archive_command, purge_command):
    main.add_command(command)
main.add_command(restore_dump)
main.add_command(restore_chroma)
main.add_command(verify_command)
main.add_command(prune_command)
main.add_command(seal_command)


if __name__ == "__main__":
    main()
