"""E-mail as a channel: the same words as text and HTML, UTF-8, over TLS or STARTTLS, on one connection per delivery.

Refuses to fall back: with `starttls` a server that doesn't offer it gets nothing, no password and no message.
"""

from __future__ import annotations

import base64
import html
import logging
import re
import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Literal
from zoneinfo import ZoneInfo

from saju_ops.alerts.channels import ChannelFailed, MessageRefused
from saju_ops.alerts.redact import Redactor
from saju_ops.reports.message import Message, footer, utc_now

# Seconds for each step of the conversation.
TIMEOUT = 10.0
SUBJECT = 150
Security = Literal["starttls", "tls", "none"]


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    security: Security
    user: str = ""
    password: str = ""
    timeout: float = TIMEOUT

    def __repr__(self) -> str:
        return f"Server({self.host}:{self.port}, {self.security})"


class Email:
    name = "email"
    gathers = True

    def __init__(
        self, server: Server, sender: str, recipients: tuple[str, ...], zone: ZoneInfo, redact: Redactor
    ) -> None:
        self._server, self._sender, self._recipients = server, sender, recipients
        self._zone, self._redact = zone, redact
        self._connection: smtplib.SMTP | None = None

    def send(self, message: Message) -> str:
        mail = compose(message, self._sender, self._recipients, self._zone, self._redact)
        self._deliver(mail)
        return ""

    def note(self, text: str, reference: str) -> None:
        """The message itself said it all."""

    def attach(self, title: str, filename: str, content: bytes, reference: str) -> None:
        """A picture is in the message already; archives don't go by e-mail."""

    def check(self) -> str:
        text = "🔔 saju_ops 테스트 메시지입니다. (test message)"
        self.send(Message(id="test", text=text, level="info", happened=utc_now()))
        self.close()
        return f"E-mail: {', '.join(self._recipients)} ({self._server.host}:{self._server.port})"

    def reach(self) -> None:
        """Connects and logs in, as for a message, and sends none. Raises ChannelFailed."""
        self._connected()
        self.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(smtplib.SMTPException, OSError):
                connection.quit()

    def _deliver(self, mail: EmailMessage) -> None:
        connection = self._connected()
        try:
            refused = connection.send_message(mail, self._sender, list(self._recipients))
        except smtplib.SMTPRecipientsRefused as error:
            self._drop()
            codes = sorted({code for code, _ in error.recipients.values()})
            raise ChannelFailed(
                f"메일 서버가 받는 사람을 모두 거절했습니다 (SMTP {codes}). ALERT_EMAIL_TO를 확인하세요."
            ) from None
        except smtplib.SMTPSenderRefused as error:
            self._drop()
            if error.smtp_code == 552:
                raise MessageRefused(f"메일이 너무 큽니다 (SMTP {error.smtp_code}).") from None
            raise ChannelFailed(
                f"메일 서버가 보내는 사람을 거절했습니다 (SMTP {error.smtp_code}). ALERT_EMAIL_FROM을 확인하세요."
            ) from None
        except smtplib.SMTPDataError as error:
            self._drop()
            if 500 <= error.smtp_code < 600:
                raise MessageRefused(f"메일 서버가 메시지를 거절했습니다 (SMTP {error.smtp_code}).") from None
            sentence = f"메일 서버가 지금은 받지 않습니다 (SMTP {error.smtp_code})."
            raise ChannelFailed(sentence, maybe_message=True) from None
        except (smtplib.SMTPException, OSError) as error:
            self._drop()
            sentence = f"메일 전송이 끊겼습니다 ({type(error).__name__})."
            raise ChannelFailed(sentence, maybe_message=True) from None
        if refused:
            # The others have the message; sending it again would repeat it. The log counts the refused recipients.
            accepted = len(self._recipients) - len(refused)
            logging.getLogger(__name__).warning(
                "%d e-mail recipients were refused, %d accepted", len(refused), accepted
            )

    def _connected(self) -> smtplib.SMTP:
        if self._connection is not None:
            return self._connection
        server = self._server
        where = f"{server.host}:{server.port}"
        try:
            self._connection = self._open()
        except smtplib.SMTPAuthenticationError as error:
            raise ChannelFailed(
                f"메일 서버 로그인에 실패했습니다 (login refused, SMTP {error.smtp_code}). SMTP_USER와 SMTP_PASSWORD를"
                " 확인하세요."
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise ChannelFailed(
                f"메일 서버 {where}가 STARTTLS나 로그인을 지원하지 않습니다 (not offered). SMTP_PORT와 SMTP_SECURITY를"
                " 확인하세요."
            ) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
            raise ChannelFailed(
                f"메일 서버 {where}와 암호화 연결을 맺지 못했습니다 (TLS: {reason}). SMTP_SECURITY와 인증서를"
                " 확인하세요."
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelFailed(
                f"메일 서버 {where}에 연결할 수 없습니다 (unreachable, {type(error).__name__}). SMTP_HOST와 SMTP_PORT를"
                " 확인하세요."
            ) from None
        return self._connection

    def _open(self) -> smtplib.SMTP:
        server = self._server
        context = ssl.create_default_context()
        connection: smtplib.SMTP
        if server.security == "tls":
            connection = smtplib.SMTP_SSL(server.host, server.port, timeout=server.timeout, context=context)
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=server.timeout)
        try:
            if server.security == "starttls":
                connection.starttls(context=context)
            if server.user:
                connection.login(server.user, server.password)
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def compose(
    message: Message, sender: str, recipients: tuple[str, ...], zone: ZoneInfo, redact: Redactor
) -> EmailMessage:
    """The e-mail: subject, text, HTML, and a picture where there is one. Every word is redacted."""
    message = redact.message(message)
    foot = footer(message, utc_now(), zone)
    words = message.text.replace("*", "").replace("`", "")
    text = "\n".join([words, "", *foot, *([message.link] if message.link else [])])
    mail = EmailMessage(policy=SMTP_POLICY)
    mail["Subject"] = subject(message.title)
    mail["From"] = _address(sender)
    mail["To"] = [_address(each) for each in recipients]
    mail["Date"] = format_datetime(utc_now())
    domain = sender.rpartition("@")[2].strip("> ") or "localhost"
    mail["Message-ID"] = make_msgid(domain=domain if domain.isascii() else "localhost")
    # So that no mailbox's vacation reply answers.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text, cte="base64")
    picture = make_msgid(domain="saju-ops") if message.picture else ""
    mail.add_alternative(_html(message, foot, picture), subtype="html", cte="base64")
    if picture:
        page = mail.get_payload()[1]  # type: ignore[index]
        page.add_related(base64.b64decode(message.picture), "image", "png", cid=picture)  # type: ignore[union-attr]
    return mail


def subject(title: str) -> str:
    """One line of visible characters. `=?` would begin an encoded word, which receivers decode: into line breaks and
    other headers, or into text that the title doesn't contain."""
    line = " ".join(title.split()).replace("=?", "= ?")
    return "".join(letter for letter in line if letter.isprintable())[:SUBJECT]


def _html(message: Message, foot: list[str], picture: str) -> str:
    body = html.escape(message.text)
    body = re.sub(r"\*([^*\n]+)\*", r"<b>\1</b>", body)
    body = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", body)
    parts = ['<!doctype html><html lang="ko"><meta charset="utf-8"><body style="font-family:sans-serif">',
             "<p>" + body.replace("\n", "<br>\n") + "</p>"]  # fmt: skip
    if picture:
        parts.append(f'<p><img alt="{html.escape(message.picture_title)}" src="cid:{picture[1:-1]}"></p>')
    parts.append('<p style="color:#666">' + " · ".join(html.escape(line) for line in foot) + "</p>")
    if message.link:
        parts.append(f'<p><a href="{html.escape(message.link, quote=True)}">실행 화면</a></p>')
    return "\n".join([*parts, "</body></html>"])


def _address(text: str) -> Address:
    """Raises ValueError for a text that is no address."""
    name, address = parseaddr(text)
    user, at, domain = address.rpartition("@")
    if not (user and at and domain):
        raise ValueError("not an e-mail address")
    return Address(display_name=name, username=user, domain=domain)
