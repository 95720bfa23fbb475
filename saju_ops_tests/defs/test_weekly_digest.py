"""The weekly digest: a week's numbers, a chart, and open problems; reported like every run, whatever is down."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from PIL import Image

from saju_ops.reports.chart import Point, growth_png
from saju_ops.reports.digest import database_bytes, growth
from saju_ops_tests.defs.alerts_scene import AlertScene
from saju_ops_tests.defs.project import Project, ago
from saju_ops_tests.fakes.slack import FakeSlack

SEOUL = ZoneInfo("Asia/Seoul")


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with FakeSlack() as fake:
        yield fake


def test_it_counts_what_was_archived_and_purged_and_says_that_the_backup_is_done(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(sqlite_url, tmp_path, monkeypatch)
    project.add(30, ago(40), first=1)
    project.add(12, ago(3), first=100)
    assert project.archive(ago(40)).succeeded
    assert project.purge(dry_run=False).succeeded
    run = project.run("weekly_digest")
    assert run.succeeded
    found = run.outputs()
    assert (found["rows_archived"], found["rows_purged"], found["open_problems"]) == (30, 30, 0)
    assert found["table_bytes"] > 0
    assert found["database_bytes"] > 0
    assert found["backup_files"] == 2
    report = found["report"]
    assert "💾 7일치 로그 백업 완료" in report
    assert "- 백업한 행: 30 rows" in report
    assert "- 열린 문제: 없음" in report
    assert found["chart_png"].startswith("![")


def test_a_week_without_an_archive_and_a_failed_run_are_said(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(sqlite_url, tmp_path, monkeypatch)
    assert not project.purge(from_day="2026-10-02", to_day="2026-10-01").succeeded
    report = project.run("weekly_digest").outputs()["report"]
    assert "⚠️ 지난 7일 동안 로그 백업이 실행되지 않았습니다" in report
    assert "마지막 실행이 실패했습니다: 대화 로그 삭제" in report
    assert "실패 1" in report


def test_it_comes_even_while_the_database_is_down(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = AlertScene(tmp_path, fake, monkeypatch, DATABASE_URL="postgresql://u:s3cret-pw@127.0.0.1:1/gone")
    scene.begin()
    run = scene.run(scene.definitions.resolve_job_def("weekly_digest"))
    scene.tick()
    text = "\n".join(w for w in scene.words if run in w)
    assert "📊 *주간 요약*" in text
    assert "- 확인할 수 없음: 데이터베이스" in text
    assert "s3cret-pw" not in text


@pytest.mark.long
def test_slack_gets_the_chart_below_the_digest(
    sqlite_url: str, tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Project(sqlite_url, tmp_path, monkeypatch)
    scene = AlertScene(tmp_path, fake, monkeypatch, DATABASE_URL=sqlite_url)
    scene.begin()
    scene.run(scene.definitions.resolve_job_def("weekly_digest"))
    scene.tick(2)
    (file,) = fake.files
    digest = next(m for m in fake.messages if "주간 요약" in m.text)
    assert file.thread_ts == digest.ts
    image = Image.open(io.BytesIO(file.content))
    assert image.size == (800, 400)
    assert "base64" not in fake.words()


def test_the_size_of_a_database_is_the_servers_own_count(database_url: str) -> None:
    from saju_ops.database.connect import connect, parse_database_url

    url = parse_database_url(database_url)
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").touch()
    with connect(url).connect() as connection:
        connection.execute(sa.text("CREATE TABLE some_table (id INT PRIMARY KEY, text VARCHAR(100))"))
        connection.commit()
    assert database_bytes(url) > 0


def test_the_chart_has_one_point_a_week_and_adds_up_what_was_removed() -> None:
    start = datetime(2026, 10, 5, 1, tzinfo=UTC)
    sizes = [(start + timedelta(days=n), 1000 + n) for n in range(0, 22, 3)]
    removals = [(start + timedelta(days=5), 10), (start + timedelta(days=12), 20)]
    points = growth(sizes, removals, 5.0, SEOUL)
    # The first week's last size is the beginning; what went before it was never in the chart.
    assert [p.removed_bytes for p in points] == [0, 100, 100, 100]
    assert [p.table_bytes for p in points] == [1006, 1012, 1018, 1021]
    assert growth([], removals, 5.0, SEOUL) == []


@pytest.mark.parametrize("count", [0, 1, 2, 26])
def test_a_chart_can_be_drawn_of_any_number_of_weeks(count: int) -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC).date()
    points = [Point(start + timedelta(weeks=n), n * 10**9, n * 10**8) for n in range(count)]
    drawn = growth_png(points)
    assert bool(drawn) is bool(count)
    assert len(drawn) < 40_000
