"""A mail server on loopback (aiosmtpd), with or without TLS, STARTTLS and login. It makes its own certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD = "saju", "p@ss word-of-mail"


def certificate(folder: Path) -> Path:
    """Key and self-signed certificate for 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "mail.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


class MailServer:
    """`refuse` may give an SMTP answer for a message instead of taking it."""

    def __init__(self, pem: Path | None = None, *, tls: bool = False, login: bool = False) -> None:
        self.received: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.refuse: Callable[[Envelope], str | None] = lambda _: None
        self.refused_recipients: set[str] = set()
        self.was_encrypted: list[bool] = []
        self.logins: list[str] = []
        self._pem, self._tls, self._login = pem, tls, login
        self._controller: Controller | None = None
        self.port = 0

    def __enter__(self) -> Self:
        context = None
        if self._pem is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._pem)
        options: dict[str, Any] = {}
        if self._login:
            options = {"authenticator": self._authenticate, "auth_required": True,
                       "auth_require_tls": not self._tls and context is not None}  # fmt: skip
        if context is not None and not self._tls:
            options |= {"tls_context": context, "require_starttls": True}
        port = self.port or _free_port()
        self._controller = Controller(
            self, hostname="127.0.0.1", port=port, ssl_context=context if self._tls else None, **options
        )
        self._controller.start()
        self.port = port
        return self

    def __exit__(self, *_: object) -> None:
        if self._controller is not None:
            self._controller.stop()

    def _authenticate(self, _server: SMTP, _session: Session, _envelope: Envelope, _kind: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins.append(data.login.decode())
        return AuthResult(success=right, handled=right)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused_recipients:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self.refuse(envelope)
        if answer is not None:
            return answer
        self.envelopes.append(envelope)
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        parsed = message_from_bytes(content, policy=default)
        assert isinstance(parsed, EmailMessage)
        self.received.append(parsed)
        self.was_encrypted.append(session.ssl is not None or self._tls)
        return "250 OK"


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
