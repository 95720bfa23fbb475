"""`saju-ops test-alert`: a test message on each channel, what went wrong in words, and never the token."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saju_ops.cli.alerts import try_channels
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops_tests.fakes.mail import MailServer
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with FakeSlack() as fake:
        yield fake


def settings(fake: FakeSlack, **more: Any) -> Any:
    return load_settings(SLACK_BOT_TOKEN=TOKEN, SLACK_API_URL=fake.url, **more)


def test_every_channel_gets_its_test_message(fake: FakeSlack) -> None:
    with MailServer() as server:
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": server.port, "SMTP_SECURITY": "none",
                "ALERT_EMAIL_FROM": "a@example.com", "ALERT_EMAIL_TO": "b@example.com"}  # fmt: skip
        lines, well = try_channels(settings(fake, **mail))
    assert well
    assert [line[:12] for line in lines] == ["ok   Slack: ", "ok   E-mail:"]
    assert "테스트" in fake.messages[0].text
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: f.tokens.clear(), "invalid token"),
        (lambda f: f.member_of.clear(), "not in channel"),
        (lambda f: f.channels.clear(), "unknown channel"),
        (lambda f: f.scopes.clear(), "missing scope"),
        (lambda f: f.down(), "연결할 수 없습니다"),
    ],
)
def test_it_says_in_words_what_is_wrong_and_continues_with_the_next(fake: FakeSlack, break_it: Any, words: str) -> None:
    given = settings(fake, SMTP_HOST="127.0.0.1")
    break_it(fake)
    lines, well = try_channels(given)
    assert not well
    assert lines[0].startswith("FAIL Slack: ")
    assert words in lines[0]
    assert lines[1].startswith("FAIL E-mail is set up in part: ALERT_EMAIL_FROM, ALERT_EMAIL_TO is not set")
    assert TOKEN not in "\n".join(lines)


def test_no_channel_at_all_is_not_well() -> None:
    lines, well = try_channels(load_settings())
    assert not well
    assert "SLACK_BOT_TOKEN is not set" in lines[0]


@pytest.mark.long
def test_the_console_script_ends_with_1_and_prints_no_stack_trace(fake: FakeSlack, tmp_path: Path) -> None:
    import os

    env = {**os.environ, "SLACK_BOT_TOKEN": "xoxb-wrong-token-here", "SLACK_API_URL": fake.url}
    command = [str(Path(sys.executable).parent / "saju-ops"), "test-alert"]
    said = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "invalid token" in said.stdout
    assert "Traceback" not in said.stderr
    assert "xoxb-wrong" not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SLACK_ATTACH", "yes", "off, encrypted"),
        ("SLACK_ATTACH_MAX_MB", "0", "from 1 to 1000"),
        ("SLACK_API_URL", "slack.com/api", "an http(s) address"),
        ("DAGSTER_UI_URL", "dagster:3000", "http(s) address"),
        ("SMTP_PORT", "70000", "from 1 to 65535"),
        ("SMTP_SECURITY", "ssl", "starttls, tls"),
        ("ALERT_EMAIL_FROM", "nobody", "an e-mail address"),
        ("ALERT_EMAIL_TO", "a@example.com,,b@example.com", "separated by commas"),
        ("ALERT_REMINDER_HOURS", "0", "from 1 to 720"),
        ("ALERT_RUN_HOURS", "721", "from 1 to 720"),
        ("WEEKLY_DIGEST_CRON", "monday", "a cron line"),
    ],
)
def test_a_wrong_setting_of_the_alerts_is_refused_with_what_it_may_hold(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert f"{name} holds {value!r} (" in str(refused.value)
    assert allowed in str(refused.value)
