"""The conversation log: its table, how long its days stay in the database, and when it is cleaned up."""

from datetime import date
from typing import ClassVar

from saju_ops.bounds import DaysFromOne, MonthsAhead
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting
from saju_ops.settings.values import Cron, StartDate, TableName


class ConversationLogs(Feature):
    title: ClassVar[str] = "Conversation log"
    page: ClassVar[str] = "archive.md"

    conversation_log_table: TableName = setting(
        "CONVERSATION_LOG_TABLE",
        default="conversation_logs",
        holds="the name of the conversation-log table, at most 64 characters",
        about="The table that is archived and purged",
    )
    log_retention_days: DaysFromOne = setting(
        "LOG_RETENTION_DAYS",
        default=30,
        holds="a whole number of days {allowed}",
        about="Days that stay in the database",
    )
    archive_start_date: StartDate = setting(
        "ARCHIVE_START_DATE",
        default=date(2024, 1, 1),
        holds="a date as YYYY-MM-DD, not in the future",
        about="The first partition, so the first day that is archived",
    )
    partitions_ahead: MonthsAhead = setting(
        "PARTITIONS_AHEAD",
        default=3,
        holds="a whole number of months {allowed}",
        about="Months behind this one that get a partition, where the table has them ([partitions.md](partitions.md))",
    )
    log_cleanup_cron: Cron = setting(
        "LOG_CLEANUP_CRON",
        default="0 9 * * 1",
        holds="a cron line of five fields, such as '0 9 * * 1'",
        about="When the log is archived and purged, in TIMEZONE",
    )
