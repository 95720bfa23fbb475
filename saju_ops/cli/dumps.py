"""`saju-ops restore-dump`: a database put back while Dagster is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saju_ops.cli.address import INTO_SETTING, chosen_address
from saju_ops.cli.seals import accept_unsealed
from saju_ops.settings.load import load_settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.dumps.restore import RestoreResult


@click.command("restore-dump")
@click.option("--at", default=None, metavar="TIME", help="Newest dump until then: YYYY-MM-DD or YYYY-MM-DD HH:MM.")
@click.option(
    "--into", default=None, metavar="URL", help="A database's address; - asks. Default: where it was dumped from."
)
@click.option("--into-setting", default=None, metavar="NAME", help=INTO_SETTING)
@click.option("--database", default=None, metavar="NAME", help="Whose dump. Default: the one that DATABASE_URL names.")
@click.option("--replace", default=None, metavar="NAME", help="The target's name: drops all that is in it first.")
@click.option("--masked", is_flag=True, help="A masked dump instead of the real one.")
@click.option("--unproven", is_flag=True, help="Also a dump whose restore was never tried.")
@click.option(
    "--without-trial", is_flag=True,
    help="With --replace: drop what is there without having loaded the dump beside it first.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only prove the stored dump and say what would be done.")
@accept_unsealed
def restore_dump(
    at: str | None, into: str | None, into_setting: str | None, database: str | None, replace: str | None,
    masked: bool, unproven: bool, without_trial: bool, dry_run: bool, accept_unsealed: tuple[str, ...],
) -> None:  # fmt: skip
    """Puts the newest proven dump back: into its own database if that is empty, or into another."""
    from saju_ops.cli.progress import progress
    from saju_ops.dumps.restore import RestoreRequest
    from saju_ops.dumps.restore import restore_dump as restore
    from saju_ops.times import instant_of
    from saju_ops.wiring import open_backups

    settings = load_settings()
    request = RestoreRequest(
        into=chosen_address(into, into_setting, "--into"), at=instant_of(at, settings.timezone, "--at"),
        database=database, replace=replace, dry_run=dry_run, masked=masked, unproven=unproven,
        without_trial=without_trial, zone=settings.timezone,
    )  # fmt: skip
    with progress("restore", lambda text: click.echo(f"  {text}")) as shown:
        result = restore(
            open_backups(settings, reading=True, accept_unsealed=accept_unsealed), request,
            default=settings.database_url, configured=settings.dumped_urls, announce=_announce, say=shown.line,
        )  # fmt: skip
    if dry_run:
        click.echo("Nothing was touched (--dry-run).")
        return
    click.echo(
        f"Done: {counted(result.tables, 'table')} with {counted(result.rows, 'row')} restored and compared with the"
        f" manifest in {result.seconds:.1f} s."
    )
    for sentence in result.left_out:
        click.echo(f"Note: {sentence}.")


def _announce(result: RestoreResult) -> None:
    for sentence in result.sentences():
        click.echo(sentence)
