"""An instance of Dagster, the project's definitions and the alert sensor on a Slack that can be broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster import DagsterEventType as Kind
from dagster._core.events import DagsterEvent, JobFailureData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from saju_ops.alerts.outbox import FILE, Outbox
from saju_ops.definitions import defs
from saju_ops.reports.message import Message
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

SUCCESS, FAILURE, CANCELED = Kind.RUN_SUCCESS, Kind.RUN_FAILURE, Kind.RUN_CANCELED
STATUS = {
    SUCCESS: dg.DagsterRunStatus.SUCCESS, FAILURE: dg.DagsterRunStatus.FAILURE, CANCELED: dg.DagsterRunStatus.CANCELED,
}  # fmt: skip


def ended(
    instance: dg.DagsterInstance, kind: Kind = SUCCESS, job: str = "purge_conversation_logs",
    location: str = "saju_ops", tags: Mapping[str, str] | None = None, message: str = "",
) -> str:  # fmt: skip
    """A run that ended just now, as its own process would have stored it. Nothing is executed."""
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__"), job)
    run = dg.DagsterRun(job_name=job, run_id=str(uuid4()), tags=dict(tags or {}), remote_job_origin=origin)
    instance.add_run(run)
    _give_event_file(instance, run.run_id)
    data = JobFailureData(None, None, None) if kind is FAILURE else None
    event = DagsterEvent(kind.value, job, message=message or f'Execution of run for "{job}".', event_specific_data=data)
    instance.report_dagster_event(event, run_id=run.run_id)
    return run.run_id


def _give_event_file(instance: dg.DagsterInstance, run_id: str) -> None:
    """The run's own event file, copied from an empty one: Dagster takes half a second to make it, and tests have
    hundreds of runs."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    empty = Path(storage.path_for_shard("empty-for-tests"))
    if not empty.exists():
        with storage.run_connection("empty-for-tests"):
            pass
    shutil.copy(empty, storage.path_for_shard(run_id))


def new_instance(folder: Path) -> dg.DagsterInstance:
    """An instance on its own files, copied from a fresh one beside the tests' folders: making one takes a second."""
    fresh = folder.parent.parent / "fresh-dagster-instance"
    if not fresh.exists():
        fresh.mkdir()
        with dg.DagsterInstance.local_temp(str(fresh)) as made:
            made.get_runs()
            made.fetch_run_status_changes(SUCCESS, limit=1)
            made.all_instigator_state()
    shutil.copytree(fresh, folder, dirs_exist_ok=True)
    return dg.DagsterInstance.local_temp(str(folder))


@dataclass
class Tick:
    """What one tick did."""

    summary: str
    error: str = ""


class AlertScene:
    """`tick` is what the daemon does: it keeps the cursor, and not the cursor of a tick that failed."""

    def __init__(self, folder: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        self.fake, self.folder, self._monkeypatch = fake, folder, monkeypatch
        home = {"SLACK_BOT_TOKEN": TOKEN, "SLACK_API_URL": fake.url, "DATABASE_URL": f"sqlite:///{folder / 'logs.db'}"}
        for name, value in {**home, **settings}.items():
            monkeypatch.setenv(name, value)
        self.instance = new_instance(folder / "instance")
        self._cursor: str | None = None
        self.definitions = defs()

    def reload(self, **settings: str) -> None:
        """The code location with other settings."""
        for name, value in settings.items():
            self._monkeypatch.setenv(name, value)
        self.definitions = defs()

    def tick(self, times: int = 1) -> Tick:
        tick = Tick("")
        for _ in range(times):
            tick = self._tick()
        return tick

    def _tick(self) -> Tick:
        sensor = next(s for s in self.definitions.sensors or [] if s.name == "alerts")
        assert isinstance(sensor, dg.SensorDefinition)
        with dg.build_sensor_context(
            instance=self.instance, cursor=self._cursor, definitions=self.definitions
        ) as context:
            try:
                result = sensor(context)
            except Exception as error:
                return Tick("", str(error))
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        reason = result.skip_reason
        return Tick(reason.skip_message or "" if isinstance(reason, dg.SkipReason) else reason or "")

    def begin(self) -> None:
        assert "begun here" in self.tick().summary

    @property
    def outbox(self) -> Outbox:
        return Outbox(Path(self.instance.storage_directory()) / FILE)

    def lose_outbox(self) -> None:
        (Path(self.instance.storage_directory()) / FILE).unlink()

    def forget_backoff(self) -> None:
        """As if the channels' pauses were over."""
        import sqlite3

        with sqlite3.connect(self.outbox.path) as db:
            db.execute("UPDATE channels SET not_before = 0")
            db.execute("UPDATE deliveries SET not_before = 0")
            db.execute("UPDATE files SET not_before = 0")

    def run(self, job: dg.JobDefinition, **more: Any) -> str:
        """Executes a job here, as one of the project's would be."""
        result = job.execute_in_process(instance=self.instance, raise_on_error=False, **more)
        return result.run_id

    @property
    def words(self) -> list[str]:
        return [m.words for m in self.fake.messages]

    def last(self) -> str:
        return self.fake.messages[-1].words

    def waiting(self) -> list[Message]:
        return [w.message for w in self.outbox.waiting("slack")]

    @property
    def cursor(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._cursor or "{}")
        return found
