"""What `saju-ops status` tries beside databases and stores: replicas, dumps and their drills, Redis, mail, Slack, names
of jobs and files of credentials. Nothing is sent, and only a drill's scratch database is made and dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from saju_ops.database.connect import error_text, redacted
from saju_ops.errors import OperatorError
from saju_ops.settings.settings import Settings

# Name of the setting, whether it is usable, and the text.
Tried = tuple[str, bool | None, str]


def tried(settings: Settings) -> Iterator[Tried]:
    """Each trial catches its own errors: a setting that can't be tried doesn't keep the others from being tried."""
    yield from _replicas(settings)
    yield from _dumps(settings)
    yield from _redis(settings)
    yield from _slack(settings)
    yield from _mail(settings)
    yield from _jobs(settings)
    yield from _credentials(settings)


def _replicas(settings: Settings) -> Iterator[Tried]:
    from saju_ops.rows.engines.mysql.store import lag_of

    for url in settings.replica_urls:
        try:
            lag = lag_of(url)
        except Exception as error:
            hint = ""
            if getattr(getattr(error, "orig", None), "args", (0,))[0] == 1227:
                hint = "; its user needs REPLICATION CLIENT ON *.* (MariaDB: REPLICA MONITOR)"
            yield "REPLICA_URLS", False, f"{redacted(url)} can't be asked for its lag ({_said(error)}){hint}"
            continue
        if math.isinf(lag):
            yield "REPLICA_URLS", False, f"{redacted(url)} is no replica, or its replication is not running"
        else:
            yield "REPLICA_URLS", True, f"{redacted(url)}: {lag:g} s behind"


def _dumps(settings: Settings) -> Iterator[Tried]:
    """Whether a dump of each database can be taken and tried: the program, the rights, a scratch database."""
    from saju_ops.dumps.take import DumpOptions, distinct

    options = DumpOptions(settings.timezone, drill_servers=settings.restore_drill_urls)
    for url in distinct(settings.dumped_urls):
        if url.get_backend_name() != "sqlite":
            server = options.drill_server(url)
            problem = _why_no_dump(url, server)
            where = f"{redacted(url)}, restored for its proof on {redacted(server) if server else 'the same server'}"
            yield "dumps", not problem, f"{where}: {problem or 'can be dumped and proven'}"


def _why_no_dump(url: sa.URL, server: sa.URL | None) -> str:
    from saju_ops.dumps.grants import to_dump
    from saju_ops.dumps.mysql.clients import dump_client
    from saju_ops.dumps.open import open_engine
    from saju_ops.dumps.programs import find_program

    source = open_engine(url)
    try:
        if source.engine == "postgresql":
            find_program(["pg_dump"], "A dump of a PostgreSQL database")
        else:
            dump_client(source.engine)
        if needed := to_dump(url):
            return f"its user lacks a right for the dump. An administrator may say: {needed}"
        with source.scratch(server, datetime.now(UTC)) as scratch:
            scratch.server_version()  # a pooler may not know the user that was just made
            return ""
    except Exception as error:
        return _said(error)


def _redis(settings: Settings) -> Iterator[Tried]:
    if settings.redis_url_secret is None:
        return
    from saju_ops.expired.session_cache import connect_redis

    try:
        with connect_redis(settings.redis_url_secret.get_secret_value()) as client:
            client.ping()
    except Exception as error:  # its text may hold the address
        yield "REDIS_URL", False, f"set (not shown); Redis can't be used ({type(error).__name__})"
    else:
        yield "REDIS_URL", True, "set (not shown); Redis answers"


def _slack(settings: Settings) -> Iterator[Tried]:
    if settings.slack_bot_token is None:
        return
    from saju_ops.wiring import slack_channel, slack_client

    try:
        who = slack_channel(settings, slack_client(settings)).who()
    except Exception as error:
        yield "SLACK_BOT_TOKEN", False, f"set (not shown); {_of_channel(error)}"
    else:
        yield "SLACK_BOT_TOKEN", True, f"set (not shown); {who}"


def _mail(settings: Settings) -> Iterator[Tried]:
    from saju_ops.wiring import email_channel, email_is_set_up, email_problem

    if problem := email_problem(settings):
        yield "SMTP_HOST", False, problem
    elif email_is_set_up(settings):
        where = f"{settings.smtp_host}:{settings.smtp_port}"
        try:
            email_channel(settings).reach()
        except Exception as error:
            yield "SMTP_HOST", False, f"{where}: {_of_channel(error)}"
        else:
            yield "SMTP_HOST", True, f"{where} answers{' and takes the login' if settings.smtp_user else ''}"


def _jobs(settings: Settings) -> Iterator[Tried]:
    if not settings.trigger_jobs:
        return
    from saju_ops.definitions import defs

    known = {job.name for job in defs().resolve_all_job_defs()}
    if unknown := [name for name in settings.trigger_jobs if name not in known]:
        listed = ", ".join(sorted(name for name in known if not name.startswith("__")))
        yield "TRIGGER_JOBS", False, f"there is no job {', '.join(unknown)}; there are {listed}"
    else:
        yield "TRIGGER_JOBS", True, settings.trigger_jobs_list


def _credentials(settings: Settings) -> Iterator[Tried]:
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    if settings.google_application_credentials:
        path = Path(settings.google_application_credentials)
        try:
            kind = json.loads(path.read_text())["type"]
        except OSError as error:
            yield name, False, f"{path} can't be read ({error.strerror})"
        except (ValueError, KeyError, TypeError):
            yield name, False, f"{path} is no key file of Google"
        else:
            yield name, kind == "service_account", f"{path}, of the kind {kind}; a service_account is needed"
    if settings.aws_profile:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            Session(profile=settings.aws_profile).get_scoped_config()
        except BotoCoreError as error:
            yield "AWS_PROFILE", False, str(error)
        else:
            yield "AWS_PROFILE", True, settings.aws_profile


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OperatorError) else error_text(error)


def _of_channel(error: Exception) -> str:
    return str(getattr(error, "sentence", None) or type(error).__name__)
