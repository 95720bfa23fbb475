"""Files that no row names any more are found and left where they are; a file that any row names in any way is none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from saju_ops.errors import OperatorError, Refused
from saju_ops.expired.job_tables import JobTables, open_jobs
from saju_ops.expired.orphan_files import OrphanFiles, orphan_files
from saju_ops_tests.expired.files_scene import Files, files_behind_faults
from saju_ops_tests.expired.job_scene import CHILDREN, HOUR, NOW, SIZE, TABLES, JobScene, file_key, job_id
from saju_ops_tests.expired.test_job_files import SAME
from saju_ops_tests.fakes.s3 import S3Server

# The server writes its own time on a file, so the look is a day and an hour later.
LATER = timedelta(days=1, hours=1)


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


def look(
    scene: JobScene, files: Files, *, tables: JobTables = TABLES, after: timedelta = LATER, most: int = 10_000,
    **place: Any,
) -> OrphanFiles:  # fmt: skip
    before = files.names()
    with open_jobs(scene.url, "jobs", scene.zone) as store:
        found = orphan_files(store, tables, files.purged_through(**place), datetime.now(UTC) + after, most=most)
    assert files.names() == before
    return found


def add_file(scene: JobScene, number: int, job: int | None, text: str) -> None:
    row = {"id": number, "job_id": job_id(job) if job else None, "kind": "f", "s3_key": text, "size_bytes": SIZE}
    scene.insert("job_files", row | {"created_at": NOW.replace(tzinfo=None)})


@pytest.mark.long
def test_files_of_jobs_whose_rows_are_gone_are_counted_and_left(scene: JobScene, files: Files) -> None:
    scene.add([1])
    scene.add([2], NOW + HOUR)
    files.put_those_of([1, 2, 3])
    files.put("jobs/010-1234-5678/voice.wav", "jobs/Hong.pdf")
    found = look(scene, files)
    assert (found.names, found.files, found.young, found.incomplete) == (8, 14, 0, "")
    assert (found.orphans, found.bytes) == (6, 6 * SIZE)
    # The beginning of an id, and nothing of a name that may be somebody's.
    assert dict(found.folders) == {f"jobs/{job_id(3)[:8]}…": 4, "jobs/…": 2}


def test_however_many_folders_are_left_behind_only_the_first_are_named(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put(*(f"jobs/{n:08}-0000-4000-8000-000000000000/{i}.pdf" for n in range(13) for i in range(2)))
    found = look(lite, files)
    assert (found.orphans, dict(found.folders)) == (26, {f"jobs/{n:08}…": 2 for n in range(10)})


@pytest.mark.long
def test_rows_that_lost_their_job_long_ago_name_their_files_until_they_go(scene: JobScene, files: Files) -> None:
    """As after a DELETE of the job that emptied the references: rows without a job, then no rows."""
    scene.add([1])
    files.put_those_of([1])
    if scene.engine.dialect.name == "sqlite":
        scene.run("DROP TABLE job_files")
        scene.run("CREATE TABLE job_files (id INTEGER PRIMARY KEY, job_id TEXT, s3_key TEXT)")
        rows = [f"({n}, NULL, '{file_key(1, n)}')" for n in range(4)]
        scene.run(f"INSERT INTO job_files VALUES {', '.join(rows)}")  # noqa: S608
    else:
        own = scene.table("jobs").c.id.type.compile(scene.engine.dialect)
        scene.run("ALTER TABLE job_files " + {
            "postgresql": "ALTER COLUMN job_id DROP NOT NULL",
        }.get(scene.engine.dialect.name, f"MODIFY job_id {own} NULL"))  # fmt: skip
        scene.run("UPDATE job_files SET job_id = NULL")
    assert look(scene, files).orphans == 0
    scene.run("DELETE FROM job_files WHERE id % 2 = 0")
    assert (look(scene, files).names, look(scene, files).orphans) == (2, 2)
    scene.run("DELETE FROM job_files")
    assert look(scene, files).orphans == 4


def test_files_that_only_an_archived_row_names_are_found(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1])
    kept = JobTables("jobs", CHILDREN, ("payments", "job_files"), TABLES.files)
    lite.purge(tables=kept, files=None)  # a run with JOBS_S3_DELETE=false
    assert lite.archived_ids("job_files") == [4, 5, 6, 7]
    assert look(lite, files).orphans == 4


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "sqlite", "postgres"])
def test_a_file_that_a_row_names_in_any_way_is_no_orphan(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, files: Files
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create()
    scene.add([1])
    files.put_those_of([1])
    for number, spelling in enumerate(SAME):
        key = f"jobs/résumé 한글.pdf.{number}"
        files.put(key)
        add_file(scene, 100 + number, 1, spelling.format(b=files.name, k=key, q=quote(key, safe=""), e=files.url))
    files.put("jobs/a.pdf", "jobs/A.pdf", "jobs//a.pdf")
    add_file(scene, 200, 1, "jobs/a.pdf")
    found = look(scene, files)
    assert (found.files, found.orphans, found.perhaps) == (4 + len(SAME) + 3, 2, 0)


def test_an_address_of_an_unknown_host_leaves_a_file_in_doubt(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put("jobs/a.pdf", "jobs/b.pdf")
    add_file(lite, 100, 1, "https://cdn.example.com/jobs/a.pdf")
    found = look(lite, files)
    assert (found.files, found.perhaps, found.orphans) == (2, 1, 1)


def test_a_file_younger_than_a_day_is_left_out(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1, 2])
    found = look(lite, files, after=timedelta(hours=23))
    assert (found.files, found.young, found.orphans) == (0, 8, 0)


def test_files_of_another_folder_of_the_backups_and_markers_of_folders_are_no_jobs(
    lite: JobScene, files: Files
) -> None:
    lite.add([1])
    files.put("jobs_private/a.pdf", "other/a.pdf", "jobs", "jobs/safe/database/x.sql.gz", "jobs/mine.pdf")
    files.client.put_object(Bucket=files.name, Key="jobs/empty/", Body=b"")
    found = look(lite, files, backups=("jobs/safe/database/",))
    assert (found.files, found.orphans) == (1, 1)


@pytest.mark.long
def test_more_files_than_one_page_are_all_looked_at_and_no_more_than_so_many(lite: JobScene, files: Files) -> None:
    lite.add([1])
    lite.run("DELETE FROM job_files")
    keys = [f"jobs/{n:05}" for n in range(2_002)]
    files.put(*keys)
    named = [{"id": n, "job_id": job_id(1), "kind": "f", "s3_key": key} for n, key in enumerate(keys)]
    at = {"size_bytes": SIZE, "created_at": NOW.replace(tzinfo=None)}
    # Not the last of the first page, the first of the second, the last of all.
    lite.insert("job_files", *(row | at for row in named if row["id"] not in (999, 1_000, 2_001)))
    found = look(lite, files, most=2_002)
    assert (found.names, found.files, found.orphans, found.incomplete) == (1_999, 2_002, 3, "")
    for most, orphans in ((1_000, 1), (1_500, 2), (2_001, 2)):
        found = look(lite, files, most=most)
        assert (found.files, found.orphans) == (most, orphans)
        assert found.incomplete.startswith(f"There are more than {most:,} files under jobs/;")


def test_every_version_that_is_kept_counts_where_versions_are_to_go(lite: JobScene, files: Files) -> None:
    files.keep_versions()
    lite.add([1])
    files.put_those_of([1, 2, 2])
    files.client.delete_object(Bucket=files.name, Key=file_key(2, 0))
    assert look(lite, files).orphans == 3
    found = look(lite, files, all_versions=True)
    assert (found.files, found.orphans, found.bytes) == (12, 8, 8 * SIZE)


def test_a_bucket_that_may_not_be_listed_is_said_with_the_right_that_is_missing(lite: JobScene, files: Files) -> None:
    lite.add([1])
    files.put_those_of([1, 2])
    before = files.names()
    with open_jobs(lite.url, "jobs", lite.zone) as store:
        files.faults.status, files.faults.code = 403, "AccessDenied"
        found = orphan_files(store, TABLES, files.purged_through(), datetime.now(UTC) + LATER)
        files.faults.status = None
    assert found.incomplete == (
        "The bucket of JOBS_S3_BUCKET could not be listed (AccessDenied); 0 files were looked at before. Listing it"
        " needs the right s3:ListBucket."
    )
    assert (found.orphans, files.names()) == (0, before)
    files.client.delete_objects(Bucket=files.name, Delete={"Objects": [{"Key": k} for k in before]})
    files.client.delete_bucket(Bucket=files.name)
    with open_jobs(lite.url, "jobs", lite.zone) as store:
        found = orphan_files(store, TABLES, files.purged_through(), datetime.now(UTC) + LATER)
    assert "could not be listed (NoSuchBucket)" in found.incomplete


@pytest.mark.long
def test_without_a_folder_and_without_the_column_that_names_files_nothing_is_called_an_orphan(
    scene: JobScene, files: Files
) -> None:
    scene.add([1])
    files.put_those_of([1])
    add_file(scene, 900, 1, "elsewhere/x.pdf")
    with pytest.raises(Refused, match="JOBS_S3_PREFIX holds nothing"):
        look(scene, files, prefix="/")
    scene.run("DELETE FROM job_files")
    with pytest.raises(Refused, match="JOBS_S3_PREFIX holds nothing"):
        look(scene, files, prefix="")
    for table, column in (("job_files", "s3_keys"), ("job_file", "s3_key")):
        tables = JobTables("jobs", CHILDREN, files=(("job_files", "s3_key"), (table, column)))
        with pytest.raises(Refused, match=rf"PURGE_FILE_COLUMNS names {table}\.{column}"):
            look(scene, files, tables=tables)


@pytest.mark.long
def test_without_a_prefix_the_folder_that_all_rows_name_is_looked_at(scene: JobScene, files: Files) -> None:
    scene.add([1], NOW + HOUR)
    add_file(scene, 900, 1, f"s3://{files.name}/jobs/again.pdf")
    files.put_those_of([1, 2])
    files.put("jobs/again.pdf", "avatars/face.png", "at-the-top.txt")
    found = look(scene, files, prefix="")
    assert (found.folder, found.files, found.orphans) == ("jobs/", 9, 4)


def test_rows_that_a_policy_hides_stop_the_look(postgres_url: str, tmp_path: Path, files: Files) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups").create()
    scene.add([1])
    files.put_those_of([1])
    scene.run("ALTER TABLE job_files ENABLE ROW LEVEL SECURITY")
    user = f"reader_{files.name[-8:]}"
    scene.run(f"CREATE ROLE {user} LOGIN PASSWORD 'pw'")
    scene.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    url = scene.url.set(username=user, password="pw")
    try:
        with open_jobs(url, "jobs", scene.zone) as store:
            with pytest.raises(OperatorError, match="broke off reading the names of files"):
                orphan_files(store, TABLES, files.purged_through(), datetime.now(UTC) + LATER)
    finally:
        scene.run(f"DROP OWNED BY {user}")
        scene.run(f"DROP ROLE {user}")
