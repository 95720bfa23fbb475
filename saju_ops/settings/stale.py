"""Stale analysis jobs: when a job counts as stale, and what becomes of it."""

from typing import ClassVar

from saju_ops.bounds import StaleHours
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting
from saju_ops.settings.values import Cron, EndStatus


class StaleJobs(Feature):
    title: ClassVar[str] = "Stale analysis jobs"
    page: ClassVar[str] = "stale.md"

    stale_job_hours: StaleHours = setting(
        "STALE_JOB_HOURS",
        default=24,
        holds="a whole number of hours {allowed} without a move, after which an analysis job is stale",
        about="Hours without a change after which a job counts as stale",
    )
    stale_job_empty_status: EndStatus = setting(
        "STALE_JOB_EMPTY_STATUS",
        default="failed",
        holds="the status, at most 64 visible characters, of a stale analysis job without results: not pending or"
        " processing",
        about="The new status of a stale job without results",
    )
    stale_job_cron: Cron = setting(
        "STALE_JOB_CRON",
        default="0 2 * * 0",
        holds="a cron line of five fields, such as '0 2 * * 0'",
        about="When stale jobs are settled, in TIMEZONE",
    )
