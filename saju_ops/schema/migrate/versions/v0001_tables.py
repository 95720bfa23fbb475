"""The tables of the chatbot with their keys and indexes."""

from __future__ import annotations

from saju_ops.schema.migrate.history import HistoryTable
from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import Installation, MakeIndex, MakeTable, Step
from saju_ops.schema.tables import chatbot_tables

revision = "0001_tables"
down_revision = None
branch_labels = ("chatbot",)


def steps(installation: Installation) -> list[Step]:
    found: list[Step] = [HistoryTable(installation)]
    for table in chatbot_tables(installation.log_table):
        if table.name != "schema_migrations":
            found.append(MakeTable(table, installation))
            indexes = sorted(table.indexes, key=lambda index: str(index.name))
            found += [MakeIndex(index, on_new_table=True) for index in indexes]
    return found


def upgrade(run: Run) -> None:
    run.up(steps(run.installation))


def downgrade(run: Run) -> None:
    run.down(steps(run.installation))
