"""saju-ops: for the night when Dagster itself is down. It calls the same functions as the jobs.

Exit status: 0 done; 1 refused or failed (one sentence on standard error, nothing half-done), or a part of what was
asked for was missing (the last line says which); 2 wrong usage.
"""

from __future__ import annotations

import io
import sqlite3
import sys
from typing import Any

import click
from sqlalchemy.exc import DBAPIError

from saju_ops.cli.address import hide_addresses
from saju_ops.cli.alerts import test_alert
from saju_ops.cli.backups import prune_command, verify_command
from saju_ops.cli.chroma import restore_chroma
from saju_ops.cli.dumps import restore_dump
from saju_ops.cli.keys import keys_command, masked_view_command
from saju_ops.cli.logs import restore_logs
from saju_ops.cli.migrate import migrate
from saju_ops.cli.now import archive_command, dump_command, purge_command, snapshot_command
from saju_ops.cli.seals import seal_command
from saju_ops.cli.service import demo, dev, status
from saju_ops.cli.stale import reconcile_stale_jobs
from saju_ops.cli.trigger import serve_trigger
from saju_ops.database.connect import error_text
from saju_ops.errors import OperatorError
from saju_ops.logins import hide_logins
from saju_ops.settings.settings import SettingsError


def _print_without_logins(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error that nobody foresaw, with its stack trace."""
    import traceback

    sys.stderr.write(hide_logins("".join(traceback.format_exception(kind, error, trace))))


def _print_anything() -> None:
    """On a terminal that isn't UTF-8, prints a question mark for a character that it can't show, and no traceback."""
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


for command in (
    demo,
    dev,
    status,
    dump_command,
    snapshot_command,
    archive_command,
    purge_command,
    verify_command,
    prune_command,
    seal_command,
    restore_logs,
    restore_dump,
    restore_chroma,
    reconcile_stale_jobs,
    migrate,
    keys_command,
    masked_view_command,
    serve_trigger,
    test_alert,
):
    main.add_command(command)
