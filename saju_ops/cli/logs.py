"""`saju-ops restore-logs`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from saju_ops.cli.address import INTO_SETTING, chosen_address
from saju_ops.cli.now import chosen_day
from saju_ops.cli.seals import accept_unsealed
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.archive.restore_plan import RestorePlan


@click.command("restore-logs")
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
    from saju_ops.cli.progress import progress
    from saju_ops.wiring import open_backups

    settings = load_settings()
    into = chosen_address(into_url, into_setting, "--into-url")
    with progress("restore", lambda text: click.echo(f"  {text}")) as shown:
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
            control=RunControl(
                progress=lambda plan: shown.step(
                    f"{plan.written:,} of {counted(plan.to_write, 'row')} written",
                    plan.written,
                    plan.to_write,
                    always=True,
                )
            ),
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
    # The last line, and the status: an operator who restores a month at night must not take a part for the whole.
    if plan.incomplete:
        click.echo(plan.incomplete)
        sys.exit(1)


def _announce(plan: RestorePlan) -> None:
    for sentence in plan.sentences():
        click.echo(sentence)
