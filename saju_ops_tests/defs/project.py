"""The project's definitions on one log table, run in this process, with what a run left in the event log.

Days are counted back from today in Seoul, because assets and jobs ask the clock themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from saju_ops.definitions import defs
from saju_ops.rows.days import Day
from saju_ops_tests.archive.scene import SEOUL, Scene

# A message that must never show up in a run's events, logs or output.
CANARY = "카나리아 상담 내용 canary-4711"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def ago(days: int) -> Day:
    """The day in Seoul so many days before today. With the default retention, 31 is the first that is due."""
    return Day(datetime.now(SEOUL).date() - timedelta(days=days), SEOUL)


class Project:
    """A table with rows, a backup folder, an instance of Dagster, and the definitions on them."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        self.scene = Scene(url, folder / "backups").create_table()
        self.settings = {
            "DATABASE_URL": url,
            "BACKUP_URI": str(folder / "backups"),
            "ARCHIVE_START_DATE": str(ago(60)),
            **settings,
        }
        for name, value in self.settings.items():
            monkeypatch.setenv(name, value)
        self.instance = dg.DagsterInstance.ephemeral()

    @property
    def definitions(self) -> dg.Definitions:
        return defs()

    def add(self, rows: int, day: Day, first: int) -> None:
        self.scene.add(rows, first=first, day=day, content=CANARY)

    def run(
        self, job: str, config: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None, **more: Any
    ) -> Run:
        ops = {"ops": {job: {"config": dict(config)}}} if config is not None else {}
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=ops, tags=tags, **more
        )
        return Run(self.instance, result.run_id)

    def archive(self, first: Day, last: Day | None = None) -> Run:
        if last is None:
            return self.run("archive_conversation_logs", partition_key=str(first))
        return self.run("archive_conversation_logs", tags={RANGE_START: str(first), RANGE_END: str(last)})

    def purge(self, **config: Any) -> Run:
        return self.run("purge_conversation_logs", config)

    def environment(self, **more: str) -> dict[str, str]:
        """For a process of its own."""
        return {**os.environ, "PYTHONWARNINGS": "ignore", "DAGSTER_TELEMETRY_ENABLED": "false", **self.settings, **more}


class Run:
    """What the instance knows of a run."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self.instance, self.run_id = instance, run_id

    @property
    def run(self) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run

    @property
    def succeeded(self) -> bool:
        return self.run.status is dg.DagsterRunStatus.SUCCESS

    def events(self, kind: str) -> Iterator[dg.DagsterEvent]:
        for entry in self.instance.all_logs(self.run_id):
            if entry.dagster_event is not None and entry.dagster_event.event_type_value == kind:
                yield entry.dagster_event

    def materialized(self) -> dict[str, dict[str, Any]]:
        """Per partition the metadata of its newest materialization."""
        found = {}
        for event in self.events("ASSET_MATERIALIZATION"):
            materialization = event.step_materialization_data.materialization
            assert materialization.partition is not None
            found[materialization.partition] = plain(materialization.metadata)
        return found

    def observed(self) -> list[tuple[str, dict[str, Any]]]:
        found = [e.asset_observation_data.asset_observation for e in self.events("ASSET_OBSERVATION")]
        return [(o.asset_key.to_user_string(), plain(o.metadata)) for o in found]

    def checks(self) -> dict[str, tuple[bool, dict[str, Any]]]:
        found = [e.asset_check_evaluation_data for e in self.events("ASSET_CHECK_EVALUATION")]
        return {c.check_name: (c.passed, plain(c.metadata)) for c in found}

    def outputs(self) -> dict[str, Any]:
        (event,) = self.events("STEP_OUTPUT")
        return plain(event.step_output_data.metadata)

    @property
    def failure(self) -> str:
        """What an operator reads first: the failed step's own words."""
        (event,) = self.events("STEP_FAILURE")
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return str(data.user_failure_data.description)
        return str(data.error)

    @property
    def messages(self) -> list[str]:
        return [e.user_message for e in self.instance.all_logs(self.run_id) if e.user_message]

    def everything(self) -> str:
        """Every event as it is stored."""
        return "\n".join(dg.serialize_value(e) for e in self.instance.all_logs(self.run_id))


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.value for key, value in metadata.items()}


def recorded_run(
    instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, tags: Mapping[str, str],
    selection: frozenset[dg.AssetKey] | None = None,
) -> dg.DagsterRun:  # fmt: skip
    """A run in this state, as the instance would have it from an earlier hour; nothing is executed."""
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("saju_ops"), "__repository__"), job)
    run = dg.DagsterRun(
        job_name=job, run_id=str(uuid4()), status=status, tags=tags, asset_selection=selection,
        remote_job_origin=origin,
    )  # fmt: skip
    return instance.add_run(run)
