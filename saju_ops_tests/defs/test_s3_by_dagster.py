"""S3 by dagster-aws: the storage's client in Dagster's runs, and the output of runs in a bucket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saju_ops.storage.s3.address import CONNECT_SECONDS, S3Options
from saju_ops_tests.archive.scene import Scene
from saju_ops_tests.defs.project import ago
from saju_ops_tests.fakes.s3 import Bucket, S3Server

PROJECT = Path(__file__).resolve().parents[2]
ARCHIVE = """
import sys
import dagster as dg
from saju_ops.definitions import defs
with dg.DagsterInstance.get() as instance:
    job = defs().resolve_job_def("archive_conversation_logs")
    run = job.execute_in_process(instance=instance, partition_key=sys.argv[1])
print("dagster_aws" in sys.modules, run.success)
"""
BY_COMMAND = """
import sys
from saju_ops.cli.main import main
try:
    main(["archive"])
finally:
    print("dagster_aws" in sys.modules)
"""


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    with s3_server.bucket() as bucket:
        yield bucket


def environment(url: str, folder: Path, backup_uri: str, bucket: Bucket) -> dict[str, str]:
    (folder / "home").mkdir(exist_ok=True)
    return {
        **os.environ, "DATABASE_URL": url, "BACKUP_URI": backup_uri, "S3_ENDPOINT_URL": bucket.proxy.url,
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret-key", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "ARCHIVE_START_DATE": str(ago(60)), "DAGSTER_HOME": str(folder / "home"),
        "PYTHONWARNINGS": "ignore", "DAGSTER_TELEMETRY_ENABLED": "false",
    }  # fmt: skip


def python(code: str, env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def with_rows(sqlite_url: str, tmp_path: Path) -> str:
    scene = Scene(sqlite_url, tmp_path / "unused").create_table()
    for number, days in enumerate((40, 39)):
        scene.add(3, first=number * 100 + 1, day=ago(days))
    return sqlite_url


@pytest.mark.long
def test_a_run_gets_its_client_from_dagster_aws_and_the_command_does_without_it(
    with_rows: str, tmp_path: Path, bucket: Bucket
) -> None:
    env = environment(with_rows, tmp_path, bucket.uri, bucket)
    assert python(ARCHIVE, env, str(ago(40))).splitlines()[-1] == "True True"
    assert len([key for key in bucket.objects() if f"{ago(40)}".replace("-", "") in key]) == 2
    assert python(BY_COMMAND, env).splitlines()[-1] == "False"
    assert len([key for key in bucket.objects() if f"{ago(39)}".replace("-", "") in key]) == 2


@pytest.mark.long
def test_a_run_on_a_folder_does_not_pay_for_dagster_aws(with_rows: str, tmp_path: Path, bucket: Bucket) -> None:
    env = environment(with_rows, tmp_path, str(tmp_path / "backups"), bucket)
    assert python(ARCHIVE, env, str(ago(40))).splitlines()[-1] == "False True"


@pytest.mark.parametrize(
    ("options", "style"),
    [
        (S3Options("http://127.0.0.1:1", None, "a", "b"), "path"),
        (S3Options("http://127.0.0.1:1", "eu-west-1", "a", "b", "c", addressing_style="virtual"), "virtual"),
        (S3Options(None, "ap-northeast-2", "a", "b", max_attempts=3, read_seconds=7), "auto"),
    ],
)  # fmt: skip
def test_the_client_by_dagster_aws_has_every_limit_of_the_storages_own(options: S3Options, style: str) -> None:
    from dagster_aws.s3 import S3Resource

    from saju_ops.defs.s3_resource import BackupS3, client_of
    from saju_ops.storage.s3.client import s3_client

    mine, own = client_of(options), s3_client(options)
    assert issubclass(BackupS3, S3Resource)
    for name in (
        "connect_timeout", "read_timeout", "retries", "max_pool_connections", "s3", "tcp_keepalive",
        "request_checksum_calculation", "response_checksum_validation",
    ):  # fmt: skip
        assert getattr(mine.meta.config, name) == getattr(own.meta.config, name), name
    assert mine.meta.config.connect_timeout == CONNECT_SECONDS
    assert mine.meta.config.s3["addressing_style"] == style
    assert (mine.meta.endpoint_url, mine.meta.region_name) == (own.meta.endpoint_url, own.meta.region_name)


def test_no_definition_shows_the_keys_of_s3() -> None:
    from saju_ops.definitions import defs

    assert set(defs().get_repository_def().get_top_level_resources()) == {"log_database", "backup_storage"}


def compute_logs_on(yaml: str) -> str:
    """The configuration with the marks taken away before what keeps the output of runs in S3."""
    begin = yaml.index("#compute_logs:")
    end = yaml.index("\nscheduler:")
    part = re.sub(r"^#(?=[ c])", "", yaml[begin:end], flags=re.MULTILINE)
    for line in ("endpoint_url:", "  env: S3_ENDPOINT_URL"):
        part = part.replace(f"    #{line}", f"    {line}")
    return yaml[:begin] + part + yaml[end:]


@pytest.mark.long
def test_the_output_of_runs_is_in_the_bucket_that_the_variable_names(
    with_rows: str, tmp_path: Path, bucket: Bucket
) -> None:
    env = environment(with_rows, tmp_path, str(tmp_path / "backups"), bucket)
    env |= {"DAGSTER_LOGS_BUCKET": bucket.name, "S3_ENDPOINT_URL": bucket.direct_url}
    yaml = (PROJECT / "deploy" / "dagster.yaml").read_text()
    (tmp_path / "home" / "dagster.yaml").write_text(compute_logs_on(yaml))
    python(ARCHIVE, env, str(ago(40)))
    logs = {key: data for key, data in bucket.objects().items() if key.startswith("saju_ops_logs/storage/")}
    assert any(b"STEP_SUCCESS" in data for data in logs.values()), list(logs)


@pytest.mark.long
def test_the_configuration_that_is_copied_keeps_logs_on_disk_unless_somebody_takes_the_marks_away(
    with_rows: str, tmp_path: Path, bucket: Bucket
) -> None:
    env = environment(with_rows, tmp_path, str(tmp_path / "backups"), bucket)
    (tmp_path / "home" / "dagster.yaml").write_text((PROJECT / "deploy" / "dagster.yaml").read_text())
    assert python(ARCHIVE, env, str(ago(40))).splitlines()[-1] == "False True"
    assert bucket.objects() == {}
