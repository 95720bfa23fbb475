"""What operators and scripts get to see: the Korean report, the JSON, the exit statuses, the job in Dagster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops.definitions import defs
from saju_ops.defs.stale import stale_jobs_schedule
from saju_ops.reports.stale import ago as shown_ago
from saju_ops.reports.stale import console_lines, padded, stale_report, statistics_lines, undo_report, visible
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops.storage.seal import sealed
from saju_ops_tests.defs.project import Run
from saju_ops_tests.stale.scene import NOW, SEOUL, Scene, ago

UTC_ZONE = ZoneInfo("UTC")

STATISTICS = """\
======================================================================
📈 전체 작업 상태 통계
======================================================================

  pending      :    5개
  processing   :    2개
  completed    : 1250개
  ──────────────────────
  total        : 1257개

📅 7일 이상 된 작업: 45개
💾 정리 대상 (24시간 이상 중단): 7개"""

CHECK = """\
======================================================================
📊 중단된 작업 정리 리포트 (24시간 이상 경과)
======================================================================

1. Job ID: 작업-1
   상태: processing → 정리 필요
   폴더: -
   생성일: 2026-10-04 15:30:00 (10일 전)
   파일 분석: 0개 (완료: 0개)
   정리 결과: failed

2. Job ID: job_2
   상태: pending → 정리 필요
   폴더: 녹음/2026/E1�[31m
   생성일: 2026-10-10 05:30:00 (4일 10시간 전)
   파일 분석: 5개 (완료: 3개)
   정리 결과: completed ⚠️ 일부만 완료

⚠️ 판단할 수 없어 그대로 둔 작업: 1개
  - job_3 (pending): 시각을 읽을 수 없음 (analysis_jobs.created_at)

⚠️ updated_at 열이 없어 생성 시각만으로 판단했습니다. 아직 실행 중인 긴 작업이 없는지 확인하세요.
ℹ️ 확인만 했습니다. 변경된 것은 없습니다.
   정리하려면: saju-ops reconcile-stale-jobs --apply --hours 24"""

# SPEC's own text, of the command on the database that it describes.
KNOWN = """\
======================================================================
📈 전체 작업 상태 통계
======================================================================

  pending      :    0개
  processing   :    2개
  completed    :    1개
  ──────────────────────
  total        :    3개

📅 7일 이상 된 작업: 1개
💾 정리 대상 (24시간 이상 중단): 2개

======================================================================
📊 중단된 작업 정리 리포트 (24시간 이상 경과)
======================================================================

1. Job ID: job_abc123def
   상태: processing → 정리 필요
   폴더: /data/uploads/emp001/2026-02-20
   생성일: {first} (4일 10시간 전)
   파일 분석: 15개 (완료: 8개)
   정리 결과: completed ⚠️ 일부만 완료

2. Job ID: job_xyz789ghi
   상태: processing → 정리 필요
   폴더: /data/uploads/emp002/2026-02-21
   생성일: {second} (2일 전)
   파일 분석: 3개 (완료: 0개)
   정리 결과: failed

⚠️ updated_at 열이 없어 생성 시각만으로 판단했습니다. 아직 실행 중인 긴 작업이 없는지 확인하세요.
ℹ️ 확인만 했습니다. 변경된 것은 없습니다.
   정리하려면: saju-ops reconcile-stale-jobs --apply --hours 24
"""

ALERT = """\
🧹 *중단된 분석 작업 정리 Report*
- 정리 대상: 2개 (24시간 이상 중단)
- completed: 1개 (일부 완료 1개)
- failed: 1개
- 정리 완료: 2개
- 판단할 수 없어 그대로 둔 작업: 1개
- 전체: 4개 (pending 2, processing 1, completed 0, 취소됨 1)
- 7일 이상 된 작업: 2개
- 되돌리기: `saju-ops reconcile-stale-jobs --undo run1`
- 실행 시간: 2026-10-14 15:30:00 UTC
- `작업-1`: processing → failed, 10일 전, 결과 없음
- `job_2`: pending → completed, 4일 10시간 전, 파일 5개 중 3개 완료"""


@pytest.fixture
def scene(sqlite_url: str, tmp_path: Path) -> Scene:
    scene = Scene(sqlite_url, tmp_path / "backups").create()
    scene.job("작업-1", created=ago(240), folder=None)
    scene.job("job_2", "pending", created=ago(106), files=5, done=3, folder="녹음/2026/E1\x1b[31m")
    scene.job("job_3", "pending", created="언젠가")
    scene.job("job_4", "취소됨", created=ago(500))
    return scene


def test_the_statistics_are_the_ones_operators_know_to_the_letter(scene: Scene) -> None:
    result = scene.reconcile("stats")
    result.statuses, result.older_than_7_days = {"pending": 5, "processing": 2, "completed": 1250}, 45
    for _ in range(5):
        result.jobs.append(next(iter(result.jobs)))
    assert "\n".join(statistics_lines(result)) == STATISTICS
    # Statistics are this block and nothing more.
    assert list(console_lines(result, SEOUL)) == STATISTICS.splitlines()


def test_the_numbers_stay_aligned_when_they_grow(scene: Scene) -> None:
    result = scene.reconcile("stats")
    result.statuses = {"pending": 5, "processing": 20, "completed": 1_234_567, "": 3}
    lines = list(statistics_lines(result))[4:10]
    assert lines[0] == "  pending      :       5개"
    assert lines[2] == "  completed    : 1234567개"
    assert lines[3] == "  (없음)       :       3개"


def test_a_check_lists_every_job(scene: Scene) -> None:
    assert "\n".join(console_lines(scene.reconcile(), UTC_ZONE)) == CHECK


def test_statistics_come_before_the_list_with_a_blank_line_between_them(scene: Scene) -> None:
    result = scene.reconcile()
    both = "\n".join(console_lines(result, UTC_ZONE, statistics=True))
    assert both == "\n".join([*statistics_lines(result), "", CHECK])


def test_an_apply_says_what_it_did_and_how_to_put_it_back(scene: Scene) -> None:
    said = "\n".join(console_lines(scene.apply(), SEOUL))
    assert "✅ 2개 정리: completed 1개 (일부 완료 1개), failed 1개" in said
    assert "saju-ops reconcile-stale-jobs --undo run1" in said
    assert "reconciled_jobs/2026/10/run1.part0001.json" in said


def test_nothing_to_do_is_said(scene: Scene) -> None:
    result = scene.reconcile(hours=2000)
    assert list(console_lines(result, SEOUL))[-1] == "✅ 정리할 작업이 없습니다."
    result.odd_count = 0
    assert stale_report(result) == "✅ 정리할 중단 작업이 없습니다. (기준: 2000시간, 전체 4개)"


def test_the_alert_names_no_folder(scene: Scene) -> None:
    assert stale_report(scene.apply()) == ALERT
    assert "되돌린 작업: 2개" in undo_report(scene.undo())


def test_the_alert_lists_twenty_jobs_at_most(sqlite_url: str, tmp_path: Path) -> None:
    scene = Scene(sqlite_url, tmp_path / "backups").create()
    for number in range(25):
        scene.job(f"j{number}")
    said = stale_report(scene.reconcile()).splitlines()
    assert (len([line for line in said if line.startswith("- `j")]), said[-1]) == (20, "- … 외 5개")


@pytest.mark.parametrize(
    ("hours", "text"),
    [(106, "4일 10시간 전"), (96, "4일 전"), (23.99, "23시간 전"), (24, "1일 전"), (0.6, "36분 전"), (-1, "0분 전")],
)
def test_how_long_ago(hours: float, text: str) -> None:
    assert shown_ago(ago(hours), NOW) == text


def test_widths_are_those_of_a_terminal() -> None:
    assert [padded(t, 6) for t in ("ab", "한글", "한글한글")] == ["ab    ", "한글  ", "한글한글"]
    assert visible("a\nb\x1b[0m한글") == "a�b�[0m한글"


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def live(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Jobs by the clock on the wall: two stale ones, one of today."""
    scene = Scene(sqlite_url, tmp_path / "backups", newer=True).create()
    now = datetime.now(UTC)
    scene.job("stale", created=now - timedelta(hours=106), files=5, done=3)
    scene.job("empty", created=now - timedelta(hours=48))
    scene.job("today", created=now - timedelta(hours=3))
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    return scene


def saju_ops(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["reconcile-stale-jobs", *arguments])


def test_a_check_exits_with_0_as_cron_expects_and_with_2_where_a_script_asks_for_it(live: Scene) -> None:
    for arguments in ((), ("--check",), ("--stats",), ("--check", "--stats"), ("--check", "--hours", "200"),
                      ("--exit-code", "--hours", "200"), ("--apply", "--dry-run")):  # fmt: skip
        assert saju_ops(*arguments).exit_code == 0, arguments
    for arguments in (("--exit-code",), ("--check", "--exit-code"), ("--check", "--stats", "--exit-code", "--json")):
        assert saju_ops(*arguments).exit_code == 2, arguments
    assert live.statuses()["empty"] == "processing"
    assert saju_ops("--apply").exit_code == 0
    assert live.statuses() == {"stale": "completed", "empty": "failed", "today": "processing"}
    assert saju_ops("--check", "--exit-code").exit_code == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul"])
def test_check_and_stats_print_the_report_that_operators_know_by_the_letter(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    scene, now = Scene(sqlite_url, tmp_path / "backups", zone=zone).create(), datetime.now(UTC)
    first, second = now - timedelta(days=4, hours=10, minutes=20), now - timedelta(days=2, minutes=20)
    scene.job("job_abc123def", created=first, files=15, done=8, folder="/data/uploads/emp001/2026-02-20")
    scene.job("job_xyz789ghi", created=second, files=3, folder="/data/uploads/emp002/2026-02-21")
    scene.job("old", "completed", created=now - timedelta(days=30))
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("ANALYSIS_DATABASE_TIMEZONE", zone)
    kept = {
        name: f"{at.astimezone(scene.zone):%Y-%m-%d %H:%M:%S}" for name, at in (("first", first), ("second", second))
    }
    whole = KNOWN.format(**kept)
    statistics, report = whole.split("\n\n======================================================================\n📊")
    report = "======================================================================\n📊" + report
    assert saju_ops("--check", "--stats").stdout == whole
    assert saju_ops("--check").stdout == saju_ops().stdout == report
    assert saju_ops("--stats").stdout == statistics + "\n"


@pytest.mark.parametrize(
    "arguments",
    [("--hours", "x"), ("--hours", "0"), ("--hours", "1.5"), ("--check", "--apply"), ("--stats", "--undo", "r"),
     ("--apply", "--exit-code"), ("--stats", "--exit-code"), ("--undo", "r", "--apply"),
     ("--no",), ("--undo", "nobody"), ("--undo", "../x"), ("extra",), ("--undo",)],
)  # fmt: skip
def test_whatever_is_wrong_ends_with_1_and_a_sentence(live: Scene, arguments: tuple[str, ...]) -> None:
    before = live.rows("analysis_jobs")
    said = saju_ops(*arguments)
    assert said.exit_code == 1, said.output
    assert said.stderr.strip()
    assert not isinstance(said.exception, ValueError)
    assert live.rows("analysis_jobs") == before


def test_a_missing_database_or_a_wrong_setting_ends_with_1(live: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", "sqlite:///nowhere.db")
    said = saju_ops("--json")
    assert (said.exit_code, said.stdout) == (1, "")
    assert "There is no SQLite file" in said.stderr
    assert "Traceback" not in said.output
    monkeypatch.setenv("STALE_JOB_HOURS", "0")
    said = saju_ops()
    assert said.exit_code == 1
    assert "STALE_JOB_HOURS holds '0'" in said.stderr


def test_json_is_for_scripts(live: Scene) -> None:
    said = saju_ops("--check", "--json")
    assert said.exit_code == 0
    report = json.loads(said.stdout)
    assert report["statuses"] == {"pending": 0, "processing": 3, "completed": 0}
    assert (report["total"], report["to_settle"], report["to_complete_partly"], report["hours"]) == (3, 2, 1, 24)
    job = report["jobs"][0]
    assert (job["job_id"], job["status"], job["becomes"]) == ("stale", "processing", "completed")
    assert job["partly_done"] is True
    assert (job["files"], job["done"], job["folder"]) == (5, 3, "recordings/2026/E1")
    assert 106 * 3600 <= job["age_seconds"] < 107 * 3600
    assert datetime.fromisoformat(job["created_at"]).tzinfo is not None
    applied = json.loads(saju_ops("--apply", "--json").stdout)
    assert (applied["settled"], applied["left_moved"], len(applied["audit_files"])) == (2, 0, 2)
    undone = json.loads(saju_ops("--undo", applied["run_id"], "--json").stdout)
    assert (undone["put_back"], undone["dry_run"]) == (2, False)
    assert set(live.statuses().values()) == {"processing"}
    assert json.loads(saju_ops("--stats", "--json").stdout)["jobs"] == []


def test_a_run_is_put_back_by_an_audit_that_a_key_of_ours_sealed_and_by_no_other(
    live: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_SEAL_KEY", "0123456789abcdef" * 2)
    run_id = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    settled = live.statuses()
    (path,) = live.folder.rglob("*.outcome.json")
    whole = path.read_text()
    content = {k: v for k, v in json.loads(whole).items() if not k.startswith("manifest_")}
    # A person who can write there could have a run of their own put back, which sets any job's status.
    for text, words in (
        (whole.replace('"stale"', '"today"'), "was altered"), ("[" * 200_000, "is not an audit file"),
        (sealed(content).decode(), "is not sealed by a key"),
        (whole.replace('"changed": [', '"changed": [{"uuid": "x"}, '), "was altered"),
    ):  # fmt: skip
        path.write_text(text)
        said = saju_ops("--undo", run_id)
        assert (said.exit_code, words in said.output) == (1, True), said.output
        assert live.statuses() == settled
    path.write_text(whole)
    assert saju_ops("--undo", run_id).exit_code == 0
    assert live.statuses()["stale"] == "processing"


def test_an_audit_of_before_the_key_is_put_back_where_it_is_accepted(
    live: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    monkeypatch.setenv("BACKUP_SEAL_KEY", "0123456789abcdef" * 2)
    assert saju_ops("--undo", run_id).exit_code == 1
    assert saju_ops("--undo", run_id, "--accept-unsealed").exit_code == 0
    assert live.statuses()["stale"] == "processing"


def test_an_audit_of_before_the_key_is_in_no_other_runs_way(live: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    assert saju_ops("--undo", first).exit_code == 0
    monkeypatch.setenv("BACKUP_SEAL_KEY", "0123456789abcdef" * 2)
    second = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    said = saju_ops("--undo", second)
    assert (said.exit_code, live.statuses()["stale"]) == (0, "processing"), said.output


@pytest.mark.parametrize(
    "change", [("key", {"uuid": "x"}), ("key", []), ("batch", -1), ("status", None), ("files", "5")]
)
def test_a_malformed_audit_is_refused_by_a_sentence(live: Scene, change: tuple[str, Any]) -> None:
    run_id = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    (path,) = live.folder.rglob("*.part0001.json")
    raw = json.loads(path.read_text())
    raw["jobs"][0][change[0]] = change[1]
    path.write_text(json.dumps(raw))
    said = saju_ops("--undo", run_id)
    assert (said.exit_code, "is not an audit file" in said.output) == (1, True), said.output


def test_undo_by_hand(live: Scene) -> None:
    run_id = json.loads(saju_ops("--apply", "--json").stdout)["run_id"]
    assert "되돌릴 작업: 2개" in saju_ops("--undo", run_id, "--dry-run").stdout
    assert live.statuses()["empty"] == "failed"
    said = saju_ops("--undo", run_id)
    assert (said.exit_code, "되돌린 작업: 2개" in said.stdout) == (0, True)
    assert live.statuses()["empty"] == "processing"
    assert saju_ops("--undo", run_id).exit_code == 1


def test_a_reader_that_hangs_up_leaves_no_traceback(live: Scene) -> None:
    live.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO analysis_jobs (job_id, status, created_at) SELECT 'n' || i, 'pending', '2026-01-01' FROM n"
    )
    command = f"{Path(sys.executable).parent / 'saju-ops'} reconcile-stale-jobs | head -3"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=dict(os.environ), check=False)
    assert "Traceback" not in done.stderr
    assert "중단된 작업 정리 리포트" in done.stdout


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("STALE_JOB_HOURS", "0"), ("STALE_JOB_HOURS", "day"), ("STALE_JOB_EMPTY_STATUS", "Pending"),
     ("STALE_JOB_EMPTY_STATUS", "x" * 65), ("STALE_JOB_CRON", "never")],
)  # fmt: skip
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} holds .*; it may hold"):
        load_settings()


# --- the job in Dagster -----------------------------------------------------------------------------------

NUMBERS = (
    *("pending", "processing", "completed", "failed", "other_statuses", "total", "older_than_7_days", "stale"),
    *("to_complete", "to_complete_partly", "to_empty_status", "settled", "settled_completed", "settled_partly"),
    *("settled_empty", "left_because_moved", "not_judged", "transactions"),
)


def run(instance: dg.DagsterInstance, **config: Any) -> Run:
    ops = {"ops": {"reconcile_stale_jobs": {"config": config}}} if config else {}
    done = defs().resolve_job_def("reconcile_stale_jobs").execute_in_process(
        instance=instance, raise_on_error=False, run_config=ops
    )  # fmt: skip
    return Run(instance, done.run_id)


@pytest.mark.long
def test_by_hand_the_job_lists_and_on_request_settles_and_puts_back(live: Scene) -> None:
    instance = dg.DagsterInstance.ephemeral()
    for config in ({}, {"mode": "check", "dry_run": False}, {"mode": "apply"}, {"mode": "stats"}):
        looked = run(instance, **config)
        assert looked.succeeded, looked.failure
        assert looked.outputs()["stale"] == 2
        assert set(live.statuses().values()) == {"processing"}
    done = run(instance, mode="apply", dry_run=False)
    assert done.succeeded, done.failure
    assert live.statuses() == {"stale": "completed", "empty": "failed", "today": "processing"}
    ((asset, metadata),) = done.observed()
    assert asset == "analysis_jobs"
    assert {name: type(metadata[name]) for name in NUMBERS} == dict.fromkeys(NUMBERS, int)
    assert (metadata["stale"], metadata["settled"], metadata["settled_partly"], metadata["processing"]) == (2, 2, 1, 3)
    assert metadata["report"].startswith("🧹 *중단된 분석 작업 정리 Report*\n\n- 정리 대상: 2개")
    assert "recordings" not in done.everything()
    quiet = run(instance, mode="apply", dry_run=False)
    ((_, metadata),) = quiet.observed()
    assert (metadata["stale"], metadata["settled"], metadata["failed"]) == (0, 0, 1)
    looked = run(instance, mode="undo", run_id=done.run_id)
    assert (looked.outputs()["put_back"], live.statuses()["empty"]) == (2, "failed")
    undone = run(instance, mode="undo", run_id=done.run_id, dry_run=False)
    assert undone.succeeded, undone.failure
    assert set(live.statuses().values()) == {"processing"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"mode": "undo"}, "run_id is empty"),
        ({"run_id": "x"}, "with mode undo only"),
        ({"mode": "undo", "run_id": "nobody"}, "no audit file of a run nobody"),
    ],
)  # fmt: skip
def test_what_the_job_refuses_it_says(live: Scene, config: dict[str, Any], sentence: str) -> None:
    failed = run(dg.DagsterInstance.ephemeral(), **config)
    assert not failed.succeeded
    assert sentence in failed.failure


def tick(at: datetime) -> Any:
    schedule = stale_jobs_schedule(load_settings())
    with dg.build_schedule_context(instance=dg.DagsterInstance.ephemeral(), scheduled_execution_time=at) as context:
        return schedule(context)


def test_the_schedule_applies_on_sundays_at_two_in_seoul(live: Scene) -> None:
    schedule = stale_jobs_schedule(load_settings())
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 2 * * 0", "Asia/Seoul")
    request = tick(datetime(2026, 10, 18, 2, tzinfo=SEOUL))
    config = request.run_config["ops"]["reconcile_stale_jobs"]["config"]
    assert (config["mode"], config["dry_run"]) == ("apply", False)
    assert run(dg.DagsterInstance.ephemeral(), **{k: v for k, v in config.items() if v is not None}).succeeded
    assert live.statuses()["stale"] == "completed"


def test_the_schedule_skips_where_there_are_no_such_tables(live: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    live.execute("DROP TABLE analysis_results")
    monkeypatch.setenv("DATABASE_URL", live.url.render_as_string(hide_password=False))
    monkeypatch.delenv("ANALYSIS_DATABASE_URL")
    assert "has no table analysis_results" in str(tick(NOW).skip_message)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///nowhere.db")
    assert "There is no SQLite file" in str(tick(NOW).skip_message)
    # A server that doesn't answer is a failure to be seen, not a reason to skip.
    monkeypatch.setenv("ANALYSIS_DATABASE_URL", "mysql://u:p@127.0.0.1:1/d")
    assert isinstance(tick(NOW), dg.RunRequest)


def test_the_checks_measure(live: Scene) -> None:
    def evaluated() -> dict[str, tuple[bool, Any]]:
        instance = dg.DagsterInstance.ephemeral()
        selection = dg.AssetSelection.checks_for_assets(dg.AssetKey("analysis_jobs"))
        job = dg.define_asset_job("only_checks", selection=selection)
        whole = dg.Definitions.merge(defs(), dg.Definitions(jobs=[job]))
        done = whole.resolve_job_def("only_checks").execute_in_process(instance=instance)
        return Run(instance, done.run_id).checks()

    found = evaluated()
    assert found["no_stale_jobs"][0] is False
    assert found["no_stale_jobs"][1]["stale"] == 2
    assert found["results_have_an_index"] == (True, {"indexed": 1, "advice": "none"})
    live.execute("DROP TABLE analysis_jobs")
    assert all(passed for passed, _ in evaluated().values())
