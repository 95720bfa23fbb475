"""Composite indexes for the common queries."""

from __future__ import annotations

from sqlalchemy import Index, MetaData

from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import Installation, MakeIndex, Step
from saju_ops.schema.tables import chatbot_tables

revision = "0002_indexes"
down_revision = "0001_tables"


def steps(installation: Installation) -> list[Step]:
    # On copies, which know no types: an index joins the table that it is made on, and 0001 makes those without it.
    tables = {table.name: table.to_metadata(MetaData()) for table in chatbot_tables(installation.log_table)}
    sessions, logs, metrics = tables["user_sessions"].c, tables[installation.log_table].c, tables["system_metrics"].c
    pillars, analyses = tables["saju_calculations"].c, tables["saju_analyses"].c
    indexes = [
        Index("idx_session_birth_lunar", sessions.session_id, sessions.birth_datetime, sessions.is_lunar),
        Index("idx_four_pillars", pillars.year_ganji, pillars.month_ganji, pillars.day_ganji, pillars.time_ganji),
        Index("idx_ohang_strength", analyses.ohang_dominant, analyses.ohang_weakest, analyses.day_gan_strength),
        Index("idx_session_created", logs.session_id, logs.created_at.desc()),
        Index("idx_metric_recorded", metrics.metric_name, metrics.recorded_at.desc()),
    ]
    return [MakeIndex(index) for index in indexes]


def upgrade(run: Run) -> None:
    run.up(steps(run.installation))


def downgrade(run: Run) -> None:
    run.down(steps(run.installation))
