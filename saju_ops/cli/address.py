"""Where a restore puts things, given on the command line without a password in everybody's sight."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import sqlalchemy as sa

INTO_SETTING = "The target, as the name of an environment variable (or a line of .env) that holds a database's address."
PROMPT = "-"


def chosen_address(address: str | None, setting: str | None, option: str) -> sa.URL | None:
    """The address that the options name; None where neither is given. `-` asks for it. Raises Refused."""
    from saju_ops.dumps.restore import target_url
    from saju_ops.errors import Refused
    from saju_ops.wiring import address_in_setting

    if address is not None and setting is not None:
        raise Refused(f"{option} and --into-setting were both given; give one. Nothing was touched.")
    if setting is not None:
        return address_in_setting(setting, "--into-setting")
    if not address:
        return None
    if address == PROMPT:
        asked = click.prompt("Address of the database", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
        return target_url(asked.strip(), "The address")
    return target_url(address, option)


def hide_addresses(arguments: list[str]) -> None:
    """Removes the logins of addresses from this process's command line, and names a better way to pass them."""
    from saju_ops.logins import hide_logins
    from saju_ops.process_title import hide_argument

    found = [each for each in arguments if "://" in each and hide_logins(each) != each]
    if not found:
        return
    hidden = [hide_argument(each) for each in found]
    what = "was taken out of" if all(hidden) else "can be seen in"
    click.secho(
        f"Note: a password on the command line {what} the process list; the shell's history, and a sudo or shell that"
        " started this, still have it. --into-setting NAME reads the address from an environment variable or .env, and"
        f" {PROMPT} in its place asks for it.",
        fg="yellow",
        err=True,
    )
