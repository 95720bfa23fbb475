"""`saju-ops status` tries what the settings name: servers beside the databases, rights, names and files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops_tests.accounts import account
from saju_ops_tests.cli.test_status import line, unusable
from saju_ops_tests.dumps.scene import scratch_databases
from saju_ops_tests.engines import Engine, PgBouncer, Redis, free_port
from saju_ops_tests.fakes.mail import PASSWORD, USER, MailServer
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

README = "GRANT SELECT, INSERT, UPDATE, DELETE ON {db}.* TO {user}"
DRILL = ("GRANT CREATE USER ON *.* TO {user}", "GRANT ALL ON `saju\\_ops\\_drill\\_%`.* TO {user} WITH GRANT OPTION")


@pytest.fixture(params=["mysql", "mariadb"])
def served(request: pytest.FixtureRequest) -> tuple[Engine, str]:
    return request.getfixturevalue(f"{request.param}_server"), request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def role(postgres_server: Engine, postgres_url: str) -> Iterator[str]:
    """The address of an account of PostgreSQL that may do nothing."""
    name = f"ops_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'long enough'")
    url = sa.make_url(postgres_url).set(username=name, password="long enough")
    yield url.render_as_string(hide_password=False)
    for database in ("postgres", url.database):
        engine = sa.create_engine(sa.make_url(postgres_url).set(database=database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
        engine.dispose()
    postgres_server.execute(f"DROP ROLE {name}")


@pytest.mark.long
def test_the_rights_that_a_dump_lacks_are_named_as_a_grant(
    monkeypatch: pytest.MonkeyPatch, served: tuple[Engine, str]
) -> None:
    server, url = served
    with account(server, url, README, *DRILL) as ops:
        monkeypatch.setenv("DATABASE_URL", ops.url)
        said = unusable("dumps")
        assert f"GRANT SHOW VIEW, TRIGGER, EVENT ON `{ops.database}`.* TO 'ops_" in said
        routines = "GRANT SHOW_ROUTINE ON *.*" if server.name == "MySQL" else "GRANT SELECT ON mysql.proc"
        assert routines in said
        grants = [part.strip() for part in said.partition("may say: ")[2].split(";") if part.strip()]
        server.execute(*grants)
        assert line("dumps").startswith("ok "), line("dumps")
    assert scratch_databases(server) == []


def test_rights_that_a_drill_lacks_are_named(monkeypatch: pytest.MonkeyPatch, served: tuple[Engine, str]) -> None:
    server, url = served
    with account(server, url, "GRANT ALL ON {db}.* TO {user}", "GRANT SELECT ON *.* TO {user}") as ops:
        monkeypatch.setenv("DATABASE_URL", ops.url)
        assert "GRANT ALL ON" in unusable("dumps").replace("Grant ALL", "GRANT ALL")


def test_rights_that_a_dump_of_postgresql_lacks_are_named_as_a_grant(
    monkeypatch: pytest.MonkeyPatch, postgres_server: Engine, postgres_url: str, role: str
) -> None:
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id serial PRIMARY KEY)")
        monkeypatch.setenv("DATABASE_URL", role)
        monkeypatch.setenv("RESTORE_DRILL_URL", postgres_server.url)
        said = unusable("dumps")
        assert "GRANT SELECT ON ALL TABLES IN SCHEMA" in said
        for grant in said.partition("may say: ")[2].split(";"):
            if grant.strip():
                connection.exec_driver_sql(grant)
    assert line("dumps").startswith("ok "), line("dumps")


def test_a_replica_is_asked_for_its_lag(monkeypatch: pytest.MonkeyPatch, served: tuple[Engine, str]) -> None:
    server, url = served
    monkeypatch.setenv("REPLICA_URLS", url)
    assert "is no replica, or its replication is not running" in unusable("REPLICA_URLS")
    with account(server, url, README) as ops:
        monkeypatch.setenv("REPLICA_URLS", ops.url.replace(" ", "%20"))
        said = unusable("REPLICA_URLS")
        assert "can't be asked for its lag" in said
        assert "REPLICATION CLIENT" in said
    monkeypatch.setenv("REPLICA_URLS", f"mysql://ops:pw-of-replica@127.0.0.1:{free_port()}/db")
    assert "can't be asked for its lag" in unusable("REPLICA_URLS")
    assert "pw-of-replica" not in line("REPLICA_URLS")


@pytest.mark.long
def test_a_drill_server_is_really_tried(monkeypatch: pytest.MonkeyPatch, mariadb_url: str, mysql_url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", mariadb_url)
    assert line("dumps").startswith("ok ")
    monkeypatch.setenv("RESTORE_DRILL_URL", mysql_url)
    assert "a dump of mariadb can only be tried on mariadb" in unusable("dumps")
    monkeypatch.setenv("RESTORE_DRILL_URL", f"mysql://ops:pw-of-drill@127.0.0.1:{free_port()}/db")
    assert "No scratch database could be made" in unusable("dumps")
    assert "pw-of-drill" not in line("dumps")


def test_a_pooler_that_does_not_know_the_drills_user_is_found(
    monkeypatch: pytest.MonkeyPatch, postgres_server: Engine, postgres_url: str
) -> None:
    known = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1 AND usename = 'postgres'"
    with PgBouncer(postgres_server, pool_mode="session", auth_query=known) as pool:
        monkeypatch.setenv("DATABASE_URL", pool.database_url(postgres_url.rpartition("/")[2]))
        assert "no such user" in unusable("dumps")
        monkeypatch.setenv("RESTORE_DRILL_URL", postgres_server.url)
        assert line("dumps").startswith("ok ")


def test_redis_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    with Redis() as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        assert line("REDIS_URL").startswith("ok ")
        monkeypatch.setenv("REDIS_URL", server.url.replace(server.password, "wrong-redis-pw"))
        said = unusable("REDIS_URL")
        assert "Redis can't be used (AuthenticationError)" in said
        assert "wrong-redis-pw" not in said
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert "ConnectionError" in unusable("REDIS_URL")


def test_slack_is_asked_whose_token_it_is_and_nothing_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeSlack() as slack:
        monkeypatch.setenv("SLACK_API_URL", slack.url)
        monkeypatch.setenv("SLACK_BOT_TOKEN", TOKEN)
        assert line("SLACK_BOT_TOKEN").startswith("ok ")
        monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-not-a-token-of-slack")
        assert "invalid token" in unusable("SLACK_BOT_TOKEN")
        assert slack.messages == []


def test_the_mail_server_is_reached_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer(login=True) as mail:
        for name, value in {
            "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mail.port), "SMTP_SECURITY": "none", "SMTP_USER": USER,
            "SMTP_PASSWORD": PASSWORD, "ALERT_EMAIL_FROM": "saju@example.com", "ALERT_EMAIL_TO": "ops@example.com",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        assert line("SMTP_HOST").startswith("ok ")
        monkeypatch.setenv("SMTP_PASSWORD", "wrong-mail-pw")
        said = unusable("SMTP_HOST")
        assert "login refused" in said
        assert "wrong-mail-pw" not in said
        monkeypatch.setenv("SMTP_PORT", str(free_port()))
        assert "unreachable" in unusable("SMTP_HOST")
        monkeypatch.delenv("ALERT_EMAIL_TO")
        assert "ALERT_EMAIL_TO is not set" in unusable("SMTP_HOST")
        assert mail.received == []


def test_names_of_jobs_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGER_JOBS", "purge_expired_jobs")
    assert line("TRIGGER_JOBS").startswith("ok ")
    monkeypatch.setenv("TRIGGER_JOBS", "purge_expired_jobs,purge_expired_job")
    assert "there is no job purge_expired_job; there are" in unusable("TRIGGER_JOBS")


def test_a_chroma_folder_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not line("CHROMA_DB_PATH").startswith("FAIL")
    monkeypatch.setenv("CHROMA_DB_PATH", str(tmp_path / "chroma"))
    assert f"there is no folder {tmp_path}/chroma" in unusable("CHROMA_DB_PATH")


def test_files_of_credentials_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name, file = "GOOGLE_APPLICATION_CREDENTIALS", tmp_path / "key.json"
    monkeypatch.setenv(name, str(file))
    assert f"{file} can't be read (No such file or directory)" in unusable(name)
    file.write_text("{}")
    assert "is no key file of Google" in unusable(name)
    file.write_text(json.dumps({"type": "authorized_user"}))
    assert "a service_account is needed" in unusable(name)
    file.write_text(json.dumps({"type": "service_account"}))
    assert line(name).startswith("ok ")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_PROFILE", "no_such_profile")
    assert "no_such_profile" in unusable("AWS_PROFILE")
