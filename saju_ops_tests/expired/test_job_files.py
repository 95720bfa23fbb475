"""Files in S3 go with their job, and only then; whatever S3 says of each is heard."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.expired.job_files import BadKey, FilePlace, backup_folders
from saju_ops.storage.manifest import FOLDERS
from saju_ops_tests.expired.files_scene import Files, files_behind_faults
from saju_ops_tests.expired.job_scene import HOUR, NOW, SIZE, TABLES, JobScene, file_key, job_id
from saju_ops_tests.fakes.s3 import S3Server


@pytest.fixture
def files(s3_server: S3Server) -> Iterator[Files]:
    with files_behind_faults(s3_server) as files:
        yield files


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> JobScene:
    return JobScene(database_url, tmp_path / "backups").create()


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> JobScene:
    return JobScene(sqlite_url, tmp_path / "backups").create()


def keys_of(*numbers: int) -> set[str]:
    return {file_key(n, i) for n in numbers for i in range(4)}


def purge(scene: JobScene, files: Files, *, place: dict[str, Any] | None = None, **options: Any) -> Any:
    return scene.purge(tables=TABLES, files=files.purged_through(**(place or {})), **options)


@pytest.mark.long
def test_the_files_of_expired_jobs_go_and_those_of_living_ones_stay(scene: JobScene, files: Files) -> None:
    scene.add([1, 2])
    scene.add([3], NOW + HOUR)
    files.put_those_of([1, 2, 3])
    result = purge(scene, files)
    assert files.names() == keys_of(3)
    assert [scene.whole(n) for n in (1, 2, 3)] == [None, None, True]
    assert (result.files, result.bytes) == (8, 8 * SIZE)


@pytest.mark.long
def test_a_job_of_which_one_file_did_not_go_stays_whole_and_is_tried_again(scene: JobScene, files: Files) -> None:
    scene.add(range(1, 5))
    files.put_those_of(range(1, 5))
    files.faults.refused = {file_key(2, 1): "AccessDenied"}
    files.faults.silent = {file_key(3, 0)}
    result = purge(scene, files)
    assert [scene.whole(n) for n in range(1, 5)] == [None, True, True, None]
    assert files.names() == {file_key(2, 1), file_key(3, 0)}
    assert dict(result.stayed) == {
        "S3 did not delete a file (AccessDenied)": 1, "S3 did not say that a file was deleted": 1,
    }  # fmt: skip
    files.faults.refused, files.faults.silent = {}, set()
    purge(scene, files, now=NOW + HOUR)
    assert scene.ids() == files.names() == set()
    assert scene.archived_ids("payments") == [1, 2, 3, 4]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_nobody_extends_a_job_of_which_a_file_is_gone_while_another_jobs_failed(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, files: Files
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create()
    scene.add([1, 2])
    files.put_those_of([1, 2])
    files.faults.refused = {file_key(2, 1): "AccessDenied"}
    extended: list[int] = []

    def extend() -> None:
        with scene.engine.connect() as connection:
            jobs = scene.table("jobs")
            later = sa.update(jobs).where(jobs.c.id == job_id(1)).values(expires_at=(NOW + HOUR).replace(tzinfo=None))
            extended.append(connection.execute(later).rowcount)

    service = threading.Thread(target=extend)

    def ask() -> None:
        if service.ident is None:
            service.start()
            time.sleep(0.3)  # now it waits for the row

    files.faults.before_delete = ask
    purge(scene, files)
    service.join(30)
    assert (extended, scene.whole(1), scene.whole(2)) == ([0], None, True)


@pytest.mark.long
@pytest.mark.parametrize("size", ["2.3MB", "", "nan", "1e99999999", "-7", None])
def test_a_size_that_is_no_number_of_bytes_counts_for_nothing(lite: JobScene, files: Files, size: Any) -> None:
    lite.add([1])
    files.put_those_of([1])
    lite.run("ALTER TABLE job_files RENAME COLUMN size_bytes TO bytes_then")
    lite.run("ALTER TABLE job_files ADD COLUMN size TEXT")
    lite.run("UPDATE job_files SET size = :size", size=size)
    lite.run("UPDATE job_files SET size = '10' WHERE id = 4")
    result = purge(lite, files)
    assert (lite.ids(), files.names(), result.files, result.bytes) == (set(), set(), 4, SIZE)


@pytest.mark.long
def test_a_table_of_files_without_a_key_is_refused(scene: JobScene, files: Files) -> None:
    scene.run("DROP TABLE job_files")
    kept = "" if scene.engine.dialect.name in ("postgresql", "sqlite") else " ENGINE=InnoDB"
    own = scene.table("jobs").c.id.type.compile(scene.engine.dialect)
    scene.run(f"CREATE TABLE job_files (job_id {own}, s3_key TEXT, FOREIGN KEY (job_id) REFERENCES jobs (id)){kept}")
    with pytest.raises(Refused, match=r"job_files has no primary key .* \(PURGE_FILE_COLUMNS"):
        purge(scene, files)
    scene.purge(tables=TABLES)  # without files it needs none


def test_a_missing_file_counts_as_gone(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.faults.refused = {file_key(1, 0): "NoSuchKey"}
    purge(lite, files)
    assert lite.whole(1) is None


def test_an_s3_that_is_down_keeps_every_job_with_files_and_is_asked_once(lite: JobScene, files: Files) -> None:
    lite.add(range(1, 4))
    lite.run("DELETE FROM job_files WHERE job_id = :id", id=job_id(3))
    files.put_those_of([1, 2])
    files.faults.status = 503
    result = purge(lite, files, batch_jobs=1)
    assert lite.ids() == {job_id(1), job_id(2)}
    assert lite.counts()["job_files"] == 8
    assert files.faults.requests <= 2  # the one request, and its retry
    assert result.stayed.total() == 2
    files.faults.status = None
    purge(lite, files)
    assert lite.ids() == files.names() == set()


def test_a_bucket_that_is_not_there_keeps_the_jobs(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.client.delete_bucket(Bucket=files.name)
    result = purge(lite, files)
    assert lite.whole(1) is True
    assert dict(result.stayed) == {"S3 can't be used (NoSuchBucket)": 1}


@pytest.mark.long
def test_a_file_that_a_living_job_names_too_stays(scene: JobScene, files: Files) -> None:
    scene.add([1])
    scene.add([2], NOW + HOUR)
    files.put_those_of([1, 2])
    spellings = {10: f"s3://{files.name}/{file_key(1, 0)}", 8: file_key(1, 1), 9: f"/{file_key(1, 2)}"}
    for row, text in spellings.items():
        scene.run("UPDATE job_files SET s3_key = :key WHERE id = :row", key=text, row=row)
    result = purge(scene, files)
    assert {file_key(1, i) for i in range(3)} <= files.names()
    assert file_key(1, 3) not in files.names()
    assert result.files_shared == 3
    assert scene.ids() == {job_id(2)}


KEY = file_key(1, 0)
UMLAUT = "jobs/r\u00e9sum\u00e9 \ud55c\uae00.pdf"
SAME = [
    "https://{b}.s3.amazonaws.com/{k}", "https://{b}.s3.ap-northeast-2.amazonaws.com/{k}?X-Amz-Expires=60&X-Amz-Date=2",
    "https://s3.ap-northeast-2.amazonaws.com/{b}/{k}", "HTTP://s3-eu-west-1.amazonaws.com/{b}/{k}#page=2",
    "https://{b}.s3.dualstack.us-east-1.amazonaws.com/{q}", "{e}/{b}/{k}", "//{b}.s3.amazonaws.com/{k}",
    "S3://{b}/{k}", "s3a://{b}/{k}", "s3://{b}/{k} ", " {k}", "{k}\n", "\t/{k}", "\u3000{k}\ufeff", "{q}", "{k}?v=2",
    "{b}/{k}", "arn:aws:s3:::{b}/{k}", '["{k}"]', '{{"key": "s3://{b}/{k}"}}',
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("named", [KEY, UMLAUT])
def test_a_file_that_a_living_job_names_in_any_other_way_stays(scene: JobScene, files: Files, named: str) -> None:
    scene.add([1])
    scene.add([2], NOW + HOUR)
    for number, spelling in enumerate(SAME):
        key = f"{named}.{number}"
        text = spelling.format(b=files.name, k=key, q=quote(key, safe=""), e=files.url)
        row = {"kind": "f", "size_bytes": SIZE, "created_at": NOW.replace(tzinfo=None)}
        scene.insert("job_files", row | {"id": 100 + number, "job_id": job_id(1), "s3_key": key})
        scene.insert("job_files", row | {"id": 200 + number, "job_id": job_id(2), "s3_key": text})
        files.put(key)
    files.put_those_of([1])
    result = purge(scene, files)
    assert files.names() == {f"{named}.{number}" for number in range(len(SAME))}
    assert (scene.whole(1), result.files, result.files_shared, result.doubts) == (None, 4, len(SAME), ())


def test_a_living_jobs_file_in_the_other_unicode_form_stays(lite: JobScene, files: Files) -> None:
    lite.add([1])
    lite.add([2], NOW + HOUR)
    files.put(UMLAUT)
    lite.run("UPDATE job_files SET s3_key = :key WHERE id = 4", key=UMLAUT)
    lite.run("UPDATE job_files SET s3_key = :key WHERE id = 8", key=unicodedata.normalize("NFD", UMLAUT))
    assert purge(lite, files).files_shared == 1
    assert UMLAUT in files.names()


OTHERS = [
    "https://other.s3.amazonaws.com/{k}", "https://s3.amazonaws.com/other/{k}", "s3://other/{k}", "s3://{b}//{k}",
    "https://{b}.s3.amazonaws.com//{k}", "{k}.bak", "https://{b}.s3.amazonaws.com/x/{k}", "{u}", "",
]  # fmt: skip


@pytest.mark.long
def test_another_file_of_a_living_job_keeps_none(scene: JobScene, files: Files) -> None:
    scene.add([1])
    scene.add([2], NOW + HOUR)
    files.put_those_of([1])
    for number, spelling in enumerate(OTHERS):
        text = spelling.format(b=files.name, k=KEY, u=KEY.upper())
        row = {"id": 200 + number, "job_id": job_id(2), "kind": "f", "s3_key": text}
        scene.insert("job_files", row | {"created_at": NOW.replace(tzinfo=None)})
    result = purge(scene, files)
    assert (files.names(), result.files_shared, scene.whole(1)) == (set(), 0, None)


@pytest.mark.parametrize("text", ["https://cdn.example.com/{k}", "https://cdn.example.com/files/{k}", "gs://x/{k}"])
def test_a_file_that_a_living_job_names_by_an_address_that_nobody_knows_stays_and_is_a_doubt(
    lite: JobScene, files: Files, text: str
) -> None:
    lite.add([1])
    lite.add([2], NOW + HOUR)
    files.put_those_of([1])
    lite.run("UPDATE job_files SET s3_key = :key WHERE id = 8", key=text.format(k=KEY))
    result = purge(lite, files)
    assert files.names() == {KEY}
    assert result.doubts == (
        "1 file was left: rows that stay name it perhaps, by an address that isn't known to be the bucket's.",
    )


def test_a_row_that_named_a_file_and_went_keeps_it_for_nobody(lite: JobScene, files: Files) -> None:
    """Read before the first batch, gone in it: the second one's file is deleted."""
    lite.add([1, 2])
    files.put("jobs/a b.pdf", "jobs/a%20b.pdf")
    lite.run("UPDATE jobs SET expires_at = '2026-09-30 01:00:00' WHERE id = :id", id=job_id(1))
    lite.run("UPDATE job_files SET s3_key = 'jobs/a%20b.pdf' WHERE id = 4")
    lite.run("UPDATE job_files SET s3_key = 'jobs/a b.pdf' WHERE id = 8")
    purge(lite, files, batch_jobs=1)
    assert (files.names(), lite.ids()) == (set(), set())


def test_a_file_that_two_expired_jobs_share_is_deleted_with_the_last_of_them(lite: JobScene, files: Files) -> None:
    lite.add([1, 2])
    files.put_those_of([1, 2])
    lite.run("UPDATE job_files SET s3_key = :key WHERE id = 8", key=file_key(1, 0))
    purge(lite, files, max_jobs=1, batch_jobs=1)
    assert (len(lite.ids()), file_key(1, 0) in files.names()) == (1, True)
    purge(lite, files)
    assert files.names() == {file_key(2, 0)}  # named by no row any more


@pytest.mark.long
def test_more_files_than_one_request_takes_go_in_several(lite: JobScene, files: Files) -> None:
    lite.add([1])
    columns = "(id, job_id, kind, s3_key)"
    with lite.engine.begin() as connection:
        rows = [{"id": 100 + n, "job": job_id(1), "key": f"jobs/many/{n}&<>\"'한"} for n in range(2_100)]
        connection.execute(sa.text(f"INSERT INTO job_files {columns} VALUES (:id, :job, 'f', :key)"), rows)  # noqa: S608
    files.put(*(rows[n]["key"] for n in (0, 999, 1_000, 2_099)))
    result = purge(lite, files)
    assert (files.names(), lite.whole(1)) == (set(), None)
    assert (result.files, files.faults.deletes) == (2_104, 3)


def test_every_version_is_deleted_if_that_is_set_and_a_marker_is_written_if_not(lite: JobScene, files: Files) -> None:
    files.keep_versions()
    files.put_those_of([1, 1, 2])
    files.put(file_key(1, 0) + ".other")
    files.client.delete_object(Bucket=files.name, Key=file_key(1, 0))
    lite.add([1])
    purge(lite, files, place={"all_versions": True})
    assert lite.whole(1) is None
    assert files.versions() == 4 + 1
    lite.add([2])
    purge(lite, files)
    assert files.names() == {file_key(1, 0) + ".other"}
    assert files.versions() == 8 + 1


def test_a_version_that_does_not_go_keeps_the_job(lite: JobScene, files: Files) -> None:
    files.keep_versions()
    files.put_those_of([1])
    lite.add([1])
    files.faults.refused = {file_key(1, 2): "AccessDenied"}
    purge(lite, files, place={"all_versions": True})
    assert lite.whole(1) is True


def test_without_a_column_of_sizes_s3_is_asked(lite: JobScene, files: Files) -> None:
    lite.add([1])
    lite.run("ALTER TABLE job_files DROP COLUMN size_bytes")
    files.put_those_of([1])
    assert purge(lite, files, dry_run=True).bytes == 4 * SIZE
    assert purge(lite, files).bytes == 4 * SIZE


def test_a_dry_run_deletes_no_file(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1])
    result = purge(lite, files, dry_run=True)
    assert (result.files, result.bytes, files.names()) == (4, 4 * SIZE, keys_of(1))


def test_switched_off_the_rows_go_and_the_files_stay(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1])
    lite.purge(tables=TABLES, files=None)
    assert (lite.whole(1), files.names()) == (None, keys_of(1))


@pytest.mark.long
def test_rows_are_deleted_but_not_committed_when_s3_is_asked(scene: JobScene, files: Files) -> None:
    """If the database refuses, it does so before a file is deleted."""
    scene.add([1])
    files.put_those_of([1])
    seen: list[int] = []

    def look() -> None:
        if scene.engine.dialect.name != "sqlite":
            seen.append(scene.counts()["jobs"])

    files.faults.before_delete = look
    purge(scene, files)
    assert seen == ([] if scene.engine.dialect.name == "sqlite" else [1])
    assert scene.whole(1) is None


def test_a_database_that_refuses_keeps_the_files(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1])
    lite.run("CREATE TRIGGER no BEFORE DELETE ON sms_logs BEGIN SELECT RAISE(ABORT, 'kept'); END")
    purge(lite, files)
    assert (lite.whole(1), files.names(), files.faults.deletes) == (True, keys_of(1), 0)


def test_a_database_that_would_refuse_in_the_commit_only_keeps_the_files(
    postgres_url: str, tmp_path: Path, files: Files
) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups").create(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''kept''; END'",
        "CREATE CONSTRAINT TRIGGER no AFTER DELETE ON sms_logs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION no()",
    )
    scene.add([1])
    files.put_those_of([1])
    purge(scene, files)
    assert (scene.whole(1), files.names(), files.faults.deletes) == (True, keys_of(1), 0)


def test_a_key_among_the_backups_is_refused_whatever_a_row_says() -> None:
    uri = "/srv/backups,s3://bucket/safe"
    assert backup_folders(uri, "another") == ()
    place = FilePlace("bucket", backups=backup_folders(uri, "bucket"))
    with pytest.raises(BadKey, match="among the backups"):
        place.key_of("safe/purged_jobs/2026/10/payments_20261001_090000.csv")
    assert place.key_of("safe/jobs/1.pdf") == "safe/jobs/1.pdf"
    bare = FilePlace("bucket", backups=backup_folders("s3://bucket", "bucket"))
    with pytest.raises(BadKey, match="among the backups"):
        bare.key_of("s3://bucket/conversation_logs/2026/10/x.csv")
    assert {*FOLDERS.values()} <= set(backup_folders("s3://bucket", "bucket"))


PLACE = FilePlace("bucket", "jobs/")
# The same: a prefix names a folder.
WITHOUT_SLASH = FilePlace("bucket", "jobs")


@pytest.mark.parametrize(
    "stored",
    [
        "other/a.pdf", "jobs", "jobs/", "jobs_private/a.pdf", "/jobs/a.pdf", "jobs/../secret/a.pdf", "jobs/./a.pdf",
        "jobs/..", "jobs/%2e%2e/a.pdf", "jobs/%252e%252e/a.pdf", "jobs\\..\\a.pdf", "jobs/x/..%2fa.pdf", "s3://other/jobs/a.pdf",
        "s3://bucket/other/a.pdf", "s3://bucket//jobs/a.pdf", "s3://bucket", "https://bucket.s3.amazonaws.com/jobs/a.pdf",
        "file:///etc/passwd", "jobs/a\x00.pdf", "jobs/a\n.pdf", "jobs/" + "가" * 400, " jobs/a.pdf", "JOBS/a.pdf", 7,
    ],
)  # fmt: skip
def test_a_name_that_is_not_plainly_inside_bucket_and_prefix_is_refused(stored: Any) -> None:
    for place in (PLACE, WITHOUT_SLASH):
        with pytest.raises(BadKey):
            place.key_of(stored)


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ("jobs/a.pdf", "jobs/a.pdf"), ("s3://bucket/jobs/a.pdf", "jobs/a.pdf"), ("jobs/..a/b..pdf", "jobs/..a/b..pdf"),
        ("jobs/한글 이름 (1).pdf", "jobs/한글 이름 (1).pdf"), (None, None), ("", None),
    ],
)  # fmt: skip
def test_a_key_inside_is_taken_as_it_is(stored: Any, key: str | None) -> None:
    assert PLACE.key_of(stored) == WITHOUT_SLASH.key_of(stored) == key


@pytest.mark.long
def test_a_job_with_a_bad_key_stays_whole_and_keeps_its_files(scene: JobScene, files: Files) -> None:
    scene.add([1, 2])
    files.put_those_of([1, 2])
    files.put("jobs/../payroll.xls", "payroll.xls")
    scene.run("UPDATE job_files SET s3_key = 'jobs/../payroll.xls' WHERE id = 4")
    result = purge(scene, files)
    assert [scene.whole(1), scene.whole(2)] == [True, None]
    assert files.names() == {"jobs/../payroll.xls", "payroll.xls"} | keys_of(1)
    assert dict(result.stayed) == {"its S3 key holds . or .. as a folder": 1}
