"""Expired paid jobs and chat sessions: what is deleted with them, and what is kept."""

from typing import TYPE_CHECKING, ClassVar

from saju_ops.bounds import Days
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import listed, setting
from saju_ops.settings.values import (
    Bucket,
    BucketFolder,
    ColumnNames,
    ColumnNamesOrNone,
    Cron,
    Links,
    RedisAddress,
    TableName,
    TableNames,
    names_or_none,
)

if TYPE_CHECKING:
    from saju_ops.expired.links import NamedLink


class ExpiredJobs(Feature):
    """Paid jobs, with all that references them and their files in S3."""

    title: ClassVar[str] = "Expired paid jobs"
    page: ClassVar[str] = "expired.md"

    jobs_table: TableName = setting(
        "JOBS_TABLE",
        default="jobs",
        holds="the name of the table of paid jobs, at most 64 characters",
        about="The table of paid jobs",
    )
    purge_tables_text: TableNames = setting(
        "PURGE_TABLES",
        default="payments,job_files,sms_logs,phone_verification_attempts,payment_failures,reports,report_knowledge",
        holds="the tables, separated by commas, whose rows may be deleted with an expired job (schema.table in another"
        " schema)",
        about="Tables whose rows are deleted with their job",
    )
    purge_links_text: Links = setting(
        "PURGE_LINKS",
        default="",
        holds="references that no foreign key declares, separated by commas: table.column, which names a job, or"
        " table.column->parent.column",
        about="References that no foreign key declares, such as sms_logs.about or a.b->reports.id",
    )
    purge_keep_tables_text: TableNames = setting(
        "PURGE_KEEP_TABLES",
        default="payments,payment_failures",
        holds="the tables, separated by commas, whose rows are archived before their job is deleted; none means that no"
        " row is",
        about="Tables whose rows are archived before they are deleted",
    )
    purge_file_columns_text: ColumnNames = setting(
        "PURGE_FILE_COLUMNS",
        default="job_files.s3_key",
        holds="columns as table.column, separated by commas, that name a job's files in S3",
        about="Columns with the names of files in S3",
    )
    jobs_s3_delete: bool = setting(
        "JOBS_S3_DELETE",
        default=True,
        holds="true or false: whether the files of expired jobs are deleted from S3",
        about="false leaves the files",
    )
    jobs_s3_bucket: Bucket | None = setting(
        "JOBS_S3_BUCKET",
        default=None,
        holds="the name of the bucket with the files of jobs",
        about="Needed where JOBS_S3_DELETE is true",
    )
    jobs_s3_prefix: BucketFolder = setting(
        "JOBS_S3_PREFIX",
        default="",
        holds="the folder in JOBS_S3_BUCKET outside of which no file is deleted, such as jobs/",
        about="No file outside of this folder is deleted",
        empty="the whole bucket",
        example="jobs/",
    )
    jobs_s3_all_versions: bool = setting(
        "JOBS_S3_ALL_VERSIONS",
        default=False,
        holds="true or false: whether in a versioned bucket every version is deleted; false only adds a delete marker",
        about="For a versioned bucket",
    )
    expired_jobs_cron: Cron = setting(
        "EXPIRED_JOBS_CRON",
        default="0 * * * *",
        holds="a cron line of five fields, such as '0 * * * *'",
        about="When expired jobs are deleted, in TIMEZONE",
    )

    @property
    def purge_tables(self) -> tuple[str, ...]:
        return listed(self.purge_tables_text)

    @property
    def purge_links(self) -> "tuple[NamedLink, ...]":
        from saju_ops.expired.links import parse_links

        return parse_links(listed(self.purge_links_text))

    @property
    def purge_keep_tables(self) -> tuple[str, ...]:
        return names_or_none(self.purge_keep_tables_text)

    @property
    def purge_file_columns(self) -> tuple[tuple[str, str], ...]:
        """(table, column); the table with its schema where one is given."""
        pairs = (name.rpartition(".") for name in listed(self.purge_file_columns_text))
        return tuple((table, column) for table, _, column in pairs)


class ExpiredSessions(Feature):
    """Chat sessions, with calculations, analyses and archived log rows, and their keys in Redis."""

    title: ClassVar[str] = "Expired chat sessions"
    page: ClassVar[str] = "expired.md"

    sessions_table: TableName = setting(
        "SESSIONS_TABLE",
        default="user_sessions",
        holds="the name of the table of chat sessions, at most 64 characters",
        about="The table of chat sessions",
    )
    session_purge_tables_text: TableNames = setting(
        "SESSION_PURGE_TABLES",
        default="saju_calculations,saju_analyses",
        holds="the tables, separated by commas, whose rows may be deleted with an expired session, besides the"
        " conversation log",
        about="Tables whose rows are deleted with their session",
    )
    session_clear_columns_text: ColumnNamesOrNone = setting(
        "SESSION_CLEAR_COLUMNS",
        default="system_metrics.session_id",
        holds="columns as table.column, separated by commas, that hold a session's id without a foreign key and become"
        " NULL with it; none means that no column does",
        about="Columns that become NULL when their session is deleted",
    )
    expired_session_grace_days_set: Days | None = setting(
        "EXPIRED_SESSION_GRACE_DAYS",
        default=None,
        holds="a whole number of days {allowed} that a session stays after it expired",
        about="Days from a session's expiry to its deletion",
        empty="LOG_RETENTION_DAYS",
    )
    expired_sessions_cron: Cron = setting(
        "EXPIRED_SESSIONS_CRON",
        default="30 4 * * *",
        holds="a cron line of five fields, such as '30 4 * * *'",
        about="When expired sessions are deleted, in TIMEZONE",
    )
    redis_url_secret: RedisAddress | None = setting(
        "REDIS_URL",
        default=None,
        holds="a redis://, rediss:// or unix:// address",
        about="Where sessions are cached: their keys are deleted with them",
        empty="that sessions are not cached in Redis",
        example="redis://127.0.0.1:6379/0",
    )

    @property
    def session_purge_tables(self) -> tuple[str, ...]:
        return listed(self.session_purge_tables_text)

    @property
    def session_clear_columns(self) -> tuple[str, ...]:
        return names_or_none(self.session_clear_columns_text)
