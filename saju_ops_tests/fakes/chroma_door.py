"""A door before a Chroma server on loopback: it asks for a token, speaks TLS, or answers as another version would."""

from __future__ import annotations

import http.client
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

# Headers of a request and of an answer that belong to one connection alone.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class ChromaDoor:
    """Use it in a `with` block. `instead`: by path, the status and body that are answered without asking Chroma."""

    def __init__(
        self, port: int, *, token: str | None = None, header: str = "Authorization", pem: Path | None = None,
        instead: dict[str, tuple[int, bytes]] | None = None, moved_to: str = "",
    ) -> None:  # fmt: skip
        self.refused = 0
        self.seen: list[tuple[str, dict[str, str]]] = []
        expected = f"Bearer {token}" if header == "Authorization" else token
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                door.seen.append((self.path, dict(self.headers)))
                if moved_to:
                    return self._answer(302, b"", {"Location": moved_to + self.path})
                if token is not None and self.headers.get(header) != expected:
                    door.refused += 1
                    return self._answer(401, b'{"error":"AuthError","message":"Unauthorized"}', {})
                if self.path in (instead or {}):
                    return self._answer(*(instead or {})[self.path], {})
                connection = http.client.HTTPConnection("127.0.0.1", port)
                kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                connection.request(self.command, self.path, body, kept)
                answer = connection.getresponse()
                found = {k: v for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP}
                self._answer(answer.status, answer.read(), found)
                connection.close()

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if pem is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            # In the thread of each connection, so that one that speaks no TLS keeps none waiting.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
