"""A lasting problem is reported once, again after a day, and when it is over; what can't be seen is not all right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster import DagsterRunStatus as Status
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from saju_ops.alerts.backlog import Measured, judge, last_clean_up
from saju_ops.alerts.outbox import Outbox
from saju_ops.alerts.problems import Problem, Seen, settle
from saju_ops.defs.alerts.backlog import measure
from saju_ops_tests.defs.alerts_scene import AlertScene
from saju_ops_tests.defs.project import Project, ago, recorded_run
from saju_ops_tests.fakes.slack import FakeSlack

SEOUL = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 16, 3, tzinfo=UTC)


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with FakeSlack() as fake:
        yield fake


@pytest.fixture
def scene(tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> AlertScene:
    scene = AlertScene(tmp_path, fake, monkeypatch)
    scene.begin()
    return scene


# --- the life of a problem -----------------------------------------------------------------------------------------


def settled(outbox: Outbox, now: datetime, *problems: Problem, unknown: tuple[str, ...] = ()) -> list[str]:
    seen = Seen(list(problems), {"a"}, set(unknown))
    return [m.text.splitlines()[0] for m in settle(outbox, seen, ["slack"], now, zone=SEOUL)]


def test_a_problem_is_reported_once_then_daily_then_when_it_is_over(tmp_path: Path) -> None:
    outbox, problem = Outbox(tmp_path / "o.sqlite"), Problem("a:x", "백업이 늦었습니다")
    titles = [line for hour in range(50) for line in settled(outbox, NOW + timedelta(hours=hour), problem)]
    assert titles == ["⚠️ *백업이 늦었습니다*", "🔁 *백업이 늦었습니다*", "🔁 *백업이 늦었습니다*"]
    assert settled(outbox, NOW + timedelta(hours=51)) == ["✅ *해결됨: 백업이 늦었습니다*"]
    assert settled(outbox, NOW + timedelta(hours=52)) == []
    assert settled(outbox, NOW + timedelta(hours=53), problem) == ["⚠️ *백업이 늦었습니다*"]


def test_what_cannot_be_seen_is_no_all_clear(tmp_path: Path) -> None:
    outbox, problem = Outbox(tmp_path / "o.sqlite"), Problem("a:x", "백업이 늦었습니다")
    settled(outbox, NOW, problem)
    assert settled(outbox, NOW, unknown=("a:x",)) == []
    assert settle(outbox, Seen([], {"b"}), ["slack"], NOW, zone=SEOUL) == []
    assert list(outbox.problems()) == ["a:x"]


def test_a_look_that_fails_is_reported_and_the_others_continue(
    scene: AlertScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.defs.alerts import watch as alerts_watch

    def broken(*_: Any) -> Any:
        raise RuntimeError("the storage is gone")

    with monkeypatch.context() as patch:
        patch.setattr(alerts_watch, "_freshness", broken)
        scene.tick(2)
    assert len(scene.words) == 1
    assert "감시할 수 없음: 백업의 최신 상태" in scene.last()
    scene.tick()
    assert "해결됨" in scene.last()


# --- checks ------------------------------------------------------------------------------------------------------


def evaluated(scene: AlertScene, passed: bool) -> None:
    """As `dagster` stores an evaluation that came through its API, outside of any run."""
    scene.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            check_name="every_due_day_is_archived", asset_key=dg.AssetKey("conversation_log_archive"), passed=passed,
            metadata={"due_days_without_archive": 3, "name": "홍길동"}, severity=dg.AssetCheckSeverity.WARN,
        )
    )  # fmt: skip


def test_a_check_that_failed_outside_of_a_run_is_reported_until_it_passes(scene: AlertScene) -> None:
    evaluated(scene, passed=False)
    scene.tick(2)
    assert len(scene.words) == 1
    assert "⚠️ *검사 실패: every_due_day_is_archived (대화 로그 백업)*" in scene.last()
    assert "due_days_without_archive 3" in scene.last()
    assert "홍길동" not in scene.last()
    evaluated(scene, passed=True)
    scene.tick(2)
    assert "✅ *해결됨: 검사 실패: every_due_day_is_archived" in scene.last()
    assert len(scene.words) == 2


def test_a_check_that_failed_before_the_first_tick_is_the_past(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = AlertScene(tmp_path, fake, monkeypatch)
    evaluated(scene, passed=False)
    scene.begin()
    scene.tick(2)
    assert scene.words == []


# --- freshness ---------------------------------------------------------------------------------------------------

ARCHIVE = dg.AssetKey("conversation_log_archive")


def fresh(scene: AlertScene, state: FreshnessState) -> None:
    """What Dagster's freshness daemon stores."""
    before = FreshnessState.PASS if state is FreshnessState.FAIL else FreshnessState.FAIL
    scene.instance.report_runless_asset_event(
        FreshnessStateChange(
            key=ARCHIVE, new_state=state, previous_state=before, state_change_timestamp=datetime.now(UTC).timestamp()
        )
    )


def test_a_late_backup_is_reported_until_it_is_fresh(scene: AlertScene, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[dg.AssetKey, Any] = {}
    scene.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition="2026-10-01"))

    class Record:
        def __init__(self, state: FreshnessState) -> None:
            self.freshness_state = state

    monkeypatch.setattr(type(scene.instance), "get_freshness_state_records", lambda _self, _keys: states)
    scene.tick()
    assert scene.words == []
    states[ARCHIVE] = Record(FreshnessState.FAIL)
    scene.tick(2)
    assert len(scene.words) == 1
    assert "🚨 *백업이 늦었습니다: 대화 로그 백업*" in scene.last()
    assert "- 마지막 성공: " in scene.last()
    states[ARCHIVE] = Record(FreshnessState.PASS)
    scene.tick()
    assert "해결됨: 백업이 늦었습니다" in scene.last()


def test_freshness_is_read_as_dagster_stores_it(scene: AlertScene) -> None:
    scene.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition="2026-10-01"))
    fresh(scene, FreshnessState.FAIL)
    if not scene.instance.get_freshness_state_records([ARCHIVE]):
        pytest.fail("Dagster's own storage didn't keep the freshness state; the alert would never see one")
    scene.tick()
    assert "백업이 늦었습니다: 대화 로그 백업" in scene.last()


def test_a_backup_that_was_never_made_is_reported_when_its_time_is_over(scene: AlertScene) -> None:
    scene.tick()
    assert scene.words == []
    begun = datetime.now(UTC) - timedelta(days=9)
    scene.outbox.set_fact("first_seen:fresh:conversation_log_archive", begun.timestamp())
    scene.tick()
    (text,) = [w for w in scene.words if "대화 로그 백업" in w]
    assert "아직 한 번도 없음" in text


# --- schedules and sensors ---------------------------------------------------------------------------------------


def instigator(
    scene: AlertScene, name: str, status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE, *, sensor: bool = False
) -> InstigatorState:
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("saju_ops"), "__repository__"), name
    )
    data: Any = SensorInstigatorData() if sensor else ScheduleInstigatorData("0 9 * * 1")
    kind = InstigatorType.SENSOR if sensor else InstigatorType.SCHEDULE
    return scene.instance.add_instigator_state(InstigatorState(origin, kind, status, data))


def ticked(scene: AlertScene, state: InstigatorState, status: TickStatus, error: str = "") -> None:
    scene.instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id, instigator_name=state.name,
            instigator_type=state.instigator_type, status=status, timestamp=datetime.now(UTC).timestamp(),
            selector_id=state.selector_id, end_timestamp=datetime.now(UTC).timestamp(),
            error=SerializableErrorInfo(error, [], "OperatorError") if error else None,
            run_ids=[] if status is TickStatus.SUCCESS else None,
        )
    )  # fmt: skip


def test_a_schedule_that_was_stopped_is_reported_until_it_runs_again(scene: AlertScene) -> None:
    state = instigator(scene, "log_cleanup", InstigatorStatus.STOPPED)
    scene.tick(2)
    assert len(scene.words) == 1
    assert "스케줄이 꺼져 있습니다: log_cleanup" in scene.last()
    scene.instance.update_instigator_state(state.with_status(InstigatorStatus.RUNNING))
    scene.tick()
    assert "해결됨: 스케줄이 꺼져 있습니다: log_cleanup" in scene.last()


def test_a_schedule_whose_tick_failed_is_reported_until_one_succeeds(scene: AlertScene) -> None:
    state = instigator(scene, "log_cleanup")
    ticked(scene, state, TickStatus.FAILURE, "saju_ops.errors.OperatorError: The database can't be reached.\nmore")
    scene.tick(2)
    assert len(scene.words) == 1
    assert "스케줄이 실패합니다: log_cleanup" in scene.last()
    assert "- 오류: The database can't be reached." in scene.last()
    ticked(scene, state, TickStatus.SUCCESS)
    scene.tick()
    assert "해결됨" in scene.last()


def test_a_sensor_is_reported_after_three_failures_in_a_row_and_not_after_one(scene: AlertScene) -> None:
    state = instigator(scene, "purge_after_archive", sensor=True)
    for _ in range(2):
        ticked(scene, state, TickStatus.FAILURE, "OperatorError: x")
        scene.tick()
    assert scene.words == []
    ticked(scene, state, TickStatus.FAILURE, "OperatorError: x")
    scene.tick()
    assert "센서가 실패합니다: purge_after_archive" in scene.last()
    ticked(scene, state, TickStatus.FAILURE, "OperatorError: x")
    scene.tick()
    ticked(scene, state, TickStatus.SKIPPED)
    scene.tick()
    assert "해결됨" in scene.last()
    assert len(scene.words) == 2


def test_another_code_locations_schedule_and_the_alert_sensor_itself_are_not_watched(scene: AlertScene) -> None:
    instigator(scene, "someone_elses", InstigatorStatus.STOPPED)
    state = instigator(scene, "alerts", sensor=True)
    for _ in range(4):
        ticked(scene, state, TickStatus.FAILURE, "OperatorError: x")
    scene.tick()
    assert scene.words == []


# --- runs that hang ----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "tags", "hours", "word"),
    [
        (Status.STARTED, {}, 13, "끝나지 않습니다: 대화 로그 삭제"),
        (Status.STARTED, {"dagster/max_runtime": "3600"}, 2, "끝나지 않습니다: 대화 로그 삭제"),
        (Status.QUEUED, {}, 13, "시작되지 않습니다: 대화 로그 삭제"),
    ],
)
def test_a_run_that_hangs_is_reported_until_it_ends(
    scene: AlertScene, status: Status, tags: dict[str, str], hours: int, word: str
) -> None:
    run = recorded_run(scene.instance, "purge_conversation_logs", status, tags)
    scene.tick()
    assert scene.words == []
    begun = datetime.now(UTC) - timedelta(hours=hours)
    storage: Any = scene.instance.run_storage
    with storage.connect() as connection:
        values = {"start": begun.timestamp() if status is Status.STARTED else None,
                  "at": begun.replace(tzinfo=None), "run": run.run_id}  # fmt: skip
        connection.execute(
            sa.text("UPDATE runs SET start_time = :start, create_timestamp = :at WHERE run_id = :run"), values
        )
    scene.tick(2)
    assert len(scene.words) == 1
    assert word in scene.last()
    assert run.run_id in scene.last()
    scene.instance.report_run_canceled(run)
    scene.tick()
    text = "\n".join(scene.words)
    assert f"해결됨: {word}" in text
    assert "⏹️ *대화 로그 삭제 중단*" in text


# --- the backlog of purges -----------------------------------------------------------------------------------------


def at(hours: float, overdue: int, purged: int = 0) -> Measured:
    return Measured(NOW + timedelta(hours=hours), overdue, purged)


@pytest.mark.parametrize(
    ("measurements", "verdict"),
    [
        ([at(0, 0)], "none"),
        ([at(0, 5)], "stays"),
        ([at(0, 0), at(1, 5)], "grows"),
        ([at(0, 5), at(24, 9)], "grows"),
        ([at(0, 5), at(24, 5)], "stays"),
        ([at(0, 9), at(24, 5)], "none"),
        ([at(0, 9), at(24, 0)], "none"),
        ([at(0, 5), at(24, 7), at(25, 7)], "grows"),
    ],
)
def test_a_backlog_grows_where_more_is_overdue_than_a_day_ago(measurements: list[Measured], verdict: str) -> None:
    assert judge(measurements) == verdict


def test_the_last_clean_up_is_one_that_had_a_day_to_work() -> None:
    monday = datetime(2026, 11, 16, 0, tzinfo=UTC)  # 09:00 in Seoul
    assert last_clean_up("0 9 * * 1", monday + timedelta(hours=25), SEOUL) == monday
    assert last_clean_up("0 9 * * 1", monday + timedelta(hours=23), SEOUL) == monday - timedelta(days=7)


@pytest.mark.long
def test_rows_that_the_purge_leaves_behind_are_reported_and_so_is_their_end(
    database_url: str, tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(database_url, tmp_path, monkeypatch)
    scene = AlertScene(tmp_path, fake, monkeypatch, DATABASE_URL=database_url)
    scene.begin()
    from saju_ops.defs.resources import LogDatabase
    from saju_ops.settings.load import load_settings

    def look(days: float) -> str:
        return measure(scene.instance, LogDatabase(), load_settings(), datetime.now(UTC) + timedelta(days=days))

    project.add(5, ago(3), first=1)
    assert look(0).endswith("none")
    project.add(7, ago(50), first=100)
    assert "7 rows" in look(0.1)
    scene.tick()
    assert "🚨 *삭제할 로그가 쌓입니다*" in scene.last()
    assert "- 밀린 행: 7 rows" in scene.last()
    look(0.2)
    scene.tick()
    assert len(scene.words) == 1
    project.scene.remove("log_id >= 100")
    look(0.3)
    scene.tick()
    assert "해결됨: 삭제할 로그가 쌓입니다" in scene.last()
