"""What hangs on a job: from the database's own keys, at any depth, in rings and in other schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.expired.catalogue import shown
from saju_ops.expired.foreign_keys import closure_of
from saju_ops.expired.job_tables import JobPurgeResult, JobTables, open_jobs
from saju_ops_tests.expired.job_scene import NOW, UTC_ZONE, JobScene

EXPIRED = "2026-09-30 12:00:00"
LIVING = "2026-10-01 12:00:00"


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> JobScene:
    scene = JobScene(database_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    return scene


def on_innodb(scene: JobScene, statement: str) -> str:
    return statement + (" ENGINE=InnoDB" if scene.engine.dialect.name in ("mysql", "mariadb") else "")


def build(scene: JobScene, *tables: str) -> None:
    for table in tables:
        scene.run(on_innodb(scene, f"CREATE TABLE {table}"))


def jobs(scene: JobScene, more: str = "") -> None:
    time = "DATETIME" if scene.engine.dialect.name in ("mysql", "mariadb") else "TIMESTAMP"
    build(scene, f"jobs (id INTEGER NOT NULL PRIMARY KEY, expires_at {time} NOT NULL{more})")


def purge(scene: JobScene, *tables: str, keep: tuple[str, ...] = (), **options: Any) -> JobPurgeResult:
    return scene.purge(tables=JobTables("jobs", tables, keep), **options)


def ids(scene: JobScene, table: str) -> list[Any]:
    return [row[0] for row in scene.run(f"SELECT id FROM {table} ORDER BY id")]  # noqa: S608


@pytest.mark.long
def test_a_chain_of_any_depth_is_deleted_from_its_end(scene: JobScene) -> None:
    jobs(scene)
    parent, names = "jobs", [f"level_{n}" for n in range(12)]
    for name in names:
        build(scene, f"{name} (id INTEGER NOT NULL PRIMARY KEY, up INTEGER, FOREIGN KEY (up) REFERENCES {parent} (id))")
        parent = name
    for number, at in ((1, EXPIRED), (2, LIVING)):
        scene.run(f"INSERT INTO jobs VALUES ({number}, '{at}')")  # noqa: S608
        for name in names:
            scene.run(f"INSERT INTO {name} VALUES ({number}, {number})")  # noqa: S608
    result = purge(scene, *names)
    assert all(ids(scene, name) == [2] for name in ("jobs", *names))
    assert result.rows.total() == 13


@pytest.mark.long
def test_composite_keys_and_keys_on_unique_columns_are_followed(scene: JobScene) -> None:
    jobs(scene, ", region CHAR(2) NOT NULL, number INTEGER NOT NULL, UNIQUE (region, number)")
    build(
        scene,
        "parts (id INTEGER NOT NULL PRIMARY KEY, r CHAR(2), n INTEGER,"
        " FOREIGN KEY (r, n) REFERENCES jobs (region, number))",
        "notes (part INTEGER, FOREIGN KEY (part) REFERENCES parts (id))",
    )
    scene.run_all(
        f"INSERT INTO jobs VALUES (1, '{EXPIRED}', 'kr', 7), (2, '{LIVING}', 'kr', 8), (3, '{EXPIRED}', 'us', 8)",  # noqa: S608
        "INSERT INTO parts VALUES (1, 'kr', 7), (2, 'kr', 8), (3, 'us', 8), (4, NULL, 8)",
        "INSERT INTO notes VALUES (1), (2), (3)",
    )
    purge(scene, "parts", "notes")
    assert ids(scene, "jobs") == [2]
    assert ids(scene, "parts") == [2, 4]
    assert scene.run("SELECT part FROM notes") == [(2,)]


@pytest.mark.long
def test_a_job_that_references_another_is_deleted_with_it_only_if_it_is_expired_too(scene: JobScene) -> None:
    jobs(scene, ", up INTEGER, FOREIGN KEY (up) REFERENCES jobs (id)")
    scene.run_all(
        f"INSERT INTO jobs VALUES (1, '{EXPIRED}', NULL)",  # noqa: S608
        f"INSERT INTO jobs VALUES (2, '{EXPIRED}', 1)",  # noqa: S608
        f"INSERT INTO jobs VALUES (3, '{EXPIRED}', NULL)",  # noqa: S608
        f"INSERT INTO jobs VALUES (4, '{LIVING}', 3)",  # noqa: S608
        f"INSERT INTO jobs VALUES (5, '{EXPIRED}', 5)",  # noqa: S608
    )
    result = purge(scene, batch_jobs=1)
    assert ids(scene, "jobs") == [3, 4]
    assert result.stayed_named == [("3", "a row of jobs that has not expired hangs on it")]


@pytest.mark.long
def test_a_row_that_hangs_on_itself_and_a_deep_thread_of_one_table_go(scene: JobScene) -> None:
    jobs(scene)
    build(
        scene,
        "comments (id INTEGER NOT NULL PRIMARY KEY, job INTEGER, up INTEGER, FOREIGN KEY (job) REFERENCES jobs (id),"
        " FOREIGN KEY (up) REFERENCES comments (id))",
    )
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608
    # The thread's head belongs to the job, its replies only to each other; the ids run against the thread.
    scene.run("INSERT INTO comments VALUES (50, 1, NULL)")
    for number in range(49, 0, -1):
        scene.run(f"INSERT INTO comments VALUES ({number}, NULL, {number + 1})")  # noqa: S608
    scene.run("INSERT INTO comments VALUES (60, 1, 60)")
    scene.run("INSERT INTO comments VALUES (70, 2, NULL)")
    result = purge(scene, "comments")
    assert ids(scene, "comments") == [70]
    assert result.rows == {"comments": 51, "jobs": 1}


@pytest.mark.long
def test_two_tables_that_reference_each_other_go_together(scene: JobScene) -> None:
    jobs(scene, ", latest INTEGER")
    job = "job INTEGER NOT NULL, FOREIGN KEY (job) REFERENCES jobs (id)"
    build(scene, f"reports (id INTEGER NOT NULL PRIMARY KEY, {job})")
    if scene.engine.dialect.name == "sqlite":
        scene.run("DROP TABLE jobs")
        jobs(scene, ", latest INTEGER REFERENCES reports (id)")
    else:
        scene.run("ALTER TABLE jobs ADD FOREIGN KEY (latest) REFERENCES reports (id)")
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}', NULL), (2, '{LIVING}', NULL)")  # noqa: S608
    scene.run("INSERT INTO reports VALUES (1, 1), (2, 2), (3, 1)")
    scene.run("UPDATE jobs SET latest = id")
    purge(scene, "reports")
    assert ids(scene, "jobs") == ids(scene, "reports") == [2]


def test_a_ring_that_nothing_may_empty_is_deleted_where_the_database_checks_at_the_end(
    postgres_url: str, tmp_path: Path
) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    jobs(scene, ", latest INTEGER NOT NULL")
    build(scene, "reports (id INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs (id) DEFERRABLE)")
    scene.run("ALTER TABLE jobs ADD FOREIGN KEY (latest) REFERENCES reports (id) DEFERRABLE INITIALLY DEFERRED")
    with scene.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        connection.execute(sa.text(f"INSERT INTO jobs VALUES (1, '{EXPIRED}', 1)"))  # noqa: S608
        connection.execute(sa.text("INSERT INTO reports VALUES (1, 1)"))
        connection.commit()
    purge(scene, "reports")
    assert ids(scene, "jobs") == ids(scene, "reports") == []


@pytest.mark.long
def test_a_ring_that_the_database_will_not_let_go_stays_whole_and_the_others_go(mysql_url: str, tmp_path: Path) -> None:
    scene = JobScene(mysql_url, tmp_path / "backups")
    jobs(scene, ", latest INTEGER NOT NULL")
    build(scene, "reports (id INTEGER PRIMARY KEY, job INTEGER NOT NULL, FOREIGN KEY (job) REFERENCES jobs (id))")
    scene.run("ALTER TABLE jobs ADD FOREIGN KEY (latest) REFERENCES reports (id)")
    with scene.engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        connection.exec_driver_sql(f"INSERT INTO jobs VALUES (1, '{EXPIRED}', 1), (2, '{EXPIRED}', 9)")  # noqa: S608
        connection.exec_driver_sql("INSERT INTO reports VALUES (1, 1)")
    result = purge(scene, "reports")
    assert ids(scene, "jobs") == ids(scene, "reports") == [1]
    assert "the database refused" in result.stayed_named[0][1]


def set_null(scene: JobScene, table: str = "ratings") -> None:
    build(
        scene,
        f"{table} (id INTEGER NOT NULL PRIMARY KEY, job INTEGER,"
        " FOREIGN KEY (job) REFERENCES jobs (id) ON DELETE SET NULL)",
    )


@pytest.mark.long
def test_rows_whose_key_would_be_emptied_go_where_their_table_is_named(scene: JobScene) -> None:
    """Once 24 rows of four such tables lost their job, and 44 files stayed in S3 for ever."""
    jobs(scene)
    set_null(scene)
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608
    scene.run("INSERT INTO ratings VALUES (1, 1), (2, 2)")
    with pytest.raises(Refused, match="so its rows would lose their reference, but PURGE_TABLES doesn't name it"):
        purge(scene)
    looked, result = purge(scene, "ratings", dry_run=True), purge(scene, "ratings", keep=("ratings",))
    assert scene.run("SELECT id, job FROM ratings ORDER BY id") == [(2, 2)]
    assert looked.rows == result.rows == {"jobs": 1, "ratings": 1}
    assert not result.detached
    assert scene.archived("ratings") == [{"id": "1", "job": "1"}]


@pytest.mark.long
def test_rows_that_must_be_kept_and_may_not_go_stay_without_their_reference(scene: JobScene) -> None:
    jobs(scene)
    set_null(scene)
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608
    scene.run("INSERT INTO ratings VALUES (1, 1), (2, 2)")
    result = purge(scene, keep=("ratings",))
    assert scene.run("SELECT id, job FROM ratings ORDER BY id") == [(1, None), (2, 2)]
    assert dict(result.detached) == {"ratings": 1}
    # To which job it belonged is in the archive.
    assert scene.archived("ratings") == [{"id": "1", "job": "1"}]


@pytest.mark.parametrize("engine", ["postgres", "sqlite"])  # InnoDB knows no such rule
def test_rows_whose_key_would_get_a_default_go_as_well(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.metadata = sa.MetaData()
    jobs(scene)
    build(
        scene,
        "ratings (id INTEGER NOT NULL PRIMARY KEY, job INTEGER DEFAULT 2,"
        " FOREIGN KEY (job) REFERENCES jobs (id) ON DELETE SET DEFAULT)",
    )
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608
    scene.run("INSERT INTO ratings VALUES (1, 1), (2, 2)")
    purge(scene, "ratings")
    assert scene.run("SELECT id, job FROM ratings") == [(2, 2)]


def test_rows_that_lost_their_job_to_an_earlier_version_are_counted(scene: JobScene) -> None:
    jobs(scene)
    set_null(scene)
    scene.run("INSERT INTO ratings VALUES (1, NULL), (2, NULL)")
    assert dict(purge(scene, "ratings").orphans) == {"ratings.job (NULL)": 2}


@pytest.mark.long
def test_a_row_with_two_references_stays_where_one_leads_to_a_row_that_stays(scene: JobScene) -> None:
    jobs(scene)
    build(
        scene,
        "gifts (id INTEGER NOT NULL PRIMARY KEY, job INTEGER, giver INTEGER,"
        " CONSTRAINT of_job FOREIGN KEY (job) REFERENCES jobs (id) ON DELETE CASCADE,"
        " CONSTRAINT of_giver FOREIGN KEY (giver) REFERENCES jobs (id) ON DELETE SET NULL)",
        "cards (id INTEGER NOT NULL PRIMARY KEY, gift INTEGER NOT NULL, FOREIGN KEY (gift) REFERENCES gifts (id))",
    )
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{LIVING}')")  # noqa: S608
    # The second belongs to a living job; the fourth to nobody but its giver.
    scene.run("INSERT INTO gifts VALUES (1, 1, 2), (2, 2, 1), (3, 1, 1), (4, NULL, 1)")
    scene.run("INSERT INTO cards VALUES (1, 1), (2, 2), (4, 4)")
    looked = purge(scene, "gifts", "cards", keep=("gifts",), dry_run=True)
    result = purge(scene, "gifts", "cards", keep=("gifts",))
    assert scene.run("SELECT id, job, giver FROM gifts ORDER BY id") == [(2, 2, None)]
    assert ids(scene, "cards") == [2]
    for each_result in (looked, result):
        assert (each_result.rows["gifts"], each_result.rows["cards"], dict(each_result.detached)) == (
            3,
            2,
            {"gifts": 1},
        )
    assert scene.archived_ids("gifts") == [1, 2, 3, 4]


def test_a_row_of_two_expired_jobs_that_would_be_emptied_by_both_is_deleted_with_them(scene: JobScene) -> None:
    jobs(scene)
    build(
        scene,
        "calls (id INTEGER NOT NULL PRIMARY KEY, a INTEGER, b INTEGER,"
        " CONSTRAINT of_a FOREIGN KEY (a) REFERENCES jobs (id) ON DELETE SET NULL,"
        " CONSTRAINT of_b FOREIGN KEY (b) REFERENCES jobs (id) ON DELETE SET NULL)",
    )
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{EXPIRED}'), (3, '{LIVING}'), (4, '{EXPIRED}')")  # noqa: S608
    scene.run("INSERT INTO calls VALUES (1, 1, 2), (2, 3, 1), (3, 4, NULL)")
    purge(scene, "calls")
    assert scene.run("SELECT id, a, b FROM calls") == [(2, 3, None)]


def test_a_row_that_a_trigger_silently_keeps_keeps_its_job(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    jobs(scene)
    build(scene, "notes (id INTEGER PRIMARY KEY, job INTEGER REFERENCES jobs (id) ON DELETE CASCADE)")
    scene.run_all(
        f"INSERT INTO jobs VALUES (1, '{EXPIRED}'), (2, '{EXPIRED}')",  # noqa: S608
        "INSERT INTO notes VALUES (1, 1), (2, 2)",
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.id = 1 THEN RETURN NULL; END IF; RETURN OLD; END $$",
        "CREATE TRIGGER keep BEFORE DELETE ON notes FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    result = purge(scene, "notes")
    assert (ids(scene, "jobs"), ids(scene, "notes")) == ([1], [1])
    assert list(result.stayed) == ["the server kept 1 row of notes in a DELETE; a trigger or rule may do so"]


@pytest.mark.long
def test_jobs_that_share_a_row_go_together_or_not_at_all(scene: JobScene) -> None:
    jobs(scene, ", up INTEGER, FOREIGN KEY (up) REFERENCES jobs (id)")
    build(
        scene,
        "bundles (id INTEGER NOT NULL PRIMARY KEY, a INTEGER, b INTEGER, FOREIGN KEY (a) REFERENCES jobs (id),"
        " FOREIGN KEY (b) REFERENCES jobs (id))",
    )
    # 1 and 2 share a row, and a living job hangs on 2; 5 and 6 share one, and nothing keeps them.
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}', NULL), (2, '{EXPIRED}', NULL), (5, '{EXPIRED}', NULL)")  # noqa: S608
    scene.run(f"INSERT INTO jobs VALUES (4, '{LIVING}', 2), (6, '{EXPIRED}', NULL)")  # noqa: S608
    scene.run("INSERT INTO bundles VALUES (1, 1, 2), (2, 5, 6)")
    result = purge(scene, "bundles")
    assert (ids(scene, "jobs"), ids(scene, "bundles")) == ([1, 2, 4], [1])
    assert result.stayed.total() == 2
    assert result.rows == {"jobs": 2, "bundles": 1}


def test_names_that_need_quotes_are_quoted(scene: JobScene) -> None:
    quote = scene.engine.dialect.identifier_preparer.quote_identifier
    order, key = quote("order"), quote("Select me, %s")
    jobs(scene)
    build(scene, f"{order} ({key} INTEGER NOT NULL PRIMARY KEY, {quote('job:id')} INTEGER,"
                 f" FOREIGN KEY ({quote('job:id')}) REFERENCES jobs (id))".replace(":", "\\:"))  # fmt: skip
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}')")  # noqa: S608
    scene.run(f"INSERT INTO {order} VALUES (1, 1)")  # noqa: S608
    purge(scene, "order", keep=("order",))
    assert scene.run(f"SELECT COUNT(*) FROM {order}") == [(0,)]  # noqa: S608


def test_a_table_of_another_schema_is_found_and_named(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    jobs(scene)
    scene.run("CREATE SCHEMA audit")
    build(scene, "audit.trail (id INTEGER PRIMARY KEY, job INTEGER REFERENCES jobs (id) ON DELETE CASCADE)")
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}')")  # noqa: S608
    scene.run("INSERT INTO audit.trail VALUES (1, 1)")
    with pytest.raises(Refused, match=r"The table audit\.trail references jobs"):
        purge(scene, "trail")
    assert ids(scene, "audit.trail") == [1]
    result = purge(scene, "audit.trail")
    assert (ids(scene, "audit.trail"), result.rows["audit.trail"]) == ([], 1)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_table_of_another_database_is_found_and_one_that_the_account_may_not_see_is_refused_or_a_doubt(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(f"{engine}_server")
    with server.database() as url, server.database() as other_url:
        scene, other = JobScene(url, tmp_path / "backups"), sa.make_url(other_url).database
        jobs(scene)
        build(scene, f"{other}.trail (id INTEGER PRIMARY KEY, job INTEGER, FOREIGN KEY (job) REFERENCES"
                     f" {scene.url.database}.jobs (id) ON DELETE CASCADE)")  # fmt: skip
        with pytest.raises(Refused, match=f"The table {other}.trail references jobs"):
            purge(scene)
        with open_jobs(scene.url, "jobs", UTC_ZONE) as store:
            assert closure_of(store).doubts == ()
        server.execute(
            "CREATE USER narrow@'127.0.0.1' IDENTIFIED BY 'secret'",
            f"GRANT ALL ON {scene.url.database}.* TO narrow@'127.0.0.1'",
        )
        try:
            narrow = scene.url.set(username="narrow", password="secret")
            with open_jobs(narrow, "jobs", UTC_ZONE) as store:
                (doubt,) = closure_of(store).doubts
            assert "may not see every foreign key" in doubt
            server.execute("GRANT PROCESS ON *.* TO narrow@'127.0.0.1'")
            with open_jobs(narrow, "jobs", UTC_ZONE) as store:
                with pytest.raises(Refused, match=f"{other}.trail references rows that would go"):
                    closure_of(store)
            server.execute(f"GRANT SELECT ON {other}.trail TO narrow@'127.0.0.1'")
            with open_jobs(narrow, "jobs", UTC_ZONE) as store:
                assert closure_of(store).doubts == ()
        finally:
            server.execute("DROP USER narrow@'127.0.0.1'", f"DROP TABLE {other}.trail")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_table_whose_name_differs_from_a_listed_one_in_letter_case_only_is_another(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups")
    scene.metadata = sa.MetaData()
    quote = scene.engine.dialect.identifier_preparer.quote_identifier
    jobs(scene)
    for number, name in enumerate(("Payments", "payments")):
        build(
            scene,
            f"{quote(name)} (id INTEGER NOT NULL PRIMARY KEY, job INTEGER,"
            f" CONSTRAINT key_{number} FOREIGN KEY (job) REFERENCES jobs (id))",
        )
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}')")  # noqa: S608
    scene.run(f"INSERT INTO {quote('Payments')} VALUES (7, 1)")  # noqa: S608
    scene.run(f"INSERT INTO {quote('payments')} VALUES (8, 1)")  # noqa: S608
    with pytest.raises(Refused, match="The table Payments references jobs"):
        purge(scene, "payments", keep=("payments",))
    purge(scene, "payments", "Payments", keep=("payments",))
    assert ids(scene, "jobs") == []
    assert scene.archived_ids("payments") == [8]


@pytest.mark.parametrize("rule", ["CASCADE", "NO ACTION"])
def test_sqlite_texts_are_compared_as_the_key_that_they_reference(sqlite_url: str, tmp_path: Path, rule: str) -> None:
    scene = JobScene(sqlite_url, tmp_path / "backups")
    scene.metadata = sa.MetaData()
    build(
        scene,
        "jobs (id TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, expires_at TIMESTAMP)",
        f"payments (id INTEGER NOT NULL PRIMARY KEY, job TEXT REFERENCES jobs (id) ON DELETE {rule})",
        f"notes (id INTEGER NOT NULL PRIMARY KEY, job TEXT REFERENCES jobs (id) ON DELETE {rule})",
    )
    scene.run_all(
        f"INSERT INTO jobs VALUES ('abc', '{EXPIRED}'), ('xyz', '{LIVING}')",  # noqa: S608
        "INSERT INTO payments VALUES (1, 'ABC'), (2, 'XYZ')",
        "INSERT INTO notes VALUES (1, 'Abc'), (2, 'xYz')",
    )
    result = purge(scene, "payments", "notes", keep=("payments",))
    assert (ids(scene, "jobs"), ids(scene, "payments"), ids(scene, "notes")) == (["xyz"], [2], [2])
    assert scene.archived_ids("payments") == [1]
    assert (result.rows["notes"], result.orphans.total()) == (1, 0)


def test_a_key_to_a_partition_is_one_to_its_table(postgres_url: str, tmp_path: Path) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups")
    scene.run("CREATE TABLE jobs (id int PRIMARY KEY, expires_at timestamptz) PARTITION BY RANGE (id)")
    scene.run("CREATE TABLE jobs_1 PARTITION OF jobs FOR VALUES FROM (0) TO (10)")
    scene.run("CREATE TABLE trail (id int PRIMARY KEY, job int REFERENCES jobs_1 (id) ON DELETE CASCADE)")
    scene.run(f"INSERT INTO jobs VALUES (1, '{EXPIRED}')")  # noqa: S608
    scene.run("INSERT INTO trail VALUES (1, 1)")
    with pytest.raises(Refused, match="The table trail references jobs"):
        purge(scene)
    assert ids(scene, "trail") == [1]
    assert purge(scene, "trail").rows["trail"] == 1
    assert (ids(scene, "jobs"), ids(scene, "trail")) == ([], [])


@pytest.mark.long
def test_children_are_ordered_before_what_they_reference(scene: JobScene) -> None:
    scene = JobScene(scene.url.render_as_string(hide_password=False), scene.folder).create()
    with open_jobs(scene.url, "jobs", UTC_ZONE) as store:
        closure = closure_of(store)
    order = [shown(group[0]) for group in closure.groups]
    assert order[-1] == "jobs"
    assert order.index("report_knowledge") < order.index("reports")
    assert len(order) == 8


def test_rows_that_a_database_without_its_keys_left_behind_are_reported(sqlite_url: str, tmp_path: Path) -> None:
    scene = JobScene(sqlite_url, tmp_path / "backups").create()
    with scene.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        columns = "(id, job_id, phone, message, status)"
        connection.exec_driver_sql(f"INSERT INTO sms_logs {columns} VALUES (1, 'gone', '', '', '')")  # noqa: S608
    assert dict(scene.purge(now=NOW).orphans) == {"sms_logs.job_id": 1}
