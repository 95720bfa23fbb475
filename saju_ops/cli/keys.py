"""`saju-ops keys check`: which rows need which key of ENCRYPTION_KEY. `saju-ops masked-view`: its salt, its reader."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from saju_ops.settings.load import load_settings
from saju_ops.words import counted, have

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saju_ops.schema.birth_data.keys import Key
    from saju_ops.schema.birth_data.work import Found

UNREADABLE = 2


@click.group("keys")
def keys_command() -> None:
    """The keys that birth dates are encrypted by."""


@keys_command.command("check")
def keys_check() -> None:
    """Says which rows need which key of ENCRYPTION_KEY, before one is thrown away. Changes nothing, shows no key.

    Exit status: 0 a key opens every encrypted birth date, 2 no key opens some, 1 it could not be looked at.
    """
    from saju_ops.schema.birth_data.work import look
    from saju_ops.wiring import birth_tables

    settings = load_settings()
    tables, keys = birth_tables(settings), settings.encryption_keys
    found = look(tables, keys, datetime.now(UTC))
    for line in lines_of(found, keys, tables.sessions):
        click.echo(line)
    sys.exit(UNREADABLE if found.sessions.unreadable else 0)


def lines_of(found: Found, keys: Sequence[Key], table: str) -> list[str]:
    sessions, dates = found.sessions, found.calculations
    lines = [] if keys else ["ENCRYPTION_KEY is not set."]
    for key in keys:
        rows = sessions.per_key[key.place]
        name = f"Key {key.place} ({key.fingerprint})"
        if key is keys[0]:
            lines.append(f"{name} encrypts, and opens {counted(rows, 'row')} of {table}.")
        elif rows:
            lines.append(
                f"{name} opens {counted(rows, 'row')} of {table}: keep it until encrypt_birth_data has encrypted them"
                " anew."
            )
        else:
            lines.append(
                f"{name} opens no row of {table}. The service and dumps that were taken before may still need it: keep"
                " it where dumps are kept, as long as those."
            )
    if sessions.unreadable:
        lines.append(
            f"NO KEY opens {counted(sessions.unreadable, 'row')} of {table}"
            f"{f' (of them {sessions.no_token:,} hold no token at all)' if sessions.no_token else ''}: add the key that"
            " encrypted them; nothing overwrites them."
        )
    if sessions.differing:
        lines.append(
            f"{counted(sessions.differing, 'row')} of {table} {have(sessions.differing)} a birth in the clear and"
            " another one, or more than a birth, encrypted."
        )
    lines.append(f"In the clear: {counted(sessions.in_the_clear, 'row')} of {table}.")
    if dates.there:
        lines.append(
            f"In the clear: {counted(dates.in_the_clear, 'row')} of saju_calculations, which the service needs there;"
            f" {dates.of_expired:,} of them of expired sessions (replace_dates_of_expired)."
        )
    return lines


@click.command("masked-view")
@click.option("--developer/--no-developer", default=True, help="Whether DEVELOPER_USER is made, too. Default: it is.")
def masked_view_command(developer: bool) -> None:
    """Makes the masked view show something again after a restore, and makes the developers' account.

    A dump doesn't hold the salt of the view masked_user_sessions: without one it shows no row. With DEVELOPER_USER and
    DEVELOPER_PASSWORD set, that account is made, or given the password, and may read the view and nothing else.
    """
    from saju_ops.errors import Refused
    from saju_ops.schema.developer import make_developer
    from saju_ops.schema.masked_view import VIEW, look_at_view, make_salt

    settings = load_settings()
    url = settings.database_url
    if not look_at_view(url).there:
        raise Refused(
            f"The database has no view {VIEW}. Nothing was touched. Make it with `saju-ops migrate up"
            " masked_view@head`."
        )
    if make_salt(url):
        click.echo("The server drew a salt: sessions are shown under other false values than before.")
    if developer and settings.developer_user:
        password = settings.developer_password
        account = make_developer(url, settings.developer_user, password.get_secret_value() if password else "")
        click.echo(f"{account} may read {VIEW} and nothing else.")
    click.echo(f"{VIEW} shows {counted(look_at_view(url).sessions, 'session')}.")
