"""The table `schema_migrations`: which migrations were applied, when, and the SQL that takes each back.

Alembic's own table says what is applied. This one is written by its hook, in the same transaction, for people and for
the service; rows that were made by hand (`1.0.0`) are kept and shown. The rollback SQL in it is never executed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from saju_ops.schema.migrate import catalogue
from saju_ops.schema.migrate.steps import Cost, Installation, MakeTable, Step
from saju_ops.schema.tables import schema_migrations

if TYPE_CHECKING:
    from saju_ops.schema.migrate.run import Run

DESCRIPTION = 255


@dataclass(frozen=True)
class Record:
    """What is written of a migration."""

    version: str
    description: str
    rollback_sql: str


@dataclass(frozen=True)
class Row:
    version: str
    description: str | None
    applied_at: str
    rollback_sql: str | None

    @property
    def order(self) -> list[tuple[int, str]]:
        """1.10.0 comes behind 1.2.0."""
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", self.version)]


class HistoryTable(MakeTable):
    """On the way down it stays while it has rows that no migration of ours wrote, unless --drop-data names it."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(schema_migrations, installation)

    def down_cost(self, connection: sa.Connection) -> Cost:
        cost = super().down_cost(connection)
        by_hand = len(foreign(connection))
        note = (f"{schema_migrations.name} has {by_hand} rows that were made by hand, and stays",) if by_hand else ()
        return Cost(rows=by_hand, needs_dump=cost.needs_dump, notes=note)

    def down(self, run: Run) -> None:
        if foreign(run.connection) and schema_migrations.name not in run.options.drop_data:
            run.say(f"{schema_migrations.name} stays: it has rows that were made by hand.")
            return
        Step.down(self, run)


def write(context: Any, step: Any, run: Run, records: Mapping[str, Record]) -> None:
    """Alembic's hook, called after each step and each stamp, in the transaction that changes Alembic's own table."""
    if not context.as_sql and not catalogue.exists(context.connection, str(schema_migrations.name)):
        return  # the migration that makes it was just taken back
    for version in step.up_revision_ids:
        if not context.as_sql or not step.is_upgrade:
            context.execute(schema_migrations.delete().where(schema_migrations.c.version == version))
        if step.is_upgrade:
            context.execute(_insert(records[version]))


def _insert(record: Record) -> sa.Insert:
    return schema_migrations.insert().values(
        version=record.version, description=record.description[:DESCRIPTION], rollback_sql=record.rollback_sql
    )


def rows(connection: sa.Connection) -> list[Row]:
    """Those that are there, the oldest version first; empty without the table. Columns that it lacks are empty."""
    if not catalogue.exists(connection, str(schema_migrations.name)):
        return []
    there = {name.casefold() for name in catalogue.column_names(connection, str(schema_migrations.name))}
    # As text: who made the table by hand chose its types.
    columns = [sa.cast(c if c.name in there else sa.null(), sa.String) for c in schema_migrations.columns]
    found = connection.execute(sa.select(*columns).select_from(schema_migrations)).all()
    return sorted((Row(str(r[0]), r[1], str(r[2] or ""), r[3]) for r in found), key=lambda row: row.order)


def foreign(connection: sa.Connection) -> list[Row]:
    """Rows that no migration of ours wrote."""
    from saju_ops.schema.migrate.scripts import revisions

    ours = set(revisions())
    return [row for row in rows(connection) if row.version not in ours]


def reconcile(connection: sa.Connection, applied: Collection[str], records: Mapping[str, Record]) -> list[str]:
    """Makes the two histories agree where one of the tables has no transactions and a run was killed between them.
    What Alembic's table says is right. Returns what was mended."""
    if not catalogue.exists(connection, str(schema_migrations.name)):
        return []
    there = {row.version for row in rows(connection)}
    missing, left = [v for v in applied if v not in there], [v for v in records if v in there and v not in applied]
    for version in missing:
        connection.execute(_insert(records[version]))
    for version in left:
        connection.execute(schema_migrations.delete().where(schema_migrations.c.version == version))
    connection.commit()
    return [f"{schema_migrations.name} lacked {v}" for v in missing] + [
        f"{schema_migrations.name} had {v}, which isn't applied" for v in left
    ]
