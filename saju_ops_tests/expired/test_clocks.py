"""Each database's times are read in its own zone; times that can't be of that zone stop the purge, or are a doubt."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from saju_ops.cli.status_report import report
from saju_ops.errors import Refused
from saju_ops.expired.clocks import Clock
from saju_ops.expired.job_tables import open_jobs
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops_tests.expired.job_scene import HOUR, NOW, SEOUL, UTC_ZONE, JobScene, job_id

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> JobScene:
    """Jobs whose times have no zone, on every engine."""
    scene = JobScene(database_url, tmp_path / "backups").create()
    if scene.engine.dialect.name in ("mysql", "mariadb"):
        scene.run("ALTER TABLE jobs MODIFY created_at DATETIME(6) NOT NULL, MODIFY expires_at DATETIME(6) NOT NULL")
    return scene


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> JobScene:
    return JobScene(sqlite_url, tmp_path / "backups").create()


def add(scene: JobScene, number: int, created: datetime, expires: datetime, zone: ZoneInfo) -> None:
    """A job whose times a service in this zone wrote, without saying so."""
    scene.add([number])
    at = {"c": created.astimezone(zone).replace(tzinfo=None), "e": expires.astimezone(zone).replace(tzinfo=None)}
    if scene.engine.dialect.name == "sqlite":
        at = {name: value.isoformat(" ") for name, value in at.items()}  # type: ignore[misc]
    scene.run("UPDATE jobs SET created_at = :c, expires_at = :e WHERE id = :id", id=job_id(number), **at)


@pytest.mark.long
def test_korean_time_that_is_read_as_utc_is_refused_and_in_its_own_zone_expires_when_it_does(scene: JobScene) -> None:
    add(scene, 1, NOW - 25 * HOUR, NOW - HOUR, SEOUL)
    add(scene, 2, NOW - 16 * HOUR, NOW + 8 * HOUR, SEOUL)
    add(scene, 3, NOW - MINUTE, NOW + 24 * HOUR, SEOUL)
    with pytest.raises(Refused, match=r"was made 8 h 59 min ahead of now, at .* by JOBS_DATABASE_TIMEZONE \(UTC\)"):
        scene.purge()
    assert [scene.whole(n) for n in (1, 2, 3)] == [True] * 3
    scene.zone = SEOUL
    assert scene.purge().doubts == ()
    assert [scene.whole(n) for n in (1, 2, 3)] == [None, True, True]


@pytest.mark.long
def test_utc_that_is_read_as_korean_time_is_a_doubt(scene: JobScene) -> None:
    add(scene, 1, NOW - MINUTE, NOW + 24 * HOUR, UTC_ZONE)
    scene.zone = SEOUL
    (doubt,) = scene.purge(dry_run=True).doubts
    assert "jobs is 9 h 1 min old by JOBS_DATABASE_TIMEZONE (Asia/Seoul), which is as much as UTC differs" in doubt


@pytest.mark.long
def test_a_quiet_service_is_no_doubt(scene: JobScene) -> None:
    add(scene, 1, NOW - 20 * HOUR, NOW + 4 * HOUR, SEOUL)
    scene.zone = SEOUL
    assert scene.purge(dry_run=True).doubts == ()


@pytest.mark.long
def test_five_minutes_ahead_may_be_a_clock_and_more_is_refused(scene: JobScene) -> None:
    add(scene, 1, NOW - 25 * HOUR, NOW - HOUR, UTC_ZONE)
    add(scene, 2, NOW + 5 * MINUTE + SECOND, NOW + 24 * HOUR, UTC_ZONE)
    with pytest.raises(Refused, match="was made 5 min ahead of now"):
        scene.purge()
    scene.purge(now=NOW + SECOND)
    assert [scene.whole(1), scene.whole(2)] == [None, True]


@pytest.mark.parametrize(
    ("created", "refused"),
    [
        ("2026-10-01T09:00:00+09:00", False), ("2026-10-01T09:06:00+09:00", True), ("2026-10-01 00:06:00", True),
        ("2026-09-30T19:06:00-05:00", True), ("2026-10-01T00:04:59Z", False), ("9999", False), ("soon", False),
    ],
)  # fmt: skip
def test_sqlite_texts_are_read_with_their_own_offset(lite: JobScene, created: str, refused: bool) -> None:
    lite.add([1])
    lite.run("UPDATE jobs SET created_at = :created", created=created)
    with open_jobs(lite.url, "jobs", UTC_ZONE) as store:
        assert (Clock(store, "JOBS_DATABASE_TIMEZONE", NOW).ahead() is not None) is refused


@pytest.mark.parametrize(("engine", "kind"), [("postgres", "timestamptz"), ("mysql", "TIMESTAMP")])
def test_a_column_that_keeps_instants_is_ahead_whatever_the_setting_says(
    engine: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = JobScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").create()
    if engine == "postgres":
        scene.run("ALTER TABLE jobs ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'")
    scene.add([1], NOW + 30 * HOUR)
    for scene.zone in (SEOUL, UTC_ZONE):
        with pytest.raises(Refused, match=r"was made 6 h 0 min ahead of now, at .* by the column's own zone"):
            scene.purge()


def test_an_expiry_without_a_zone_beside_a_creation_with_one_is_a_doubt_where_lives_are_odd(
    postgres_url: str, tmp_path: Path
) -> None:
    scene = JobScene(postgres_url, tmp_path / "backups").create(
        "ALTER TABLE jobs ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC'"
    )
    scene.add([1], NOW + 8 * HOUR)
    scene.run("UPDATE jobs SET expires_at = expires_at + interval '9 hours'")  # the service writes Korean time
    (doubt,) = scene.purge(dry_run=True).doubts
    assert "expire 33 h 0 min after they were made by JOBS_DATABASE_TIMEZONE (UTC), and 24 h 0 min after it by" in doubt


def test_each_database_has_a_zone_of_its_own_and_else_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_TIMEZONE", "Europe/Berlin")
    monkeypatch.setenv("JOBS_DATABASE_TIMEZONE", "Asia/Seoul")
    settings = load_settings()
    zones = settings.database_timezone, settings.jobs_database_timezone, settings.analysis_database_timezone
    assert [zone.key for zone in zones] == ["Europe/Berlin", "Asia/Seoul", "Europe/Berlin"]
    monkeypatch.setenv("ANALYSIS_DATABASE_TIMEZONE", "Seoul")
    with pytest.raises(SettingsError, match=r"ANALYSIS_DATABASE_TIMEZONE holds 'Seoul' .* it may hold the IANA name"):
        load_settings()


def status_line(scene: JobScene, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JOBS_DATABASE_URL", scene.url.render_as_string(hide_password=False))
    return next(line for line in report()[0] if line[5:].startswith("JOBS_DATABASE_URL"))


def test_status_says_the_newest_rows_time_beside_now_and_fails_where_it_is_ahead(
    lite: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(SEOUL)
    add(lite, 1, now - HOUR, now + 23 * HOUR, SEOUL)
    line = status_line(lite, monkeypatch)
    assert line.startswith("FAIL")
    assert "made 8 h 0 min ahead of now" in line
    monkeypatch.setenv("JOBS_DATABASE_TIMEZONE", "Asia/Seoul")
    line = status_line(lite, monkeypatch)
    assert line.startswith("ok")
    assert "(1 h 0 min ago)" in line
    assert "(23 h 0 min ahead)" in line
    assert "times without a zone in Asia/Seoul" in line


def test_status_counts_no_rows_of_jobs_that_are_gone_which_may_take_minutes(
    lite: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check `no_orphan_rows` counts them."""
    with lite.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        columns = "(id, job_id, phone, message, status)"
        connection.exec_driver_sql(f"INSERT INTO sms_logs {columns} VALUES (1, 'gone', '', '', '')")  # noqa: S608
    assert "sms_logs" not in status_line(lite, monkeypatch)
