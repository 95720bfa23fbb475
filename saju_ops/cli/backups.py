"""`saju-ops verify` and `saju-ops prune`: the backups looked after while Dagster is down."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from saju_ops.cli.seals import accept_unsealed
from saju_ops.errors import shown
from saju_ops.settings.load import load_settings


@click.command("verify")
@click.option("--in-days", default=1, show_default=True, help="Read a share, so that all is read in so many days.")
@click.option("--no-drills", is_flag=True, help="Only read back; restore nothing into scratch places.")
@accept_unsealed
def verify_command(in_days: int, no_drills: bool, accept_unsealed: tuple[str, ...]) -> None:
    """Reads every stored backup back, compares it with its manifest, and restores some as a drill."""
    from saju_ops.cli.progress import progress, to_stderr
    from saju_ops.upkeep.drills import standard_drills
    from saju_ops.upkeep.verify import verify
    from saju_ops.wiring import open_backups

    settings = load_settings()
    storage, now = open_backups(settings, accept_unsealed=accept_unsealed), datetime.now(UTC)
    drills = standard_drills(
        storage, now=now, zone=settings.timezone, databases=settings.dumped_urls,
        drill_servers=settings.restore_drill_urls, memory_mb=settings.chroma_proof_memory_mb,
    )  # fmt: skip
    with progress("verify", to_stderr) as shown:
        result = verify(
            storage, now=now, zone=settings.timezone, in_days=in_days, drills=[] if no_drills else drills,
            progress=lambda found, of: shown.step(f"file {found.files:,} of {of:,}", found.files, of),
        )  # fmt: skip
    for sentence in result.sentences():
        click.echo(sentence)
    if not result.passed:
        click.echo("See ROT, MISSING, NOT SEALED and FAILED above.")
    elif result.warnings:
        click.echo("What was read is whole; what could not be looked at, and what is strange, is above.")
    else:
        click.echo("Everything that was read can be relied on.")
    # A mistyped folder must not look like a store in good order, and an operator in the night of a restore must know
    # that the present password doesn't open everything.
    sys.exit(0 if result.passed and not result.warnings else 1)


@click.command("prune")
@click.option("--apply", is_flag=True, help="Delete. Without it, only what would go and why each stays is listed.")
def prune_command(apply: bool) -> None:
    """Lists, or with --apply deletes, the dumps and snapshots that the retention lets go."""
    from saju_ops.upkeep.prune import prune
    from saju_ops.wiring import open_backups, policy_of

    settings = load_settings()
    result = prune(
        open_backups(settings), policy_of(settings), now=datetime.now(UTC), zone=settings.timezone, dry_run=not apply,
    )  # fmt: skip
    for verdict in result.staying:
        click.echo(shown(f"{verdict.file} stays ({verdict.why})"))
    for verdict in result.going:
        verb = "is deleted" if verdict.file in result.deleted else "is to be deleted"
        click.echo(shown(f"{verdict.file} {verb} ({verdict.why})"))
    for name in result.strangers:
        click.echo(shown(f"not ours, left alone: {name}"))
    for problem in result.problems:
        click.secho(shown(problem), fg="red", err=True)
    click.echo(f"{len(result.deleted)} deleted, {result.freed_bytes:,} bytes." if apply else "Nothing was deleted.")
    if result.remains and result.deleted:
        click.echo(result.remains)
    sys.exit(1 if result.problems else 0)
