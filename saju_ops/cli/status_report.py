"""The report of `saju-ops status`: each setting, and whether it can be used. Nothing is changed, except that a small
file is written into each store and a scratch database made on each server of a drill, and both are removed again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from pydantic import SecretStr

from saju_ops.cli.status_beside import tried
from saju_ops.database.address import driver_not_used, overridden, parse_database_url
from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.logins import hide_logins
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings, SettingsError
from saju_ops.storage.seal import Seals

if TYPE_CHECKING:
    from saju_ops.rows.engines.open import RowStore

DATABASE_SETTINGS = (
    "DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL", "REPLICA_URLS", "RESTORE_DRILL_URL",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    name: str
    # True usable, False not, None nothing to try.
    usable: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "    "}[self.usable]
        return f"{mark} {self.name:<24} {self.text}"


def report() -> tuple[list[str], bool]:
    """The lines to print, and whether everything that was tried is usable."""
    try:
        settings = load_settings()
    except SettingsError as error:
        return [f"FAIL {error}"], False
    lines = [
        *_settings(settings),
        *_databases(settings),
        *_drivers(settings),
        *_stores(settings),
        _chroma(settings),
        *(Line(*each) for each in tried(settings)),
        *_rest(settings),
    ]
    return [hide_logins(str(line)) for line in lines], all(line.usable is not False for line in lines)


def _settings(settings: Settings) -> Iterator[Line]:
    for name, field in type(settings).model_fields.items():
        alias = str(field.validation_alias)
        value = getattr(settings, name)
        if alias in ("DATABASE_URL", "BACKUP_URI", "CHROMA_DB_PATH") or alias.endswith("_DATABASE_URL"):
            continue  # tried below
        if isinstance(value, SecretStr):
            value = "set (not shown)"
        source = "" if name in settings.model_fields_set else "  (default)"
        yield Line(alias, None, f"{'not set' if value is None else value}{source}")


def _databases(settings: Settings) -> Iterator[Line]:
    yield _log_table(settings)
    yield _queue(
        "JOBS_DATABASE_URL", settings.jobs_database_url, settings.jobs_table, settings.jobs_database_timezone, settings
    )
    yield _queue(
        "ANALYSIS_DATABASE_URL", settings.analysis_database_url, "analysis_jobs", settings.analysis_database_timezone,
        settings,
    )  # fmt: skip
    yield from _cleaned_up(settings)


def _cleaned_up(settings: Settings) -> Iterator[Line]:
    """Columns and tables that the account may not see, which would stop the clean-ups of expired jobs and sessions."""
    from saju_ops.expired.job_tables import open_jobs
    from saju_ops.expired.sessions import open_sessions

    jobs = (settings.jobs_database_url, settings.jobs_table, settings.jobs_database_timezone)
    sessions = (settings.database_url, settings.sessions_table, settings.database_timezone)
    for name, opened, (url, table, zone) in (
        ("JOBS_TABLE", open_jobs, jobs),
        ("SESSIONS_TABLE", open_sessions, sessions),
    ):
        if _missing_file(name, url) is None and (why := _why_not_cleaned_up(opened, url, table, zone)):
            yield Line(name, False, f"{redacted(url)}: {why}")


def _why_not_cleaned_up(opened: Callable[..., RowStore], url: sa.URL, table: str, zone: ZoneInfo) -> str | None:
    from saju_ops.expired.batches import COLUMN
    from saju_ops.expired.foreign_keys import closure_of
    from saju_ops.rows.engines.interface import NoSuchTable

    try:
        with opened(url, table, zone) as store:
            return closure_of(store).unsure if COLUMN in store.table.names else None
    except NoSuchTable:
        return None
    except Refused as refusal:
        return str(refusal)
    except Exception:
        return None  # the line of the database says it


def _log_table(settings: Settings) -> Line:
    from saju_ops.rows.days import Day
    from saju_ops.rows.engines.open import open_log_store
    from saju_ops.rows.unseen_keys import require_seen

    url = settings.database_url
    missing = _missing_file("DATABASE_URL", url)
    if missing:
        return Line("DATABASE_URL", False, missing)
    try:
        with open_log_store(url, settings.conversation_log_table, settings.database_timezone) as store:
            table = store.table
            oldest = store.instants("asc")
            require_seen(store, [(None, table.name)], [(child.schema, child.table) for child in table.children])
            times = _times(store, "DATABASE_TIMEZONE", settings)
            undated = store.undated(Day(settings.archive_start_date, settings.timezone).start)
    except OperatorError as error:
        return Line("DATABASE_URL", False, str(error))
    except Exception as error:
        # What nobody foresaw, such as a file that is no database: this command is for finding that out.
        return Line("DATABASE_URL", False, f"{redacted(url)} can't be used ({error_text(error)})")
    index = "created_at is indexed" if table.time_index else "created_at has NO index: archives will be slow"
    text = (
        f"{redacted(url)}: {table.engine} {table.server_version}, table {table.shown} with {len(table.columns)}"
        f" columns, key {', '.join(table.key)}, {index}, oldest row {oldest or 'none'}, {times.text}"
    )
    words = {reason: reason.replace("_", " ").replace("created at", "created_at") for reason in undated}
    lost = ", ".join(f"{words[reason]}: {count}" for reason, count in undated.items() if count)
    notes = [f"In no day, and so never archived or purged: {lost}", *table.notes] if lost else table.notes
    return Line("DATABASE_URL", True, ". ".join([text, *notes]) + _not_held(url))


def _times(store: RowStore, setting: str, settings: Settings) -> Line:
    """The newest row's time beside the present time, and whether the configured zone can be right."""
    from saju_ops.expired.clocks import Clock, shown_span

    now = datetime.now(UTC)
    clock = Clock(store, setting, now)
    shown_times = []
    for name in ("created_at", "expires_at"):
        if (at := clock.newest(name)) is not None:
            side = "ago" if at <= now else "ahead"
            shown_times.append(f"newest {name} {at:%Y-%m-%d %H:%M:%S}+00:00 ({shown_span(now - at)} {side})")
    ahead = clock.ahead()
    if ahead is not None:
        shown_times.append(f"{clock.ahead_sentence(ahead)} Set {setting}, or correct the row")
    zones = [ZoneInfo("UTC"), settings.timezone, settings.database_timezone]
    shown_times += [] if ahead is not None else clock.doubts(zones)
    text = ", ".join([*shown_times, f"now {now:%Y-%m-%d %H:%M:%S}+00:00", f"times without a zone in {store.zone.key}"])
    return Line(setting, ahead is None, text)


def _drivers(settings: Settings) -> Iterator[Line]:
    """Addresses written for another program, with a driver that isn't ours."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if str(field.validation_alias) in DATABASE_SETTINGS and isinstance(value, SecretStr):
            for address in value.get_secret_value().split():
                if driver := driver_not_used(address):
                    ours = parse_database_url(address).drivername.partition("+")[2] or "Python's own sqlite3"
                    yield Line(str(field.validation_alias), None, f"its driver {driver} isn't used here, but {ours}")


def _queue(name: str, url: sa.URL, table: str, zone: ZoneInfo, settings: Settings) -> Line:
    """A database of jobs: whether it answers, and the times in its table, if it has one."""
    from saju_ops.expired.batches import open_table
    from saju_ops.rows.engines.interface import NoSuchTable

    missing = _missing_file(name, url)
    if missing:
        return Line(name, False, missing)
    reached = _reachable(name, url)
    if not reached.usable:
        return reached
    try:
        with open_table(url, table, zone, "JOBS_TABLE") as store:
            times = _times(store, name.replace("_URL", "_TIMEZONE"), settings)
    except NoSuchTable:
        return Line(name, True, f"{redacted(url)}, which has no table {table}{_not_held(url)}")
    except Exception as error:
        text = str(error) if isinstance(error, OperatorError) else error_text(error)
        return Line(name, True, f"{redacted(url)}; the times of {table} can't be read ({text})")
    usable = times.usable is not False or name != "JOBS_DATABASE_URL"  # the purge of jobs refuses such times
    return Line(name, usable, f"{redacted(url)}: table {table}, {times.text}")


def _reachable(name: str, url: sa.URL) -> Line:
    try:
        with connect(url).connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except Exception as error:
        return Line(name, False, f"{redacted(url)} can't be reached ({error_text(error)})")
    return Line(name, True, redacted(url) + _not_held(url))


def _not_held(url: sa.URL) -> str:
    names = overridden(url)
    return f"; its option for {', '.join(names)} doesn't hold: saju_ops sets that itself" if names else ""


def _missing_file(name: str, url: sa.URL) -> str | None:
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return f"there is no SQLite file {url.database}; name the database in {name}, or try `make demo`"
    return None


def _stores(settings: Settings) -> Iterator[Line]:
    """A line for each store of BACKUP_URI. Each is really tried: a small file is written, read and deleted."""
    from saju_ops.storage.probe import probe
    from saju_ops.wiring import open_backups

    storage = open_backups(settings)
    yield _sealed_by(storage.seals, settings.backup_seal_keys is not None)
    for store in storage.copies():
        try:
            yield Line("BACKUP_URI", True, probe(store))
        except (OperatorError, OSError) as error:
            text = str(error) if isinstance(error, OperatorError) else f"{store.uri}: {error.strerror or error}"
            yield Line("BACKUP_URI", False, text)


def _sealed_by(seals: Seals, by_key: bool) -> Line:
    if not seals:
        return Line(
            "seals", None, "backups are not sealed by a key: whoever can write into the store can change one, or make"
            " one, unnoticed. Set BACKUP_SEAL_KEY (`openssl rand -hex 32`) or ARCHIVE_PASSWORD, and run `saju-ops"
            " seal`",
        )  # fmt: skip
    first, *others = seals.keys
    text = f"sealed by the key {first.id} of {'BACKUP_SEAL_KEY' if by_key else 'ARCHIVE_PASSWORD'}"
    return Line("seals", None, text + (f"; {', '.join(k.id for k in others)} verify, too" if others else ""))


def _chroma(settings: Settings) -> Line:
    if settings.chroma_host:
        return _chroma_server(settings)
    path = Path(settings.chroma_db_path)
    if not path.is_dir():
        # A default that isn't there is no mistake: not every service keeps vectors.
        usable = False if "chroma_db_path" in settings.model_fields_set else None
        return Line("CHROMA_DB_PATH", usable, f"there is no folder {path.absolute()}; no snapshot can be taken")
    database = path / "chroma.sqlite3"
    if not database.is_file():
        return Line("CHROMA_DB_PATH", False, f"{path.absolute()} holds no chroma.sqlite3")
    if not os.access(database, os.R_OK | os.W_OK):
        return Line("CHROMA_DB_PATH", False, f"{database.absolute()} can't be read and locked by this user")
    return Line("CHROMA_DB_PATH", True, str(path.absolute()))


def _chroma_server(settings: Settings) -> Line:
    from saju_ops.chroma.probe import Server, probe
    from saju_ops.wiring import source_of

    server = Server(**source_of(settings).server)
    try:
        version = probe(server, 5.0)
    except OperatorError as error:
        return Line("CHROMA_HOST", False, str(error).removesuffix(" Nothing was read or written."))
    return Line("CHROMA_HOST", True, f"{server}, Chroma {version}{' by TLS' if server.tls else ''}")


def _rest(settings: Settings) -> Iterator[Line]:
    home = os.environ.get("DAGSTER_HOME")
    if home:
        yield Line("DAGSTER_HOME", os.access(home, os.W_OK), home)
    else:
        yield Line("DAGSTER_HOME", None, "not set (`make dev` sets it to .dagster_home)")
