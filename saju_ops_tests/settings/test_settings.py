"""Settings: a wrong value is refused with a sentence for the operator, and no secret is ever part of it."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from saju_ops.bounds import Bounds, bounds_of
from saju_ops.settings.fields import allowed, is_secret, variable_of, words_of
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings, SettingsError
from saju_ops.wiring import open_backups

SECRET = "hunter2"


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


def test_without_any_setting_the_defaults_of_the_specification_hold(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.database_url.render_as_string() == f"sqlite:///{tmp_path}/local.db"
    assert settings.jobs_database_url == settings.analysis_database_url == settings.database_url
    assert settings.conversation_log_table == "conversation_logs"
    assert settings.log_retention_days == 30
    assert settings.archive_start_date == date(2024, 1, 1)
    assert settings.log_cleanup_cron == "0 9 * * 1"
    assert settings.timezone.key == "Asia/Seoul"
    assert settings.database_timezone.key == "UTC"
    assert settings.backup_uri == "./backups"
    assert settings.archive_compression == "none"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LOG_RETENTION_DAYS", "0", "a whole number of days from 1 to 36500"),
        ("LOG_RETENTION_DAYS", "-3", "a whole number of days from 1 to 36500"),
        ("LOG_RETENTION_DAYS", "36501", "a whole number of days from 1 to 36500"),
        ("LOG_RETENTION_DAYS", "30 days", "a whole number of days from 1 to 36500"),
        ("LOG_RETENTION_DAYS", "1.5", "a whole number of days from 1 to 36500"),
        ("TIMEZONE", "KST", "IANA name of the zone"),
        ("DATABASE_TIMEZONE", "+09:00", "IANA name of the zone"),
        ("ARCHIVE_START_DATE", "2024/01/01", "a date as YYYY-MM-DD"),
        ("ARCHIVE_START_DATE", "2999-01-01", "not in the future"),
        ("ARCHIVE_START_DATE", "1969-12-31", "a date as YYYY-MM-DD"),
        ("LOG_CLEANUP_CRON", "weekly", "a cron line of five fields"),
        ("LOG_CLEANUP_CRON", "@weekly", "a cron line of five fields"),
        ("LOG_CLEANUP_CRON", "61 9 * * 1", "a cron line of five fields"),
        ("LOG_CLEANUP_CRON", "* * * * * *", "a cron line of five fields"),
        ("LOG_CLEANUP_CRON", "0 9 * * 5L", "a cron line of five fields"),
        ("LOG_CLEANUP_CRON", "0 9 LW * *", "a cron line of five fields"),
        ("PURGE_KEEP_TABLES", ",", "none means that no row is"),
        ("PURGE_FILE_COLUMNS", ",", "columns as table.column"),
        ("ARCHIVE_COMPRESSION", "zip", "none or gzip"),
        ("BACKUP_URI", "azure://bucket/prefix", "a folder, s3://bucket/prefix or gdrive://<folder id>"),
        ("S3_SERVER_SIDE_ENCRYPTION", "aes", "aws:kms"),
        ("S3_ADDRESSING_STYLE", "host", "auto, path or virtual"),
        ("CONVERSATION_LOG_TABLE", "a/b", "at most 64 characters"),
        ("CONVERSATION_LOG_TABLE", "x" * 65, "at most 64 characters"),
    ],
)
def test_a_wrong_value_is_refused_by_name_value_and_what_it_may_hold(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    sentence = refusal(monkeypatch, name, value)
    assert sentence.startswith(f"{name} holds {value!r} (")
    assert "; it may hold " in sentence
    assert allowed in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("name", ["DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL"])
@pytest.mark.parametrize(
    "value",
    [
        f"mssql+pyodbc://sa:{SECRET}@host/db",
        f"mysql://root:{SECRET}@host",
        f"mysql://root:{SECRET}@host/",
        "sqlite://",
        "sqlite:///:memory:",
        SECRET,
        f"root:{SECRET}@host/db",
    ],
)
def test_a_database_address_that_cannot_be_used_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    sentence = refusal(monkeypatch, name, value)
    assert sentence.startswith(f"{name} holds a value that is not shown")
    assert "mysql+pymysql://, mariadb+pymysql://, postgresql+psycopg:// or sqlite:///" in sentence
    assert SECRET not in sentence


def test_a_password_with_an_unescaped_at_sign_is_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy takes what follows the first `@` for host and port, and names the port in its error."""
    sentence = refusal(monkeypatch, "DATABASE_URL", f"mysql://root:pa@ss:{SECRET}@host/db")
    assert SECRET not in sentence


@pytest.mark.parametrize("password", ["short-secr", "비밀번호 secret-4711-비밀번호", "tab\tsecret-4711", " " * 14])
def test_a_weak_archive_password_is_refused_and_never_shown(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    sentence = refusal(monkeypatch, "ARCHIVE_PASSWORD", password)
    assert sentence.startswith("ARCHIVE_PASSWORD holds a value that is not shown")
    assert "at least 12 printable ASCII characters" in sentence
    assert password not in sentence


@pytest.mark.parametrize(
    "uri",
    [
        *("./backups", "/srv/backups", "file:///srv/backups", "s3://bucket", "s3://my-bucket/a/b", "gdrive://1AbC_d-E"),
        *("/srv/backups,s3://bucket/x", "s3://one/x , s3://two/x"),
    ],
)
def test_stores_of_every_kind_and_two_of_them_are_taken(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("BACKUP_URI", uri)
    assert len(open_backups(load_settings()).copies()) == uri.count(",") + 1


@pytest.mark.parametrize(
    "uri",
    ["s3://B", "gdrive://", "ftp://x/y", "a,b,c", "a,", ",", "s3://bucket/x,s3://bucket/x", "s3://b/../x", "file://x"],
)
def test_an_address_of_no_store_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    sentence = refusal(monkeypatch, "BACKUP_URI", uri)
    assert f"BACKUP_URI holds {uri!r}" in sentence
    assert "s3://bucket/prefix or gdrive://<folder id>" in sentence


def test_a_login_in_an_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refusal(monkeypatch, "BACKUP_URI", f"s3://user:{SECRET}@bucket/x")
    assert SECRET not in sentence
    monkeypatch.delenv("BACKUP_URI")
    assert SECRET not in refusal(monkeypatch, "S3_ENDPOINT_URL", f"https://user:{SECRET}@store.example")


def test_s3_settings_that_make_no_sense_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refusal(monkeypatch, "S3_KMS_KEY_ID", "alias/x")
    assert "S3_SERVER_SIDE_ENCRYPTION must be aws:kms" in sentence
    monkeypatch.setenv("S3_SERVER_SIDE_ENCRYPTION", "aws:kms")
    assert load_settings().s3_options.kms_key_id == "alias/x"
    assert "together" in refusal(monkeypatch, "AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert load_settings().s3_options.secret_access_key == SECRET
    assert SECRET not in repr(load_settings()) + repr(load_settings().s3_options)


def test_replicas_must_be_mysql_and_their_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refusal(monkeypatch, "REPLICA_URLS", f"mysql://u:{SECRET}@a/db postgresql://u:{SECRET}@b/db")
    assert sentence.startswith("REPLICA_URLS holds a value that is not shown")
    assert SECRET not in sentence


def test_no_secret_is_in_the_printed_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"mysql://root:{SECRET}@host/db")
    monkeypatch.setenv("SLACK_BOT_TOKEN", SECRET)
    monkeypatch.setenv("REPLICA_URLS", f"mysql://u:{SECRET}@a/db")
    settings = load_settings()
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.database_url)
    assert SECRET not in repr(settings.replica_urls)


def test_a_number_just_outside_of_its_bounds_is_refused_and_one_on_them_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = 0
    for field in Settings.model_fields.values():
        name, bounds = variable_of(field), bounds_of(field, field.annotation)
        if bounds == Bounds():
            continue
        for value in (bounds.least - 1, bounds.most + 1):
            sentence = refusal(monkeypatch, name, str(value))
            assert sentence.startswith(f"{name} holds '{value}' (out of range); it may hold ")
            assert str(bounds) in sentence
        for value in (bounds.least, bounds.most):
            monkeypatch.setenv(name, str(value))
            load_settings()
        monkeypatch.delenv(name)
        tried += 1
    assert tried > 15


def test_the_refusal_of_a_secret_never_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []
    for field in Settings.model_fields.values():
        if is_secret(field):
            monkeypatch.setenv(variable_of(field), f"{SECRET} 비밀")
            try:
                load_settings()
            except SettingsError as error:
                refused.append(str(error))
            monkeypatch.delenv(variable_of(field))
    assert len(refused) > 10
    assert [sentence for sentence in refused if SECRET in sentence] == []


def test_every_choice_is_in_what_a_setting_may_hold() -> None:
    """The choices of a type are written into the sentence, or stand in it with what they mean."""
    for field in Settings.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if get_origin(part) is Literal:
                assert [choice for choice in get_args(part) if choice not in allowed(field)] == [], variable_of(field)
        assert "{" not in allowed(field)


def test_every_setting_says_what_it_does() -> None:
    assert [variable_of(field) for field in Settings.model_fields.values() if not words_of(field)["about"]] == []


def test_every_wrong_variable_gets_a_sentence_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_RETENTION_DAYS", "0")
    sentences = refusal(monkeypatch, "TIMEZONE", "Mars/Olympus")
    assert "LOG_RETENTION_DAYS holds '0'" in sentences
    assert "TIMEZONE holds 'Mars/Olympus'" in sentences


def test_a_dotenv_file_in_the_working_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_RETENTION_DAYS=90\nCONVERSATION_LOG_TABLE=대화_기록\n", encoding="utf-8")
    settings = load_settings()
    assert settings.log_retention_days == 90
    assert settings.conversation_log_table == "대화_기록"


def test_a_wrong_value_in_the_dotenv_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_RETENTION_DAYS=thirty\n")
    with pytest.raises(SettingsError, match="LOG_RETENTION_DAYS holds 'thirty'"):
        load_settings()


def test_the_environment_wins_over_the_dotenv_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_RETENTION_DAYS=90\n")
    monkeypatch.setenv("LOG_RETENTION_DAYS", "60")
    assert load_settings().log_retention_days == 60


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.setenv(str(field.validation_alias), " ")
    # But for the password: blanks are refused there.
    monkeypatch.setenv("ARCHIVE_PASSWORD", "")
    assert load_settings().model_dump() == Settings.model_construct().model_dump()


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("mysql://u:p@h:3307/db", "mysql+pymysql"),
        ("mysql+mysqlconnector://u:p@h:3307/db", "mysql+pymysql"),
        ("mariadb://u:p@h:3307/db", "mariadb+pymysql"),
        ("postgres://u:p@h:3307/db", "postgresql+psycopg"),
        ("postgresql://u:p@h:3307/db", "postgresql+psycopg"),
        ("postgresql+psycopg2://u:p@h:3307/db", "postgresql+psycopg"),
    ],
)
def test_an_address_gets_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch, given: str, driver: str) -> None:
    monkeypatch.setenv("DATABASE_URL", given)
    url = load_settings().database_url
    assert (url.drivername, url.username, url.password, url.host, url.port, url.database) == (
        driver, "u", "p", "h", 3307, "db",
    )  # fmt: skip


def test_a_relative_sqlite_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///data/logs.db")
    assert load_settings().database_url.database == str(tmp_path / "data" / "logs.db")


def test_the_example_names_every_setting_and_can_be_used_with_all_of_it_switched_on(tmp_path: Path) -> None:
    lines = (Path(__file__).parents[2] / ".env.example").read_text("utf-8").splitlines()
    named = [line.removeprefix("#") for line in lines if re.match("#?[A-Z0-9_]+=", line)]
    settings = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert sorted(line.partition("=")[0] for line in named) == sorted(settings)
    example = tmp_path / "example"
    example.write_text("\n".join(named), "utf-8")
    assert load_settings(_env_file=example).database_url.host == "127.0.0.1"


@pytest.mark.parametrize("scheme", ["MYSQL+PYMYSQL", "MySQL", "Mysql+MySQLdb", "mariadb+mariadbconnector"])
def test_the_engine_and_driver_may_be_written_in_any_letters(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@h/db")
    assert load_settings().database_url.get_driver_name() == "pymysql"


@pytest.mark.parametrize("name", ["DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL", "REPLICA_URLS"])
@pytest.mark.parametrize(
    ("scheme", "why"),
    [("mysql+pymsql", "its driver is 'pymsql', which is none of pymysql"), ("mysql+", "its driver can't be read"),
     ("mariadb+psycopg", "its driver is 'psycopg'"), ("postgresql+pymysql", "its driver is 'pymysql'")],
)  # fmt: skip
def test_a_driver_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, scheme: str, why: str
) -> None:
    sentence = refusal(monkeypatch, name, f"{scheme}://root:{SECRET}@host/db")
    assert why in sentence
    assert SECRET not in sentence


def test_status_says_that_another_driver_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.cli.status_report import report

    monkeypatch.setenv("JOBS_DATABASE_URL", f"mysql+mysqldb://u:{SECRET}@127.0.0.1:1/db")
    lines = [line for line in report()[0] if "driver" in line]
    assert [line.split() for line in lines] == [
        ["JOBS_DATABASE_URL", "its", "driver", "mysqldb", "isn't", "used", "here,", "but", "pymysql"]
    ]


# --- paths --------------------------------------------------------------------------------------------------------

SLIPS = [
    ("s3:/bucket/x", "begins like an address"), ("s3//bucket/x", "begins like an address"),
    ("gdrive:/1AbC_dEf2345", "begins like an address"), ("S3:bucket", "begins like an address"),
    ("file:/srv/backups", "begins like an address"), ("$HOME/b", "a variable"), ("${HOME}/b", "a variable"),
    ("/srv/$USER/b", "a variable"), ("%USERPROFILE%/b", "a variable"),
    ('"./backups"', "a quote"), ("'/srv/b'", "a quote"),
    ("./backups'", "a quote"), ("“./backups”", "a quote"), ("./backups;./b2", "a semicolon"),
    ("C:\\backups", "a path of Windows"), ("C:/backups", "a path of Windows"),
    ("\\\\server\\share", "a path of Windows"),
    ("./a ./b", "two paths"), ("/srv/a /srv/b", "two paths"), ("./a\n./b", "a line end"), ("./a，./b", "the wide"),
    ("~nobody_of_that_name/b", "no user of that name"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["BACKUP_URI", "CHROMA_DB_PATH", "GOOGLE_APPLICATION_CREDENTIALS"])
@pytest.mark.parametrize(("value", "why"), SLIPS)
def test_a_slip_does_not_become_a_folder_of_that_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str, tmp_path: Path
) -> None:
    sentence = refusal(monkeypatch, name, value)
    assert sentence.startswith(f"{name} holds {value!r} (")
    assert why in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", ["s3://a/x s3://b/y", "s3://a/x;s3://b/y", "./backups s3://b/y", '"s3://a/x"', "s3://a/$USER",
              "./one,s3:/b/y", "file:///srv/my%20backups", "s3://a/x\ts3://b/y"]
)  # fmt: skip
def test_a_slip_in_the_address_of_a_store_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert f"BACKUP_URI holds {value!r} (BACKUP_URI names no store: " in refusal(monkeypatch, "BACKUP_URI", value)


@pytest.mark.parametrize("value", ["/srv/백업", "/mnt/My Drive/backups", "./a:b", "~/backups", "/srv/a%20b", "b-1_2.3"])
def test_odd_names_of_real_folders_are_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BACKUP_URI", value)
    monkeypatch.setenv("CHROMA_DB_PATH", value + "_chroma")
    assert len(open_backups(load_settings()).copies()) == 1


@pytest.mark.parametrize("path", ["$HOME/a.db", "C:\\a.db", '"a.db"', "C:/a.db"])
def test_the_path_of_a_sqlite_database_is_looked_at_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch, path: str, tmp_path: Path
) -> None:
    assert "its path can't be used" in refusal(monkeypatch, "DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a;b.db")
    with pytest.raises(SettingsError):
        load_settings()
    (tmp_path / "a;b.db").touch()  # a real file may be called as it likes
    assert load_settings().database_url.database == f"{tmp_path}/a;b.db"


@pytest.mark.parametrize(
    "name", ["S3_ENDPOINT_URL", "GDRIVE_API_URL", "SLACK_API_URL", "DAGSTER_UI_URL", "DAGSTER_WEBSERVER_URL"]
)
@pytest.mark.parametrize(
    "value", ["http:/host", "http//host", "host:9000", '"http://host"', "http://host;x", "http://a http://b",
              "http://", "http://$HOST", "http://host:port", "http://host:99999", "http://host:"]
)  # fmt: skip
def test_what_is_no_web_address_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert f"{name} holds " in refusal(monkeypatch, name, value)
    monkeypatch.setenv(name, "http://host.example:9000/path")
    load_settings()


# --- seals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [("short", "key 1 has 5 characters"), ("a" * 40, "fewer than 8 different characters"),
     ("0123456789abcdef" * 2 + ",", "key 2 has 0 characters"), ("0123456789abcdef" * 2 + ",secret2", "key 2 has 7"),
     ("0123456789 abcdef" * 2, "blanks or other"), ("열쇠0123456789abcdef" * 2, "other characters than ASCII")],
)  # fmt: skip
def test_a_seal_key_that_can_be_guessed_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    monkeypatch.setenv("BACKUP_SEAL_KEY", value)
    with pytest.raises(SettingsError, match=why) as error:
        load_settings()
    assert "BACKUP_SEAL_KEY" in str(error.value)
    assert value not in str(error.value)


def test_the_first_key_seals_and_the_password_verifies_what_it_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().seal_secrets == ()
    monkeypatch.setenv("ARCHIVE_PASSWORD", "correct horse battery")
    assert load_settings().seal_secrets == ("correct horse battery",)
    one, two = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    monkeypatch.setenv("BACKUP_SEAL_KEY", f"{one}, {two}")
    assert load_settings().seal_secrets == (one, two, "correct horse battery")
    assert one not in repr(load_settings())
