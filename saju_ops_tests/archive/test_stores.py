"""Archive, purge and restore on every kind of store, with a password too: the same proofs, and nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from saju_ops.errors import OperatorError
from saju_ops.storage.open import DriveOptions, S3Options, Storage, StorageError, open_storage
from saju_ops.storage.s3.store import S3Storage
from saju_ops_tests.archive.scene import DAY, SECRET, Scene
from saju_ops_tests.fakes.drive import ROOT, DriveServer
from saju_ops_tests.fakes.s3 import Bucket, S3Server

PASSWORD = "correct horse battery"
BASE = "conversation_logs/2026/10/conversation_log_backup_20261001"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    with s3_server.bucket() as bucket:
        yield bucket


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)


def s3_options(bucket: Bucket) -> S3Options:
    return S3Options(
        endpoint_url=bucket.proxy.url, access_key_id="test", secret_access_key="secret", max_attempts=3,
        part_bytes=5 << 20,
    )  # fmt: skip


Open = Callable[[str | None], Storage]


@pytest.fixture(params=["s3", "drive", "folder and s3", "s3 and folder"])
def opened(request: pytest.FixtureRequest, bucket: Bucket, tmp_path: Path) -> Iterator[Open]:
    """Opens the store of this kind anew, as each run does."""
    if request.param == "drive":
        with DriveServer() as server:
            drive = DriveOptions(str(server.key_file(tmp_path)), server.url)
            yield lambda password: open_storage(f"gdrive://{ROOT}", password, drive=drive)
        return
    both = {"folder and s3": [f"{tmp_path}/copy", bucket.uri], "s3 and folder": [bucket.uri, f"{tmp_path}/copy"]}
    uri = ",".join(both.get(request.param, [bucket.uri]))
    yield lambda password: open_storage(uri, password, s3=s3_options(bucket))


@pytest.mark.long
@pytest.mark.parametrize("password", [None, PASSWORD], ids=["open", "encrypted"])
def test_archive_purge_and_restore_give_back_every_cell(
    sqlite_url: str, tmp_path: Path, opened: Open, password: str | None
) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(200, content=SECRET)
    scene.storage = opened(password)
    before = scene.state()
    assert scene.archive(compression="gzip").outcome == "archived"
    ending = ".csv.zip" if password else ".csv.gz"
    scene.storage = opened(password)
    assert list(scene.storage.names("")) == [BASE + ending, f"{BASE}.manifest.json"]
    assert scene.archive(compression="gzip").outcome == "unchanged"
    scene.add(5, first=5_000, content="늦은 줄")
    before = scene.state()
    assert scene.archive(compression="gzip").outcome == "archived"
    assert scene.purge().deleted == 205
    scene.storage = opened(password)
    assert scene.archive().outcome == "purged"
    assert scene.restore().written == 205
    assert scene.state() == before


@pytest.mark.long
def test_on_each_engine_a_large_day_is_uploaded_to_s3_in_parts(
    database_url: str, tmp_path: Path, bucket: Bucket
) -> None:
    scene = Scene(database_url, tmp_path / "unused").create_table()
    scene.add(900, content="가나다라" * 1_000)
    scene.storage = open_storage(bucket.uri, s3=s3_options(bucket))
    before = scene.state()
    assert scene.archive().outcome == "archived"
    assert bucket.proxy.count("PUT", "partNumber=") >= 2
    assert scene.purge().deleted == 900
    assert scene.restore().written == 900
    assert scene.state() == before


def in_s3(url: str, tmp_path: Path, bucket: Bucket, rows: int = 300) -> Scene:
    scene = Scene(url, tmp_path / "unused").create_table()
    scene.add(rows)
    scene.storage = open_storage(bucket.uri, s3=s3_options(bucket))
    return scene


@pytest.mark.long
@pytest.mark.parametrize("what", ["PUT", "HEAD", "GET"])
def test_a_store_that_fails_for_good_leaves_no_archive_and_nothing_deleted(
    sqlite_url: str, tmp_path: Path, bucket: Bucket, what: str
) -> None:
    scene = in_s3(sqlite_url, tmp_path, bucket)
    fault = bucket.proxy.add("status", what, times=10_000, status=503, code="SlowDown")
    with pytest.raises(OperatorError):
        scene.archive()
    assert fault.struck
    bucket.proxy.faults.clear()
    assert bucket.objects() == {}
    assert scene.archive().outcome == "archived"
    bucket.proxy.add("status", what, times=10_000, status=503, code="SlowDown")
    assert what != "GET" or scene_purged(scene) == 0
    assert scene.count() == 300


def scene_purged(scene: Scene) -> int:
    try:
        return scene.purge().deleted
    except StorageError:
        return 0


def test_rot_in_the_store_is_found_before_anything_is_deleted(sqlite_url: str, tmp_path: Path, bucket: Bucket) -> None:
    scene = in_s3(sqlite_url, tmp_path, bucket)
    scene.archive()
    data = bucket.objects()[f"saju/{BASE}.csv"]
    bucket.put(f"{BASE}.csv", data[:-2] + b"x\n")
    result = scene.purge()
    assert (result.deleted, scene.count()) == (0, 300)
    assert "damaged" in result.problems[0]
    bucket.put(f"{BASE}.csv", data)
    bucket.proxy.add("corrupt", "GET", r"\.csv")
    assert scene.purge().deleted == 0
    assert scene.purge().deleted == 300


KILLED = """
import os, signal, sys
from saju_ops.archive.day import DayArchiver
from saju_ops.storage.s3 import writer as s3
from saju_ops_tests.archive.test_stores import archive_once
target = {"part": (s3._S3Writer, "_part"), "finish": (s3._S3Writer, "_put"), "read": (s3._S3Writer, "read_back"),
          "commit": (s3._S3Writer, "commit"), "manifest": (DayArchiver, "_write_manifest")}[sys.argv[1]]
old = getattr(*target)
def dies(*args, **more):
    if sys.argv[2] == "after":
        old(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(*target, dies)
archive_once(*sys.argv[3:])
"""


def archive_once(url: str, uri: str, endpoint: str) -> None:
    scene = Scene(url, Path("unused"))
    options = S3Options(endpoint_url=endpoint, access_key_id="test", secret_access_key="secret", part_bytes=5 << 20)
    scene.storage = open_storage(uri, s3=options)
    scene.archive()


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "when"),
    [
        *(("part", "before"), ("finish", "after"), ("read", "after"), ("commit", "after")),
        *(("manifest", "before"), ("manifest", "after")),
    ],
)
def test_a_killed_run_leaves_nothing_that_counts_and_the_next_one_finishes_its_work(
    sqlite_url: str, tmp_path: Path, bucket: Bucket, at: str, when: str
) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(400, content="가" * (6_000 if at == "part" else 10))
    scene.storage = open_storage(bucket.uri, s3=s3_options(bucket))
    command = [sys.executable, "-c", KILLED, at, when, sqlite_url, bucket.uri, bucket.direct_url]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert died.returncode == -signal.SIGKILL, died.stderr
    counted = [name for name in bucket.objects() if name.endswith(".manifest.json")]
    assert len(counted) == (1 if (at, when) == ("manifest", "after") else 0)
    if not counted:
        assert scene.purge().deleted == 0
    assert scene.archive().outcome == ("unchanged" if counted else "archived")
    assert bucket.uploads() == []
    assert scene.parts() == [400]
    assert scene.purge().deleted == 400


# --- two stores -------------------------------------------------------------------------------------------


def two_stores(scene: Scene, bucket: Bucket, tmp_path: Path) -> None:
    scene.storage = open_storage(f"{tmp_path}/copy,{bucket.uri}", s3=s3_options(bucket))


@pytest.mark.long
@pytest.mark.parametrize("rows_meanwhile", [0, 3])
def test_with_one_store_down_the_run_fails_nothing_is_purged_and_the_next_run_completes(
    sqlite_url: str, tmp_path: Path, bucket: Bucket, rows_meanwhile: int
) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(300)
    two_stores(scene, bucket, tmp_path)
    bucket.proxy.add("status", times=100_000, status=503, code="SlowDown")
    for _ in range(2):
        two_stores(scene, bucket, tmp_path)
        with pytest.raises(StorageError, match="counts once it is in both"):
            scene.archive()
        assert bucket.objects() == {}
        assert (tmp_path / "copy" / f"{BASE}.manifest.json").is_file()
        two_stores(scene, bucket, tmp_path)
        problems = scene.purge().problems
        assert "counts only once it is in both" in problems[0]
        assert scene.count() == 300
    bucket.proxy.faults.clear()
    two_stores(scene, bucket, tmp_path)
    assert scene.purge().unarchived_days == [str(DAY)]
    if rows_meanwhile:
        scene.add(rows_meanwhile, first=1_000)
    two_stores(scene, bucket, tmp_path)
    assert scene.archive().outcome == ("archived" if rows_meanwhile else "unchanged")
    kept = {f"saju/{p.relative_to(tmp_path / 'copy')}": p.read_bytes() for p in (tmp_path / "copy").rglob("*.*")}
    assert bucket.objects() == kept
    assert scene.purge().deleted == 300 + rows_meanwhile


KILLED_BETWEEN = """
import os, signal, sys
from saju_ops.storage import local
from saju_ops_tests.archive.test_stores import archive_once
commit = local._LocalWriter.commit
def dies(self):
    if "/two/" in str(self._path):
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self)
local._LocalWriter.commit = dies
archive_once(*sys.argv[1:])
"""


@pytest.mark.long
def test_a_run_killed_when_one_of_two_stores_had_the_file_is_finished_in_both(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(100)
    uri = f"{tmp_path}/one,{tmp_path}/two"
    command = [sys.executable, "-c", KILLED_BETWEEN, sqlite_url, uri, "http://127.0.0.1:1"]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert died.returncode == -signal.SIGKILL, died.stderr
    scene.storage = open_storage(uri)
    assert scene.archive().outcome == "archived"
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / s).rglob("*.*")} for s in ("one", "two"))
    assert one == two
    assert sorted(one) == [f"{Path(BASE).name}.csv", f"{Path(BASE).name}.manifest.json"]
    assert scene.purge().deleted == 100


def test_a_purge_proves_both_copies(sqlite_url: str, tmp_path: Path, bucket: Bucket) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(100)
    two_stores(scene, bucket, tmp_path)
    scene.archive()
    data = bucket.objects()[f"saju/{BASE}.csv"]
    bucket.put(f"{BASE}.csv", data[:-1])
    result = scene.purge()
    assert result.deleted == 0
    assert f"{bucket.uri}/{BASE}.csv is damaged" in result.problems[0]


def test_a_restore_works_from_the_store_that_is_left(sqlite_url: str, tmp_path: Path, bucket: Bucket) -> None:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    scene.add(100)
    two_stores(scene, bucket, tmp_path)
    before = scene.state()
    scene.archive()
    scene.purge()
    bucket.proxy.add("reset", times=100_000)
    uri = f"{bucket.uri},{tmp_path}/copy"
    scene.storage = open_storage(uri, s3=s3_options(bucket), reading=True)
    assert scene.restore().written == 100
    assert scene.state() == before


def test_a_manifest_says_the_same_in_any_store(sqlite_url: str, tmp_path: Path, bucket: Bucket) -> None:
    scene = in_s3(sqlite_url, tmp_path, bucket)
    scene.archive()
    there: dict[str, Any] = json.loads(bucket.objects()[f"saju/{BASE}.manifest.json"])
    local = Scene(sqlite_url, tmp_path / "local")
    local.archive()
    here = json.loads(local.manifest_file().read_text())
    assert there == here
    assert isinstance(scene.storage, S3Storage)
