"""The view masked_user_sessions: sessions as developers may see them."""

from __future__ import annotations

from saju_ops.schema.masked_view import MakeSalt, MakeSaltTable, MakeView
from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import Installation, Step

revision = "0100_masked_view"
down_revision = None
branch_labels = ("masked_view",)
depends_on = "0001_tables"


def steps(installation: Installation) -> list[Step]:
    return [MakeSaltTable(), MakeSalt(), MakeView()]


def upgrade(run: Run) -> None:
    run.up(steps(run.installation))


def downgrade(run: Run) -> None:
    run.down(steps(run.installation))
