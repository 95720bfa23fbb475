"""What the options of a database's address mean: the same to every part that connects, or a refusal that names one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from saju_ops.cli.status_report import report
from saju_ops.database.address import overridden, place, redacted, same_place
from saju_ops.database.connect import connect, error_text, parse_database_url
from saju_ops.database.mysql_address import mysql_tls
from saju_ops.dumps.mysql.clients import options_file
from saju_ops.dumps.take import distinct, label_of
from saju_ops.errors import OperatorError, Refused
from saju_ops.rows.engines.open import open_log_store
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops.stale.reconcile import missing_tables
from saju_ops_tests.archive.scene import DAY, UTC_ZONE, Scene
from saju_ops_tests.dumps.scene import Dumps
from saju_ops_tests.engines import Engine
from saju_ops_tests.expired.job_scene import JobScene
from saju_ops_tests.stale.scene import Scene as StaleScene

IN_CHAT = "?options=-csearch_path%3Dchat"


def asked(url: str, statement: str) -> Any:
    with connect(parse_database_url(url)).connect() as connection:
        return connection.exec_driver_sql(statement).scalar()


def refusal(address: str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is looked at)
        parse_database_url(address)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


# --- a schema that the address names ------------------------------------------------------------------------------


@pytest.fixture
def chat(postgres_url: str, tmp_path: Path) -> tuple[Scene, Scene]:
    """The same table twice: in the schema that the address names, and in public."""
    public = Scene(postgres_url, tmp_path / "backups").create_table()
    public.add(5, first=100, content="of public")
    public.run("CREATE SCHEMA chat")
    named = Scene(postgres_url + IN_CHAT, tmp_path / "backups").create_table()
    named.add(3, content="of chat")
    return named, public


def test_the_schema_that_the_address_names_is_archived_purged_and_restored_and_no_other(
    chat: tuple[Scene, Scene],
) -> None:
    named, public = chat
    untouched, before = public.state(), named.state()
    assert named.archive().rows == 3
    assert named.files().parts[0].extra["schema"] == "chat"
    assert named.purge().deleted == 3
    assert named.count() == 0
    assert public.state() == untouched
    assert named.restore(DAY, DAY).written == 3
    assert named.state() == before
    assert public.state() == untouched


def test_archives_of_two_schemas_are_not_mixed(chat: tuple[Scene, Scene]) -> None:
    named, public = chat
    named.archive()
    with pytest.raises(Refused, match=r"chat\.conversation_logs, and this is .*public\.conversation_logs"):
        public.archive()


def test_status_names_the_schema(chat: tuple[Scene, Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", chat[0].url)
    (line,) = [line for line in report()[0] if " DATABASE_URL " in line]
    assert "table chat.conversation_logs with 6 columns" in line


def test_expired_jobs_go_in_the_schema_that_the_address_names(postgres_url: str, tmp_path: Path) -> None:
    public = JobScene(postgres_url, tmp_path / "a").create()
    public.add([1, 2])
    with connect(postgres_url).begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA chat")
    named = JobScene(postgres_url + IN_CHAT, tmp_path / "b").create()
    named.add([1, 2, 3])
    assert named.purge(dry_run=False).deleted == 3
    assert (len(named.ids()), len(public.ids())) == (0, 2)


def test_stale_jobs_are_settled_in_the_schema_that_the_address_names(postgres_url: str, tmp_path: Path) -> None:
    with connect(postgres_url).begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA chat")
    named = StaleScene(postgres_url + IN_CHAT, tmp_path / "b")
    named.create()
    named.job("j1")
    assert missing_tables(parse_database_url(postgres_url), UTC_ZONE) is not None
    assert missing_tables(parse_database_url(postgres_url + IN_CHAT), UTC_ZONE) is None
    assert named.apply().settled == 1


def test_a_dump_with_options_in_the_address_is_whole_and_proven(chat: tuple[Scene, Scene], tmp_path: Path) -> None:
    result = Dumps(chat[0].url + "%20-cstatement_timeout%3D5000&connect_timeout=5", tmp_path / "dumps").take()
    assert result.proven, result.message
    assert {"chat.conversation_logs", "public.conversation_logs"} <= result.contents.tables.keys()


# --- our session and theirs ---------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("statement", "value"),
    [("SHOW search_path", "chat"), ("SHOW timezone", "UTC"), ("SHOW statement_timeout", "0"), ("SHOW work_mem", "7MB"),
     ("SHOW datestyle", "ISO, MDY"), ("SHOW application_name", "ours"), ("SHOW client_encoding", "UTF8")],
)  # fmt: skip
def test_the_options_of_the_address_hold_where_no_text_depends_on_them(
    postgres_url: str, statement: str, value: str
) -> None:
    options = quote("-c search_path=chat -ctimezone=Asia/Seoul --statement_timeout=5s -c work_mem=7MB -cDateStyle=SQL")
    assert asked(f"{postgres_url}?options={options}&application_name=ours&client_encoding=utf8", statement) == value


def test_what_saju_ops_sets_itself_is_said(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", f"{postgres_url}?options=-ctimezone%3DAsia/Seoul%20-cwork_mem%3D7MB")
    (line,) = [line for line in report()[0] if " JOBS_DATABASE_URL " in line]
    assert line.startswith("ok  ")
    assert line.endswith("its option for timezone doesn't hold: saju_ops sets that itself")
    assert overridden(parse_database_url(f"{postgres_url}?options=-ctimezone%3DUTC")) == []


@pytest.mark.parametrize("url_fixture", ["mysql_url", "mariadb_url"])
def test_a_command_of_the_address_runs_before_our_session(url_fixture: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(url_fixture)
    command = "SET autocommit = 1, time_zone = '+09:00', sql_mode = 'ANSI_QUOTES', @who = 'ours', NAMES latin1"
    command = command.replace(", NAMES latin1", ", character_set_results = latin1")
    held = f"{url}?init_command={quote(command)}"
    assert asked(held, "SELECT @who") == "ours"
    assert asked(held, "SELECT @@autocommit") == 0
    assert asked(held, "SELECT @@time_zone") == "+00:00"
    assert asked(held, "SELECT '사주 🔮'") == "사주 🔮"
    assert asked(held, "SELECT @@collation_connection") == asked(url, "SELECT @@collation_connection")
    assert "time_zone in init_command" in overridden(parse_database_url(held))


def test_a_dump_whose_program_cannot_run_the_command_is_refused(mariadb_url: str, tmp_path: Path) -> None:
    Scene(mariadb_url, tmp_path / "a").create_table()
    with pytest.raises(OperatorError, match="init_command"):
        Dumps(f"{mariadb_url}?init_command={quote('SET @who = 1')}", tmp_path / "dumps").take()
    # Our session and the dump programs set the time zone themselves.
    command = quote("SET time_zone = '+09:00'")
    assert Dumps(f"{mariadb_url}?init_command={command}", tmp_path / "dumps").take().proven


# --- TLS ----------------------------------------------------------------------------------------------------------

ENCRYPTED = "SELECT VARIABLE_VALUE <> '' FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'"


@pytest.mark.long
@pytest.mark.parametrize("option", ["ssl-mode=REQUIRED", "ssl_mode=required", "sslmode=require", "ssl=true"])
def test_required_tls_is_used_and_a_server_without_it_is_refused(
    mysql_url: str, mariadb_url: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(f"{mysql_url}?{option}", ENCRYPTED) == 1
    with pytest.raises(sa.exc.OperationalError) as caught:
        asked(f"{mariadb_url}?{option}", "SELECT 1")
    assert "SSL is required" in error_text(caught.value)
    monkeypatch.setenv("JOBS_DATABASE_URL", f"{mariadb_url}?{option}")
    (line,) = [line for line in report()[0] if " JOBS_DATABASE_URL " in line]
    assert line.startswith("FAIL")


def test_tls_that_is_only_preferred_or_off_reaches_a_server_without_it(mysql_url: str, mariadb_url: str) -> None:
    for option in ("ssl-mode=PREFERRED", "ssl_mode=DISABLED", "ssl_disabled=true", "ssl=false"):
        assert asked(f"{mariadb_url}?{option}", "SELECT 1") == 1
    assert asked(f"{mysql_url}?ssl_mode=DISABLED", ENCRYPTED) == 0
    assert asked(f"{mysql_url}?ssl_disabled=false", ENCRYPTED) == 1
    assert asked(f"{mysql_url}?ssl_mode=PREFERRED", ENCRYPTED) == 1


def test_a_certificate_authority_is_used_by_connections_dumps_and_drills(
    mysql_server: Engine, mysql_url: str, tmp_path: Path
) -> None:
    Scene(mysql_url, tmp_path / "a").create_table()
    authority = f"{mysql_server.folder}/data/ca.pem"
    verified = f"{mysql_url}?ssl_mode=VERIFY_CA&ssl_ca={authority}"
    assert asked(verified, ENCRYPTED) == 1
    assert Dumps(verified, tmp_path / "dumps").take().proven
    # MySQL's own certificate names no host.
    with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
        asked(f"{mysql_url}?ssl_mode=VERIFY_IDENTITY&ssl_ca={authority}", "SELECT 1")
    other = tmp_path / "other.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", "/dev/null"]
    subprocess.run([*made, "-out", str(other)], check=True, capture_output=True)
    with pytest.raises(sa.exc.OperationalError, match="certificate verify failed"):
        asked(f"{mysql_url}?ssl-mode=REQUIRED&ssl_ca={other}", "SELECT 1")


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ("", ""), ("ssl_mode=verify-full", "VERIFY_IDENTITY"), ("ssl_verify_cert=true", "VERIFY_CA"),
        ("ssl_verify_identity=true", "VERIFY_IDENTITY"), ("ssl_check_hostname=false", ""),
        ("ssl_mode=DISABLED&ssl_verify_cert=false", "DISABLED"),
    ],
)  # fmt: skip
def test_the_words_of_both_worlds_mean_one_mode(options: str, mode: str) -> None:
    url = parse_database_url(f"mysql://u:p@h/d?{options}".rstrip("?"))
    assert mysql_tls(url).mode == mode
    written = options_file(url, mariadb=False)
    assert f'ssl-mode="{mode}"' in written if mode else "ssl-mode" not in written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ssl_mode=REQUIRE_TLS", "ssl_mode is 'REQUIRE_TLS'; it may be DISABLED, PREFERRED, REQUIRED, VERIFY_CA or"),
        ("ssl_mode=REQUIRED&ssl_disabled=true", "contradict"),
        ("ssl_mode=PREFERRED&ssl_verify_cert=true", "PREFERRED, which checks no certificate"),
        ("ssl_disabled=perhaps", "ssl_disabled is 'perhaps'; it may be true or false"),
        ("ssl_ca=/not/there.pem", "ssl_ca names /not/there.pem, which can't be read: No such file"),
        ("charset=latin1", "charset is 'latin1'; it may be utf8mb4"),
        ("autocommit=true", "autocommit is on"),
        ("read_default_file=/etc/my.cnf", "read_default_file isn't honoured"),
        ("init_command=DROP%20TABLE%20x", "init_command may be one SET statement"),
        ("init_command=SET%20x=1;DELETE%20FROM%20y", "init_command may be one SET statement"),
        ("connect_timeout=soon", "connect_timeout is 'soon'; it may be a whole number"),
        ("client_flag=2", "client_flag isn't one that saju_ops can honour; the address of a MySQL or MariaDB database"),
        ("cursorclass=x", "cursorclass isn't one"),
        ("ssl_mode=", "ssl_mode has no value"),
        ("ssl_mode=REQUIRED&ssl-mode=DISABLED", "ssl_mode is given twice"),
    ],
)
def test_an_option_that_mysql_cannot_be_given_is_refused_by_name(options: str, words: str) -> None:
    assert words in refusal(f"mysql+pymysql://saju:hunter2@db/app?{options}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("schema=chat", "schema isn't one that saju_ops can honour (a schema is named by options=-csearch_path%3D…)"),
        ("sslmode=REQUIRED", "sslmode is 'REQUIRED'; it may be disable, allow, prefer, require, verify-ca"),
        ("sslrootcert=/not/there.pem", "sslrootcert names /not/there.pem, which can't be read"),
        ("client_encoding=latin1", "client_encoding is 'latin1'; it may be UTF8"),
        ("autocommit=true", "autocommit isn't one"),
        ("host=other", "host or port is given twice"),
        ("service=nowhere", "service is 'nowhere', which none of"),
        ("connect_timeout=soon", "connect_timeout is 'soon'"),
    ],
)
def test_an_option_that_postgresql_cannot_be_given_is_refused_by_name(options: str, words: str) -> None:
    assert words in refusal(f"postgresql://saju:hunter2@db/app?{options}")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("sqlite:////tmp/x.db?mode=ro", "mode is 'ro'; it may be rw or rwc"),
        ("sqlite:////tmp/x.db?cache=shared", "cache is 'shared'; it may be private"),
        ("sqlite:////tmp/x.db?isolation_level=IMMEDIATE", "isolation_level isn't one"),
        ("sqlite:////tmp/x.db?timeout=long", "timeout is 'long'; it may be a number of seconds"),
        ("sqlite:///file:/tmp/x.db", "needs the option uri=true"),
        ("sqlite:///file::memory:?uri=true", "names no file"),
        ("sqlite:////tmp/x.db?vfs=unix-none", "vfs isn't one"),
    ],
)
def test_an_option_that_sqlite_cannot_be_given_is_refused_by_name(address: str, words: str) -> None:
    assert words in refusal(address)


def test_a_missing_certificate_is_a_sentence_when_settings_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", "mysql://u:hunter2@h/d?ssl_ca=/not/there.pem")
    with pytest.raises(SettingsError, match=r"ANALYSIS_DATABASE_URL .*ssl_ca names /not/there\.pem") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    assert report()[0][0].startswith("FAIL ANALYSIS_DATABASE_URL")


def test_a_file_that_is_no_certificate_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    assert "ssl_ca can't be used" in refusal(f"mysql://u:hunter2@h/d?ssl_ca={tmp_path}/ca.pem")


# --- where a database is ------------------------------------------------------------------------------------------


def test_a_sqlite_file_of_any_spelling_is_one_path(tmp_path: Path) -> None:
    file = tmp_path / "a b.db"
    spelled = [f"sqlite:///{file}", f"sqlite:///file:{quote(str(file))}?uri=true&mode=rwc&cache=private",
               f"sqlite:///{quote(str(file))}?check_same_thread=false"]  # fmt: skip
    assert {parse_database_url(each).database for each in spelled} == {str(file)}


def test_the_timeout_of_a_sqlite_address_is_waited_and_no_longer(tmp_path: Path) -> None:
    import sqlite3
    import time

    scene = Scene(f"sqlite:///{tmp_path}/x.db", tmp_path / "b").create_table()
    holder = sqlite3.connect(f"{tmp_path}/x.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(OperatorError), open_log_store(parse_database_url(scene.url + "?timeout=0.2"), "x", UTC_ZONE):
        pass
    assert time.monotonic() - began < 10
    holder.close()


def test_two_servers_behind_sockets_are_two_databases() -> None:
    one, two = (parse_database_url(f"mysql://u:p@localhost/app?unix_socket=/run/{n}.sock") for n in ("a", "b"))
    assert place(one) != place(two)
    assert distinct([one, two, one]) == [one, two]
    assert label_of(one, [one, two]) != label_of(two, [one, two])
    assert "unix_socket=%2Frun%2Fa.sock" in redacted(one)
    # A dump of a version that left the socket out is of either; one of another host is of neither.
    assert same_place("mysql+pymysql://u:***@localhost/app", one)
    assert not same_place("mysql+pymysql://u:***@db2/app", one)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("postgresql://u:p@/app?host=db", ("db", "5432")), ("postgresql://u:p@db/app", ("db", "5432")),
        ("postgresql:///?host=db&port=77&user=u&password=p&dbname=app", ("db", "77")),
        ("postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/app", ("/var/run/postgresql", "5432")),
        ("postgresql://u:p@a:1,b:2/app", ("a,b", "1,2")), ("postgresql://u:p@/app?host=a:1&host=b:2", ("a,b", "1,2")),
        ("postgresql://u:p@/app?host=a,b&port=1,2", ("a,b", "1,2")),
    ],
)  # fmt: skip
def test_a_server_is_the_same_however_its_address_is_spelled(address: str, where: tuple[str, str]) -> None:
    url = parse_database_url(address)
    assert place(url) == ("postgresql", *where, "app")
    assert (url.username, url.password) == ("u", "p")
    # What is made of it is read again as the same.
    again = parse_database_url(url.render_as_string(hide_password=False))
    assert again == url


def test_the_second_of_two_hosts_is_reached_by_connections_and_by_dumps(postgres_url: str, tmp_path: Path) -> None:
    url = sa.make_url(postgres_url)
    hosts = f"postgresql://{url.username}:{url.password}@127.0.0.1:1,127.0.0.1:{url.port}/{url.database}"
    assert asked(hosts, "SELECT 1") == 1
    assert Dumps(hosts + "?target_session_attrs=read-write", tmp_path / "dumps").take().proven


def test_a_service_file_is_read_into_the_address(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sa.make_url(postgres_url)
    services = tmp_path / "services.conf"
    services.write_text(
        f"[other]\nhost=nowhere\n[prod]\nhost=127.0.0.1\nport={url.port}\nuser={url.username}\n"
        f"password={url.password}\noptions=-cwork_mem=7MB\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    address = f"postgresql:///{url.database}?service=prod"
    assert asked(address, "SHOW work_mem") == "7MB"
    assert asked(address, "SHOW timezone") == "UTC"
    assert Dumps(address, tmp_path / "dumps").take().proven


def test_a_passfile_of_the_address_serves_connections_and_dumps(postgres_url: str, tmp_path: Path) -> None:
    url = sa.make_url(postgres_url)
    passwords = tmp_path / "pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text(f"*:*:*:*:{url.password}\n")
    address = f"postgresql://{url.username}@127.0.0.1:{url.port}/{url.database}?passfile={passwords}"
    assert Dumps(address, tmp_path / "dumps").take().proven
