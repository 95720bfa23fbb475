"""A database that was made by hand gets its revision, without a change to its tables.

What differs from what the migrations make is listed first. Where nothing does, the newest revision of the main line is
entered; where indexes are missing that a later migration makes, the one before it. Anything else is for the operator to
mend, or to accept. Its old history is kept as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from saju_ops.database.connect import redacted
from saju_ops.errors import Refused
from saju_ops.schema.migrate import scripts
from saju_ops.schema.migrate.commands import Say, enter, heads
from saju_ops.schema.migrate.compare import Comparison, compare
from saju_ops.schema.migrate.session import LOCK_WAIT, one_migration, session
from saju_ops.schema.migrate.steps import Installation


@dataclass(frozen=True)
class Adoption:
    comparison: Comparison
    # The revision that was entered, or that would be; empty where differences stand in the way.
    revision: str
    dry_run: bool
    # Revisions above it, which `up` applies.
    left: list[str] = field(default_factory=list)

    @property
    def hindered(self) -> bool:
        return not self.revision


def adopt(
    url: sa.URL, installation: Installation, *, target: str | None = None, accept_differences: bool = False,
    dry_run: bool = False, say: Say = lambda _: None, wait: float = LOCK_WAIT,
) -> Adoption:  # fmt: skip
    """Compares, and enters the revision. Changes nothing but Alembic's own table and schema_migrations.

    Raises Refused where migrations were applied already, where tables are missing, and where nothing can be compared;
    Busy, OperatorError."""
    with session(url, writing=not dry_run) as connection:
        if dry_run:
            return _adopt(connection, url, installation, target, accept_differences, True, say)
        with one_migration(connection, url, wait):
            return _adopt(connection, url, installation, target, accept_differences, False, say)


def _adopt(
    connection: sa.Connection, url: sa.URL, installation: Installation, target: str | None, accept: bool, dry_run: bool,
    say: Callable[[str], None],
) -> Adoption:  # fmt: skip
    if there := heads(connection):
        raise Refused(
            f"{redacted(url)} is adopted already: it has the migration {', '.join(there)}. Nothing was touched;"
            " `saju-ops migrate status` shows it, and the check `schema_matches` says what differs."
        )
    wanted = scripts.heads_of(target or scripts.HEAD)
    found = compare(url, installation, wanted)
    for difference in found.differences:
        say(f"Differs: {difference.what}.")
    for note in found.notes:
        say(f"Otherwise, and no difference: {note}.")
    if missing := [d.table for d in found.differences if d.missing_table]:
        raise Refused(
            f"{redacted(url)} can't be adopted: it lacks {', '.join(missing)}. Nothing was touched. Make what is"
            " missing from the statements that `saju-ops migrate sql` prints; for an empty database, `saju-ops migrate"
            " up`."
        )
    revision = _revision(url, installation, wanted, found, accept)
    left = [name for name in scripts.applied(wanted) if revision and name not in scripts.applied([revision])]
    if revision and not dry_run:
        enter(connection, url, installation, scripts.applied([revision]))
    return Adoption(found, revision, dry_run, left)


def _revision(url: sa.URL, installation: Installation, wanted: Sequence[str], found: Comparison, accept: bool) -> str:
    """The newest revision whose tables these are; empty where there is none and the differences weren't accepted."""
    if found.matches:
        return wanted[0]
    for name in reversed(scripts.applied(wanted)[:-1]):
        below = compare(url, installation, [name])
        if below.matches:
            return name
    return wanted[0] if accept else ""
