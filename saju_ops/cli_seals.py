"""What the commands have in common that restore or verify: backups that no key of this installation sealed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

accept_unsealed: Callable[[Any], Any] = click.option(
    "--accept-unsealed", multiple=True, is_flag=False, flag_value="all", metavar="[NAME]",
    help="Believe backups that no key of yours sealed: those of before there was one. Alone it means all of them; with"
    " a backup's name, that one. Whoever can write into the store may have made them. Altered ones are never accepted.",
)  # fmt: skip
