"""Whether a Chroma server answers, and takes what we send it: in sentences that name the setting at fault.

Without Chroma's client, so that `status` may ask, too. It reads a server's version and nothing else.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError

from saju_ops.errors import OperatorError

SECONDS = 10.0
# HTTP statuses of a server that refuses the login, and of one that lacks the address.
REFUSED, NOT_THERE = (401, 403), 404
LONGEST_ANSWER = 1 << 16


@dataclass(frozen=True)
class Server:
    """Address of a server, and what it requires (CHROMA_SSL, CHROMA_AUTH_TOKEN)."""

    host: str
    port: int
    tls: bool = False
    token: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """As it is written in an address."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def headers(self) -> dict[str, str]:
        """Both that Chroma's servers know."""
        return {"Authorization": f"Bearer {self.token}", "X-Chroma-Token": self.token} if self.token else {}

    def fault(self, said: str) -> OperatorError:
        return OperatorError(f"{said} Nothing was read or written.")


def probe(server: Server, seconds: float = SECONDS) -> str:
    """The server's version. Raises OperatorError."""
    try:
        version = _asked(server, "/api/v2/version", seconds)
        if version is None:
            raise _too_old(server, seconds)
        _asked(server, "/api/v2/auth/identity", seconds)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(server, getattr(error, "reason", error)) from None
    return version


def _asked(server: Server, path: str, seconds: float) -> str | None:
    """What the server answers, where that is a text; None where it has no such path."""
    address = f"{'https' if server.tls else 'http'}://{server.name}:{server.port}{path}"
    # No redirection: the token is for this server alone.
    opener = urllib.request.build_opener(_NoRedirection, urllib.request.HTTPSHandler(context=_context()))
    request = urllib.request.Request(address, headers=server.headers)
    try:
        with opener.open(request, timeout=seconds) as answer:
            content: Any = json.loads(answer.read(LONGEST_ANSWER))
    except HTTPError as error:
        error.close()
        if error.code == NOT_THERE:
            return None
        raise _refused(server, error.code) from None
    except ValueError:
        raise _another(server) from None
    return content if isinstance(content, str) else ""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _context() -> ssl.SSLContext:
    """Trusts the same certificates as Chroma's HTTP client."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def _refused(server: Server, code: int) -> OperatorError:
    if code in REFUSED:
        what = "refuses the token of CHROMA_AUTH_TOKEN" if server.token else "asks for a token; set CHROMA_AUTH_TOKEN"
        return server.fault(f"The Chroma server at {server} {what} (HTTP {code}).")
    if 300 <= code < 400:
        return server.fault(
            f"The server at {server} sends its callers elsewhere (HTTP {code}): set CHROMA_SSL=true where it wants TLS,"
            " and CHROMA_HOST and CHROMA_PORT to where Chroma itself answers."
        )
    hint = "" if server.tls else "; if it wants TLS, set CHROMA_SSL=true"
    return server.fault(f"The Chroma server at {server} answers with HTTP {code}{hint}.")


def _unreachable(server: Server, reason: Any) -> OperatorError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return server.fault(
            f"The certificate of the Chroma server at {server} is not trusted ({reason.verify_message}). Name it as the"
            " certificate does in CHROMA_HOST, and its authority's file in SSL_CERT_FILE."
        )
    if isinstance(reason, ssl.SSLError) and server.tls:
        return server.fault(f"What answers at {server} speaks no TLS ({reason.reason}): set CHROMA_SSL=false.")
    if isinstance(reason, http.client.HTTPException | ConnectionResetError) and not server.tls:
        return server.fault(
            f"What answers at {server} speaks no plain HTTP ({type(reason).__name__}): set CHROMA_SSL=true if it wants"
            " TLS, and look at CHROMA_HOST and CHROMA_PORT."
        )
    why = getattr(reason, "strerror", None) or type(reason).__name__
    return server.fault(
        f"No Chroma server answers at {server} ({why}); look at CHROMA_HOST, CHROMA_PORT and CHROMA_SSL, and whether it"
        " runs."
    )


def _another(server: Server) -> OperatorError:
    return server.fault(f"What answers at {server} is no Chroma server; look at CHROMA_HOST and CHROMA_PORT.")


def _too_old(server: Server, seconds: float) -> OperatorError:
    version = _asked(server, "/api/v1/version", seconds)
    if version is None:
        return _another(server)
    return server.fault(
        f"The server at {server} runs Chroma {version[:20]}, which is too old to be read over its API. Take the"
        " snapshot of its folder: CHROMA_DB_PATH, with CHROMA_HOST empty."
    )


def unreachable_later(server: Server, error: BaseException) -> OperatorError:
    """For an error of Chroma's client although the server answered before."""
    reason: Any = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__
    return _unreachable(server, reason if reason is not None else error)
