"""Cancelling a purge from the UI, with real processes: no chunk is cut in two, and the next run continues."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest

from saju_ops_tests.defs.dev_server import DevServer, ended, until
from saju_ops_tests.defs.project import Project, Run, ago

ROWS, CHUNK = 1200, 20


@pytest.mark.long
def test_a_purge_that_is_cancelled_stops_between_chunks_says_why_and_the_next_continues(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(mysql_url, tmp_path, monkeypatch)
    for number in range(3):
        project.add(ROWS // 3, ago(40 - number), first=1 + number * 1000)
        project.scene.archive(ago(40 - number))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with DevServer(tmp_path / "home", project.environment()) as dev, dg.DagsterInstance.get() as instance:
        run_id = dev.launch("purge_conversation_logs", dry_run=False, chunk_size=CHUNK, pause_seconds=0.3)
        until(lambda: project.scene.count() <= ROWS - 3 * CHUNK, 60, "the third chunk")
        dev.terminate(run_id)
        assert ended(instance, run_id).status is dg.DagsterRunStatus.CANCELED
        left = project.scene.count()
        assert 0 < left < ROWS
        assert left % CHUNK == 0
        run = Run(instance, run_id)
        ((asset, metadata),) = run.observed()
        assert (asset, metadata["stopped"]) == ("conversation_logs", "cancelled by the operator")
        assert metadata["rows_deleted"] == ROWS - left
        assert any("stopped: cancelled by the operator" in message for message in run.messages)
        time.sleep(1)
        assert project.scene.count() == left, "it went on after it was cancelled"

        run_id = dev.launch("purge_conversation_logs", dry_run=False)
        assert ended(instance, run_id).status is dg.DagsterRunStatus.SUCCESS
        assert Run(instance, run_id).outputs()["rows_deleted"] == left
        assert project.scene.count() == 0
