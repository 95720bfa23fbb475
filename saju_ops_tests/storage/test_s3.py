"""S3 as storage: whole or not at all, never over anything, and never wrong without saying so, whatever breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from hashlib import sha256
from typing import Any

import pytest

from saju_ops.storage.open import AlreadyThere, StorageError
from saju_ops.storage.s3.address import FIRST_PART, MIB, S3Options, parse_s3_uri
from saju_ops.storage.s3.store import S3Storage
from saju_ops.storage.s3.writer import part_size
from saju_ops_tests.fakes.s3 import Bucket, S3Server

NAME = "conversation_logs/2026/10/a.csv"
KEY = f"saju/{NAME}"
SECRET_KEY = "very-secret-access-key"
# The least that S3 takes for a part; moto takes it too.
PART = 5 * MIB


def storage_at(bucket: Bucket, **options: Any) -> S3Storage:
    found = {"max_attempts": 4, "read_seconds": 20.0, "part_bytes": PART, **options}
    credentials = {"access_key_id": "test", "secret_access_key": SECRET_KEY}
    return S3Storage(
        bucket.uri, S3Options(endpoint_url=bucket.proxy.url, **credentials, **found), sleep=lambda seconds: None
    )


@pytest.fixture
def storage(bucket: Bucket) -> S3Storage:
    return storage_at(bucket)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)


def put(storage: Any, name: str, data: bytes, *, read: bool = False) -> None:
    with storage.create(name) as writer:
        for start in range(0, len(data), 300_000):
            writer.write(data[start : start + 300_000])
        if read:
            with writer.read_back() as stream:
                assert stream.read() == data
        writer.commit()


SMALL = os.urandom(1_000)
LARGE = os.urandom(2 * PART + 12_345)


@pytest.mark.long
@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("data", [b"", SMALL, LARGE, os.urandom(PART)], ids=["empty", "small", "large", "one part"])
def test_what_was_committed_is_read_back(storage: S3Storage, bucket: Bucket, data: bytes, read: bool) -> None:
    put(storage, NAME, data, read=read)
    assert bucket.objects() == {KEY: data}
    assert bucket.uploads() == []
    with storage.open(NAME) as stream:
        assert stream.read() == data
    assert (storage.exists(NAME), storage.size(NAME), list(storage.names(""))) == (True, len(data), [NAME])
    assert storage.location(NAME) == f"s3://{bucket.name}/{KEY}"


def test_a_name_that_exists_is_never_written_again(storage: S3Storage, bucket: Bucket) -> None:
    put(storage, NAME, SMALL)
    for data in (b"two", LARGE):
        with pytest.raises(AlreadyThere, match="not overwritten"):
            put(storage, NAME, data)
    assert bucket.objects() == {KEY: SMALL}
    assert bucket.uploads() == []


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_of_two_writers_of_one_name_the_first_wins(storage: S3Storage, bucket: Bucket, data: bytes) -> None:
    with storage.create(NAME) as one, storage.create(NAME) as two:
        one.write(data)
        two.write(b"two")
        two.commit()
        with pytest.raises(AlreadyThere):
            one.commit()
    assert bucket.objects() == {KEY: b"two"}
    assert bucket.uploads() == []


@pytest.mark.long
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("read", [True, False])
def test_leaving_without_a_commit_leaves_nothing(storage: S3Storage, bucket: Bucket, data: bytes, read: bool) -> None:
    def break_off() -> None:
        with storage.create(NAME) as writer:
            writer.write(data)
            if read:
                writer.read_back().read()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert bucket.objects() == {}
    assert bucket.uploads() == []


def test_a_bucket_with_versions_keeps_no_version_of_what_was_not_committed(s3_server: S3Server) -> None:
    with s3_server.bucket(versions=True) as bucket:
        storage = storage_at(bucket)
        with storage.create(NAME) as writer:
            writer.write(SMALL)
            writer.read_back().read()
        versions = bucket.client.list_object_versions(Bucket=bucket.name)
        assert (versions.get("Versions", []), versions.get("DeleteMarkers", [])) == ([], [])
        put(storage, NAME, SMALL)
        storage.delete(NAME)
        assert "keeps versions" in storage.remains()
        assert not storage.exists(NAME)
        bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})
        assert "old versions stay" in storage.remains()


def test_what_was_not_committed_is_hidden_where_versions_are_locked(s3_server: S3Server) -> None:
    with s3_server.bucket(locked=True) as bucket:
        storage = storage_at(bucket)
        for data in (SMALL, LARGE):
            with storage.create(NAME) as writer:
                writer.write(data)
                writer.read_back().read()
            assert list(storage.names("")) == []
        put(storage, NAME, LARGE)
        assert bucket.objects() == {KEY: LARGE}


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey"), (501, "NotImplemented")])
def test_where_unfinished_uploads_cannot_be_listed_the_work_continues(
    storage: S3Storage, bucket: Bucket, status: int, code: str
) -> None:
    bucket.proxy.add("status", "GET", "uploads", status=status, code=code, times=99)
    assert storage.clear_unfinished("conversation_logs/2026/10/a") == 0


def test_names_are_sorted_over_all_pages_and_only_those_with_the_prefix(
    storage: S3Storage, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    for number in range(30):
        bucket.put(f"many/{number:04}", b"")
    for name in ("b/2", "b/1", "a/1", "bb", "한글 이름+&.csv", "folder/"):
        bucket.put(name, b"")
    bucket.client.put_object(Bucket=bucket.name, Key="elsewhere/b/3", Body=b"")
    assert list(storage.names("b")) == ["b/1", "b/2", "bb"]
    assert list(storage.names("b/")) == ["b/1", "b/2"]
    before = bucket.proxy.count("GET", "list-type")
    assert len(list(storage.names("many/"))) == 30
    assert bucket.proxy.count("GET", "list-type") >= before + 5
    assert "한글 이름+&.csv" in list(storage.names(""))
    assert list(storage.names("nothing/")) == []


def test_what_killed_writers_left_is_invisible_and_cleared_by_its_prefix(storage: S3Storage, bucket: Bucket) -> None:
    for key in (KEY, "saju/conversation_logs/2026/11/b.csv"):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    assert list(storage.names("")) == []
    assert storage.clear_unfinished("conversation_logs/2026/10/a") == 1
    assert bucket.uploads() == ["saju/conversation_logs/2026/11/b.csv"]


def test_deleting_is_for_one_name_and_a_missing_one_is_fine(storage: S3Storage) -> None:
    put(storage, NAME, SMALL)
    put(storage, NAME + "x", SMALL)
    storage.delete(NAME)
    storage.delete(NAME)
    assert list(storage.names("")) == [NAME + "x"]
    with pytest.raises(FileNotFoundError):
        storage.open(NAME)
    with pytest.raises(FileNotFoundError):
        storage.size(NAME)
    assert storage.remains() == ""


# --- faults while writing ---------------------------------------------------------------------------------

FAULTS = [
    ("status", {"status": 500}),
    ("status", {"status": 503, "code": "SlowDown"}),
    ("status", {"status": 400, "code": "RequestTimeout"}),
    ("status", {"status": 400, "code": "BadDigest"}),
    ("reset", {}),
    ("lost", {}),
    ("slow", {"seconds": 0.7}),
]
PLACES = {
    "put": ("PUT", r"a\.csv$", SMALL),
    "begin": ("POST", r"\?uploads", LARGE),
    "part": ("PUT", "partNumber=2", LARGE),
    "last part": ("PUT", "partNumber=3", LARGE),
    "complete": ("POST", "uploadId=", LARGE),
}


# A request without a body can't arrive with a damaged one.
CASES = [(p, k, m) for p in PLACES for k, m in FAULTS if m.get("code") != "BadDigest" or PLACES[p][0] == "PUT"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("place", "kind", "more"), CASES, ids=[f"{p}-{k}-{m.get('code', m.get('status', ''))}" for p, k, m in CASES]
)
def test_a_fault_that_passes_costs_nothing(bucket: Bucket, place: str, kind: Any, more: dict[str, Any]) -> None:
    storage = storage_at(bucket, read_seconds=0.5 if kind == "slow" else 20.0)
    method, path, data = PLACES[place]
    fault = bucket.proxy.add(kind, method, path, **more)
    put(storage, NAME, data, read=True)
    assert fault.struck == 1
    assert bucket.objects() == {KEY: data}


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_stays_leaves_nothing_and_says_so(storage: S3Storage, bucket: Bucket, place: str) -> None:
    method, path, data = PLACES[place]
    bucket.proxy.add("status", method, path, times=99, status=503, code="SlowDown")
    with pytest.raises(StorageError, match=r"503 SlowDown") as raised:
        put(storage, NAME, data)
    assert bucket.name in str(raised.value)
    bucket.proxy.faults.clear()
    assert bucket.objects() == {}
    assert bucket.uploads() == []
    put(storage, NAME, data)


def test_a_store_without_conditional_writes_is_looked_at_first(storage: S3Storage, bucket: Bucket) -> None:
    for status, code in ((501, "NotImplemented"), (400, "InvalidArgument")):
        storage.conditional = True
        bucket.proxy.faults = []
        bucket.proxy.add("status", header="If-None-Match", times=9, status=status, code=code)
        for name, data in (("small", SMALL), ("large", LARGE)):
            put(storage, name, data)
            with pytest.raises(AlreadyThere):
                put(storage, name, b"other")
            storage.delete(name)
        assert not storage.conditional


@pytest.mark.parametrize("known", [False, True])
def test_a_store_without_conditional_writes_is_looked_at_again_before_the_file_gets_its_name(
    storage: S3Storage, bucket: Bucket, known: bool
) -> None:
    """While it was uploaded another writer may have taken the name."""
    bucket.proxy.add("status", header="If-None-Match", times=9, status=501, code="NotImplemented")
    storage.conditional = not known
    with storage.create(NAME) as one:
        one.write(SMALL)
        bucket.put(NAME, b"two")
        with pytest.raises(AlreadyThere):
            one.commit()
    assert bucket.objects() == {KEY: b"two"}


def test_a_store_that_ignores_conditions_is_looked_at_first(storage: S3Storage, bucket: Bucket) -> None:
    bucket.proxy.dropped.add("if-none-match")
    put(storage, NAME, SMALL)
    with pytest.raises(AlreadyThere):
        put(storage, NAME, b"other")
    assert bucket.objects() == {KEY: SMALL}


def test_bytes_that_come_back_other_than_written_are_no_backup(storage: S3Storage, bucket: Bucket) -> None:
    for data in (SMALL, LARGE):
        for read in (True, False):
            bucket.proxy.add("corrupt", "GET", r"a\.csv")
            with pytest.raises(StorageError, match="differs"):
                put_blindly(storage, data, read)
            assert bucket.objects() == {}


def put_blindly(storage: S3Storage, data: bytes, read: bool) -> None:
    with storage.create(NAME) as writer:
        writer.write(data)
        if read:
            writer.read_back().read()
        writer.commit()


# --- faults while reading ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", ["short", "reset", "lost", "slow", "stalled", "status"])
def test_reading_continues_where_it_broke(bucket: Bucket, kind: Any) -> None:
    storage = storage_at(bucket, read_seconds=0.5 if kind in ("slow", "stalled") else 20.0)
    bucket.put(NAME, LARGE)
    bucket.proxy.add(kind, "GET", r"a\.csv", times=3, seconds=0.7 if kind in ("slow", "stalled") else 0, status=503)
    digest = sha256()
    with storage.open(NAME) as stream:
        while data := stream.read(100_000):
            digest.update(data)
    assert digest.digest() == sha256(LARGE).digest()


def test_a_body_that_is_always_short_is_an_error_and_never_the_end(storage: S3Storage, bucket: Bucket) -> None:
    # Half of what is left each time, down to a last byte of which half is nothing.
    bucket.put(NAME, os.urandom(100_000))
    bucket.proxy.add("short", "GET", r"a\.csv", times=10_000)
    with storage.open(NAME) as stream, pytest.raises(StorageError, match="connection broke 6 times"):
        stream.read()


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(storage: S3Storage, bucket: Bucket) -> None:
    bucket.put(NAME, LARGE)
    bucket.proxy.add("short", "GET", r"a\.csv")
    with storage.open(NAME) as stream:
        stream.read(1_000)
        bucket.put(NAME, os.urandom(len(LARGE)))
        with pytest.raises(StorageError):
            stream.read()


# --- what is wrong, in words ------------------------------------------------------------------------------


def test_a_missing_bucket_is_said(s3_server: S3Server, bucket: Bucket) -> None:
    storage = storage_at(bucket)
    storage.bucket = "no-such-bucket-here"
    for work in (lambda: list(storage.names("")), lambda: put(storage, NAME, b"x"), lambda: put(storage, NAME, LARGE)):
        with pytest.raises(StorageError, match="there is no bucket no-such-bucket-here"):
            work()


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "access denied.*s3:PutObject"),
        (403, "SignatureDoesNotMatch", "credentials are wrong"),
        (403, "InvalidAccessKeyId", "credentials are wrong"),
        (400, "KMS.NotFoundException", "S3_KMS_KEY_ID"),
        (400, "ExpiredToken", "credentials are wrong or have expired"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidObjectState", "Glacier"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (301, "PermanentRedirect", "AWS_REGION.*S3_ENDPOINT_URL"),
        (302, "Found", "S3_ENDPOINT_URL"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", ""], ids=["writing", "everything"])
def test_refusals_are_said_in_words(
    storage: S3Storage, bucket: Bucket, status: int, code: str, words: str, method: str
) -> None:
    # The first question is a HEAD, whose answer has no body and so no reason.
    bucket.proxy.add("status", method, times=9_999, status=status, code=code)
    with pytest.raises(StorageError, match=words) as raised:
        put(storage, NAME, SMALL)
    assert not isinstance(raised.value, AlreadyThere)


def test_a_web_page_where_s3_should_be_holds_no_backup(storage: S3Storage, bucket: Bucket) -> None:
    page = b"<!DOCTYPE html><html><body>console<br></body></html>"
    bucket.proxy.add("status", status=200, body=page, headers={"Content-Type": "text/html"}, times=9_999)
    for work in (
        lambda: put(storage, NAME, SMALL), lambda: put(storage, NAME, LARGE), lambda: storage.open(NAME),
        lambda: storage.exists(NAME), lambda: storage.size(NAME),
    ):  # fmt: skip
        with pytest.raises(StorageError, match="not as S3 does; is S3_ENDPOINT_URL"):
            work()


def test_no_credentials_are_said(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    storage = S3Storage(bucket.uri, S3Options(endpoint_url=bucket.proxy.url))
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        list(storage.names(""))


def test_a_store_that_is_down_is_named_without_any_secret(bucket: Bucket) -> None:
    storage = S3Storage(
        bucket.uri,
        S3Options(endpoint_url="http://127.0.0.1:1", access_key_id="AKIATEST", secret_access_key=SECRET_KEY,
                  max_attempts=2),
    )  # fmt: skip
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:1 could not be reached") as raised:
        list(storage.names(""))
    shown = "".join(traceback.format_exception(raised.value)) + repr(storage.options)
    assert SECRET_KEY not in shown
    assert "AKIATEST" not in shown


@pytest.mark.long
def test_encryption_and_key_go_with_every_object(bucket: Bucket) -> None:
    storage = storage_at(bucket, server_side_encryption="aws:kms", kms_key_id="alias/backups")
    put(storage, "small", SMALL)
    put(storage, "large", LARGE)
    for name in ("small", "large"):
        head = bucket.client.head_object(Bucket=bucket.name, Key=f"saju/{name}")
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"].endswith("backups")


@pytest.mark.parametrize("uri", ["s3://", "s3://B", "s3://b", "s3://bucket/a/../b", "s3://a b/x", "s3://u:p@bucket/x"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        parse_s3_uri(uri)


def test_ten_thousand_parts_make_terabytes_and_small_files_need_small_parts() -> None:
    sizes = [part_size(n) for n in range(1, 10_001)]
    assert sum(sizes) > 3 * 10**12
    assert sizes == sorted(sizes)
    assert sizes[0] == FIRST_PART
    assert max(sizes) < 5 << 30


MEMORY = """
import os, sys
from saju_ops.storage.s3.store import S3Options, S3Storage
options = S3Options(endpoint_url=sys.argv[2], access_key_id="a", secret_access_key="b", part_bytes=int(sys.argv[4]))
storage = S3Storage(sys.argv[1], options)
block = os.urandom(1 << 20)
with storage.create(f"file{sys.argv[3]}") as writer:
    for _ in range(int(sys.argv[3])):
        writer.write(block)
    writer.commit()
# Not ru_maxrss, which a child inherits from the process that forked it.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.long
def test_memory_is_flat_at_any_size(bucket: Bucket) -> None:
    def used(size: int, part: int = FIRST_PART) -> int:
        command = [sys.executable, "-c", MEMORY, bucket.uri, bucket.direct_url, str(size), str(part)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    small, large = used(70), used(210)
    assert large < 200_000
    assert large - small < 60_000, (small, large)
    # As in a file of 40 GB.
    assert used(200, 64 * MIB) < 225_000
