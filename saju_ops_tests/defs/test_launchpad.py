"""What the launchpad may be given: a value that a run can't work with is refused before there is a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.error import HTTPError

import dagster as dg
import pytest
from dagster._core.errors import DagsterInvalidConfigError
from pydantic.fields import FieldInfo

from saju_ops.bounds import Bounds, bounds_of
from saju_ops.definitions import defs
from saju_ops_tests.defs.dev_server import LAUNCH, DevServer
from saju_ops_tests.defs.project import Project


def configs() -> Iterator[tuple[dg.JobDefinition, str, type[dg.Config]]]:
    """Every job that has a config, with the op as its run config names it, and the class of the config."""
    for job in defs().resolve_all_job_defs():
        for node in job.nodes:
            function = getattr(getattr(node.definition, "compute_fn", None), "decorated_fn", None)
            config = getattr(function, "__annotations__", {}).get("config")
            if isinstance(config, type) and issubclass(config, dg.Config):
                yield job, node.name, config


def is_number(field: FieldInfo) -> bool:
    kinds = [field.annotation, *(part for each in get_args(field.annotation) for part in (each, *get_args(each)))]
    return int in kinds or float in kinds


def test_every_field_of_every_run_config_has_a_description_and_every_number_its_bounds() -> None:
    found = list(configs())
    assert {op for _, op, _ in found} >= {"purge_conversation_logs", "purge_expired_jobs", "reconcile_stale_jobs"}
    fields = [(config, name, field) for _, _, config in found for name, field in config.model_fields.items()]
    assert [(config.__name__, name) for config, name, field in fields if not field.description] == []
    assert [
        (config.__name__, name)
        for config, name, field in fields
        if is_number(field) and bounds_of(field, field.annotation) == Bounds()
    ] == []


def test_a_number_outside_of_its_bounds_is_refused_before_there_is_a_run() -> None:
    tried = 0
    with dg.DagsterInstance.ephemeral() as instance:
        for job, op, config in configs():
            required = {name: "2026-10-01" for name, field in config.model_fields.items() if field.is_required()}
            for name, field in config.model_fields.items():
                bounds = bounds_of(field, field.annotation)
                for value in (bounds.least - 1, bounds.most + 1) if is_number(field) else ():
                    if value == math.inf:
                        continue
                    sentence = f"{name} is {value:g}; it may be {bounds}. Nothing was touched."
                    with pytest.raises(DagsterInvalidConfigError, match=re.escape(sentence)):
                        job.execute_in_process({"ops": {op: {"config": {**required, name: value}}}}, instance=instance)
                    tried += 1
        assert instance.get_runs() == []
    assert tried > 20


@pytest.mark.parametrize(
    ("job", "config"),
    [("purge_conversation_logs", {"from_day": "2026-02-30"}), ("purge_conversation_logs", {"to_day": "soon"}),
     ("restore_conversation_logs", {"from_day": "1.10.2026", "to_day": "2026-10-02"}),
     ("restore_database_dump", {"at": "yesterday"}), ("restore_chroma_snapshot", {"at": "2026-13-01 00:00"})],
)  # fmt: skip
def test_a_day_or_a_time_that_is_none_is_refused_before_there_is_a_run(job: str, config: dict[str, str]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(DagsterInvalidConfigError, match="; it may be a date"):
            defs().resolve_job_def(job).execute_in_process({"ops": {job: {"config": config}}}, instance=instance)
        assert instance.get_runs() == []


def test_the_launchpad_shows_every_field_that_is_a_text() -> None:
    """A default of None would be left out of what it fills in."""
    hidden = [
        (config.__name__, name)
        for _, _, config in configs()
        for name, field in config.model_fields.items()
        if field.default is None and not is_number(field)
    ]
    assert hidden == []


@pytest.mark.long
def test_a_launch_from_the_ui_with_no_rows_a_chunk_says_why_and_makes_no_run(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(sqlite_url, tmp_path, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    job = "purge_conversation_logs"
    selector = {"repositoryLocationName": "saju_ops", "repositoryName": "__repository__", "jobName": job}
    with DevServer(tmp_path / "home", project.environment()) as dev, dg.DagsterInstance.get() as instance:
        config = {"ops": {job: {"config": {"dry_run": False, "chunk_size": 0}}}}
        # Dagster answers so where the code server refuses a launch; the UI shows the error that the answer holds.
        with pytest.raises(HTTPError) as answered:
            dev.graphql(LAUNCH, selector=selector, config=config)
        answer = json.loads(answered.value.read())["data"]["launchRun"]
        assert "chunk_size is 0; it may be from 1 to 100000. Nothing was touched." in answer["message"]
        assert instance.get_runs() == []
