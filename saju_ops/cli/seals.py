"""`saju-ops seal`, and the option of the commands that restore or verify: backups that no key of ours sealed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from saju_ops.errors import shown
from saju_ops.settings.load import load_settings

accept_unsealed: Callable[[Any], Any] = click.option(
    "--accept-unsealed", multiple=True, is_flag=False, flag_value="all", metavar="[NAME]",
    help="Believe backups that no key of yours sealed: those of before there was one. Alone it means all of them; with"
    " a backup's name, that one. Whoever can write into the store may have made them. Altered ones are never accepted.",
)  # fmt: skip


@click.command("seal")
@click.option("--dry-run", is_flag=True, help="Only list what would be read and sealed.")
@accept_unsealed
def seal_command(dry_run: bool, accept_unsealed: tuple[str, ...]) -> None:
    """Reads the backups that the first key didn't seal whole, and seals those that are what their manifests say.

    For backups of before BACKUP_SEAL_KEY or ARCHIVE_PASSWORD was set, and after a new first key. Those that a key
    sealed which is no longer set are left, unless --accept-unsealed names them.
    """
    from saju_ops.upkeep.seal import seal
    from saju_ops.wiring import open_backups

    settings = load_settings()
    storage = open_backups(settings, accept_unsealed=accept_unsealed)
    result = seal(
        storage, now=datetime.now(UTC), zone=settings.timezone, dry_run=dry_run,
        say=lambda text: click.echo(shown(text), err=True),
    )  # fmt: skip
    for sentence in result.sentences():
        click.echo(sentence)
    sys.exit(1 if result.problems else 0)
