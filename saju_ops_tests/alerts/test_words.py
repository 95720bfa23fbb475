"""What may stand in a message, and how it is cut: limits, escaping, redaction, and the first line of an error."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saju_ops.alerts.blocks import cut, escaped, plain, rendered, sections
from saju_ops.alerts.deliver import gathering
from saju_ops.alerts.outbox import Outbox
from saju_ops.alerts.redact import Redactor
from saju_ops.reports.message import Message, ago
from saju_ops.reports.runs import FailedCheck, FinishedRun, run_message
from saju_ops.reports.safe_errors import RaisedError, shown
from saju_ops.reports.titles import JOBS, job
from saju_ops.settings.load import load_settings
from saju_ops.wiring import redactor
from saju_ops_tests.alerts.scene import SEOUL, START, message
from saju_ops_tests.fakes.slack import TOKEN, _content_problem

NOW = datetime(2026, 11, 2, 0, 1, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=9000)


# --- Slack's limits ------------------------------------------------------------------------------------------------


@given(ANY_TEXT, st.integers(1, 12))
def test_whatever_the_text_slack_takes_the_message(text: str, times: int) -> None:
    content = rendered(message(1, text * times, job=text[:50], link="https://dagster.example/runs/1"), SEOUL, NOW)
    assert _content_problem(json.loads(json.dumps(content))) == ""
    assert len(content["text"]) <= 40_000
    assert len(plain(message(1, text * times), SEOUL, NOW)["text"]) <= 4000


@given(ANY_TEXT)
def test_cutting_into_sections_loses_no_character_and_cuts_no_escape(text: str) -> None:
    pieces = sections(escaped(text))
    together = "".join("".join(pieces).split("\n"))
    assert together == "".join(escaped(text).split("\n")) or not text.strip()
    for piece in pieces:
        assert piece.count("&") == sum(piece.count(e) for e in ("&amp;", "&lt;", "&gt;"))


def test_what_is_cut_is_counted() -> None:
    text = "\n".join(f"줄 {n:04}" for n in range(1000))
    short = cut(text, 1000)
    assert len(short) <= 1000
    kept = short.count("줄 ") - 0
    assert f"({1000 - kept}줄, " in short
    assert short.endswith("생략)")
    assert cut("가" * 5000, 1000).endswith("자 생략)")
    assert cut("short", 1000) == "short"


def test_nobody_is_mentioned_and_nothing_is_linked_by_a_text() -> None:
    content = rendered(message(1, "<!channel> <@U123> <https://evil.example|여기> & 끝"), SEOUL, NOW)
    for text in (content["text"], content["blocks"][0]["text"]["text"]):
        assert "<!channel>" not in text
        assert "&lt;@U123&gt;" in text
        assert "&amp; 끝" in text


def test_the_link_to_the_run_is_under_the_text() -> None:
    content = rendered(message(1, run_id="12345678-aaaa", link="http://ui/runs/12345678-aaaa"), SEOUL, NOW)
    foot = content["blocks"][-1]["elements"][0]["text"]
    assert "<http://ui/runs/12345678-aaaa|실행 화면>" in foot
    assert "2026-11-02 09:00:01 KST" in foot
    assert "늦은 알림" not in foot


def test_a_late_message_says_how_late() -> None:
    content = rendered(message(1), SEOUL, NOW + timedelta(hours=26))
    assert "늦은 알림: 2026-11-03 11:01:00 KST에 전달 (1일 2시간 전의 일)" in content["text"]


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0, "0분"), (59, "59분"), (60, "1시간"), (90, "1시간 30분"), (1440, "1일"), (1500, "1일 1시간")],
)
def test_a_span_is_said_in_korean(minutes: int, words: str) -> None:
    assert ago(timedelta(minutes=minutes)) == words


def test_a_gathering_names_every_message_and_counts_what_is_bad() -> None:
    bad = Message("x", "🚨 *덤프 실패*\n- 오류", "error", NOW, run_id="abcdef0123")
    gathered = gathering([message(1), bad], SEOUL)
    assert gathered.text.splitlines()[0] == "📬 *밀린 알림 2건* (오류·경고 1건)"
    assert "• 11-02 09:01:00 🚨 덤프 실패 (run abcdef01)" in gathered.text
    assert gathered.level == "error"
    assert gathering([message(1), bad], SEOUL).id == gathered.id


# --- secrets -------------------------------------------------------------------------------------------------------

# Each secret setting, its value, and the ways in which that may stand in a text.
SECRETS = [
    ("DATABASE_URL", "mysql://root:r%40t%2Fpass%20w@db/chat", ("r@t/pass w", "r%40t%2Fpass%20w", "r%40t%2Fpass+w")),
    ("JOBS_DATABASE_URL", "postgresql://u:jobs-secret-pw@db/jobs", ("jobs-secret-pw",)),
    ("REPLICA_URLS", "mysql://u:one-pw@a/x mysql://u:two-pw@b/x", ("one-pw", "two-pw")),
    ("SLACK_BOT_TOKEN", TOKEN, (TOKEN,)),
    ("SMTP_PASSWORD", 'smtp "secret"', ('smtp "secret"', 'smtp \\"secret\\"')),
    ("CLEANUP_TRIGGER_TOKEN", "t" * 20 + "0123456789abcdef", ("t" * 20 + "0123456789abcdef",)),
]


@pytest.mark.parametrize(("name", "value", "forms"), SECRETS)
def test_no_secret_of_the_settings_leaves_in_a_text(name: str, value: str, forms: tuple[str, ...]) -> None:
    redact = redactor(load_settings(**{name: value}))
    for form in forms:
        assert redact(f"앞 {form} 뒤, 그리고 x{form}y") == "앞 *** 뒤, 그리고 x***y"


def test_secrets_that_libraries_read_from_the_environment_go_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "pg/secret+key")
    assert redactor(load_settings())("x pg/secret+key y") == "x *** y"


@pytest.mark.parametrize(
    "text",
    [
        "mysql+pymysql://root:hunter2@db:3306/chat",
        "https://user:hunter2@example.com/x",
        "password=hunter2",
        "PASSWORD: hunter2, and more",
        "Authorization: Bearer hunter2hunter2",
        "xoxb-hunter2-hunter2-hunter2",
    ],
)
def test_text_that_looks_like_a_secret_is_hidden_even_if_no_setting_holds_it(text: str) -> None:
    assert "hunter2" not in Redactor([])(text)


def test_ordinary_words_stay_as_they_are() -> None:
    text = "💾 *DB Cleanup Report*\n- 백업 파일: `conversation_log_backup_20250915.csv` mysql://root@db/chat 09:00:00"
    assert redactor(load_settings(**{name: value for name, value, _ in SECRETS}))(text) == text


def test_every_field_of_a_message_is_redacted() -> None:
    secret = "smtp-secret"
    said = Redactor([secret]).message(message(1, secret, line=secret, job=secret, link=f"http://x/{secret}"))
    assert secret not in said.to_json()


# --- errors --------------------------------------------------------------------------------------------------------

PERSONAL = "홍길동 1990-03-02 13:40"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RaisedError("Failure", "dagster._core.definitions.events.Failure: 3 days were left.\nx"), "3 days were left."),
        (RaisedError("Busy", "saju_ops.errors.Busy: Another run works on it."), "Another run works on it."),
        (RaisedError("OSError", "OSError: [Errno 28] No space left"), "OSError: [Errno 28] No space left"),
        (RaisedError("OperationalError", '(pymysql.err.OperationalError) (2003, "Can\'t connect to MySQL server")'),
         "OperationalError 2003: Can't connect to MySQL server"),
        (RaisedError("OperationalError", "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) disk is full"),
         "OperationalError: disk is full"),
        (RaisedError("DagsterUnknownPartitionError", "dagster._core.errors.DagsterUnknownPartitionError: no 2030"),
         "DagsterUnknownPartitionError: no 2030"),
    ],
)  # fmt: skip
def test_an_errors_first_line_is_shown_where_it_is_made_for_it(error: RaisedError, words: str) -> None:
    assert shown(error) == words
    assert shown(RaisedError("DagsterExecutionStepExecutionError", "Error occurred", error)) == words


@pytest.mark.parametrize(
    "error",
    [
        RaisedError("ValueError", f"ValueError: could not convert {PERSONAL}"),
        RaisedError("KeyError", f"KeyError: '{PERSONAL}'"),
        RaisedError("DataError", f'(pymysql.err.DataError) (1406, "Data too long: {PERSONAL}")'),
        RaisedError("OperationalError", f'(pymysql.err.OperationalError) (1366, "Incorrect string value: {PERSONAL}")'),
        RaisedError("IntegrityError", f"(psycopg.errors.UniqueViolation) duplicate key ({PERSONAL})"),
        RaisedError("IntegrityError", f"(sqlite3.IntegrityError) {PERSONAL}"),
        RaisedError("DagsterTypeCheckDidNotPass", f"Type check failed for {PERSONAL}"),
        RaisedError("JSONDecodeError", f"Expecting value: {PERSONAL}"),
    ],
)
def test_an_error_that_may_quote_a_row_is_named_by_its_kind_alone(error: RaisedError) -> None:
    said = shown(error)
    assert error.kind in said
    assert "홍길동" not in said
    assert "1990" not in said


# --- what a run's message holds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*JOBS, "a_job_of_tomorrow"])
def test_every_job_has_words_for_each_of_its_ends(name: str) -> None:
    for ending in ("success", "failure", "canceled"):
        text = run_message(FinishedRun("12345678", name, ending, NOW), link="http://ui/runs/1").text  # type: ignore[arg-type]
        assert text.strip()
        if ending != "success":
            assert "- 그대로인 것: " in text
            assert "- 할 일: " in text


def test_a_job_named_after_an_asset_is_called_like_it() -> None:
    assert job("make_database_dump").title == "데이터베이스 덤프"
    assert job("make_masked_database_dump").title == "마스킹 덤프"
    assert job("__ASSET_JOB", ("chroma_snapshot",)).title == "ChromaDB 스냅샷"


def test_more_checks_than_can_be_read_are_counted() -> None:
    checks = tuple(FailedCheck(f"check_{n}", "database_dump", "ERROR") for n in range(30))
    made = run_message(FinishedRun("1", "database_dump", "success", NOW, failed_checks=checks), link="")
    assert "검사 실패 30건" in made.text
    assert "… (검사 10건 생략)" in made.text
    assert made.level == "error"


def test_nothing_to_archive_is_the_line_that_operators_know() -> None:
    made = run_message(FinishedRun("1", "archive_conversation_logs", "success", NOW), link="", cutoff=NOW.date())
    assert made.text == "✅ 백업할 오래된 로그가 없습니다. (기준: 2026-11-02)"


def test_a_name_that_is_no_text_keeps_no_alert_from_being_stored(tmp_path: Path) -> None:
    """A file's name from a Windows of Korea, as Python reads it from a disk."""
    outbox = Outbox(tmp_path / "alerts.sqlite")
    name = b"\xb1\xe8.txt".decode(errors="surrogateescape")
    outbox.add([message(1, text=f"- 알 수 없는 파일: `{name}`")], ["slack"], START, facts={"seen": [name]})
    problem = {"title": name, "lines": [], "link": "", "level": "error"}
    outbox.change_problems({"check:x": problem}, [], [], [message(2, text=name)], {"m2": ["slack"]}, START)
    assert [w.message.text for w in outbox.waiting("slack")] == ["- 알 수 없는 파일: `??.txt`", "??.txt"]


@pytest.mark.parametrize("text", ["x" * 60_000, "a://" * 50_000, "token=" * 50_000])
def test_looking_for_secrets_takes_no_longer_than_the_text_is(text: str) -> None:
    """60,000 letters without a space took longer than a tick may."""
    began = time.monotonic()
    Redactor(["hidden"])(text)
    assert time.monotonic() - began < 5
