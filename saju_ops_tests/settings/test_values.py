"""Values that look like what a setting may hold and mean something else, or nothing: refused when they are read."""

from __future__ import annotations

import pytest

from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError

A, B = "mysql://ops:pw@one/db", "mysql://ops:pw@two/db"


def refused(monkeypatch: pytest.MonkeyPatch, **values: str) -> str:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert "pw@" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("separator", [",", ", ", ";", " ; "])
@pytest.mark.parametrize("login", ["ops:pw@", ""])
def test_replicas_are_separated_by_blanks_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch, separator: str, login: str
) -> None:
    said = refused(monkeypatch, REPLICA_URLS=f"mysql://{login}one/db{separator}mysql://{login}two/db")
    assert said.startswith("REPLICA_URLS holds a value that is not shown")
    assert separator == " ; " or "separated by blanks here, not by commas or semicolons" in said


def test_two_replicas_with_a_blank_between_them_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICA_URLS", f"{A}  {B}")
    assert [url.host for url in load_settings().replica_urls] == ["one", "two"]


@pytest.mark.parametrize("name", ["DATABASE_URL", "JOBS_DATABASE_URL"])
def test_a_database_has_one_address(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert "it holds more than one address" in refused(monkeypatch, **{name: "mysql://one/db,mysql://two/db"})


def test_a_drill_server_is_of_an_engine_that_is_dumped(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, DATABASE_URL=A, RESTORE_DRILL_URL="postgresql://ops:pw@drills/postgres")
    assert said.startswith("RESTORE_DRILL_URL names a postgresql server, and no database of that kind is dumped")
    monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql://ops:pw@jobs/db")
    monkeypatch.setenv("RESTORE_DRILL_URL", "postgresql://ops:pw@drills/postgres mariadb://ops:pw@drills/db")
    assert len(load_settings().restore_drill_urls) == 2


@pytest.mark.parametrize(
    "text",
    ["a@b;c@d", "a@b c@d", "a@b, c", "a@b,", "a@", "@b", "a@b@c", "a@b/c", "a@-b", "<a@b", "a@b>", "Ops <a@b;c@d>",
     "mailto:a@b"],
)  # fmt: skip
def test_recipients_are_addresses_with_commas_between_them(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    said = refused(monkeypatch, ALERT_EMAIL_TO=text)
    assert said.startswith(f"ALERT_EMAIL_TO holds {text!r} (not an e-mail address)")


def test_names_and_several_recipients_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_EMAIL_TO", "ops@example.com, The Night Shift <night+db@sub.example.com>")
    assert len(load_settings().email_recipients) == 2
    assert "it may be one address" in refused(monkeypatch, ALERT_EMAIL_FROM="a@example.com,b@example.com")


@pytest.mark.parametrize(
    ("setting", "table", "root"),
    [("SESSION_PURGE_TABLES", "user_sessions", "SESSIONS_TABLE"), ("PURGE_TABLES", "jobs", "JOBS_TABLE")],
)
def test_no_other_row_of_its_table_is_deleted_with_a_row(
    monkeypatch: pytest.MonkeyPatch, setting: str, table: str, root: str
) -> None:
    assert f"{setting} holds {table}, which is {root}" in refused(monkeypatch, **{setting: f"reports,{table}"})
    monkeypatch.setenv(root, "others")
    assert load_settings()


@pytest.mark.parametrize(
    ("line", "why"),
    [("*/61 * * * *", "no minutes are 61 apart"), ("0 */24 * * *", "no hours are 24 apart"),
     ("0 9 */32 * *", "no days of the month are 32 apart"), ("0 9 1-31/40 * *", "no days of the month are 40 apart"),
     ("0 9 * */13 *", "no months are 13 apart"), ("0 9 * * */8", "no days of the week are 8 apart"),
     ("0 9 30 2 *", "Bad day-of-month"), ("0 9 31 4,6 *", "Bad day-of-month")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["LOG_CLEANUP_CRON", "EXPIRED_JOBS_CRON"])
def test_a_schedule_that_would_run_at_other_times_than_it_says_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, line: str, why: str
) -> None:
    assert why in refused(monkeypatch, **{name: line})


@pytest.mark.parametrize("line", ["*/59 * * * *", "0 */23 * * *", "0 9 */31 * *", "0 9 29 2 *", "0-58/2 9 1-7/2 * 1"])
def test_odd_schedules_that_do_what_they_say_are_taken(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv("STALE_JOB_CRON", line)
    assert load_settings().stale_job_cron == line


@pytest.mark.parametrize("name", ["TIMEZONE", "DATABASE_TIMEZONE", "JOBS_DATABASE_TIMEZONE"])
@pytest.mark.parametrize("zone", ["localtime", "Factory"])
def test_a_zone_is_one_of_a_place(monkeypatch: pytest.MonkeyPatch, name: str, zone: str) -> None:
    said = refused(monkeypatch, **{name: zone})
    assert said.startswith(f"{name} holds '{zone}'")
    assert "the IANA name" in said
