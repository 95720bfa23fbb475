"""Starts the Dagster UI and daemon on 127.0.0.1, with the settings that this command sees and no others.

Dagster's own commands let a `.env` file in their working folder override the environment (tried with 1.13.27), so
`DATABASE_URL=… make dev` beside a production `.env` would make schedule and purge work on production. Therefore the
settings are read here, the environment first, and Dagster is started in its home folder, where there is no `.env`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa

from saju_ops.errors import OperatorError
from saju_ops.processes import daemon_of, require_free
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import env_file_values

PROJECT = Path(__file__).resolve().parents[1]
WORKSPACE = PROJECT / "workspace.yaml"
DAGSTER_YAML = PROJECT / "deploy" / "dagster.yaml"
HOST, PORT = "127.0.0.1", 3000
LOCK = "saju_ops_dev.lock"
NOT_TWICE = (
    "Two daemons would start each schedule twice. End that one, or set another folder with its own history. Nothing was"
    " started."
)


def start_dev(home: Path, port: int = PORT) -> NoReturn:
    """Replaces this process by UI and daemon, with the settings of the environment and of `.env`.

    Earlier runs whose process is gone are ended first. Raises SettingsError, and OperatorError if another program has
    the port or another daemon the history, before anything is started.
    """
    pin_settings()
    exec_dagster(home, port)


def pin_settings() -> None:
    """Puts the settings into the environment, relative paths made absolute: they mean this working folder."""
    from saju_ops.storage.address import split_uri

    for name, value in env_file_values().items():
        if value is not None:
            os.environ.setdefault(name, value)
    settings = load_settings()
    _pin_sqlite("DATABASE_URL", settings.database_url)
    # These only where given: a schedule fails, and doesn't skip, where one names a database without its table.
    if settings.jobs_database_url_secret is not None:
        _pin_sqlite("JOBS_DATABASE_URL", settings.jobs_database_url)
    if settings.analysis_database_url_secret is not None:
        _pin_sqlite("ANALYSIS_DATABASE_URL", settings.analysis_database_url)
    os.environ["BACKUP_URI"] = ",".join(map(_pin_store, split_uri(settings.backup_uri)))
    os.environ["CHROMA_DB_PATH"] = str(Path(settings.chroma_db_path).expanduser().absolute())


def _pin_store(uri: str) -> str:
    if uri.startswith(("s3://", "gdrive://")):
        return uri
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def _pin_sqlite(name: str, url: sa.URL) -> None:
    if url.get_backend_name() == "sqlite":
        os.environ[name] = url.render_as_string(hide_password=False)


def prepare_home(home: Path) -> None:
    """A DAGSTER_HOME with this project's configuration; an existing configuration is left as it is."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        if DAGSTER_YAML.exists():
            shutil.copyfile(DAGSTER_YAML, config)
        else:
            config.write_text("telemetry:\n  enabled: false\n")


def exec_dagster(home: Path, port: int = PORT) -> NoReturn:
    require_free(HOST, port, "--port")
    home = home.absolute()
    prepare_home(home)
    _be_the_only_one(home)
    binaries = Path(sys.executable).parent
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    # `dagster dev` says at every start that `dg dev` supersedes it; dg has no way around the .env either.
    os.environ["PYTHONWARNINGS"] = "ignore"
    where = ["-w", str(WORKSPACE)] if WORKSPACE.exists() else ["-m", "saju_ops.definitions"]
    _end_dead_runs()
    dagster = [str(binaries / "dagster"), "dev", *where, "-h", HOST, "-p", str(port)]
    os.chdir(home)
    os.execv(sys.executable, [sys.executable, "-m", "saju_ops.supervise", *dagster])


def _be_the_only_one(home: Path) -> None:
    """Two daemons on one history would start each schedule twice. The lock is held until UI and daemon are gone.

    Raises OperatorError.
    """
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OperatorError(f"Another `saju-ops dev` works on the history in {home}. {NOT_TWICE}") from None
    if (pid := daemon_of(home)) is not None:
        os.close(descriptor)
        raise OperatorError(f"Dagster's daemon works on the history in {home} already, as process {pid}. {NOT_TWICE}")
    os.set_inheritable(descriptor, True)


def _end_dead_runs() -> None:
    """Dagster starts all the same where its history can't be read: it says why better than we could."""
    from saju_ops.dead_runs import main

    try:
        main()
    except Exception as error:
        print(f"Runs of before could not be looked at ({type(error).__name__}).", file=sys.stderr)
