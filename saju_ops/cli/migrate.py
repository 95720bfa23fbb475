"""`saju-ops migrate`: the schema of the chatbot's database, by hand and without Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saju_ops.errors import shown
from saju_ops.settings.load import load_settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.schema.migrate.commands import Result, State
    from saju_ops.schema.migrate.history import Row

ALLOW_BLOCKING = click.option(
    "--allow-blocking", is_flag=True, help="Build indexes also where writers wait meanwhile; else that is refused."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only print the SQL and the hindrances.")
LONGEST = 60


@click.group("migrate")
def migrate() -> None:
    """The schema of DATABASE_URL: its versioned migrations."""


@migrate.command("status")
def status_command() -> None:
    """Which migrations are applied, and the history. Changes nothing."""
    from saju_ops.schema.migrate.commands import status
    from saju_ops.wiring import installation_of

    settings = load_settings()
    found = status(settings.database_url, installation_of(settings))
    click.echo(f"{found.database}:")
    for state in found.states:
        click.echo(f"  {state.revision:<20} {_state(state):<28} {state.description}{_optional(state)}")
    if not any(state.applied for state in found.states):
        click.echo(
            "No migration is applied: `saju-ops migrate up` for an empty database, `adopt` for one made by hand."
        )
    if found.by_hand:
        click.echo("Made by hand, and kept as it is (its rollback SQL is never executed):")
        for row in found.by_hand:
            click.echo(f"  {_by_hand(row)}")


def _state(state: State) -> str:
    if state.applied:
        return "applied"
    return (
        f"not applied ({state.steps_done} of {counted(state.steps, 'step')} done)"
        if state.steps_done
        else "not applied"
    )


def _optional(state: State) -> str:
    return f" (only with {state.label}@head)" if state.label else ""


def _by_hand(row: Row) -> str:
    rollback = " ".join((row.rollback_sql or "").split())
    more = f"; rollback: {shown(rollback[:LONGEST])}{' …' if len(rollback) > LONGEST else ''}" if rollback else ""
    return f"{shown(row.version):<20} {row.applied_at[:19]:<20} {shown(row.description or '')}{more}"


@migrate.command("up")
@click.argument("target", required=False)
@ALLOW_BLOCKING
@DRY_RUN
def up_command(target: str | None, allow_blocking: bool, dry_run: bool) -> None:
    """Applies what is left up to TARGET; without one, all but opt-in migrations (LABEL@head)."""
    from saju_ops.schema.migrate.commands import up
    from saju_ops.schema.migrate.run import Options
    from saju_ops.wiring import installation_of, open_backups

    settings = load_settings()
    options = Options(allow_blocking, storage=lambda: open_backups(settings, reading=True))
    say = _silent if dry_run else click.echo
    _ended(up(settings.database_url, installation_of(settings), options, target=target, dry_run=dry_run,
              say=say))  # fmt: skip


@migrate.command("down", context_settings={"ignore_unknown_options": True})
@click.argument("target")
@click.option(
    "--drop-data", multiple=True, metavar="TABLE", help="A table that may be dropped with its rows. Repeat it."
)
@DRY_RUN
def down_command(target: str, drop_data: tuple[str, ...], dry_run: bool) -> None:
    """Takes back what is above TARGET: a migration, `-1`, `base`, or LABEL@base. Asks for a proven dump first."""
    from saju_ops.schema.migrate.commands import down
    from saju_ops.schema.migrate.run import Options
    from saju_ops.wiring import installation_of, open_backups

    settings = load_settings()
    options = Options(drop_data=frozenset(drop_data), storage=lambda: open_backups(settings, reading=True))
    say = _silent if dry_run else click.echo
    _ended(down(settings.database_url, installation_of(settings), target, options, dry_run=dry_run,
                say=say))  # fmt: skip


def _silent(_: str) -> None:
    """A dry run's SQL is all that it prints."""


def _ended(result: Result) -> None:
    for note in result.plan.notes:
        click.echo(f"Note: {note}")
    for mended in result.mended:
        click.echo(f"Mended: {mended}.")
    if result.dry_run:
        click.echo(result.plan.sql() or "-- nothing is left to do")
        for hindrance in result.plan.hindrances:
            click.secho(f"Hindrance: {hindrance}", fg="yellow")
        click.echo("Nothing was touched (--dry-run).")
        return
    verb = "applied" if result.plan.up else "taken back"
    names = f" ({', '.join(result.changed)})" if result.changed else ""
    click.echo(f"Done: {counted(len(result.changed), 'migration')} {verb}{names} in {result.seconds:.1f} s.")


@migrate.command("sql")
@click.argument("target", required=False)
@click.option("--from", "start", default="base", metavar="REVISION", help="Where the database is. Default: nothing.")
def sql_command(target: str | None, start: str) -> None:
    """Prints the SQL up to TARGET, for an administrator to execute. Opens no connection."""
    from saju_ops.schema.migrate.commands import sql
    from saju_ops.wiring import installation_of

    settings = load_settings()
    click.echo(sql(settings.database_url, installation_of(settings), target, start), nl=False)


@migrate.command("adopt")
@click.argument("target", required=False)
@click.option("--accept-differences", is_flag=True, help="Enter the revision although something differs, as listed.")
@DRY_RUN
@click.pass_context
def adopt_command(context: click.Context, target: str | None, accept_differences: bool, dry_run: bool) -> None:
    """Gives a database that was made by hand its revision, without a change to its tables.

    Exit status: 0 adopted (with --dry-run: it would be); 1 refused, or something differs.
    """
    from saju_ops.schema.migrate.adopt import adopt
    from saju_ops.wiring import installation_of

    settings = load_settings()
    found = adopt(
        settings.database_url, installation_of(settings), target=target, accept_differences=accept_differences,
        dry_run=dry_run, say=click.echo,
    )  # fmt: skip
    if found.hindered:
        click.secho(
            f"Not adopted: {counted(len(found.comparison.differences), 'difference')}. Nothing was touched. Mend what"
            " differs, or accept it with --accept-differences.",
            fg="red",
            err=True,
        )
        context.exit(1)
    verb = "Would be adopted" if dry_run else "Adopted"
    more = f" Left for `saju-ops migrate up`: {', '.join(found.left)}." if found.left else ""
    click.echo(f"{verb} as {found.revision}; no table was changed.{more}")
