"""`saju-ops restore-chroma`: the vector store put back while Dagster is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saju_ops.cli.seals import accept_unsealed
from saju_ops.settings.load import load_settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.chroma.restore import ChromaRestore


@click.command("restore-chroma")
@click.option("--at", default=None, metavar="TIME", help="Newest snapshot until then: YYYY-MM-DD or YYYY-MM-DD HH:MM.")
@click.option("--into", default=None, metavar="PATH", help="A folder. Default: CHROMA_HOST, else CHROMA_DB_PATH.")
@click.option("--host", default=None, help="A Chroma server instead of a folder.")
@click.option("--port", default=8000, show_default=True, help="That server's port.")
@click.option(
    "--replace", multiple=True, metavar="NAME",
    help="What may be replaced: the folder's own name, or a collection of the server. It is renamed, not deleted.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only prove the snapshot and say what would be done.")
@accept_unsealed
def restore_chroma(
    at: str | None, into: str | None, host: str | None, port: int, replace: tuple[str, ...], dry_run: bool,
    accept_unsealed: tuple[str, ...],
) -> None:  # fmt: skip
    """Puts a snapshot of the vector store back, into a folder that nobody uses or into a server."""
    from saju_ops.chroma.restore import restore_snapshot
    from saju_ops.cli.progress import progress
    from saju_ops.wiring import open_backups, restore_target, restore_time

    settings = load_settings()
    with progress("restore"):
        plan = restore_snapshot(
            open_backups(settings, reading=True, accept_unsealed=accept_unsealed),
            restore_target(settings, into, host, port),
            at=restore_time(at, settings),
            replace=replace,
            dry_run=dry_run,
            zone=settings.timezone,
            memory_mb=settings.chroma_proof_memory_mb,
            announce=_announce,
        )
    if dry_run:
        click.echo("Nothing was touched (--dry-run).")
        return
    for name, aside in plan.renamed.items():
        click.echo(f"The server's old collection {name} is now called {aside}.")
    for sentence in plan.about_indexes() if plan.index_failed else []:
        click.echo(sentence)
    held = f"{counted(plan.records, 'record')} in {counted(len(plan.collections), 'collection')}"
    click.echo(f"Done: {held}, {plan.seconds:.1f} s.")


def _announce(plan: ChromaRestore) -> None:
    for sentence in plan.sentences():
        click.echo(sentence)
