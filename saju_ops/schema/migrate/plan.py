"""What a migration would do, looked at before anything is done: its steps, its SQL, who would wait, what would be lost.

Refuses, before the first step: to build on tables that nobody adopted, to make writers of a large table wait, to drop
or rewrite rows without a proven dump, and to drop a table that has rows unless its name was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.migrate import catalogue, scripts
from saju_ops.schema.migrate.history import Record
from saju_ops.schema.migrate.run import Options
from saju_ops.schema.migrate.steps import Cost, Installation, Step, backwards
from saju_ops.schema.recent_dump import require_recent_dump
from saju_ops.words import counted

VERSION_TABLE = "alembic_version"
# Rows from which building an index takes long enough to be felt.
LARGE = 1_000


@dataclass(frozen=True)
class PlannedStep:
    title: str
    sql: list[str]
    done: bool
    left_out: str = ""
    cost: Cost = field(default_factory=Cost)
    makes: str = ""


@dataclass(frozen=True)
class Migration:
    revision: str
    description: str
    steps: list[PlannedStep]

    @property
    def open(self) -> list[PlannedStep]:
        return [step for step in self.steps if not step.done and not step.left_out]


@dataclass(frozen=True)
class Plan:
    database: str
    up: bool
    target: str
    # What is applied before.
    applied: list[str]
    migrations: list[Migration]
    # Why it would be refused, as sentences.
    hindrances: list[str]
    notes: list[str]

    def require_possible(self) -> None:
        """Raises Refused."""
        if self.hindrances:
            raise Refused(" ".join(self.hindrances))

    def sql(self) -> str:
        """What would be executed, with a comment at each step."""
        lines = []
        for migration in self.migrations:
            lines.append(f"-- {migration.revision}: {migration.description}")
            for step in migration.steps:
                why = "done already" if step.done else step.left_out and f"left out: {step.left_out}"
                lines += [f"-- {step.title}: {why}"] if why else [f"{statement};" for statement in step.sql]
        return "\n".join(lines)


def steps_of(script: Any, installation: Installation) -> list[Step]:
    found: list[Step] = script.module.steps(installation)
    return found


def records(installation: Installation, dialect: sa.Dialect) -> dict[str, Record]:
    """What `schema_migrations` says of each migration. Rendered before any of them runs."""
    found = {}
    for revision, script in scripts.revisions().items():
        back = [
            f"{statement};"
            for step in backwards(steps_of(script, installation))
            if not step.left_out(dialect)
            for statement in step.down_sql(dialect)
        ]
        found[revision] = Record(revision, scripts.description(script), " ".join(back))
    return found


def plan(
    connection: sa.Connection, url: str, installation: Installation, way: Sequence[Any], *, up: bool, target: str,
    applied: list[str], options: Options,
) -> Plan:  # fmt: skip
    """Reads the catalogue, and counts rows where somebody would wait or something would be lost."""
    migrations = []
    for each in way:
        script = each.revision
        steps = steps_of(script, installation)
        planned = [_planned(connection, step, up) for step in (steps if up else backwards(steps))]
        migrations.append(Migration(script.revision, scripts.description(script), planned))
    costs = [(m, s) for m in migrations for s in m.open]
    notes = [f"{m.revision}: {note}." for m, s in costs for note in s.cost.notes]
    notes += [f"{m.revision}, {s.title}: left out. {s.left_out}" for m in migrations for s in m.steps if s.left_out]
    hindrances = [f"{s.cost.refused} Nothing was touched." for _, s in costs if s.cost.refused]
    hindrances += _made_by_hand(connection, installation, migrations) if up else _still_referenced(connection, costs)
    hindrances += _blocking(costs, options) + _losing(costs, options)
    return Plan(url, up, target, applied, migrations, hindrances, notes)


def _planned(connection: sa.Connection, step: Step, up: bool) -> PlannedStep:
    dialect = connection.dialect
    sql = step.up_sql(dialect) if up else step.down_sql(dialect)
    if why := step.left_out(dialect):
        return PlannedStep(step.title, sql, False, why)
    if step.is_done(connection) == up:
        return PlannedStep(step.title, sql, True, makes=step.makes)
    return PlannedStep(step.title, sql, False, "", step.up_cost(connection) if up else step.down_cost(connection))


def _made_by_hand(connection: sa.Connection, installation: Installation, migrations: list[Migration]) -> list[str]:
    """Tables of ours in a database that no migration ever worked on. Where one did, and broke off, Alembic's own table
    is there."""
    if catalogue.exists(connection, VERSION_TABLE):
        return []
    names = [step.makes for m in migrations for step in m.steps if step.done and step.makes]
    if not names or names == ["schema_migrations"]:
        return []
    return [
        f"{counted(len(names), 'table')} of the chatbot ({', '.join(names)}) are there already, and no migration made"
        " them. Nothing was touched; `saju-ops migrate adopt` compares them with what the migrations make, and enters"
        " the database's revision."
    ]


def _still_referenced(connection: sa.Connection, costs: Sequence[tuple[Migration, PlannedStep]]) -> list[str]:
    """Tables of the service's own: SQLite would delete their rows with the table, and the others refuse it half-way."""
    going = {name for _, step in costs for name in step.cost.drops}
    found = []
    for name in sorted(going):
        if outside := catalogue.references_from_outside(connection, name, going):
            found.append(
                f"{name} would be dropped, and {', '.join(outside)} references it by a foreign key. Nothing was"
                " touched; drop that foreign key first."
            )
    return found


def _blocking(costs: Sequence[tuple[Migration, PlannedStep]], options: Options) -> list[str]:
    if options.allow_blocking:
        return []
    return [
        f"{m.revision}, {s.title}: {s.cost.blocks}, and it has {counted(s.cost.rows, 'row')}. Nothing was touched;"
        " launch this again with allow_blocking (--allow-blocking) at an hour when they may wait."
        for m, s in costs
        if s.cost.blocks and s.cost.rows >= LARGE
    ]


def _losing(costs: Sequence[tuple[Migration, PlannedStep]], options: Options) -> list[str]:
    drops = {name: rows for _, step in costs for name, rows in step.cost.drops.items()}
    found = [
        f"{name} has {counted(rows, 'row')} and would be dropped. Nothing was touched; if they may be lost, name it:"
        f" --drop-data {name} (in the job: drop_data)."
        for name, rows in drops.items()
        if rows and name not in options.drop_data
    ]
    may_go = {*drops, "schema_migrations"}
    if unknown := sorted(options.drop_data - may_go):
        found.append(f"--drop-data names {', '.join(unknown)}, which this does not drop. Nothing was touched.")
    return found


def require_dump(plan: Plan, url: sa.URL, options: Options, now: datetime | None = None) -> str:
    """Where the plan drops or rewrites rows, the dump's file that makes up for it; else empty. Raises Refused."""
    needing = [m.revision for m in plan.migrations if any(s.cost.needs_dump for s in m.open)]
    if not needing:
        return ""
    if options.storage is None:
        raise OperatorError(f"{needing[0]} drops or rewrites data, and no store was given to look for a dump in.")
    way = "The migration" if plan.up else "Taking back the migration"
    return require_recent_dump(url, options.storage(), now or datetime.now(UTC), f"{way} {needing[0]}").file
