"""The probe says of a store whether it can be used, by using it, and leaves nothing there."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops.storage.local import LocalStorage
from saju_ops.storage.open import S3Options, StorageError
from saju_ops.storage.probe import probe
from saju_ops.storage.s3.store import S3Storage
from saju_ops_tests.fakes.s3 import Bucket


def s3(bucket: Bucket) -> S3Storage:
    return S3Storage(bucket.uri, S3Options(bucket.proxy.url, access_key_id="a", secret_access_key="b", max_attempts=2))


def test_a_store_that_works_is_left_as_it_was(tmp_path: Path, bucket: Bucket) -> None:
    root = tmp_path / "backups"
    root.mkdir()
    assert "written, read and deleted" in probe(LocalStorage(root))
    assert list(root.iterdir()) == []
    assert "written, read and deleted" in probe(s3(bucket))
    assert bucket.objects() == {}


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert "made at the first archive" in probe(LocalStorage(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_disk_that_is_not_mounted_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    with pytest.raises(StorageError, match="is its disk mounted"):
        probe(LocalStorage(tmp_path / "link"))


def test_a_store_without_conditional_writes_is_said(bucket: Bucket) -> None:
    bucket.proxy.add("status", header="If-None-Match", times=9, status=501, code="NotImplemented")
    assert "no conditional writes" in probe(s3(bucket))
    assert bucket.objects() == {}


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_what_is_not_allowed_is_said(bucket: Bucket, method: str) -> None:
    bucket.proxy.add("status", method, "probe", times=99, status=403, code="AccessDenied")
    with pytest.raises(StorageError, match="access denied"):
        probe(s3(bucket))


def test_a_store_that_gives_back_other_bytes_is_said(bucket: Bucket) -> None:
    bucket.proxy.add("corrupt", "GET", "probe", times=99)
    with pytest.raises(StorageError, match="differs"):
        probe(s3(bucket))
