"""How long backups are kept."""

from typing import ClassVar

from saju_ops.bounds import Days, Kept, KeptAlways, Years
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting


class Retention(Feature):
    title: ClassVar[str] = "Retention of backups"
    page: ClassVar[str] = "retention.md"

    backup_retention_days: Days = setting(
        "BACKUP_RETENTION_DAYS",
        default=7,
        holds="a whole number of days {allowed} that dumps and snapshots are kept; 0 leaves it to BACKUP_KEEP_DAILY,"
        " _WEEKLY and _MONTHLY",
        about="Days that dumps and snapshots are kept",
    )
    keep_minimum: KeptAlways = setting(
        "KEEP_MINIMUM",
        default=3,
        holds="a whole number {allowed}: so many of the newest proven backups of each kind and database are never"
        " deleted, whatever their age",
        about="Backups that stay, whatever their age",
    )
    backup_keep_daily: Kept = setting(
        "BACKUP_KEEP_DAILY",
        default=0,
        holds="a whole number {allowed}: of so many days the newest proven backup is kept",
        about="Days of which one backup stays longer than BACKUP_RETENTION_DAYS",
    )
    backup_keep_weekly: Kept = setting(
        "BACKUP_KEEP_WEEKLY",
        default=0,
        holds="a whole number {allowed}: of so many weeks the newest proven backup is kept",
        about="The same for weeks",
    )
    backup_keep_monthly: Kept = setting(
        "BACKUP_KEEP_MONTHLY",
        default=0,
        holds="a whole number {allowed}: of so many months the newest proven backup is kept",
        about="The same for months",
    )
    archive_retention_years: Years | None = setting(
        "ARCHIVE_RETENTION_YEARS",
        default=None,
        holds="a whole number of years {allowed} that conversation-log archives are kept",
        about="Years that archives of the conversation log are kept",
        empty="for ever",
    )
