"""SIGKILL at random moments: no job lost half, no file of a living job deleted, no payment without its archive."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from saju_ops.archive.verify import verify_part
from saju_ops.expired.job_files import FilePlace, JobFiles
from saju_ops.expired.row_archive import read_row_manifest, row_manifests
from saju_ops.storage.s3.address import S3Options
from saju_ops_tests.expired.files_scene import Files, files_behind_faults
from saju_ops_tests.expired.job_scene import HOUR, NOW, TABLES, JobScene, file_key
from saju_ops_tests.fakes.s3 import S3Server

EXPIRED = range(1, 41)
LIVING = range(100, 105)
KILLS = 6
PRELOAD = ["saju_ops_tests.expired.test_kill", "pyarrow.csv", "pyarrow.compute", "numpy", "boto3", "psycopg"]


@pytest.fixture
def files(s3_server: S3Server) -> Iterator[Files]:
    with files_behind_faults(s3_server) as files:
        yield files


def work(url: str, folder: str, bucket: str, endpoint: str, minutes: int, begun: Any) -> None:
    """One run, in a process that the test kills."""
    scene = JobScene(url, Path(folder))
    options = S3Options(endpoint_url=endpoint, region="us-east-1", access_key_id="x", secret_access_key="y")
    files = JobFiles(FilePlace(bucket, "jobs", options=options))
    _ = files.client
    begun.set()
    scene.purge(tables=TABLES, files=files, batch_jobs=3, now=NOW + timedelta(minutes=minutes), wait=20.0)


@pytest.mark.long
def test_whatever_moment_a_run_is_killed_at(database_url: str, tmp_path: Path, files: Files) -> None:
    scene = JobScene(database_url, tmp_path / "backups").create()
    scene.add(EXPIRED)
    scene.add(LIVING, NOW + 24 * HOUR)
    files.put_those_of([*EXPIRED, *LIVING])
    dice, took = random.Random(), 0.6
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    for minute in range(KILLS):
        begun = context.Event()
        args = (database_url, str(scene.folder), files.name, files.url, minute, begun)
        process = context.Process(target=work, args=args)
        process.start()
        assert process.pid is not None
        begun.wait(60)
        process.join(dice.uniform(0.02, took))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        require_nothing_lost(scene, files)
    result = scene.purge(tables=TABLES, files=files.purged_through(), now=NOW + HOUR, wait=20.0)
    assert not result.stayed
    require_nothing_lost(scene, files)
    assert len(scene.ids()) == len(LIVING)
    assert files.names() == {file_key(n, i) for n in LIVING for i in range(4)}


def require_nothing_lost(scene: JobScene, files: Files) -> None:
    archived = proven_payments(scene)
    stored = files.names()
    wholeness = scene.wholeness([*EXPIRED, *LIVING])
    for number in EXPIRED:
        whole = wholeness[number]
        assert whole is not False, f"job {number} is lost half"
        if whole is None:
            assert str(number) in archived, f"the payment of job {number} is in no archive"
    for number in LIVING:
        assert wholeness[number] is True
        assert {file_key(number, i) for i in range(4)} <= stored


def proven_payments(scene: JobScene) -> set[str]:
    """The payments in archives whose manifest is there and true."""
    found: set[str] = set()

    def begin() -> Any:
        return lambda batch, _hashes: found.update(v.decode() for v in batch.column("id").to_pylist())

    for name in row_manifests(scene.storage):
        manifest = read_row_manifest(scene.storage, name)
        verify_part(scene.storage, manifest, begin if manifest.table == "payments" else None)
    return found
