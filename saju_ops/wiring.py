"""From Settings to plain values: storage, channels, targets, policies. Nothing below this module sees Settings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from pydantic import SecretStr

from saju_ops.alerts.channels import Channel
from saju_ops.alerts.outbox import Outbox
from saju_ops.alerts.redact import Redactor
from saju_ops.bounds import Port, require
from saju_ops.chroma.snapshot import Source
from saju_ops.database.address import parse_database_url
from saju_ops.dumps.restore import target_url
from saju_ops.errors import Refused
from saju_ops.paths import slip_in_path
from saju_ops.settings.places import require_apart
from saju_ops.settings.settings import Settings
from saju_ops.storage.base import Storage
from saju_ops.storage.open import open_storage
from saju_ops.storage.s3.address import S3Options
from saju_ops.storage.s3.client import s3_client
from saju_ops.storage.seal import Seals
from saju_ops.times import instant_of
from saju_ops.upkeep.policy import Policy

if TYPE_CHECKING:
    from slack_sdk import WebClient

    from saju_ops.alerts.mail import Email
    from saju_ops.alerts.slack import Slack
    from saju_ops.database_reports.make import Database
    from saju_ops.expired.job_files import JobFiles
    from saju_ops.expired.job_tables import JobTables
    from saju_ops.schema.birth_data.work import BirthTables
    from saju_ops.schema.migrate.steps import Installation
    from saju_ops.upkeep.verify import VerifyResult


def policy_of(settings: Settings) -> Policy:
    return Policy(
        days=settings.backup_retention_days, daily=settings.backup_keep_daily, weekly=settings.backup_keep_weekly,
        monthly=settings.backup_keep_monthly, minimum=settings.keep_minimum,
        archive_years=settings.archive_retention_years,
    )  # fmt: skip


def open_backups(
    settings: Settings, *, reading: bool = False, accept_unsealed: Collection[str] = (),
    make_client: Callable[[S3Options], Any] = s3_client,
) -> Storage:  # fmt: skip
    """The storage that the settings name, with their password, keys and credentials. `accept_unsealed` names backups
    that are believed without a seal of these keys ("all": every one); never pass it where backups are deleted.
    `make_client` makes the client of S3."""
    password = settings.archive_password
    return open_storage(
        settings.backup_uri, password.get_secret_value() if password else None,
        s3=settings.s3_options, drive=settings.drive_options, reading=reading,
        seals=Seals(settings.seal_secrets, accept_unsealed), make_client=make_client,
    )  # fmt: skip


def installation_of(settings: Settings) -> Installation:
    """What the migrations need to know of this installation."""
    from saju_ops.schema.migrate.steps import Installation

    return Installation(
        settings.conversation_log_table, settings.timezone, settings.partitions_ahead, settings.database_timezone
    )


def reported_databases(settings: Settings) -> list[Database]:
    """Every configured database with the bytes that it may take; one that several settings name has the first limit."""
    from saju_ops.database_reports.make import Database

    limits = (settings.database_disk_gb, settings.jobs_database_disk_gb, settings.analysis_database_disk_gb)
    return [
        Database(url, None if gigabytes is None else round(gigabytes * 1e9))
        for url, gigabytes in zip(settings.dumped_urls, limits, strict=True)
    ]


def birth_tables(settings: Settings) -> BirthTables:
    """Where births are: the chatbot's database."""
    from saju_ops.schema.birth_data.work import BirthTables

    return BirthTables(settings.database_url, settings.sessions_table, settings.database_timezone)


def source_of(settings: Settings) -> Source:
    """CHROMA_HOST if it is set, else CHROMA_DB_PATH."""
    if settings.chroma_host:
        return server_at(settings, settings.chroma_host, settings.chroma_port)
    return Source(folder=Path(settings.chroma_db_path).expanduser().absolute())


def restore_target(settings: Settings, into_path: str | None, host: str | None, port: int) -> Source:
    """Where to restore to. Raises Refused."""
    if into_path and host:
        raise Refused("A folder and a server were both named; name one. Nothing was touched.")
    require("The port", port, Port)
    if host:
        return server_at(settings, host, port)
    if not into_path:
        return source_of(settings)
    if slip := slip_in_path(into_path):
        raise Refused(f"The target {into_path!r} can't be a folder: {slip}. Nothing was touched.")
    require_apart(settings, "The target", into_path, Path(into_path).expanduser())
    return Source(folder=Path(into_path))


def restore_time(text: str | None, settings: Settings) -> datetime | None:
    """A time as operators write it; None for the newest. Raises Refused."""
    return instant_of(text, settings.timezone, "The time")


def job_files(settings: Settings) -> JobFiles | None:
    """The bucket, or None if files are left alone. Raises Refused if no bucket is named."""
    from saju_ops.expired.job_files import FilePlace, JobFiles, backup_folders

    if not settings.jobs_s3_delete:
        return None
    if settings.jobs_s3_bucket is None:
        raise Refused(
            "JOBS_S3_BUCKET holds nothing, so the files of expired jobs can't be deleted; it may hold the name of a"
            " bucket. Nothing was deleted; set it, or set JOBS_S3_DELETE=false to leave the files."
        )
    place = FilePlace(
        settings.jobs_s3_bucket, settings.jobs_s3_prefix, settings.jobs_s3_all_versions, settings.s3_options,
        backup_folders(settings.backup_uri, settings.jobs_s3_bucket),
    )  # fmt: skip
    return JobFiles(place)


def tables_of(settings: Settings) -> JobTables:
    from saju_ops.expired.job_tables import JobTables

    return JobTables(
        settings.jobs_table, settings.purge_tables, settings.purge_keep_tables, settings.purge_file_columns,
        settings.purge_links,
    )  # fmt: skip


def verify_everything(
    settings: Settings, storage: Storage, in_days: int, drills: bool, say: Callable[[str], None]
) -> VerifyResult:
    from saju_ops.upkeep.drills import standard_drills
    from saju_ops.upkeep.verify import verify

    now = datetime.now(UTC)
    wanted = standard_drills(
        storage, now=now, zone=settings.timezone, databases=settings.dumped_urls,
        drill_servers=settings.restore_drill_urls, memory_mb=settings.chroma_proof_memory_mb,
    )  # fmt: skip
    return verify(storage, now=now, zone=settings.timezone, in_days=in_days, drills=wanted if drills else [], say=say)


def slack_channel(settings: Settings, client: Any, outbox: Outbox | None = None) -> Slack:
    """Slack, with a client that `slack.set_up` has given its limits. A looked-up channel id is kept in the outbox."""
    from saju_ops.alerts.slack import Slack

    kept: dict[str, Any] = {}
    return Slack(
        client, settings.slack_channel, settings.timezone, redactor(settings),
        remembered=outbox.fact if outbox else kept.get,
        remember=outbox.set_fact if outbox else kept.__setitem__,
    )  # fmt: skip


def email_is_set_up(settings: Settings) -> bool:
    return bool(settings.smtp_host and settings.alert_email_from and settings.alert_email_to)


def email_problem(settings: Settings) -> str | None:
    """What is missing where e-mail is set up in part."""
    given = {
        "SMTP_HOST": settings.smtp_host,
        "ALERT_EMAIL_FROM": settings.alert_email_from,
        "ALERT_EMAIL_TO": settings.alert_email_to,
    }
    missing = [name for name, value in given.items() if not value]
    if len(missing) in (0, 3):
        return None
    return f"E-mail is set up in part: {', '.join(missing)} is not set, so none is sent."


def email_channel(settings: Settings) -> Email:
    from saju_ops.alerts.mail import Email, Server

    security = settings.smtp_security
    if security == "auto":
        security = "tls" if settings.smtp_port == 465 else "starttls"
    server = Server(
        settings.smtp_host or "", settings.smtp_port, security, settings.smtp_user or "",
        settings.smtp_password.get_secret_value() if settings.smtp_password else "",
    )  # fmt: skip
    return Email(
        server, settings.alert_email_from or "", settings.email_recipients, settings.timezone, redactor(settings)
    )


def channels(
    settings: Settings, outbox: Outbox, slack_client: Callable[[], Any], log: Channel | None = None
) -> list[Channel]:
    """Every channel that is set up; `log` in Slack's place where there is no token."""
    found: list[Channel] = []
    if settings.slack_bot_token is not None:
        found.append(slack_channel(settings, slack_client(), outbox))
    elif log is not None:
        found.append(log)
    if email_is_set_up(settings):
        found.append(email_channel(settings))
    return found


def channel_names(settings: Settings) -> list[str]:
    """The names of the channels that `channels` would open, without opening any."""
    slack = "slack" if settings.slack_bot_token is not None else "log"
    return [slack, "email"] if email_is_set_up(settings) else [slack]


LONG = 8
# Secrets that libraries read from the environment by themselves.
ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "MYSQL_PWD")


def redactor(settings: Settings) -> Redactor:
    """Redacts every secret of the settings."""
    return Redactor(secrets_of(settings))


def secrets_of(settings: Settings) -> set[str]:
    found = {os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        text = value.get_secret_value()
        if "://" in text:
            for address in re.split(r"[\s,]+(?=[a-z][a-z0-9+.-]*://)", text, flags=re.IGNORECASE):
                found |= _passwords(address)
        else:
            # One setting may hold several keys.
            found |= {text, *(part for part in re.split(r"[\s,]+", text) if len(part) >= LONG)}
    return {secret for secret in found if secret.strip()}


def _passwords(address: str) -> set[str]:
    """The passwords in an address as written: in an address that wasn't escaped, everything up to the last @."""
    rest = address.partition("://")[2]
    found = {rest.rpartition("@")[0].partition(":")[2]}
    options = parse_qsl(rest.partition("?")[2])
    found |= {value for name, value in options if re.search("pass|pwd|token|secret", name, re.IGNORECASE)}
    with suppress(sa.exc.ArgumentError, ValueError):
        found.add(str(sa.make_url(address).password or ""))
    with suppress(ValueError):  # a service's password, where the address leaves it to a service file
        found.add(str(parse_database_url(address).password or ""))
    return found


def slack_client(settings: Settings) -> WebClient:
    """dagster-slack's client for SLACK_BOT_TOKEN, with this project's time-outs and slack_sdk's retry handlers."""
    from dagster_slack import SlackResource

    from saju_ops.alerts.slack import set_up

    token = settings.slack_bot_token.get_secret_value() if settings.slack_bot_token else ""
    return set_up(SlackResource(token=token).get_client(), settings.slack_api_url)


def address_in_setting(variable: str, name: str) -> sa.URL:
    """The address that an environment variable or a line of .env holds. Raises Refused."""
    from saju_ops.settings.settings import current_value

    address = current_value(variable)
    if not address:
        raise Refused(
            f"{name} is {variable!r}, and no environment variable of that name is set; it may be the name of one that"
            " holds a database's address. Nothing was touched."
        )
    return target_url(address, variable)


def server_at(settings: Settings, host: str, port: int) -> Source:
    """CHROMA_SSL and CHROMA_AUTH_TOKEN belong to the server CHROMA_HOST, if that is set: no other server gets the
    token."""
    if settings.chroma_host not in (None, host):
        return Source(host=host, port=port)
    token = settings.chroma_auth_token.get_secret_value() if settings.chroma_auth_token else None
    return Source(host=host, port=port, tls=settings.chroma_ssl, token=token)
