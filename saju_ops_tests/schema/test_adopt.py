"""A database made by hand gets its revision: what counts as a difference, what doesn't, and that nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.schema.migrate import catalogue, commands
from saju_ops.schema.migrate.adopt import Adoption, adopt
from saju_ops.schema.migrate.compare import compare
from saju_ops.schema.migrate.session import session
from saju_ops_tests.accounts import account
from saju_ops_tests.engines import Engine
from saju_ops_tests.schema.scene import HERE, MAIN, TABLES, address, by_hand, recorded, run, tables, up, versions


@pytest.fixture(params=["mysql", "mariadb"])
def mysql_family_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def adopted(url: str, **more: Any) -> Adoption:
    return adopt(address(url), HERE, **more)


def differing(url: str) -> list[str]:
    """What a dry adoption lists; nothing is left behind of the comparison."""
    before = databases(url)
    found = adopted(url, dry_run=True)
    assert databases(url) == before
    return [d.what for d in found.comparison.differences]


def databases(url: str) -> set[str]:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return set()
    schemas = "SELECT schema_name FROM information_schema.schemata"
    return {str(row[0]) for row in run(url, schemas) if str(row[0]).startswith("saju_ops")}


def shape(url: str) -> dict[str, catalogue.TableShape]:
    with session(address(url)) as connection:
        return catalogue.read(connection, sorted(TABLES))


@pytest.mark.long
def test_a_database_made_by_hand_gets_its_revision_and_no_change(database_url: str) -> None:
    by_hand(database_url)
    before = shape(database_url)
    found = adopted(database_url)
    assert (found.revision, found.comparison.differences) == ("0002_indexes", [])
    assert shape(database_url) == before
    assert versions(database_url) == MAIN[-1:]
    assert up(database_url).changed == []


@pytest.mark.long
def test_what_was_applied_by_hand_is_kept_in_the_history_and_shown_in_the_order_of_numbers(database_url: str) -> None:
    by_hand(database_url)
    adopted(database_url)
    assert set(recorded(database_url)) == {*MAIN, "1.0.0", "1.2.0", "1.10.0"}
    status = commands.status(address(database_url), HERE)
    assert [row.version for row in status.by_hand] == ["1.0.0", "1.2.0", "1.10.0"]
    assert status.by_hand[0].rollback_sql == "DROP DATABASE saju;"


@pytest.mark.long
def test_without_the_composite_indexes_it_is_at_the_migration_before_them(database_url: str) -> None:
    by_hand(database_url, composite=False)
    found = adopted(database_url)
    assert (found.revision, found.left) == ("0001_tables", ["0002_indexes"])
    assert up(database_url).changed == ["0002_indexes"]
    assert compare(address(database_url), HERE, MAIN[-1:]).matches


@pytest.mark.long
def test_a_column_and_an_index_of_the_services_own_are_no_difference(database_url: str) -> None:
    by_hand(database_url)
    run(database_url, "ALTER TABLE users ADD COLUMN nickname varchar(50)", "CREATE INDEX mine ON users (nickname)")
    assert differing(database_url) == []


@pytest.mark.long
@pytest.mark.parametrize("url", ["mysql_url", "postgres_url"])
def test_where_the_description_leaves_it_open_nullability_and_defaults_are_notes(
    url: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(url)
    by_hand(url)
    if "mysql" in url:
        run(
            url, "ALTER TABLE conversation_logs MODIFY created_at timestamp NULL DEFAULT CURRENT_TIMESTAMP",
            "ALTER TABLE saju_analyses MODIFY analysis_version varchar(20) DEFAULT '1.0'",
            "ALTER TABLE saju_calculations MODIFY lunar_leap_month bool NULL",
        )  # fmt: skip
    else:
        run(
            url, "ALTER TABLE conversation_logs ALTER created_at DROP NOT NULL",
            "ALTER TABLE saju_analyses ALTER analysis_version SET DEFAULT '1.0'",
            "ALTER TABLE saju_calculations ALTER lunar_leap_month DROP DEFAULT",
        )  # fmt: skip
    found = adopted(url)
    assert found.comparison.differences == []
    assert "conversation_logs.created_at may be NULL" in found.comparison.notes
    assert "saju_calculations.lunar_leap_month has no default" in found.comparison.notes


@pytest.mark.long
def test_a_missing_index_is_a_difference_and_is_not_adopted(database_url: str) -> None:
    by_hand(database_url)
    drop_index(database_url, "users", "last_login")
    assert differing(database_url) == ["users has no index on (last_login)"]
    assert adopted(database_url).hindered
    assert "alembic_version" not in tables(database_url)
    assert recorded(database_url) == ["1.0.0", "1.10.0", "1.2.0"]


@pytest.mark.long
def test_differences_that_are_accepted_are_adopted_with(database_url: str) -> None:
    by_hand(database_url)
    drop_index(database_url, "users", "last_login")
    found = adopted(database_url, accept_differences=True)
    assert found.revision == "0002_indexes"
    assert versions(database_url) == MAIN[-1:]
    assert not compare(address(database_url), HERE, MAIN[-1:]).matches


def drop_index(url: str, table: str, column: str) -> None:
    name = f"ix_{table}_{column}"
    run(url, f"DROP INDEX {name} ON {table}" if "mysql" in url else f"DROP INDEX {name}")


MYSQL_DRIFT = {
    "another type": (
        "ALTER TABLE users MODIFY last_login datetime NULL",
        "users.last_login is datetime, and timestamp is right",
    ),
    "a longer text": ("ALTER TABLE saju_analyses MODIFY yongshin varchar(20)", "saju_analyses.yongshin is varchar(20)"),
    "another list of values": (
        "ALTER TABLE conversation_logs MODIFY role enum('user','assistant') NOT NULL",
        "conversation_logs.role is enum('user','assistant')",
    ),
    "a missing foreign key": (
        "ALTER TABLE conversation_logs DROP FOREIGN KEY fk_conversation_logs_session_id",
        "conversation_logs has no foreign key (session_id) references user_sessions (session_id), on delete CASCADE",
    ),
    "a foreign key without its cascade": (
        "ALTER TABLE conversation_logs DROP FOREIGN KEY fk_conversation_logs_session_id, ADD FOREIGN KEY (session_id)"
        " REFERENCES user_sessions (session_id)",
        "on delete CASCADE; it has (session_id) references user_sessions (session_id)",
    ),
    "the direction of an index lost": (
        "ALTER TABLE conversation_logs DROP INDEX idx_by_hand_3, ADD INDEX other (session_id, created_at)",
        "conversation_logs has no index on (session_id, created_at DESC); other is on (session_id, created_at)",
    ),
    "another sort order": (
        "ALTER TABLE system_metrics MODIFY metric_name varchar(100) COLLATE utf8mb4_bin NOT NULL",
        "system_metrics.metric_name is sorted by utf8mb4_bin",
    ),
    "automatic numbers lost": (
        "ALTER TABLE system_metrics MODIFY metric_id bigint NOT NULL",
        "system_metrics.metric_id has nothing where auto_increment is right",
    ),
    "a dropped primary key": (
        "ALTER TABLE system_metrics MODIFY metric_id bigint NOT NULL, DROP PRIMARY KEY",
        "system_metrics has no primary key, and the primary key (metric_id) is right",
    ),
    "a long text where JSON is right": (
        "ALTER TABLE users MODIFY preferences longtext",
        "users.preferences is longtext, and json is right",
    ),
    "another default": (
        "ALTER TABLE saju_calculations MODIFY calculation_version varchar(20) DEFAULT '2.0'",
        "saju_calculations.calculation_version has the default 2.0, and the default 1.0 is right",
    ),
    "another interval": (
        "ALTER TABLE user_sessions MODIFY expires_at timestamp NOT NULL"
        " DEFAULT (CURRENT_TIMESTAMP + INTERVAL 60 MINUTE)",
        "user_sessions.expires_at has the default",
    ),
    "not renewed at updates": (
        "ALTER TABLE users MODIFY updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP",
        "users.updated_at has nothing where on update CURRENT_TIMESTAMP is right",
    ),
    "another storage engine": (
        "ALTER TABLE schema_migrations ENGINE = MyISAM",
        "schema_migrations is of the storage engine MyISAM",
    ),
    "a shorter prefix": (
        "ALTER TABLE users DROP INDEX ix_users_last_login, ADD INDEX (last_login, created_at)",
        "users has no index on (last_login)",
    ),
    "a column lost": ("ALTER TABLE users DROP COLUMN preferences", "the column users.preferences is missing"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", MYSQL_DRIFT)
def test_drift_of_each_kind_is_named_and_nothing_else_on_mysql_and_mariadb(kind: str, mysql_family_url: str) -> None:
    by_hand(mysql_family_url)
    statement, expected = MYSQL_DRIFT[kind]
    run(mysql_family_url, statement)
    found = differing(mysql_family_url)
    assert any(expected in what for what in found), found
    assert len(found) == (2 if kind == "a dropped primary key" else 1), found


@pytest.mark.long
def test_an_invisible_index_serves_no_query_and_counts_as_missing(mysql_url: str) -> None:
    by_hand(mysql_url)
    run(mysql_url, "ALTER TABLE users ALTER INDEX ix_users_last_login INVISIBLE")
    assert "not usable" in differing(mysql_url)[0]


POSTGRES_DRIFT = {
    "another type": (
        "ALTER TABLE users ALTER preferences TYPE jsonb USING preferences::jsonb",
        "users.preferences is jsonb, and json is right",
    ),
    "a missing foreign key": (
        "ALTER TABLE conversation_logs DROP CONSTRAINT fk_conversation_logs_session_id",
        "conversation_logs has no foreign key (session_id) references user_sessions (session_id), on delete CASCADE",
    ),
    "the direction of an index lost": (
        "DROP INDEX idx_by_hand_3; CREATE INDEX other ON conversation_logs (session_id, created_at)",
        "conversation_logs has no index on (session_id, created_at DESC); other is on (session_id, created_at)",
    ),
    "another sort order": (
        'ALTER TABLE system_metrics ALTER metric_name TYPE varchar(100) COLLATE "C"',
        "system_metrics.metric_name is sorted by C",
    ),
    "automatic numbers lost": (
        "ALTER TABLE system_metrics ALTER metric_id DROP DEFAULT",
        "system_metrics.metric_id has nothing where auto_increment is right",
    ),
    "a dropped primary key": (
        "ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_pkey",
        "system_metrics has no primary key, and the primary key (metric_id) is right",
    ),
    "another default": (
        "ALTER TABLE user_sessions ALTER expires_at SET DEFAULT timezone('utc', CURRENT_TIMESTAMP)"
        " + interval '60 minutes'",
        "user_sessions.expires_at has the default",
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kind", POSTGRES_DRIFT)
def test_drift_of_each_kind_is_named_and_nothing_else_on_postgresql(kind: str, postgres_url: str) -> None:
    by_hand(postgres_url)
    statement, expected = POSTGRES_DRIFT[kind]
    run(postgres_url, *statement.split("; "))
    found = differing(postgres_url)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.long
def test_a_missing_table_cant_be_adopted_and_the_way_to_it_is_named(database_url: str) -> None:
    by_hand(database_url)
    run(database_url, "DROP TABLE system_metrics")
    with pytest.raises(Refused, match=r"it lacks system_metrics.*saju-ops migrate sql"):
        adopted(database_url)


@pytest.mark.long
def test_up_refuses_tables_that_nobody_adopted(database_url: str) -> None:
    by_hand(database_url)
    with pytest.raises(Refused, match=r"no migration made them.*saju-ops migrate adopt"):
        up(database_url)
    assert recorded(database_url) == ["1.0.0", "1.10.0", "1.2.0"]


@pytest.mark.long
def test_what_is_adopted_is_not_adopted_twice(database_url: str) -> None:
    by_hand(database_url)
    adopted(database_url)
    with pytest.raises(Refused, match="adopted already"):
        adopted(database_url)


@pytest.mark.long
def test_a_database_with_another_sort_order_of_its_own_is_no_difference(mysql_family_url: str) -> None:
    name = sa.make_url(mysql_family_url).database
    run(mysql_family_url, f"ALTER DATABASE `{name}` COLLATE utf8mb4_unicode_ci")
    up(mysql_family_url)
    assert {c.collation for c in shape(mysql_family_url)["users"].columns.values()} == {None, "utf8mb4_unicode_ci"}
    assert compare(address(mysql_family_url), HERE, MAIN[-1:]).matches


@pytest.fixture(params=["mysql", "mariadb"])
def few_rights(request: pytest.FixtureRequest) -> Iterator[str]:
    server: Engine = request.getfixturevalue(f"{request.param}_server")
    url: str = request.getfixturevalue(f"{request.param}_url")
    by_hand(url)
    with account(server, url, "GRANT ALL ON {db}.* TO {user}") as mine:
        yield mine.url


@pytest.mark.long
def test_an_account_that_may_make_no_scratch_database_is_named_what_it_lacks(few_rights: str) -> None:
    with pytest.raises(Refused, match=r"Nothing was compared.*Grant ALL ON") as error:
        adopted(few_rights)
    assert "saju_ops" in str(error.value)
    assert recorded(few_rights) == ["1.0.0", "1.10.0", "1.2.0"]


@pytest.mark.long
def test_rights_on_its_database_and_on_scratch_ones_are_enough(mariadb_server: Engine, mariadb_url: str) -> None:
    by_hand(mariadb_url)
    rights = (r"GRANT ALL ON {db}.* TO {user}", r"GRANT ALL ON `saju\_ops\_drill\_%`.* TO {user}")
    with account(mariadb_server, mariadb_url, *rights) as mine:
        assert adopted(mine.url).revision == MAIN[-1]


def test_a_role_that_may_make_no_schema_is_named_what_it_lacks(postgres_server: Engine, postgres_url: str) -> None:
    by_hand(postgres_url)
    postgres_server.execute("CREATE ROLE few_rights LOGIN PASSWORD 'long enough'")
    try:
        run(postgres_url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO few_rights")
        mine = sa.make_url(postgres_url).set(username="few_rights", password="long enough")
        with pytest.raises(Refused, match=r"Nothing was compared.*GRANT CREATE ON DATABASE"):
            adopt(mine, HERE)
    finally:
        run(postgres_url, "DROP OWNED BY few_rights", "DROP ROLE few_rights")
