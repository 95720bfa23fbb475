"""Every setting of saju_ops, read from the environment and from a `.env` file, typed and validated.

This is the one list of variables. It promises that a wrong value is refused before anything is touched,
with a sentence that names the variable, what it holds and what it may hold, and that a secret's value is
never part of that sentence. It refuses to guess: an unknown engine, time zone or storage is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from pydantic import SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from saju_ops.chroma.limits import PROOF_MEMORY_MB
from saju_ops.database.address import require_http_address, require_redis_address
from saju_ops.database.connect import SUPPORTED as SUPPORTED_DATABASES
from saju_ops.database.connect import parse_database_url
from saju_ops.errors import SettingsError as SettingsError
from saju_ops.paths import slip_in, slip_in_path
from saju_ops.settings.env_file import ENV_FILE, read_env_file, value_of
from saju_ops.settings.fields import _BOUNDS, _IDENTIFIER, _allowed, _value, listed
from saju_ops.settings.values import listed_addresses, require_cron, require_mail_addresses, require_zone
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.expired.links import NamedLink
    from saju_ops.storage.open import DriveOptions, S3Options

# Characters of a key of BACKUP_SEAL_KEY, and how many of them must differ.
SHORTEST_KEY, FEWEST_DIFFERENT = 32, 8


class _EnvFile(DotEnvSettingsSource):
    """The `.env` file, read by our own reader: the library's skips a line that it can't read."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        return read_env_file(file_path, setting_names())


class Settings(BaseSettings):
    """The validated settings. Field descriptions say what a variable may hold."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=True, frozen=True, hide_input_in_errors=True)

    database_url_secret: SecretStr = _allowed(
        SUPPORTED_DATABASES, default=SecretStr("sqlite:///./local.db"), alias="DATABASE_URL"
    )
    jobs_database_url_secret: SecretStr | None = _allowed(
        f"{SUPPORTED_DATABASES}; empty means DATABASE_URL", default=None, alias="JOBS_DATABASE_URL"
    )
    analysis_database_url_secret: SecretStr | None = _allowed(
        f"{SUPPORTED_DATABASES}; empty means DATABASE_URL", default=None, alias="ANALYSIS_DATABASE_URL"
    )
    replica_urls_secret: SecretStr | None = _allowed(
        "addresses of MySQL replicas whose lag a purge heeds, separated by blanks",
        default=None,
        alias="REPLICA_URLS",
    )
    database_timezone_name: str = _allowed(
        "the IANA name of the zone in which columns without a zone are kept, such as UTC or Asia/Seoul",
        default="UTC",
        alias="DATABASE_TIMEZONE",
    )
    jobs_database_timezone_name: str | None = _allowed(
        "the IANA name of the zone in which the paid-report service writes times without one, such as Asia/Seoul; empty"
        " means DATABASE_TIMEZONE",
        default=None,
        alias="JOBS_DATABASE_TIMEZONE",
    )
    analysis_database_timezone_name: str | None = _allowed(
        "the IANA name of the zone in which the speech-analysis service writes times without one, such as Asia/Seoul;"
        " empty means DATABASE_TIMEZONE",
        default=None,
        alias="ANALYSIS_DATABASE_TIMEZONE",
    )
    timezone_name: str = _allowed(
        "the IANA name of the zone of days, partitions and schedules, such as Asia/Seoul",
        default="Asia/Seoul",
        alias="TIMEZONE",
    )
    conversation_log_table: str = _allowed(
        "the name of the conversation-log table, at most 64 characters",
        default="conversation_logs",
        alias="CONVERSATION_LOG_TABLE",
    )
    log_retention_days: int = _allowed("a whole number of days from 1 to 36500", default=30, alias="LOG_RETENTION_DAYS")
    archive_start_date: date = _allowed(
        "a date as YYYY-MM-DD, not in the future", default=date(2024, 1, 1), alias="ARCHIVE_START_DATE"
    )
    log_cleanup_cron: str = _allowed(
        "a cron line of five fields, such as '0 9 * * 1'", default="0 9 * * 1", alias="LOG_CLEANUP_CRON"
    )
    backup_uri: str = _allowed(
        "a folder, s3://bucket/prefix or gdrive://<folder id>, or two of them with a comma between them: then a backup"
        " counts once it is in both",
        default="./backups",
        alias="BACKUP_URI",
    )
    archive_compression: Literal["none", "gzip"] = _allowed("none or gzip", default="none", alias="ARCHIVE_COMPRESSION")
    archive_password: SecretStr | None = _allowed(
        "a password of at least 12 printable ASCII characters (other tools disagree on how to encode others), such as"
        " `openssl rand -base64 24` prints; with it, archives, dumps and snapshots are encrypted zip files",
        default=None,
        alias="ARCHIVE_PASSWORD",
    )
    backup_seal_keys: SecretStr | None = _allowed(
        "keys by which manifests are sealed, separated by commas, each of at least 32 printable ASCII characters"
        " without blanks, such as `openssl rand -hex 32` prints: the first seals, all verify; empty means that"
        " ARCHIVE_PASSWORD seals, where it is set",
        default=None,
        alias="BACKUP_SEAL_KEY",
    )
    s3_server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = _allowed(
        "AES256, aws:kms or aws:kms:dsse; empty leaves it to the bucket's own rule",
        default=None,
        alias="S3_SERVER_SIDE_ENCRYPTION",
    )
    s3_kms_key_id: str | None = _allowed(
        "the id, ARN or alias of a KMS key, with S3_SERVER_SIDE_ENCRYPTION aws:kms or aws:kms:dsse",
        default=None,
        alias="S3_KMS_KEY_ID",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] | None = _allowed(
        "auto, path or virtual; empty means path with S3_ENDPOINT_URL and auto without",
        default=None,
        alias="S3_ADDRESSING_STYLE",
    )
    aws_access_key_id: SecretStr | None = _allowed("an AWS access key's id", default=None, alias="AWS_ACCESS_KEY_ID")
    aws_secret_access_key: SecretStr | None = _allowed(
        "an AWS access key's secret", default=None, alias="AWS_SECRET_ACCESS_KEY"
    )
    aws_session_token: SecretStr | None = _allowed("an AWS session token", default=None, alias="AWS_SESSION_TOKEN")
    aws_region: str | None = _allowed("an AWS region, such as ap-northeast-2", default=None, alias="AWS_REGION")
    aws_default_region: str | None = _allowed(
        "an AWS region; AWS_REGION goes before it", default=None, alias="AWS_DEFAULT_REGION"
    )
    aws_profile: str | None = _allowed("a profile of the AWS configuration", default=None, alias="AWS_PROFILE")
    google_application_credentials: str | None = _allowed(
        "the path of a Google service account's key file", default=None, alias="GOOGLE_APPLICATION_CREDENTIALS"
    )
    gdrive_api_url: str = _allowed(
        "the http(s) address of Google's API", default="https://www.googleapis.com", alias="GDRIVE_API_URL"
    )
    restore_drill_urls_secret: SecretStr | None = _allowed(
        "addresses of database servers on which dumps are restored for their proof, at most one of each engine,"
        " separated by blanks; their users need the right to make databases named saju_ops_drill_…; empty means the"
        " dumped database's own server",
        default=None,
        alias="RESTORE_DRILL_URL",
    )
    chroma_db_path: str = _allowed("a folder", default="./chroma_db", alias="CHROMA_DB_PATH")
    chroma_host: str | None = _allowed(
        "a Chroma server's name or address, without http:// and port; empty means the folder CHROMA_DB_PATH",
        default=None,
        alias="CHROMA_HOST",
    )
    chroma_port: int = _allowed("a port from 1 to 65535", default=8000, alias="CHROMA_PORT")
    chroma_ssl: bool = _allowed(
        "true or false; true: the server CHROMA_HOST is reached by TLS (https)", default=False, alias="CHROMA_SSL"
    )
    chroma_auth_token: SecretStr | None = _allowed(
        "the token that the server CHROMA_HOST asks for, of visible ASCII characters without blanks; it is sent as"
        " `Authorization: Bearer` and `X-Chroma-Token`",
        default=None,
        alias="CHROMA_AUTH_TOKEN",
    )
    chroma_proof_memory_mb: int = _allowed(
        "a whole number of MB from 128 to 1000000 that the process may take in which Chroma opens a snapshot; a"
        " collection whose index needs more is opened without it, and its index searched in its files",
        default=PROOF_MEMORY_MB,
        alias="CHROMA_PROOF_MEMORY_MB",
    )
    backup_retention_days: int = _allowed(
        "a whole number of days from 0 to 36500 that dumps and snapshots are kept; 0 leaves it to BACKUP_KEEP_DAILY,"
        " _WEEKLY and _MONTHLY",
        default=7,
        alias="BACKUP_RETENTION_DAYS",
    )
    backup_keep_daily: int = _allowed(
        "a whole number from 0 to 10000: of so many days the newest proven backup is kept",
        default=0,
        alias="BACKUP_KEEP_DAILY",
    )
    backup_keep_weekly: int = _allowed(
        "a whole number from 0 to 10000: of so many weeks the newest proven backup is kept",
        default=0,
        alias="BACKUP_KEEP_WEEKLY",
    )
    backup_keep_monthly: int = _allowed(
        "a whole number from 0 to 10000: of so many months the newest proven backup is kept",
        default=0,
        alias="BACKUP_KEEP_MONTHLY",
    )
    keep_minimum: int = _allowed(
        "a whole number from 1 to 1000: so many of the newest proven backups of each kind and database are never"
        " deleted, whatever their age",
        default=3,
        alias="KEEP_MINIMUM",
    )
    archive_retention_years: int | None = _allowed(
        "a whole number of years from 1 to 100 that conversation-log archives are kept; empty means for ever",
        default=None,
        alias="ARCHIVE_RETENTION_YEARS",
    )
    jobs_table: str = _allowed(
        "the name of the table of paid jobs, at most 64 characters", default="jobs", alias="JOBS_TABLE"
    )
    purge_tables_text: str = _allowed(
        "the tables, separated by commas, whose rows may go with an expired job (schema.table in another schema)",
        default="payments,job_files,sms_logs,phone_verification_attempts,payment_failures,reports,report_knowledge",
        alias="PURGE_TABLES",
    )
    purge_links_text: str = _allowed(
        "references that no foreign key declares, separated by commas: table.column, which names a job, or"
        " table.column->parent.column",
        default="",
        alias="PURGE_LINKS",
    )
    purge_keep_tables_text: str = _allowed(
        "the tables, separated by commas, whose rows are archived before their job goes; none means that no row is",
        default="payments,payment_failures",
        alias="PURGE_KEEP_TABLES",
    )
    purge_file_columns_text: str = _allowed(
        "columns as table.column, separated by commas, that name a job's files in S3",
        default="job_files.s3_key",
        alias="PURGE_FILE_COLUMNS",
    )
    jobs_s3_delete: bool = _allowed(
        "true or false: whether the files of expired jobs are deleted from S3", default=True, alias="JOBS_S3_DELETE"
    )
    jobs_s3_bucket: str | None = _allowed(
        "the name of the bucket with the files of jobs", default=None, alias="JOBS_S3_BUCKET"
    )
    jobs_s3_prefix: str = _allowed(
        "the folder in JOBS_S3_BUCKET outside of which no file is deleted, such as jobs/; empty means the whole bucket",
        default="",
        alias="JOBS_S3_PREFIX",
    )
    jobs_s3_all_versions: bool = _allowed(
        "true or false: whether in a versioned bucket every version goes; false only adds a delete marker",
        default=False,
        alias="JOBS_S3_ALL_VERSIONS",
    )
    s3_endpoint_url: str | None = _allowed(
        "the http(s) address of an S3-compatible store; empty means AWS", default=None, alias="S3_ENDPOINT_URL"
    )
    expired_jobs_cron: str = _allowed(
        "a cron line of five fields, such as '0 * * * *'", default="0 * * * *", alias="EXPIRED_JOBS_CRON"
    )
    sessions_table: str = _allowed(
        "the name of the table of chat sessions, at most 64 characters", default="user_sessions", alias="SESSIONS_TABLE"
    )
    session_purge_tables_text: str = _allowed(
        "the tables, separated by commas, whose rows may go with an expired session, besides the conversation log",
        default="saju_calculations,saju_analyses",
        alias="SESSION_PURGE_TABLES",
    )
    session_clear_columns_text: str = _allowed(
        "columns as table.column, separated by commas, that hold a session's id without a foreign key and become NULL"
        " with it; none means that no column does",
        default="system_metrics.session_id",
        alias="SESSION_CLEAR_COLUMNS",
    )
    expired_session_grace_days_set: int | None = _allowed(
        "a whole number of days from 0 to 36500 that a session stays after it expired; empty means LOG_RETENTION_DAYS",
        default=None,
        alias="EXPIRED_SESSION_GRACE_DAYS",
    )
    expired_sessions_cron: str = _allowed(
        "a cron line of five fields, such as '30 4 * * *'", default="30 4 * * *", alias="EXPIRED_SESSIONS_CRON"
    )
    redis_url_secret: SecretStr | None = _allowed(
        "a redis://, rediss:// or unix:// address; empty means that sessions are not cached in Redis",
        default=None,
        alias="REDIS_URL",
    )
    stale_job_hours: int = _allowed(
        "a whole number of hours from 1 to 87600 without a move, after which an analysis job is stale",
        default=24,
        alias="STALE_JOB_HOURS",
    )
    stale_job_empty_status: str = _allowed(
        "the status, at most 64 visible characters, of a stale analysis job without results: not pending or processing",
        default="failed",
        alias="STALE_JOB_EMPTY_STATUS",
    )
    stale_job_cron: str = _allowed(
        "a cron line of five fields, such as '0 2 * * 0'", default="0 2 * * 0", alias="STALE_JOB_CRON"
    )
    slack_bot_token: SecretStr | None = _allowed("a bot token", default=None, alias="SLACK_BOT_TOKEN")
    slack_channel: str = _allowed("a channel's name or id", default="ai-reports", alias="SLACK_CHANNEL")
    slack_api_url: str = _allowed(
        "an http(s) address, such as https://slack.com/api/", default="https://slack.com/api/", alias="SLACK_API_URL"
    )
    slack_attach: Literal["off", "encrypted", "always"] = _allowed(
        "off, encrypted (only archives that are password-protected) or always",
        default="encrypted",
        alias="SLACK_ATTACH",
    )
    slack_attach_max_mb: int = _allowed(
        "a whole number of megabytes from 1 to 1000; of a larger file the path is told instead",
        default=20,
        alias="SLACK_ATTACH_MAX_MB",
    )
    smtp_host: str | None = _allowed("a mail server's name; empty means no e-mail", default=None, alias="SMTP_HOST")
    smtp_port: int = _allowed("a port from 1 to 65535", default=587, alias="SMTP_PORT")
    smtp_security: Literal["auto", "starttls", "tls", "none"] = _allowed(
        "auto (tls on port 465, starttls on every other), starttls, tls, or none, which sends in the clear",
        default="auto",
        alias="SMTP_SECURITY",
    )
    smtp_user: str | None = _allowed(
        "the mail server's user, in ASCII; empty means no login", default=None, alias="SMTP_USER"
    )
    smtp_password: SecretStr | None = _allowed(
        "the mail server's password, in ASCII", default=None, alias="SMTP_PASSWORD"
    )
    alert_email_from: str | None = _allowed(
        "an e-mail address, such as ops@example.com; needed where SMTP_HOST is set",
        default=None,
        alias="ALERT_EMAIL_FROM",
    )
    alert_email_to: str | None = _allowed(
        "e-mail addresses, separated by commas; needed where SMTP_HOST is set", default=None, alias="ALERT_EMAIL_TO"
    )
    alert_reminder_hours: int = _allowed(
        "a whole number of hours from 1 to 720 after which a problem that lasts is told again",
        default=24,
        alias="ALERT_REMINDER_HOURS",
    )
    alert_run_hours: int = _allowed(
        "a whole number of hours from 1 to 720 after which a run that hasn't ended counts as hanging",
        default=12,
        alias="ALERT_RUN_HOURS",
    )
    weekly_digest_cron: str = _allowed(
        "a cron line of five fields, such as '0 10 * * 1'", default="0 10 * * 1", alias="WEEKLY_DIGEST_CRON"
    )
    dagster_ui_url: str | None = _allowed(
        "the http(s) address under which operators see the Dagster UI, for the links in alerts; empty means"
        " DAGSTER_WEBSERVER_URL",
        default=None,
        alias="DAGSTER_UI_URL",
    )
    cleanup_trigger_token: SecretStr | None = _allowed(
        "at least 32 visible ASCII characters without blanks, such as `openssl rand -hex 32` prints",
        default=None,
        alias="CLEANUP_TRIGGER_TOKEN",
    )
    trigger_token_in_url: bool = _allowed(
        "true or false; true lets callers that can't send a header put the token into the address as ?token=",
        default=False,
        alias="TRIGGER_TOKEN_IN_URL",
    )
    trigger_jobs_list: str = _allowed(
        "names of jobs that may be started over HTTP, separated by commas, such as purge_expired_jobs",
        default="",
        alias="TRIGGER_JOBS",
    )
    trigger_calls_per_minute: int = _allowed(
        "a whole number from 1 to 100000", default=1200, alias="TRIGGER_CALLS_PER_MINUTE"
    )
    trigger_host: str = _allowed(
        "an address of this machine to listen on, such as 127.0.0.1 or 0.0.0.0",
        default="127.0.0.1",
        alias="TRIGGER_HOST",
    )
    trigger_port: int | None = _allowed(
        "a port from 0 to 65535, where 0 means any that is free; empty means PORT, and without that 8080",
        default=None,
        alias="TRIGGER_PORT",
    )
    dagster_webserver_url: str = _allowed(
        "the http:// or https:// address of Dagster's webserver, without user, password, query or fragment",
        default="http://127.0.0.1:3000",
        alias="DAGSTER_WEBSERVER_URL",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        return init_settings, env_settings, _EnvFile(settings_cls, dotenv_settings.env_file or ENV_FILE)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: Any) -> Any:
        """`NAME=` in an environment file means the default, as in the systems this one replaces."""
        # Blanks for a password are a mistake: taken for none, they would leave every backup unencrypted.
        blank_password = bool(value) and info.field_name == "archive_password"
        if isinstance(value, str) and not value.strip() and not blank_password:
            return cls.model_fields[info.field_name].default
        return value

    @field_validator("database_url_secret", "jobs_database_url_secret", "analysis_database_url_secret")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_database_url(value.get_secret_value())
        return value

    @field_validator("replica_urls_secret")
    @classmethod
    def _replica_urls(cls, value: SecretStr | None) -> SecretStr | None:
        for each in listed_addresses(value.get_secret_value() if value else ""):
            if parse_database_url(each).get_backend_name() not in ("mysql", "mariadb"):
                raise ValueError("only MySQL and MariaDB replicas are asked for their lag")
        return value

    @field_validator("restore_drill_urls_secret")
    @classmethod
    def _drill_urls(cls, value: SecretStr | None) -> SecretStr | None:
        listed = listed_addresses(value.get_secret_value() if value else "")
        families = [parse_database_url(u).drivername for u in listed]
        families = ["mysql" if "pymysql" in f else f for f in families]
        if "sqlite" in families:
            raise ValueError("a SQLite dump is tried in a temporary file and needs no server")
        if len(set(families)) < len(families):
            raise ValueError("two servers of one engine")
        return value

    @field_validator(
        "database_timezone_name", "jobs_database_timezone_name", "analysis_database_timezone_name", "timezone_name"
    )
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        if value is not None:
            require_zone(value)
        return value

    @field_validator("purge_tables_text", "purge_keep_tables_text", "session_purge_tables_text")
    @classmethod
    def _tables(cls, value: str) -> str:
        if not listed(value) or not all(re.fullmatch(r"[^\x00/\\\s,]{1,129}", name) for name in listed(value)):
            raise ValueError("that can't be a list of tables")
        return value

    @field_validator("purge_links_text")
    @classmethod
    def _links(cls, value: str) -> str:
        from saju_ops.expired.links import parse_links

        parse_links(listed(value))
        return value

    @field_validator("purge_file_columns_text", "session_clear_columns_text")
    @classmethod
    def _file_columns(cls, value: str, info: Any) -> str:
        shape = r"[^\x00/\\\s,.]+(\.[^\x00/\\\s,.]+){1,2}"
        if info.field_name == "session_clear_columns_text" and value.strip() == "none":
            return value
        if not listed(value) or not all(re.fullmatch(shape, name) for name in listed(value)):
            raise ValueError("that can't be a list of columns")
        return value

    @field_validator("jobs_s3_bucket")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", value):
            raise ValueError("that can't be a bucket's name")
        return value

    @field_validator("jobs_s3_prefix")
    @classmethod
    def _jobs_prefix(cls, value: str) -> str:
        value = value.strip()
        if value.startswith("/") or "://" in value or ".." in value.split("/") or slip_in(value):
            raise ValueError(slip_in(value) or "not a folder inside the bucket")
        return value

    @field_validator("expired_session_grace_days_set")
    @classmethod
    def _grace(cls, value: int | None) -> int | None:
        if value is not None and not 0 <= value <= 36_500:
            raise ValueError("out of range")
        return value

    @field_validator("redis_url_secret")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_redis_address(value.get_secret_value())
        return value

    @field_validator("conversation_log_table", "jobs_table", "sessions_table")
    @classmethod
    def _table(cls, value: str) -> str:
        if not _IDENTIFIER.fullmatch(value):
            raise ValueError("that can't be a table's name")
        return value

    @field_validator("log_retention_days")
    @classmethod
    def _retention(cls, value: int) -> int:
        if not 1 <= value <= 36500:
            raise ValueError("out of range")
        return value

    @field_validator("stale_job_hours")
    @classmethod
    def _stale_hours(cls, value: int) -> int:
        if not 1 <= value <= 87_600:
            raise ValueError("out of range")
        return value

    @field_validator("stale_job_empty_status")
    @classmethod
    def _empty_status(cls, value: str) -> str:
        value = value.strip()
        if value.casefold() in ("pending", "processing") or len(value) > 64 or not value.isprintable():
            raise ValueError("such a job would stay stale, or no column holds that")
        return value

    @field_validator("chroma_host")
    @classmethod
    def _host(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:]+", value):
            raise ValueError("that can't be a server's name")
        return value

    @field_validator(
        "chroma_port", "chroma_proof_memory_mb", "backup_retention_days", "backup_keep_daily", "backup_keep_weekly",
        "backup_keep_monthly", "keep_minimum", "archive_retention_years", "smtp_port", "slack_attach_max_mb",
        "alert_reminder_hours", "alert_run_hours",
    )  # fmt: skip
    @classmethod
    def _bounds(cls, value: int | None, info: Any) -> int | None:
        lowest, highest = _BOUNDS.get(info.field_name, (0, 10_000))
        if value is not None and not lowest <= value <= highest:
            raise ValueError("out of range")
        return value

    @field_validator("archive_start_date")
    @classmethod
    def _start(cls, value: date) -> date:
        if value < date(1970, 1, 2) or value > datetime.now(ZoneInfo("Pacific/Kiritimati")).date():
            raise ValueError("out of range")
        return value

    @field_validator(
        "log_cleanup_cron", "weekly_digest_cron", "stale_job_cron", "expired_jobs_cron", "expired_sessions_cron"
    )
    @classmethod
    def _cron(cls, value: str) -> str:
        require_cron(value)
        return value

    @field_validator("backup_uri")
    @classmethod
    def _backup_uri(cls, value: str) -> str:
        from saju_ops.storage.address import split_uri
        from saju_ops.storage.open import StorageError

        try:
            split_uri(value)
        except StorageError as error:
            raise ValueError("no such address" if "@" in value else str(error)) from None
        return value

    @field_validator("archive_password")
    @classmethod
    def _password(cls, value: SecretStr | None) -> SecretStr | None:
        from saju_ops.storage.encryption import SHORTEST

        secret = value.get_secret_value() if value else ""
        if value is not None and len(secret.strip()) < SHORTEST:
            raise ValueError("too short")
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError("not printable ASCII")
        return value

    @field_validator("backup_seal_keys")
    @classmethod
    def _seal_keys(cls, value: SecretStr | None) -> SecretStr | None:
        for number, key in enumerate(_keys(value), 1):
            if len(key) < SHORTEST_KEY:
                raise ValueError(f"key {number} has {counted(len(key), 'character')}")
            if not re.fullmatch("[!-~]+", key):
                raise ValueError(f"key {number} has blanks or other characters than ASCII")
            if len(set(key)) < FEWEST_DIFFERENT:
                raise ValueError(f"key {number} has fewer than {FEWEST_DIFFERENT} different characters")
        return value

    @model_validator(mode="after")
    def _kms_key_is_used(self) -> Settings:
        if self.s3_kms_key_id and self.s3_server_side_encryption in (None, "AES256"):
            raise PydanticCustomError(
                "s3_kms_key_id", "S3_KMS_KEY_ID is set, so S3_SERVER_SIDE_ENCRYPTION must be aws:kms or aws:kms:dsse"
            )
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise PydanticCustomError(
                "aws_keys", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together, or neither of them"
            )
        return self

    @model_validator(mode="after")
    def _nothing_hangs_on_itself(self) -> Settings:
        for setting, names, root, table in (
            ("SESSION_PURGE_TABLES", self.session_purge_tables, "SESSIONS_TABLE", self.sessions_table),
            ("PURGE_TABLES", self.purge_tables, "JOBS_TABLE", self.jobs_table),
        ):
            if table.casefold() in map(str.casefold, names):
                raise PydanticCustomError(
                    "root", "{setting} holds {table}, which is {root}; it may hold the tables whose rows go with a row"
                    " of that one", {"setting": setting, "table": table, "root": root},
                )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _drills_have_a_dump(self) -> Settings:
        dumped = {_engine(url) for url in self.dumped_urls}
        if others := [_engine(url) for url in self.restore_drill_urls if _engine(url) not in dumped]:
            raise PydanticCustomError(
                "drill", "RESTORE_DRILL_URL names a {other} server, and no database of that kind is dumped"
                " (DATABASE_URL, JOBS_DATABASE_URL and ANALYSIS_DATABASE_URL name {dumped}); it may hold servers of"
                " their kind",
                {"other": others[0], "dumped": ", ".join(sorted(dumped))},
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _places_are_apart(self) -> Settings:
        from saju_ops.settings.places import collisions

        if why := ". ".join(collisions(self)):
            raise PydanticCustomError("places", "{why}", {"why": why})
        return self

    @field_validator("cleanup_trigger_token")
    @classmethod
    def _trigger_token(cls, value: SecretStr | None) -> SecretStr | None:
        token = value.get_secret_value() if value else None
        if token is not None and len(token) < 32:
            raise ValueError(f"it has {counted(len(token), 'character')}")
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("it has blanks or other characters than ASCII")
        return value

    @field_validator("chroma_auth_token")
    @classmethod
    def _chroma_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it has blanks or other characters than ASCII")
        return value

    @field_validator("trigger_jobs_list")
    @classmethod
    def _trigger_jobs(cls, value: str) -> str:
        for name in filter(None, (each.strip() for each in value.split(","))):
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} can't be a job's name")
        return value

    @field_validator("trigger_calls_per_minute")
    @classmethod
    def _calls(cls, value: int) -> int:
        if not 1 <= value <= 100_000:
            raise ValueError("out of range")
        return value

    @field_validator("trigger_port")
    @classmethod
    def _port(cls, value: int | None) -> int | None:
        if value is not None and not 0 <= value <= 65535:
            raise ValueError("out of range")
        return value

    @field_validator("dagster_webserver_url")
    @classmethod
    def _webserver_url(cls, value: str) -> str:
        value = value.strip()
        require_http_address(value)
        url = urlsplit(value)
        if url.query or url.fragment or not url.netloc.isascii():
            raise ValueError("only scheme, host, port and path are allowed")
        return value.rstrip("/")

    @field_validator("slack_api_url", "dagster_ui_url", "s3_endpoint_url", "gdrive_api_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        require_http_address(value.strip())
        return value.strip()

    @field_validator("chroma_db_path", "google_application_credentials")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if slip := slip_in_path(value.strip()):
            raise ValueError(slip)
        return value.strip()

    @field_validator("smtp_host")
    @classmethod
    def _mail_server(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[@/\s]", value.strip()):
            raise ValueError("that can't be a server's name")
        return value

    @field_validator("smtp_user", "smtp_password")
    @classmethod
    def _smtp_login(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        if not text.isascii():  # the protocol's own limit
            raise ValueError("only ASCII characters are allowed")
        return value

    @field_validator("alert_email_from", "alert_email_to")
    @classmethod
    def _email(cls, value: str | None, info: Any) -> str | None:
        if value is not None:
            require_mail_addresses(value, one=info.field_name == "alert_email_from")
        return value

    @cached_property
    def database_url(self) -> sa.URL:
        return parse_database_url(self.database_url_secret.get_secret_value())

    @cached_property
    def jobs_database_url(self) -> sa.URL:
        secret = self.jobs_database_url_secret or self.database_url_secret
        return parse_database_url(secret.get_secret_value())

    @cached_property
    def analysis_database_url(self) -> sa.URL:
        secret = self.analysis_database_url_secret or self.database_url_secret
        return parse_database_url(secret.get_secret_value())

    @cached_property
    def restore_drill_urls(self) -> tuple[sa.URL, ...]:
        secret = self.restore_drill_urls_secret
        return tuple(parse_database_url(u) for u in secret.get_secret_value().split()) if secret else ()

    @cached_property
    def dumped_urls(self) -> tuple[sa.URL, ...]:
        """Every configured database; one that stands in two settings is there twice."""
        return self.database_url, self.jobs_database_url, self.analysis_database_url

    @cached_property
    def replica_urls(self) -> tuple[sa.URL, ...]:
        secret = self.replica_urls_secret
        return tuple(parse_database_url(u) for u in secret.get_secret_value().split()) if secret else ()

    @cached_property
    def trigger_jobs(self) -> tuple[str, ...]:
        return tuple(filter(None, (name.strip() for name in self.trigger_jobs_list.split(","))))

    @property
    def ui_url(self) -> str:
        return (self.dagster_ui_url or self.dagster_webserver_url).rstrip("/")

    @cached_property
    def email_recipients(self) -> tuple[str, ...]:
        return tuple(each.strip() for each in (self.alert_email_to or "").split(","))

    @property
    def purge_tables(self) -> tuple[str, ...]:
        return listed(self.purge_tables_text)

    @property
    def purge_links(self) -> tuple[NamedLink, ...]:
        from saju_ops.expired.links import parse_links

        return parse_links(listed(self.purge_links_text))

    @property
    def purge_keep_tables(self) -> tuple[str, ...]:
        names = listed(self.purge_keep_tables_text)
        return () if names == ("none",) else names

    @property
    def purge_file_columns(self) -> tuple[tuple[str, str], ...]:
        """(table, column); the table with its schema where one is given."""
        pairs = (name.rpartition(".") for name in listed(self.purge_file_columns_text))
        return tuple((table, column) for table, _, column in pairs)

    @property
    def session_purge_tables(self) -> tuple[str, ...]:
        return listed(self.session_purge_tables_text)

    @property
    def session_clear_columns(self) -> tuple[str, ...]:
        names = listed(self.session_clear_columns_text)
        return () if names == ("none",) else names

    @property
    def expired_session_grace_days(self) -> int:
        days = self.expired_session_grace_days_set
        return self.log_retention_days if days is None else days

    @property
    def s3_options(self) -> S3Options:
        """How S3 is reached: what is empty is left to boto3's own places."""
        from saju_ops.storage.open import S3Options

        return S3Options(
            endpoint_url=self.s3_endpoint_url, region=self.aws_region or self.aws_default_region,
            access_key_id=_value(self.aws_access_key_id), secret_access_key=_value(self.aws_secret_access_key),
            session_token=_value(self.aws_session_token), profile=self.aws_profile,
            server_side_encryption=self.s3_server_side_encryption, kms_key_id=self.s3_kms_key_id,
            addressing_style=self.s3_addressing_style,
        )  # fmt: skip

    @property
    def seal_secrets(self) -> tuple[str, ...]:
        """What seals manifests, first the one that seals new ones. ARCHIVE_PASSWORD verifies what it sealed."""
        password = _value(self.archive_password)
        return (*_keys(self.backup_seal_keys), *([password] if password else []))

    @property
    def drive_options(self) -> DriveOptions:
        from saju_ops.storage.open import DriveOptions

        return DriveOptions(self.google_application_credentials, self.gdrive_api_url)

    @cached_property
    def timezone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone_name)

    @cached_property
    def database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.database_timezone_name)

    @cached_property
    def jobs_database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.jobs_database_timezone_name or self.database_timezone_name)

    @cached_property
    def analysis_database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.analysis_database_timezone_name or self.database_timezone_name)


def _engine(url: sa.URL) -> str:
    """MariaDB's addresses may say mysql, too."""
    return url.get_backend_name().replace("mariadb", "mysql")


def _keys(value: SecretStr | None) -> list[str]:
    """The keys of a list; an empty one stays, as a mistake."""
    return [key.strip() for key in value.get_secret_value().split(",")] if value else []


# What pydantic says in its own words, by the beginning of its error's type.
_IN_WORDS = {
    "int": "not a whole number", "date": "not a date", "bool": "neither true nor false", "literal": "none of these",
    "string": "not readable text", "float": "not a number",
}  # fmt: skip


def _why(item: Any) -> str:
    kind = str(item["type"])
    if kind == "value_error":  # our own
        return str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return next((words for name, words in _IN_WORDS.items() if kind.startswith(name)), "it can't be read")


def setting_names() -> frozenset[str]:
    """The names of all settings, as the environment has them."""
    return frozenset(str(field.validation_alias) for field in Settings.model_fields.values())


def current_value(variable: str) -> str | None:
    """What the environment or the .env file holds for a variable. Raises SettingsError."""
    return value_of(variable, setting_names())


def env_file_values() -> dict[str, str | None]:
    """What the .env file sets. Raises SettingsError."""
    return read_env_file(ENV_FILE, setting_names())
