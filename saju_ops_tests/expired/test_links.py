"""A table in PURGE_TABLES is purged with its job though no foreign key says so, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.expired.job_tables import JobPurgeResult, JobTables, open_jobs, orphans
from saju_ops.expired.links import parse_links, singular
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops_tests.expired.job_scene import CHILDREN, HANGING, HOUR, NOTHING_KEPT, NOW, UTC_ZONE, JobScene
from saju_ops_tests.expired.test_foreign_keys import EXPIRED, LIVING, build, ids, jobs

OLD_JOB, NEW_JOB = UUID("3f2504e0-4f89-41d3-9a0c-0305e82c3301"), UUID("9b2d7c1a-0000-4000-8000-00000000000a")


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> JobScene:
    scene = JobScene(database_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    return scene


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> JobScene:
    scene = JobScene(sqlite_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    return scene


def purge(scene: JobScene, *tables: str, links: str = "", keep: tuple[str, ...] = (), **options: Any) -> JobPurgeResult:
    named = parse_links(filter(None, links.split(",")))
    return scene.purge(tables=JobTables("jobs", tables, keep, links=named), **options)


def two_jobs(scene: JobScene) -> None:
    scene.run(f"INSERT INTO jobs (id, expires_at) VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608


@pytest.mark.long
def test_a_service_that_declares_no_foreign_key_at_all_loses_whole_jobs(database_url: str, tmp_path: Path) -> None:
    scene = JobScene(database_url, tmp_path / "backups")
    for table in scene.metadata.tables.values():
        for constraint in list(table.foreign_key_constraints):
            table.constraints.remove(constraint)
    scene.create()
    scene.add([1, 2])
    scene.add([3], NOW + HOUR)
    looked, result = scene.purge(tables=NOTHING_KEPT, dry_run=True), scene.purge(batch_jobs=1)
    assert [scene.whole(n) for n in (1, 2, 3)] == [None, None, True]
    assert looked.rows.total() == result.rows.total() == 2 * (1 + HANGING)
    assert scene.archived_ids("payments") == [1, 2]
    assert not result.orphans


@pytest.mark.long
def test_phone_numbers_without_a_declared_key_go_with_their_job(scene: JobScene) -> None:
    jobs(scene)
    build(scene, "sms_logs (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER, phone VARCHAR(20))")
    build(scene, "notes (job_id INTEGER, phone VARCHAR(20))")  # without a key of its own
    two_jobs(scene)
    for table, first in (("sms_logs", "1, "), ("notes", "")):
        scene.run(f"INSERT INTO {table} VALUES ({first}1, '010-1')")  # noqa: S608
        scene.run(f"INSERT INTO {table} VALUES ({first.replace('1', '2')}2, '010-2')")  # noqa: S608
    result = purge(scene, "sms_logs", "notes", keep=("sms_logs",))
    assert scene.run("SELECT phone FROM sms_logs UNION ALL SELECT phone FROM notes") == [("010-2",), ("010-2",)]
    assert dict(result.rows) == {"jobs": 1, "sms_logs": 1, "notes": 1}
    assert scene.archived_ids("sms_logs") == [1]


@pytest.mark.long
def test_a_row_that_names_its_job_beside_a_key_to_another_table_is_deleted_too(scene: JobScene) -> None:
    """sms_logs has a key to payments, and of its job the number alone."""
    jobs(scene)
    build(scene, "payments (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER,"
                 " FOREIGN KEY (job_id) REFERENCES jobs (id))")  # fmt: skip
    build(scene, "sms_logs (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER, payment INTEGER,"
                 " FOREIGN KEY (payment) REFERENCES payments (id) ON DELETE SET NULL)")  # fmt: skip
    two_jobs(scene)
    scene.run("INSERT INTO payments VALUES (1, 1), (2, 2)")
    scene.run("INSERT INTO sms_logs VALUES (1, 1, NULL), (2, 2, NULL), (3, 1, 1), (4, 2, 2), (5, NULL, 1)")
    purge(scene, "payments", "sms_logs")
    assert (ids(scene, "payments"), ids(scene, "sms_logs")) == ([2], [2, 4])


@pytest.mark.long
def test_a_table_of_the_second_level_is_found_by_its_columns_name(scene: JobScene) -> None:
    jobs(scene)
    build(scene, "reports (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER)")
    build(scene, "report_knowledge (id INTEGER NOT NULL PRIMARY KEY, report_id INTEGER)")
    two_jobs(scene)
    scene.run("INSERT INTO reports VALUES (10, 1), (20, 2)")
    scene.run("INSERT INTO report_knowledge VALUES (1, 10), (2, 20), (3, 10)")
    purge(scene, "report_knowledge", "reports")
    assert (ids(scene, "reports"), ids(scene, "report_knowledge")) == ([20], [2])


@pytest.mark.long
@pytest.mark.parametrize("links", ["calls.about", "calls.about->jobs.id", " calls.about -> jobs.id "])
def test_a_column_of_any_name_is_followed_where_purge_links_names_it(scene: JobScene, links: str) -> None:
    jobs(scene)
    build(scene, "calls (id INTEGER NOT NULL PRIMARY KEY, about INTEGER)")
    two_jobs(scene)
    scene.run("INSERT INTO calls VALUES (1, 1), (2, 2)")
    with pytest.raises(Refused, match=r"PURGE_TABLES names calls, but no foreign key .* \(PURGE_LINKS=calls\.<column>"):
        purge(scene, "calls")
    assert ids(scene, "jobs") == ids(scene, "calls") == [1, 2]
    purge(scene, "calls", links=links)
    assert ids(scene, "jobs") == ids(scene, "calls") == [2]


@pytest.mark.long
def test_a_key_of_several_columns_is_followed_by_all_of_them(scene: JobScene) -> None:
    time = "DATETIME" if scene.engine.dialect.name in ("mysql", "mariadb") else "TIMESTAMP"
    build(scene, f"jobs (tenant INTEGER NOT NULL, id INTEGER NOT NULL, expires_at {time}, PRIMARY KEY (tenant, id))")
    build(scene, "notes (id INTEGER NOT NULL PRIMARY KEY, tenant INTEGER, job_id INTEGER)")
    build(scene, "calls (id INTEGER NOT NULL PRIMARY KEY, t INTEGER, j INTEGER)")
    scene.run(f"INSERT INTO jobs VALUES (1, 1, '{EXPIRED}'), (2, 1, '{LIVING}')")  # noqa: S608
    for table in ("notes", "calls"):
        scene.run(f"INSERT INTO {table} VALUES (1, 1, 1), (2, 2, 1)")  # noqa: S608
    purge(scene, "notes", "calls", links="calls.t+j->jobs.tenant+id")
    assert ids(scene, "notes") == ids(scene, "calls") == [2]


def as_stored(value: UUID, spelling: str) -> Any:
    return {
        "dashed": str(value), "capitals": str(value).upper(), "hex": value.hex, "bytes": value.bytes, "uuid": value,
    }[spelling]  # fmt: skip


SPELLINGS = [
    ("mysql", "CHAR(36)", "dashed", "BINARY(16)", "bytes"), ("mysql", "BINARY(16)", "bytes", "CHAR(36)", "capitals"),
    ("mysql", "CHAR(36)", "dashed", "VARCHAR(64) COLLATE utf8mb4_bin", "hex"),
    ("mariadb", "CHAR(32)", "hex", "CHAR(36) COLLATE latin1_swedish_ci", "dashed"),
    ("mariadb", "UUID", "dashed", "VARCHAR(36)", "capitals"),
    ("postgres", "uuid", "uuid", "text", "dashed"), ("postgres", "uuid", "uuid", "varchar(36)", "capitals"),
    ("postgres", "char(40)", "dashed", "uuid", "uuid"), ("postgres", "uuid", "uuid", "bytea", "bytes"),
    ("sqlite", "TEXT", "dashed", "BLOB", "bytes"), ("sqlite", "BLOB", "bytes", "TEXT", "hex"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("engine", "own", "how", "theirs", "spelled"), SPELLINGS)
def test_the_same_uuid_in_another_type_or_spelling_is_the_same_job(
    engine: str, own: str, how: str, theirs: str, spelled: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.metadata = sa.MetaData()
    time = "DATETIME" if engine in ("mysql", "mariadb") else "TIMESTAMP"
    build(scene, f"jobs (id {own} NOT NULL PRIMARY KEY, expires_at {time})")
    theirs = theirs.replace(" COLLATE latin1", " CHARACTER SET latin1 COLLATE latin1")
    build(scene, f"sms_logs (id INTEGER NOT NULL PRIMARY KEY, job_id {theirs})")
    for number, (job, at) in enumerate(((OLD_JOB, EXPIRED), (NEW_JOB, LIVING)), 1):
        scene.run("INSERT INTO jobs VALUES (:id, :at)", id=as_stored(job, how), at=at)
        scene.run("INSERT INTO sms_logs VALUES (:n, :job)", n=number, job=as_stored(job, spelled))
    result = purge(scene, "sms_logs")
    assert (ids(scene, "sms_logs"), result.rows["sms_logs"], dict(result.orphans)) == ([2], 1, {})


def test_a_number_is_the_same_as_its_digits_and_no_other(scene: JobScene) -> None:
    jobs(scene)
    build(scene, "notes (id INTEGER NOT NULL PRIMARY KEY, job_id VARCHAR(20))")
    two_jobs(scene)
    scene.run("INSERT INTO notes VALUES (1, '1'), (2, '2'), (3, '1a'), (4, '01')")
    result = purge(scene, "notes")
    assert ids(scene, "notes") == [2, 3, 4]
    assert dict(result.orphans) == {"notes.job_id": 2}


def test_columns_that_hold_different_things_are_refused(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    scene.run("CREATE TABLE jobs (id uuid PRIMARY KEY, expires_at timestamp)")
    scene.run("CREATE TABLE sms_logs (id int PRIMARY KEY, job_id bigint)")
    with pytest.raises(Refused, match=r"sms_logs\.job_id is of the type int8 and jobs\.id of the type uuid"):
        purge(scene, "sms_logs")


@pytest.mark.parametrize(
    ("links", "sentence"),
    [
        ("call.about", r"PURGE_LINKS names call\.about, but there is no table call\."),
        ("calls.job", r"PURGE_LINKS names calls\.job, but there is no column calls\.job\."),
        ("calls.about->job.id", r"there is no table job\."), ("calls.about->jobs.no", r"no column jobs\.no\."),
        ("calls.about->jobs.owner", r"owner may be the same in several rows of jobs"),
        ("calls.about+id", r"the key of jobs is id"), ("jobs.owner->calls.id", "is the table that expires itself"),
    ],
)  # fmt: skip
def test_a_link_that_can_not_be_one_is_refused_by_name(lite: JobScene, links: str, sentence: str) -> None:
    jobs(lite, ", owner INTEGER")
    build(lite, "calls (id INTEGER NOT NULL PRIMARY KEY, about INTEGER)")
    lite.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}', 1)")  # noqa: S608
    with pytest.raises(Refused, match=sentence):
        purge(lite, "calls", links=links)
    assert ids(lite, "jobs") == [1]


@pytest.mark.parametrize("value", ["sms_logs", "sms_logs.", "a.b->c", "a.b->", ".b", "a.b+c->d.e"])
def test_a_setting_that_names_no_reference_is_refused_when_it_is_read(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURGE_LINKS", value)
    with pytest.raises(SettingsError, match=r"PURGE_LINKS holds .* it may hold references that no foreign"):
        load_settings()


def test_a_table_that_is_not_there_is_refused_by_name(lite: JobScene) -> None:
    jobs(lite)
    lite.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}')")  # noqa: S608
    with pytest.raises(Refused, match="PURGE_TABLES names sms_log, but the database has no such table"):
        purge(lite, "sms_log")
    assert ids(lite, "jobs") == [1]
    purge(lite, *CHILDREN)  # the setting's own value needn't be changed
    assert ids(lite, "jobs") == []


def test_a_table_that_was_left_out_is_a_doubt(scene: JobScene) -> None:
    jobs(scene)
    build(scene, "coupons (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER)")
    result = purge(scene)
    (doubt,) = result.doubts
    assert doubt.startswith("The table coupons has a column job_id, but no foreign key leads from it to jobs")
    # The jobs of another service in the same database are none of these.
    build(scene, "analysis_jobs (job_id INTEGER NOT NULL PRIMARY KEY)")
    assert purge(scene).doubts == ()


def test_rows_whose_job_is_gone_are_counted_whatever_declares_their_reference(scene: JobScene) -> None:
    jobs(scene)
    build(scene, "sms_logs (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER)")
    build(scene, "job_files (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER, s3_key VARCHAR(99))")
    two_jobs(scene)
    scene.run("INSERT INTO sms_logs VALUES (1, 2), (2, 7), (3, 7), (4, NULL)")
    scene.run("INSERT INTO job_files VALUES (1, 2, 'a'), (2, NULL, 'b'), (3, 7, 'c')")
    tables = JobTables("jobs", ("sms_logs", "job_files"), files=(("job_files", "s3_key"),))
    with open_jobs(scene.url, "jobs", UTC_ZONE) as store:
        assert orphans(store, tables) == {"sms_logs.job_id": 2, "job_files.job_id": 1, "job_files.job_id (NULL)": 1}


@pytest.mark.parametrize(
    ("table", "one"),
    [("jobs", "job"), ("histories", "history"), ("boxes", "box"), ("classes", "class"), ("access", "access")],
)
def test_a_tables_name_in_the_singular(table: str, one: str) -> None:
    assert singular(table) == one


def test_ids_that_are_no_uuids_are_compared_to_the_letter(mysql_url: str, tmp_path: Path) -> None:
    scene = JobScene(mysql_url, tmp_path / "backups")
    build(scene, "jobs (id VARCHAR(40) NOT NULL PRIMARY KEY, expires_at DATETIME)")
    build(scene, "notes (id INTEGER NOT NULL PRIMARY KEY, job_id VARCHAR(40) COLLATE utf8mb4_bin)")
    scene.run(f"INSERT INTO jobs VALUES ('café-1', '{EXPIRED}'), ('cafe-2', '{LIVING}')")  # noqa: S608
    scene.run("INSERT INTO notes VALUES (1, 'café-1'), (2, 'cafe-1'), (3, 'cafe-2')")
    purge(scene, "notes")
    assert ids(scene, "notes") == [2, 3]


def test_a_table_of_jobs_in_another_schema_is_purged_there(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    scene.run_all(
        "CREATE SCHEMA app", "CREATE TABLE app.jobs (id int PRIMARY KEY, expires_at timestamp)",
        "CREATE TABLE app.payments (id int PRIMARY KEY, job_id int REFERENCES app.jobs (id))",
        "CREATE TABLE app.sms_logs (id int PRIMARY KEY, job_id int)",
        f"INSERT INTO app.jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')",  # noqa: S608
        "INSERT INTO app.payments VALUES (1, 1), (2, 2)", "INSERT INTO app.sms_logs VALUES (1, 1), (2, 2)",
    )  # fmt: skip
    tables = JobTables("app.jobs", ("app.payments", "sms_logs"), ("app.payments",))
    result = scene.purge(tables=tables)
    assert [ids(scene, f"app.{name}") for name in ("jobs", "payments", "sms_logs")] == [[2], [2], [2]]
    assert result.rows == {"jobs": 1, "payments": 1, "sms_logs": 1}
    assert scene.archived_ids("payments") == [1]
    with pytest.raises(Refused, match=r"JOBS_TABLE holds 'elsewhere\.jobs', but the database .* has no such table"):
        open_jobs(scene.url, "elsewhere.jobs", UTC_ZONE)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_of_jobs_in_another_database_is_purged_there(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(f"{engine}_server")
    with server.database() as url, server.database() as elsewhere:
        scene, here = JobScene(elsewhere, tmp_path / "backups"), JobScene(url, tmp_path / "backups")
        jobs(scene)
        build(scene, "notes (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER)")
        two_jobs(scene)
        scene.run("INSERT INTO notes VALUES (1, 1), (2, 2)")
        name = scene.url.database
        here.purge(tables=JobTables(f"{name}.jobs", (f"{name}.notes",)))
        assert ids(scene, "jobs") == ids(scene, "notes") == [2]


def test_a_table_whose_name_holds_a_point_is_itself(lite: JobScene) -> None:
    build(lite, '"app.jobs" (id INTEGER PRIMARY KEY, expires_at TIMESTAMP)')
    lite.run(f"INSERT INTO \"app.jobs\" VALUES (1, '{EXPIRED}')")  # noqa: S608
    assert lite.purge(tables=JobTables("app.jobs", ())).deleted == 1


# --- ids that only another column's collation takes for the same ---------------------------------------------------

TWO_COLLATIONS = [
    ("mysql", "VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "VARCHAR(40) COLLATE utf8mb4_0900_ai_ci"),
    ("mysql", "VARCHAR(40) COLLATE utf8mb4_0900_as_cs", "VARCHAR(40) CHARACTER SET latin1"),
    ("mysql", "VARBINARY(40)", "VARCHAR(40) COLLATE utf8mb4_0900_ai_ci"),
    ("mariadb", "VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "VARCHAR(40) COLLATE utf8mb4_general_ci"),
    ("postgres", "text", "text COLLATE either_case"), ("postgres", 'text COLLATE "C"', "text COLLATE either_case"),
    ("sqlite", "TEXT", "TEXT COLLATE NOCASE"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("named", ["id INTEGER NOT NULL PRIMARY KEY, ", ""])
@pytest.mark.parametrize(("engine", "own", "theirs"), TWO_COLLATIONS)
def test_rows_of_a_living_job_stay_where_only_their_collation_takes_its_id_for_an_expired_ones(
    engine: str, own: str, theirs: str, named: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.metadata = sa.MetaData()
    time = "DATETIME" if engine in ("mysql", "mariadb") else "TIMESTAMP"
    if engine == "postgres":
        scene.run("CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    build(scene, f"jobs (id {own} NOT NULL PRIMARY KEY, expires_at {time})")
    build(scene, f"sms_logs ({named}about {theirs})")
    for number, (job, at) in enumerate((("abc", EXPIRED), ("ABC", LIVING)), 1):
        value = job.encode() if own.startswith("VARBINARY") else job
        scene.run("INSERT INTO jobs VALUES (:id, :at)", id=value, at=at)
        scene.run(f"INSERT INTO sms_logs VALUES ({':n, ' if named else ''}:job)", n=number, job=job)  # noqa: S608
    looked = purge(scene, "sms_logs", links="sms_logs.about", dry_run=True)
    result = purge(scene, "sms_logs", links="sms_logs.about")
    assert [row[0] for row in scene.run("SELECT about FROM sms_logs")] == ["ABC"]
    assert looked.rows["sms_logs"] == result.rows["sms_logs"] == 1


def test_a_living_job_whose_id_is_spelled_in_capitals_keeps_its_rows(mysql_url: str, tmp_path: Path) -> None:
    scene = JobScene(mysql_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    build(scene, "jobs (id CHAR(36) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, expires_at DATETIME)")
    build(scene, "sms_logs (id INTEGER NOT NULL PRIMARY KEY, job_id CHAR(36) COLLATE utf8mb4_bin)")
    for number, (job, at) in enumerate(((str(OLD_JOB), EXPIRED), (str(OLD_JOB).upper(), LIVING)), 1):
        scene.run("INSERT INTO jobs VALUES (:id, :at)", id=job, at=at)
        scene.run("INSERT INTO sms_logs VALUES (:n, :job)", n=number, job=job)
    purge(scene, "sms_logs")
    assert ids(scene, "sms_logs") == [2]


def test_a_foreign_key_to_a_column_of_another_collation_is_followed(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    build(scene, 'jobs (id text COLLATE "C" PRIMARY KEY, expires_at TIMESTAMP)')
    build(scene, "notes (id int PRIMARY KEY, job_id text REFERENCES jobs (id))")
    build(scene, "pages (id int PRIMARY KEY, note_id int REFERENCES notes (id))")
    for number, (job, at) in enumerate((("abc", EXPIRED), ("ABC", LIVING)), 1):
        scene.run("INSERT INTO jobs VALUES (:id, :at)", id=job, at=at)
        scene.run("INSERT INTO notes VALUES (:n, :job)", n=number, job=job)
        scene.run("INSERT INTO pages VALUES (:n, :n)", n=number)
    purge(scene, "notes", "pages")
    assert ids(scene, "notes") == ids(scene, "pages") == [2]


def test_sqlite_compares_a_reference_as_the_key_does_in_a_table_without_a_key_of_its_own(lite: JobScene) -> None:
    build(lite, "jobs (id TEXT NOT NULL PRIMARY KEY, expires_at TIMESTAMP)")
    build(lite, "notes (job_id TEXT COLLATE NOCASE REFERENCES jobs (id))")
    lite.run(f"INSERT INTO jobs VALUES ('abc', '{EXPIRED}'), ('ABC', '{LIVING}')")  # noqa: S608
    lite.run("INSERT INTO notes VALUES ('abc'), ('ABC')")
    purge(lite, "notes")
    assert lite.run("SELECT job_id FROM notes") == [("ABC",)]
