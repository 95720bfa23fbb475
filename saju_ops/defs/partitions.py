"""The one partition definition: a day in TIMEZONE, from ARCHIVE_START_DATE to the last day that is over."""

from __future__ import annotations

import dagster as dg

from saju_ops.settings.settings import Settings


def log_days(settings: Settings) -> dg.DailyPartitionsDefinition:
    return dg.DailyPartitionsDefinition(
        start_date=settings.archive_start_date.isoformat(), timezone=settings.timezone_name
    )
