"""A password never leaves in a text, however the address that holds it was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import pytest
import sqlalchemy as sa

from saju_ops.alerts.redact import Redactor
from saju_ops.cli.status_report import report
from saju_ops.database.connect import connect, error_text, parse_database_url
from saju_ops.defs.progress import log_progress
from saju_ops.dumps.programs import words_of
from saju_ops.errors import OperatorError, Refused
from saju_ops.logins import hide_in_error, hide_logins
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops.wiring import redactor

SECRET = "ssSecret9"
# An unescaped @, / or : in each place, and what else people write.
BROKEN = [
    f"mysql+pymysql://saju:p@{SECRET}@host/db",
    f"mysql+pymysql://saju:p@/{SECRET}@host/db",
    f"postgresql://saju:p@x:{SECRET}@host:5432/db",
    f"postgresql://saju:p@x/y?z={SECRET}@host/db",
    f"postgresql://saju:p@a?{SECRET}@host/db",
    f"mysql://saju:x@host/db mysql://saju:{SECRET}@host/other",
    f"mysql://saju:x@host/db,mysql://saju:{SECRET}@host/other",
    f"mysql://sa/ju:{SECRET}@host/db",
    f"'mysql://saju:p@{SECRET}@host/db'",
    f"mysql://saju:p@host/db?password={SECRET}@x",
]


@pytest.mark.parametrize("address", BROKEN)
@pytest.mark.parametrize("name", ["DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL"])
def test_an_address_with_a_password_that_is_not_escaped_is_refused_without_it(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, address)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    said = "\n".join([str(caught.value), *report()[0]])
    assert SECRET not in said
    assert report()[1] is False


def test_the_refusal_says_what_to_write() -> None:
    with pytest.raises(ValueError, match="write @ in a password as %40"):
        parse_database_url(BROKEN[0])


@pytest.mark.parametrize("address", BROKEN)
def test_a_text_with_such_an_address_is_shown_without_the_password(address: str) -> None:
    for text in (address, f"Can't reach {address} now", f'"{address}"', f"({address}), then x@y.kr"):
        assert SECRET not in hide_logins(text)
        assert SECRET not in Redactor([])(text)
        assert SECRET not in str(Refused(text))
        assert SECRET not in words_of(f"mysqldump: Got error: {text}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://saju:geheim@db/app is locked", "mysql://saju:***@db/app is locked"),
        ("mysql://root@db/chat 09:00", "mysql://root@db/chat 09:00"),
        ("see http://127.0.0.1:3000/runs and write to kim@example.com", None),
        ("https://ghp_token1234@github.com/x", "https://***@github.com/x"),
        ("redis://:비밀 번호@cache:6379/0", "redis://:***@cache:6379/0"),
        ("mysql://u:a b@c d@db/app", "mysql://u:***@db/app"),
        ("postgresql://u@db/app?sslpassword=abc&x=1", "postgresql://u@db/app?sslpassword=***&x=1"),
        ('{"password": "a b c", "user": "x"}', '{"password": ***, "user": "x"}'),
        ("Access denied for user (using password: YES)", None),
        ("https://hooks.slack.com/services/T0/B0/abcdef failed", "https://hooks.slack.com/services/*** failed"),
        ("https://b.s3/x?X-Amz-Signature=ab12&y=1", "https://b.s3/x?X-Amz-Signature=***&y=1"),
        ("💾 백업 파일 `conversation_log_backup_20250915.csv`: 30 rows", None),
    ],
)
def test_what_is_hidden_and_what_stays(text: str, shown: str | None) -> None:
    assert hide_logins(text) == (text if shown is None else shown)


@pytest.mark.parametrize("password", ["p@ss/w:rd?#9", "한글 비밀번호", "quo'te\"d%", "back\\slash 1"])
def test_a_password_of_a_setting_is_hidden_in_each_of_its_spellings(password: str) -> None:
    redact = redactor(load_settings(DATABASE_URL=f"mysql://saju:{quote(password, safe='')}@db/chat"))
    for form in (password, quote(password), quote(password, safe="")):
        assert password not in redact(f"앞 {form} 뒤")
        assert redact(f"앞 {form} 뒤") == "앞 *** 뒤"


def test_a_password_among_the_options_of_an_address_is_hidden() -> None:
    settings = load_settings(DATABASE_URL="postgresql://db/chat?user=saju&password=in-the-options9")
    assert settings.database_url.password == "in-the-options9"
    assert redactor(settings)("x in-the-options9 y") == "x *** y"


@pytest.mark.parametrize("password", ["saju", "rows", "backup", "2025"])
def test_a_password_that_is_a_word_of_every_report_leaves_the_report_readable(password: str) -> None:
    settings = load_settings(DATABASE_URL=f"mysql://saju:{password}@db/chat")
    text = "saju_ops: 2025-09-15, 30 rows in the backup of saju"
    assert redactor(settings)(text) == text
    assert redactor(settings)(f"mysql://saju:{password}@db") == "mysql://saju:***@db"


@pytest.mark.parametrize(
    "address", ["redis://:p@x@host:1/0", "redis://:pa/ss@host:1", "redis://u:p?w@h", "redis://h:pw"]
)
def test_an_address_of_redis_that_would_be_misread_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        load_settings(REDIS_URL=address)
    assert "pa/ss" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["redis://:pw%40x@host:6379/0", "rediss://u:p@h/1?ssl_cert_reqs=none", "unix:///run/redis.sock?db=1",
     "unix://:pw@/run/redis.sock", "redis://h"],
)  # fmt: skip
def test_sound_addresses_of_redis_are_taken(address: str) -> None:
    load_settings(REDIS_URL=address)


@pytest.mark.parametrize(
    "name", ["S3_ENDPOINT_URL", "CHROMA_HOST", "DAGSTER_UI_URL", "GDRIVE_API_URL", "SLACK_API_URL", "SMTP_HOST"]
)
def test_a_login_in_an_address_that_may_hold_none_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (f"https://key:{SECRET}@store.example", f"key:{SECRET}@store.example", f"https://key:p@{SECRET}@x"):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=name) as caught:
            load_settings()
        assert SECRET not in str(caught.value)


def test_what_a_driver_says_of_a_connection_is_hidden_where_it_is_raised() -> None:
    engine = connect("postgresql+psycopg://saju@127.0.0.1:1/db")

    @sa.event.listens_for(engine, "do_connect")
    def fail(*_: object) -> None:
        raise engine.dialect.loaded_dbapi.OperationalError(f"invalid address postgresql://saju:p@{SECRET}@host/db")

    with pytest.raises(sa.exc.OperationalError) as caught:
        engine.connect()
    assert SECRET not in error_text(caught.value)
    assert SECRET not in str(caught.value.orig)


def test_errors_and_their_causes_lose_their_logins_and_keep_their_kind() -> None:
    error = OSError(2, f"no {BROKEN[1]}")
    error.__cause__ = KeyError(BROKEN[0])
    hide_in_error(error)
    assert isinstance(error.__cause__, KeyError)
    assert SECRET not in f"{error} {error.__cause__}"
    assert error.errno == 2


def test_the_command_line_prints_no_login_in_an_error_that_nobody_foresaw(tmp_path: Path) -> None:
    code = (
        "import click, saju_ops.cli.main as cli\n"
        f"@cli.main.command()\ndef odd():\n    raise RuntimeError({BROKEN[0]!r})\n"
        "cli.main(['odd'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: mysql+pymysql://saju:***@host/db" in done.stderr
    # The line of the program itself isn't there: it was given on the command line.
    assert SECRET not in done.stderr.replace(code, "")


def test_a_failure_in_a_run_keeps_no_login_in_the_history() -> None:
    @dg.op
    def failing() -> None:
        log_progress(dg.OpExecutionContext.get().log, f"Now looking at {BROKEN[1]}")
        try:
            raise OperatorError(f"{BROKEN[0]} can't be reached")
        except OperatorError as error:
            raise dg.Failure(str(error)) from error

    @dg.job
    def job() -> None:
        failing()

    with dg.instance_for_test() as instance:
        run = job.execute_in_process(instance=instance, raise_on_error=False)
        history = "\n".join(str(entry) for entry in instance.all_logs(run.run_id))
    assert "can't be reached" in history
    assert "Now looking at mysql" in history
    assert SECRET not in history.replace(repr(BROKEN), "")
