"""status, up, down and sql: the work of the job `migrate_schema` and of `saju-ops migrate`.

Everything is looked at before anything is done. Two runs never work at once. A run that breaks off says how far it
came, and the next one does the rest; the history says what was applied. `plan.py` says what is refused.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text, quote_every_name, redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.migrate import history, scripts
from saju_ops.schema.migrate.plan import VERSION_TABLE, Plan, plan, records, require_dump
from saju_ops.schema.migrate.run import Options, Run
from saju_ops.schema.migrate.session import LOCK_WAIT, one_migration, session
from saju_ops.schema.migrate.steps import MYSQL, Installation

Say = Callable[[str], None]
BASE = "base"


@dataclass(frozen=True)
class Result:
    plan: Plan
    dry_run: bool
    # Revisions that were applied or taken back, in that order.
    changed: list[str] = field(default_factory=list)
    dump: str = ""
    mended: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """One migration as a database has it."""

    revision: str
    description: str
    label: str
    applied: bool
    # For a migration that isn't applied: how many of its steps the catalogue shows as done, and their number.
    steps_done: int
    steps: int


@dataclass(frozen=True)
class Status:
    database: str
    states: list[State]
    recorded: list[history.Row]
    by_hand: list[history.Row]


def status(url: sa.URL, installation: Installation) -> Status:
    """Reads only."""
    with session(url) as connection:
        applied = scripts.applied(heads(connection))
        states = []
        for revision, script in scripts.revisions().items():
            steps = script.module.steps(installation)
            done = len(steps) if revision in applied else sum(_is_done(step, connection) for step in steps)
            label = scripts.opt_in(script)
            states.append(State(revision, scripts.description(script), label, revision in applied, done, len(steps)))
        return Status(redacted(url), states, history.rows(connection), history.foreign(connection))


def _is_done(step: Any, connection: sa.Connection) -> bool:
    try:
        return bool(step.is_done(connection))
    except Refused:  # another table has its name
        return False


def up(
    url: sa.URL, installation: Installation, options: Options | None = None, *, target: str | None = None,
    dry_run: bool = False, say: Say = lambda _: None, wait: float = LOCK_WAIT,
) -> Result:  # fmt: skip
    """To the target; without one, to the head of the main line. Opt-in migrations are applied only where their label is
    named, as in `partitioned_logs@head`. Raises Refused, Busy, OperatorError."""
    way = scripts.way_up
    return _migrate(url, installation, options or Options(), target or scripts.HEAD, True, way, dry_run, say, wait)


def down(
    url: sa.URL, installation: Installation, target: str, options: Options | None = None, *, dry_run: bool = False,
    say: Say = lambda _: None, wait: float = LOCK_WAIT,
) -> Result:  # fmt: skip
    """To the target: a revision, `base`, `-1`, `LABEL@base`. Raises Refused, Busy, OperatorError."""
    way = scripts.way_down
    return _migrate(url, installation, options or Options(), target, False, way, dry_run, say, wait)


def leads_down(url: sa.URL, target: str | None) -> bool:
    """Whether a target is below what the database has: for the job, whose config names the target alone."""
    if not target or target.startswith("+") or target.endswith(("@head", "heads")):
        return False
    if target == BASE or target.startswith("-") or target.endswith(f"@{BASE}"):
        return True
    with session(url) as connection:
        return not set(scripts.heads_of(target)).isdisjoint(scripts.applied(heads(connection)))


def sql(url: sa.URL, installation: Installation, target: str | None = None, start: str = BASE) -> str:
    """The SQL from `start` to the target, for an administrator to execute. Opens no connection: the address says the
    engine alone."""
    dialect = url.get_dialect()()
    quote_every_name(dialect)
    target = target or scripts.HEAD
    heads = [] if start == BASE else [start]
    run = Run(url, installation, Options(), dialect, lambda _: None)
    buffer = io.StringIO()
    with scripts.in_words():
        context = _context(run, lambda _heads, _context: scripts.way_up(target, heads), dialect=dialect, opts={
            "as_sql": True, "output_buffer": buffer, "literal_binds": True, "starting_rev": start,
        })  # fmt: skip
        context.run_migrations(run=run)
    return buffer.getvalue()


def heads(connection: sa.Connection) -> list[str]:
    """What Alembic's table says; empty without it."""
    from alembic.runtime.migration import MigrationContext

    found = MigrationContext.configure(connection).get_current_heads()
    connection.rollback()
    return list(found)


def _migrate(
    url: sa.URL, installation: Installation, options: Options, target: str, up: bool, way: Any, dry_run: bool,
    say: Say, wait: float,
) -> Result:  # fmt: skip
    began = time.monotonic()
    with session(url, writing=not dry_run) as connection:
        if dry_run:
            installation = with_collation(connection, installation)
            planned, _ = _planned(connection, url, installation, options, target, up, way)
            return Result(_with_dump(planned, url, options), True)
        with one_migration(connection, url, wait):
            installation = with_collation(connection, installation)
            planned, steps = _planned(connection, url, installation, options, target, up, way)
            planned.require_possible()
            dump = require_dump(planned, url, options)
            say(_beginning(planned, dump))
            written = records(installation, connection.dialect)
            mended = history.reconcile(connection, planned.applied, written)
            run = Run(url, installation, options, connection.dialect, say, connection)
            changed = _execute(run, steps)
    return Result(planned, False, changed, dump, mended, time.monotonic() - began)


def _planned(
    connection: sa.Connection,
    url: sa.URL,
    installation: Installation,
    options: Options,
    target: str,
    up: bool,
    way: Any,
) -> tuple[Plan, Sequence[Any]]:
    there = heads(connection)
    applied = scripts.applied(there)
    steps = way(target, there)
    planned = plan(
        connection, redacted(url), installation, steps, up=up, target=target, applied=applied, options=options
    )
    connection.rollback()
    return planned, steps


def _with_dump(planned: Plan, url: sa.URL, options: Options) -> Plan:
    """What would be refused for want of a dump, too."""
    try:
        require_dump(planned, url, options)
    except OperatorError as error:
        return replace(planned, hindrances=[*planned.hindrances, str(error)])
    return planned


def _beginning(planned: Plan, dump: str) -> str:
    names = ", ".join(m.revision for m in planned.migrations)
    if not names:
        return f"{planned.database} is at {planned.target} already; nothing is left to do."
    made_up_for = f" The proven dump {dump} is younger than a day." if dump else ""
    return f"{'Applying' if planned.up else 'Taking back'} {names} on {planned.database}.{made_up_for}"


def with_collation(connection: sa.Connection, installation: Installation) -> Installation:
    """On MySQL and MariaDB new tables get the database's own sort order, as those that the service makes do: a foreign
    key between two sort orders is refused."""
    if connection.dialect.name not in MYSQL:
        return installation
    charset, collation = connection.exec_driver_sql("SELECT @@character_set_database, @@collation_database").one()
    connection.rollback()
    return replace(installation, collation=str(collation) if charset == "utf8mb4" else None)


def _context(run: Run, way: Any, *, opts: dict[str, Any], **more: Any) -> Any:
    """Alembic's context, with our hook. `way` gives the steps."""
    from alembic.runtime.migration import MigrationContext

    written = records(run.installation, run.dialect)

    def hook(*, ctx: Any, step: Any, heads: set[str], run_args: dict[str, Any]) -> None:
        history.write(ctx, step, run, written)

    opts = {
        "fn": way, "script": scripts.directory(), "on_version_apply": (hook,), "transaction_per_migration": True,
        "version_table": VERSION_TABLE, **opts,
    }  # fmt: skip
    run.context = MigrationContext.configure(opts=opts, **more)
    return run.context


def _execute(run: Run, steps: Sequence[Any]) -> list[str]:
    """The steps, each migration in one transaction where the engine has that. Returns the revisions. Raises
    OperatorError that says how far it came."""
    changed: list[str] = []
    opts = {"transactional_ddl": True} if run.dialect.name == "sqlite" else {}

    def one_by_one(_heads: Any, _context: Any) -> Any:
        for step in steps:
            run.standing, run.done, run.committed = "its beginning", 0, False
            changed.append(step.info.up_revision_id)
            yield step

    # Alembic neither commits nor rolls back a transaction that was begun before it.
    run.connection.rollback()
    context = _context(run, one_by_one, opts=opts, connection=run.connection)
    try:
        context.run_migrations(run=run)
    except (DBAPIError, OperatorError) as error:
        raise _stopped(run, changed, error) from error
    return changed


def enter(connection: sa.Connection, url: sa.URL, installation: Installation, revisions: Sequence[str]) -> None:
    """Enters the revisions, in their order, in both histories and in one transaction. Executes nothing else."""
    run = Run(url, installation, Options(), connection.dialect, lambda _: None, connection)

    def stamped(heads: Sequence[str], _context: Any) -> Any:
        for revision in revisions:
            yield from scripts.stamps(revision, heads)
            heads = [revision]

    with connection.begin():
        _context(run, stamped, opts={}, connection=connection).run_migrations(run=run)


def _stopped(run: Run, begun: list[str], error: Exception) -> OperatorError:
    said = error_text(error) if isinstance(error, DBAPIError) else str(error).rstrip(".")
    finished, at = begun[:-1], begun[-1] if begun else "the first migration"
    stays = "Its steps that are done stay done." if run.done else "None of its steps was done."
    if run.dialect.name == "sqlite" or (run.dialect.name == "postgresql" and not run.committed):
        stays = "It was rolled back as a whole."
    before = f" Before it, {', '.join(finished)} was completed." if finished else ""
    kind = type(error) if isinstance(error, OperatorError) else OperatorError
    return kind(
        f"The migration {at} of {redacted(run.url)} stopped at {run.standing}: {said}. {stays}{before} Mend what"
        " stopped it and launch the same again: each step looks whether it is done."
    )
