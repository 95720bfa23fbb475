"""`make demo`: a small service, and the main job on it through Dagster, as the schedule would run it.

Promises to touch only its own folder: every setting that could point elsewhere is set here, whatever the
environment or a `.env` file says, and the folder is refused unless an earlier demo made it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from saju_ops.defs.progress import LISTENERS
from saju_ops.demo.folder import DemoFolderError
from saju_ops.demo.service import DemoService, make_service, open_service
from saju_ops.dev import exec_dagster, prepare_home
from saju_ops.errors import OperatorError
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import are, counted

Echo = Callable[[str], None]
HOME = "dagster_home"
BACKUPS = "backups"


def run_demo(folder: Path, *, echo: Echo, now: datetime | None = None) -> None:
    """Makes the service if it isn't there, archives every due day, purges, and prints a summary for the operator."""
    folder = folder.absolute()
    try:
        service = open_service(folder) or _make(folder, now or datetime.now(UTC), echo)
    except DemoFolderError as error:
        raise OperatorError(str(error)) from None
    use_demo_settings(service)
    _archive_and_purge(folder, load_settings(), echo)
    _where_to_go_on(folder, echo)


def _make(folder: Path, now: datetime, echo: Echo) -> DemoService:
    echo(f"Making a small service in {folder} …")

    def progress(stage: str, done: int, whole: int) -> None:
        if done == whole:
            echo(f"  {stage}: {done:,}")

    service = make_service(folder, now=now, progress=progress)
    rows = service.rows
    echo(
        f"  {counted(rows['conversation_logs'], 'log row')} of {counted(rows['users'], 'user')},"
        f" {counted(rows['jobs'], 'paid job')}, {counted(rows['analysis_jobs'], 'analysis job')},"
        f" {counted(sum(service.collections.values()), 'vector')}."
    )
    return service


def use_demo_settings(service: DemoService) -> None:
    """Points every setting of this process, and of those it starts, at the demo."""
    folder = service.folder
    for field in Settings.model_fields.values():
        # Empty means the default, and wins over a .env file.
        os.environ[str(field.validation_alias)] = ""
    os.environ.update(
        DATABASE_URL=service.database_url,
        BACKUP_URI=str(folder / BACKUPS),
        CHROMA_DB_PATH=str(service.chroma),
        ARCHIVE_START_DATE=_first_day(service),
        DAGSTER_HOME=str(folder / HOME),
        DAGSTER_TELEMETRY_ENABLED="false",
        # The demo's paid jobs have no bucket; without this their purge would be refused.
        JOBS_S3_DELETE="false",
    )
    prepare_home(folder / HOME)


def _first_day(service: DemoService) -> str:
    """The first day that the demo ever had rows of: noted once, since the purge takes those rows away."""
    note = service.folder / HOME / "archive_start_date"
    if not note.exists():
        from zoneinfo import ZoneInfo

        from saju_ops.rows.engines.open import open_log_store

        with open_log_store(service.database_url, "conversation_logs", ZoneInfo("UTC")) as store:
            oldest = store.instants("asc") or datetime.now(UTC) - timedelta(days=60)
        note.parent.mkdir(mode=0o700, exist_ok=True)
        note.write_text(oldest.astimezone(ZoneInfo("Asia/Seoul")).date().isoformat())
    return note.read_text().strip()


def _archive_and_purge(folder: Path, settings: Settings, echo: Echo) -> None:
    from saju_ops.defs.conversation_logs.checks import due_with_rows
    from saju_ops.reports.conversation_logs import cleanup_report
    from saju_ops.rows.days import cutoff_day
    from saju_ops.rows.engines.open import Selection, open_log_store

    def open_store() -> Any:
        return open_log_store(settings.database_url, settings.conversation_log_table, settings.database_timezone)

    now = datetime.now(UTC)
    cutoff = cutoff_day(now, settings.log_retention_days, settings.timezone)
    with open_store() as store:
        due = due_with_rows(settings, store, now)
        before = store.count(Selection())
        store.end_read()
    if not due:
        echo(cleanup_report([], 0, cutoff.date, now))
        echo(f"There is nothing to do: no day with rows is older than {counted(settings.log_retention_days, 'day')}.")
        there = f"{counted(before, 'row')} {are(before)} in the database"
        echo(f"{there}. To begin anew, delete {folder} and run it again.")
        return
    echo(f"Archiving {counted(len(due), 'day')}, {due[0]} to {due[-1]}, and purging what is proven …")
    archived, deleted = _run_jobs(str(due[0]), str(due[-1]), echo)
    with open_store() as store:
        left = store.count(Selection())
        store.end_read()
    files = [m["dagster/uri"].value for m in archived if "dagster/uri" in m]
    echo("")
    echo(cleanup_report(files, sum(int(m["rows_written"].value) for m in archived), cutoff.date, now, deleted))
    echo("")
    for file in (*files[:2], *(["…"] if len(files) > 3 else []), *files[-1:]):
        size = f"  {Path(file).stat().st_size:>9,} bytes" if file != "…" else ""
        echo(f"  {file}{size}")
    total = sum(Path(f).stat().st_size for f in files)
    echo(f"{counted(len(files), 'file')}, {total:,} bytes. Rows left in the database: {left:,} of {before:,}.")


def _run_jobs(first: str, last: str, echo: Echo) -> tuple[list[Any], int]:
    """The chain that the weekly schedule starts, in this process, recorded in the demo's Dagster history."""
    import dagster as dg

    from saju_ops.definitions import defs
    from saju_ops.defs.conversation_logs.schedule import RANGE_END, RANGE_START

    definitions = defs()
    LISTENERS.append(_Progress(echo))
    with dg.DagsterInstance.get() as instance:
        archive = _execute(
            definitions, "archive_conversation_logs", instance, echo, tags={RANGE_START: first, RANGE_END: last}
        )
        purge = _execute(
            definitions, "purge_conversation_logs", instance, echo,
            ops={"purge_conversation_logs": {"config": {"dry_run": False}}},
        )  # fmt: skip
    events = [e.materialization.metadata for e in archive.get_asset_materialization_events()]
    outputs = [e.step_output_data.metadata for e in purge.all_events if e.event_type_value == "STEP_OUTPUT"]
    return [dict(e) for e in events], int(outputs[0]["rows_deleted"].value)


class _Progress:
    """The runs' own progress lines: every tenth, and the last."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._seen = 0

    def __call__(self, message: str) -> None:
        self._seen += 1
        if self._seen % 10 == 0 or "stopped:" in message:
            self._echo(f"    {message}")


def _execute(
    definitions: Any, job: str, instance: Any, echo: Echo, ops: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    echo(f"  {job} …")
    # Dagster's own lines would bury the few that a newcomer wants to see; the UI has them all.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops or {}}
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, run_config=quiet, **kwargs
    )
    if not result.success:
        failures = [e for e in result.all_events if e.is_step_failure]
        why = failures[0].step_failure_data.user_failure_data if failures else None
        raise OperatorError(f"{job} failed: {why.description if why else 'see the UI for its log'}")
    return result


def _where_to_go_on(folder: Path, echo: Echo) -> None:
    command = Path(sys.argv[0]).parent / "saju-ops" if sys.argv else Path("saju-ops")
    shown = os.path.relpath(command) if command.exists() else "saju-ops"
    where = os.path.relpath(folder)
    option = "" if where == ".demo" else f" --folder {where}"
    start = (folder / HOME / "archive_start_date").read_text().strip()
    env = f"DATABASE_URL=sqlite:///{where}/service.db BACKUP_URI={where}/{BACKUPS}"
    echo("")
    echo(f"Open the UI:   {shown} demo{option} --ui     (then http://127.0.0.1:3000)")
    echo(f"Restore a day: {env} \\")
    echo(f"               {shown} restore-logs --from {start} --to {start} --dry-run")


def open_ui(folder: Path) -> None:
    """Replaces this process by the UI and daemon on the demo's settings."""
    service = open_service(folder.absolute())
    if service is None:
        raise OperatorError(f"{folder} holds no demo; run `make demo` first.")
    use_demo_settings(service)
    exec_dagster(service.folder / HOME)
