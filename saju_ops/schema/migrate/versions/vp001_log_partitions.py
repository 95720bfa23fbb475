"""A partition for each month in the log table (opt-in)."""

from __future__ import annotations

from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import Installation, Step
from saju_ops.schema.partitions.step import PartitionLog

revision = "p001_log_partitions"
down_revision = None
branch_labels = ("partitioned_logs",)
depends_on = "0002_indexes"


def steps(installation: Installation) -> list[Step]:
    return [PartitionLog(installation)]


def upgrade(run: Run) -> None:
    run.up(steps(run.installation))


def downgrade(run: Run) -> None:
    run.down(steps(run.installation))
