"""The alert sensor reports each event once, whatever breaks between the run's end and the reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from saju_ops.alerts import slack as slack_module
from saju_ops.defs.alerts import sensor as alerts_module
from saju_ops.errors import OperatorError
from saju_ops_tests.defs.alerts_scene import CANCELED, FAILURE, SUCCESS, AlertScene, ended
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

POST = "chat.postMessage"
REPORT = "💾 *DB Cleanup Report*\n- 백업 파일: `a.csv`\n- 백업 수: 124 rows"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlack]:
    monkeypatch.setattr(slack_module, "RETRY_PAUSE", 0.01)
    with FakeSlack() as fake:
        yield fake


@pytest.fixture
def scene(tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> AlertScene:
    return AlertScene(tmp_path, fake, monkeypatch)


def job_of(body: Any, name: str = "purge_conversation_logs") -> dg.JobDefinition:
    """A job with one of the project's names and one step, which does `body(context)`."""

    @dg.op(name=f"{name}_step")
    def step(context) -> None:  # type: ignore[no-untyped-def]
        body(context)

    @dg.job(name=name)
    def made() -> None:
        step.alias(name)()

    return made


def materialize(
    scene: AlertScene, asset: dg.AssetsDefinition, job: str = "purge_conversation_logs", **more: Any
) -> str:
    definitions = dg.Definitions([asset], jobs=[dg.define_asset_job(job, [asset])])
    return scene.run(definitions.resolve_job_def(job), **more)


# --- once, and nothing of the past -------------------------------------------------------------------------------


def test_the_first_tick_reports_nothing_of_the_past(scene: AlertScene) -> None:
    for kind in (SUCCESS, FAILURE, CANCELED):
        ended(scene.instance, kind)
    scene.begin()
    scene.tick(3)
    assert scene.words == []


def test_every_run_that_ends_after_alerts_began_is_reported_once(scene: AlertScene) -> None:
    scene.begin()
    runs = [ended(scene.instance, kind) for kind in (SUCCESS, FAILURE, CANCELED)]
    scene.tick(3)
    texts = "\n".join(scene.words)
    assert len(scene.words) == 3
    assert all(f"http://127.0.0.1:3000/runs/{run}" in texts for run in runs)


def test_a_run_of_another_code_location_is_not_reported(scene: AlertScene) -> None:
    scene.begin()
    ended(scene.instance, job="someone_elses", location="other")
    scene.tick(2)
    assert scene.words == []


def test_after_a_lost_outbox_alerts_continue_where_the_sensors_cursor_was(scene: AlertScene) -> None:
    scene.begin()
    ended(scene.instance)
    scene.tick()
    scene.fake.down()
    late = ended(scene.instance)
    scene.tick()
    scene.lose_outbox()
    scene.fake.up()
    scene.tick()
    assert late in scene.last()
    assert len(scene.words) == 2


def test_a_broken_outbox_is_put_aside_and_the_sensor_continues(scene: AlertScene) -> None:
    scene.begin()
    scene.outbox.path.write_bytes(b"this is no database " * 100)
    run = ended(scene.instance)
    scene.tick()
    assert run in scene.last()
    assert [p.name for p in scene.outbox.path.parent.glob("*.broken-*")]


def test_an_outbox_that_is_damaged_in_its_middle_is_put_aside_too(scene: AlertScene) -> None:
    scene.begin()
    path = scene.outbox.path
    data = path.read_bytes()
    # Its first page, with the list of tables, is sound.
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    run = ended(scene.instance)
    scene.tick()
    assert run in scene.last()
    assert [p.name for p in path.parent.glob("*.broken-*")]


def test_resetting_the_sensors_cursor_repeats_no_message(scene: AlertScene) -> None:
    scene.begin()
    ended(scene.instance)
    scene.tick()
    scene._cursor = None
    scene.tick(2)
    assert len(scene.words) == 1


def test_a_wiped_event_log_does_not_silence_what_comes_after(scene: AlertScene) -> None:
    scene.begin()
    for _ in range(3):
        ended(scene.instance)
    scene.tick()
    scene.instance.wipe()
    run = ended(scene.instance)
    scene.tick()
    assert run in scene.last()
    assert len(scene.words) == 4


def test_a_run_that_was_deleted_before_it_was_reported_is_still_reported(scene: AlertScene) -> None:
    scene.begin()
    run = ended(scene.instance, FAILURE)
    other = ended(scene.instance)
    scene.instance.run_storage.delete_run(run)
    scene.tick()
    assert any(run in words for words in scene.words)
    assert any(other in words for words in scene.words)


def test_an_event_that_was_committed_late_behind_a_newer_one_is_reported(
    scene: AlertScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.begin()
    late = ended(scene.instance)
    fetch = type(scene.instance).fetch_run_status_changes

    def without_the_late_one(self: Any, *args: Any, **more: Any) -> Any:
        found = fetch(self, *args, **more)
        return found._replace(records=[r for r in found.records if r.event_log_entry.run_id != late])

    with monkeypatch.context() as patch:
        patch.setattr(type(scene.instance), "fetch_run_status_changes", without_the_late_one)
        newer = ended(scene.instance)
        scene.tick()
    assert newer in scene.last()
    scene.tick()
    assert late in scene.last()


# --- what a message holds ----------------------------------------------------------------------------------------


def test_a_success_is_reported_with_the_runs_own_report_line_by_line(scene: AlertScene) -> None:
    scene.begin()
    scene.run(job_of(lambda c: c.add_output_metadata({"report": dg.MetadataValue.md(REPORT.replace("\n", "\n\n"))})))
    scene.tick()
    (posted,) = scene.fake.messages
    assert posted.blocks[0]["text"]["text"] == REPORT
    assert posted.text.startswith(REPORT)


def test_a_report_that_a_run_has_twice_is_sent_once(scene: AlertScene) -> None:
    def body(context: dg.OpExecutionContext) -> None:
        metadata = {"report": dg.MetadataValue.md(REPORT.replace("\n", "\n\n"))}
        context.add_output_metadata(metadata)
        context.log_event(dg.AssetObservation("conversation_logs", metadata=metadata))

    scene.begin()
    scene.run(job_of(body))
    scene.tick()
    assert scene.fake.messages[0].text.count("DB Cleanup Report") == 1


def test_a_run_without_a_report_is_reported_with_its_numbers_and_no_words_of_its_own(scene: AlertScene) -> None:
    scene.begin()
    scene.run(job_of(lambda c: c.add_output_metadata({"rows_written": 7, "note": "어떤 사람의 상담 내용"}),
                     "restore_conversation_logs"))  # fmt: skip
    scene.tick()
    assert "✅ *대화 로그 복원 완료*" in scene.last()
    assert "- rows_written: 7" in scene.last()
    assert "상담" not in scene.last()


def test_a_failure_names_step_error_what_was_left_and_what_to_do(scene: AlertScene) -> None:
    def body(_: dg.OpExecutionContext) -> None:
        raise dg.Failure("3 days were left whole.\nsecond line", allow_retries=False) from OperatorError("x")

    scene.begin()
    run = scene.run(job_of(body))
    scene.tick()
    text = scene.last()
    assert "🚨 *대화 로그 삭제 실패*" in text
    assert "- 실패한 단계: `purge_conversation_logs`" in text
    assert "- 오류: 3 days were left whole." in text
    assert "second line" not in text
    assert "- 그대로인 것: " in text
    assert "- 할 일: " in text
    assert f"/runs/{run}" in text


def test_a_failure_that_has_a_report_is_reported_with_it(scene: AlertScene) -> None:
    """A verification that finds damage fails, and its report names every file, not the first alone."""

    def body(_: dg.OpExecutionContext) -> None:
        metadata = {"report": dg.MetadataValue.md(REPORT.replace("\n", "\n\n")), "note": "어떤 사람의 상담 내용"}
        raise dg.Failure("3 days were left whole.", metadata=metadata, allow_retries=False)

    scene.begin()
    scene.run(job_of(body))
    scene.tick()
    assert "- 오류: 3 days were left whole." in scene.last()
    assert REPORT in scene.last()
    assert "상담" not in scene.last()


def test_a_foreign_errors_text_is_not_shown_because_it_may_quote_a_message(scene: AlertScene) -> None:
    def body(_: dg.OpExecutionContext) -> None:
        raise ValueError("could not convert: 1990-03-02 태어난 사람")

    scene.begin()
    scene.run(job_of(body))
    scene.tick()
    assert "ValueError" in scene.last()
    assert "1990" not in scene.last()


def test_a_cancelled_run_is_reported_with_its_reason(scene: AlertScene) -> None:
    def body(context: dg.OpExecutionContext) -> None:
        context.instance.report_run_canceling(context.run)
        context.log_event(dg.AssetObservation("conversation_logs", metadata={"stopped": "cancelled by the operator"}))
        raise dg.DagsterExecutionInterruptedError

    scene.begin()
    scene.run(job_of(body))
    scene.tick()
    assert "⏹️ *대화 로그 삭제 중단*" in scene.last()
    assert "- 이유: cancelled by the operator" in scene.last()


def test_a_run_that_timed_out_says_so(scene: AlertScene) -> None:
    scene.begin()
    ended(scene.instance, FAILURE, message="Exceeded maximum runtime of 10 seconds.")
    scene.tick()
    assert "- 오류: Exceeded maximum runtime of 10 seconds." in scene.last()


def test_an_archive_run_is_reported_with_the_labels_that_operators_know(scene: AlertScene) -> None:
    @dg.asset(key="conversation_log_archive", partitions_def=dg.DailyPartitionsDefinition("2026-10-01"))
    def archive() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={
            "dagster/row_count": 124, "rows_written": 124,
            "dagster/uri": "/srv/backups/conversation_logs/2026/10/conversation_log_backup_20261001.csv",
        })  # fmt: skip

    scene.begin()
    materialize(scene, archive, "archive_conversation_logs", partition_key="2026-10-01")
    scene.tick()
    (text,) = scene.words
    assert text.startswith("💾 *DB Cleanup Report*\n- 백업 파일: `conversation_log_backup_20261001.csv`\n- 백업 수: 12")
    assert "- 위치: `/srv/backups/conversation_logs/2026/10/conversation_log_backup_20261001.csv`" in text


def test_a_check_that_failed_in_a_successful_run_is_reported_with_it(scene: AlertScene) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("rows_match", asset="database_dump")])
    def database_dump() -> Iterator[Any]:
        yield dg.MaterializeResult()
        yield dg.AssetCheckResult(passed=False, check_name="rows_match", metadata={"missing": 3, "who": "홍길동"})

    scene.begin()
    materialize(scene, database_dump)
    scene.tick()
    assert "⚠️ *검사 실패 1건*" in scene.last()
    assert "`rows_match` (데이터베이스 덤프, ERROR): missing 3" in scene.last()
    assert "홍길동" not in scene.last()


def test_the_longest_report_is_within_slacks_limits_and_says_what_was_cut(scene: AlertScene) -> None:
    report = "\n".join(f"- 줄 {n}: <&> {'가' * 300}" for n in range(500))
    scene.begin()
    scene.run(job_of(lambda c: c.add_output_metadata({"report": dg.MetadataValue.md(report.replace("\n", "\n\n"))})))
    scene.tick()
    (posted,) = scene.fake.messages
    assert "줄" in posted.text
    assert "생략" in posted.text
    assert posted.blocks


# --- retries -----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "run_retries_enabled", property(lambda _: True))


@pytest.mark.usefixtures("with_retries")
def test_a_failure_that_dagster_retries_is_reported_only_when_the_retries_are_used_up(scene: AlertScene) -> None:
    scene.begin()
    first = ended(scene.instance, FAILURE, tags={"dagster/will_retry": "true", "dagster/max_retries": "1"})
    scene.tick(2)
    assert scene.words == []
    tags = {"dagster/retry_number": "1", "dagster/will_retry": "false"}
    second = ended(scene.instance, FAILURE, tags=tags)
    scene.instance.add_run_tags(first, {"dagster/auto_retry_run_id": second})
    scene.tick(2)
    assert len(scene.words) == 1
    assert second in scene.last()
    assert "- 시도: 2번째" in scene.last()


@pytest.mark.usefixtures("with_retries")
def test_a_retry_that_never_comes_is_reported(scene: AlertScene, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    from saju_ops.defs.alerts import events as alerts_events

    scene.begin()
    run = ended(scene.instance, FAILURE, tags={"dagster/max_retries": "1"})
    scene.tick()
    assert scene.words == []
    monkeypatch.setattr(alerts_events, "RETRY_GRACE", timedelta())
    scene.tick()
    assert run in scene.last()
    assert "재시도: 예정되었지만 시작되지 않았습니다" in scene.last()


# --- what breaks on the way --------------------------------------------------------------------------------------


def test_a_run_whose_events_cannot_be_read_keeps_no_other_from_being_reported(
    scene: AlertScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.defs.alerts import events as alerts_events

    scene.begin()
    bad, good = ended(scene.instance), ended(scene.instance)
    read = alerts_events.finished_run

    def reads(instance: Any, found: Any, run: Any) -> Any:
        if found.run_id == bad:
            raise RuntimeError("cannot be read")
        return read(instance, found, run)

    monkeypatch.setattr(alerts_events, "finished_run", reads)
    scene.tick()
    assert [good in w for w in scene.words] == [True]
    scene.tick(3)
    assert any(bad in w for w in scene.words)
    assert len(scene.words) == 2


def test_a_delivery_that_keeps_failing_fails_the_tick_and_is_reported_by_e_mail(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops_tests.fakes.mail import MailServer

    with MailServer() as server:
        scene = AlertScene(
            tmp_path, fake, monkeypatch, SMTP_HOST="127.0.0.1", SMTP_PORT=str(server.port), SMTP_SECURITY="none",
            ALERT_EMAIL_FROM="a@example.com", ALERT_EMAIL_TO="b@example.com",
        )  # fmt: skip
        scene.begin()
        fake.tokens.clear()
        run = ended(scene.instance)
        for _ in range(4):
            last = scene.tick()
            scene.forget_backoff()
        assert "invalid token" in last.error
        assert TOKEN not in last.error
        scene.tick()
        subjects = [str(m["Subject"]) for m in server.received]
        assert sum("알림이 전달되지 않습니다: slack" in s for s in subjects) == 1

        fake.tokens.add(TOKEN)
        scene.forget_backoff()
        assert scene.tick().error == ""
        scene.tick()
        assert any(run in w for w in scene.words)
        assert any("해결됨: 알림이 전달되지 않습니다: slack" in w for w in scene.words)


def test_without_a_token_the_text_is_in_the_runs_log_after_one_warning(
    scene: AlertScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "_warned", set())
    scene.reload(SLACK_BOT_TOKEN="")
    scene.begin()
    assert "SLACK_BOT_TOKEN" in next(iter(alerts_module._warned))
    run = ended(scene.instance)
    scene.tick(2)
    said = [e.message for e in scene.instance.all_logs(run) if "대화 로그 삭제" in e.message]
    assert len(said) == 1
    assert scene.words == []


def test_the_cursor_is_the_place_up_to_which_everything_was_delivered(scene: AlertScene) -> None:
    scene.begin()
    ended(scene.instance)
    scene.tick()
    before = scene.cursor
    scene.fake.down()
    ended(scene.instance)
    ended(scene.instance)
    scene.tick()
    assert scene.cursor == before
    scene.fake.up()
    scene.forget_backoff()
    scene.tick()
    assert scene.cursor["PIPELINE_SUCCESS"] > before["PIPELINE_SUCCESS"]
    assert json.loads(json.dumps(scene.cursor)) == scene.cursor
