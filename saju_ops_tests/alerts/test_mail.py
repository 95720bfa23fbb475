"""E-mail against a real SMTP server: Korean words, TLS and STARTTLS, login, refusals, and independence of Slack."""

from __future__ import annotations

import base64
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from saju_ops.alerts.channels import ChannelFailed
from saju_ops.alerts.mail import Email
from saju_ops.settings.load import load_settings
from saju_ops.wiring import email_channel
from saju_ops_tests.alerts.scene import Scene, message
from saju_ops_tests.fakes.mail import PASSWORD, USER, MailServer, certificate
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

TO = "ops@example.com, 'second'@example.com"


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate that this process trusts."""
    path = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def channel(server: MailServer, security: str = "none", **more: Any) -> Email:
    settings: dict[str, Any] = {
        "SMTP_HOST": "127.0.0.1", "SMTP_PORT": server.port, "SMTP_SECURITY": security,
        "ALERT_EMAIL_FROM": "saju-ops@example.com", "ALERT_EMAIL_TO": "ops@example.com,night@example.com",
        "SLACK_BOT_TOKEN": TOKEN,
    }  # fmt: skip
    return email_channel(load_settings(**{**settings, **more}))


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def test_korean_arrives_whole_as_subject_text_and_html() -> None:
    with MailServer() as server:
        text = "🚨 *대화 로그 삭제 실패*\n- 오류: `<b>` & 한글"
        link = "http://127.0.0.1:3000/runs/1?a=1&b=2"
        channel(server).send(message(1, text, line="🚨 대화 로그 삭제 실패 [야간]", link=link))
    (mail,) = server.received
    assert mail["Subject"] == "🚨 대화 로그 삭제 실패 [야간]"
    assert mail["To"] == "ops@example.com, night@example.com"
    assert mail["From"] == "saju-ops@example.com"
    text = part(mail, "plain")
    assert "🚨 대화 로그 삭제 실패\n- 오류: <b> & 한글" in text
    assert "http://127.0.0.1:3000/runs/1?a=1&b=2" in text
    page = part(mail, "html")
    assert "<b>대화 로그 삭제 실패</b>" in page
    assert "<code>&lt;b&gt;</code> &amp; 한글" in page
    assert 'href="http://127.0.0.1:3000/runs/1?a=1&amp;b=2"' in page
    assert mail["Auto-Submitted"] == "auto-generated"
    assert [p.get_content_charset() for p in mail.walk() if p.get_content_maintype() == "text"] == ["utf-8", "utf-8"]


def test_a_subject_has_one_line_whatever_the_title_holds() -> None:
    with MailServer() as server:
        channel(server).send(message(1, "x", line="제목\r\nBcc: thief@example.com"))
    (mail,) = server.received
    assert mail["Bcc"] is None
    assert server.envelopes[0].rcpt_tos == ["ops@example.com", "night@example.com"]


def test_encoded_words_and_control_characters_in_a_title_become_no_headers() -> None:
    # "Bcc: everybody@example.com" on a line of its own, and a word that isn't in the title.
    forged = "=?utf-8?b?DQpCY2M6IGV2ZXJ5Ym9keUBleGFtcGxlLmNvbQ==?= =?utf-8?q?=EC=84=B1=EA=B3=B5?="
    with MailServer() as server:
        channel(server).send(message(1, "x", line=f"🚨 폴더 {forged}\x0bBcc: a@b.c\x00\u202e끝"))
    (mail,) = server.received
    assert mail.get_all("Bcc") is None
    assert mail["Subject"].startswith("🚨 폴더 = ?utf-8?b?DQpCY2M6")
    assert "성공" not in mail["Subject"]
    assert "everybody@" not in str(mail)


def test_the_picture_is_in_the_page() -> None:
    with MailServer() as server:
        picture = base64.b64encode(b"\x89PNG picture").decode()
        channel(server).send(message(1, picture=picture, picture_title="증가"))
    (mail,) = server.received
    (image,) = (p for p in mail.walk() if p.get_content_type() == "image/png")
    assert image.get_content() == b"\x89PNG picture"
    assert f"cid:{image['Content-ID'][1:-1]}" in part(mail, "html")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_login_and_words_go_encrypted(pem: Path, security: str) -> None:
    with MailServer(pem, tls=security == "tls", login=True) as server:
        channel(server, security, SMTP_USER=USER, SMTP_PASSWORD=PASSWORD).send(message(1))
    assert server.was_encrypted == [True]
    assert server.logins == [USER]


def test_auto_means_starttls_and_sends_nothing_to_a_server_that_does_not_offer_it() -> None:
    with MailServer() as server, pytest.raises(ChannelFailed, match="STARTTLS"):
        channel(server, "auto").send(message(1))
    assert server.received == []


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with MailServer(certificate(tmp_path)) as server, pytest.raises(ChannelFailed, match="TLS"):
        channel(server, "starttls").send(message(1))
    assert server.received == []


def test_a_wrong_password_is_said_in_words_and_not_shown(pem: Path) -> None:
    with MailServer(pem, login=True) as server, pytest.raises(ChannelFailed) as failed:
        channel(server, "starttls", SMTP_USER=USER, SMTP_PASSWORD="wrong-secret").send(message(1))
    assert "SMTP_PASSWORD" in failed.value.sentence
    assert "wrong-secret" not in failed.value.sentence


def test_a_server_that_is_down_is_said_in_words() -> None:
    with MailServer() as server:
        down = channel(server)
    with pytest.raises(ChannelFailed, match="SMTP_HOST"):
        down.send(message(1))


def test_many_go_over_one_connection_and_each_once(tmp_path: Path) -> None:
    with FakeSlack() as fake, MailServer() as server:
        scene = Scene(tmp_path, fake)
        email = channel(server)
        scene.add(*(message(n) for n in range(1, 6)), channels=("email",))
        scene.deliver(email)
        scene.deliver(email)
    assert [m["Subject"] for m in server.received] == [f"✅ 알림 {n}번" for n in range(1, 6)]


def test_a_message_that_the_server_refuses_holds_up_no_other_and_comes_later(tmp_path: Path) -> None:
    with FakeSlack() as fake, MailServer() as server:
        scene = Scene(tmp_path, fake)
        email = channel(server)
        server.refuse = lambda e: "554 looks like spam" if len(server.received) == 1 else None
        scene.add(*(message(n) for n in range(1, 4)), channels=("email",))
        scene.deliver(email)
        assert [m["Subject"] for m in server.received] == ["✅ 알림 1번"]
        server.refuse = lambda e: None
        for _ in range(4):
            scene.later(minutes=2)
            scene.deliver(email)
    assert sorted(m["Subject"] for m in server.received) == [f"✅ 알림 {n}번" for n in (1, 2, 3)]


def test_one_recipient_that_is_refused_does_not_repeat_it_to_the_others(tmp_path: Path) -> None:
    with FakeSlack() as fake, MailServer() as server:
        scene = Scene(tmp_path, fake)
        server.refused_recipients = {"night@example.com"}
        scene.add(message(1), channels=("email",))
        email = channel(server)
        scene.deliver(email)
        scene.later(minutes=10)
        scene.deliver(email)
    assert len(server.received) == 1


@pytest.mark.parametrize("down", ["slack", "email"])
def test_each_channel_gets_everything_while_the_other_is_down(tmp_path: Path, down: str) -> None:
    with FakeSlack() as fake, MailServer() as server:
        scene = Scene(tmp_path, fake)
        email = channel(server)
        if down == "slack":
            fake.down()
        else:
            server.refuse = lambda _: "451 not now"
        scene.add(*(message(n) for n in range(1, 4)), channels=("slack", "email"))
        scene.deliver(scene.slack, email)
        delivered = {"slack": len(fake.messages), "email": len(server.received)}
        assert delivered == {"slack": 3, "email": 3} | {down: 0}
        assert scene.outbox.waiting_count(down) == 3


def test_no_secret_of_the_settings_is_in_a_mail() -> None:
    with MailServer() as server:
        email = channel(server, DATABASE_URL="mysql://root:d%40tabase&secret@db/chat")
        email.send(message(1, "mysql://root:d%40tabase&secret@db/chat 그리고 d@tabase&secret", line=TOKEN))
    (mail,) = server.received
    everything = f"{mail['Subject']} {part(mail, 'plain')} {part(mail, 'html')}"
    assert "tabase" not in everything
    assert TOKEN not in everything
