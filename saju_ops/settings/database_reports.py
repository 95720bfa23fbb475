"""Reports on the databases: how much room each has."""

from __future__ import annotations

from typing import ClassVar

from saju_ops.bounds import DiskGigabytes
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting


class DatabaseReports(Feature):
    title: ClassVar[str] = "Reports on the databases"
    page: ClassVar[str] = "database_reports.md"

    database_disk_gb: DiskGigabytes | None = setting(
        "DATABASE_DISK_GB",
        default=None,
        holds="a number of gigabytes {allowed} that the tables of DATABASE_URL may take",
        about="The report `table_sizes` says when a table has filled it",
        empty="that no limit is known",
    )
    jobs_database_disk_gb_set: DiskGigabytes | None = setting(
        "JOBS_DATABASE_DISK_GB",
        default=None,
        holds="a number of gigabytes {allowed} that the tables of JOBS_DATABASE_URL may take",
        about="The same for that database",
        empty="DATABASE_DISK_GB",
    )
    analysis_database_disk_gb_set: DiskGigabytes | None = setting(
        "ANALYSIS_DATABASE_DISK_GB",
        default=None,
        holds="a number of gigabytes {allowed} that the tables of ANALYSIS_DATABASE_URL may take",
        about="The same for that database",
        empty="DATABASE_DISK_GB",
    )

    @property
    def jobs_database_disk_gb(self) -> float | None:
        given = self.jobs_database_disk_gb_set
        return self.database_disk_gb if given is None else given

    @property
    def analysis_database_disk_gb(self) -> float | None:
        given = self.analysis_database_disk_gb_set
        return self.database_disk_gb if given is None else given
