"""A proxy before an HTTP server on loopback, that misbehaves as networks and stores do.

A fault says which requests it strikes and how often; what it doesn't strike passes through unchanged. "lost" lets
the server do its work and breaks the connection instead of answering: the case in which a client can't know.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["status", "slow", "short", "corrupt", "reset", "lost", "stalled"]


@dataclass
class Fault:
    """Strikes `times` requests of `method` whose path and query match; the first `after` of them pass."""

    kind: Kind
    method: str = ""
    path: str = ""
    times: int = 1
    after: int = 0
    status: int = 500
    code: str = "InternalError"
    # What the answer says instead of S3's XML, and its headers.
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    # Only requests with this header are struck.
    header: str = ""
    struck: int = field(default=0, init=False)

    def strikes(self, method: str, path: str, headers: Any) -> bool:
        if self.struck >= self.times or (self.method and self.method != method):
            return False
        if not re.search(self.path, path) or (self.header and self.header not in headers):
            return False
        if self.after:
            self.after -= 1
            return False
        self.struck += 1
        return True


class FaultProxy:
    """Between a client and a server that speaks HTTP on loopback."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.faults: list[Fault] = []
        # Headers that the "server" is made not to know.
        self.dropped: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_ProxyHandler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, kind: Kind, method: str = "", path: str = "", **more: Any) -> Fault:
        fault = Fault(kind, method, path, **more)
        self.faults.append(fault)
        return fault

    def fault_for(self, method: str, path: str, headers: Any) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            return next((f for f in self.faults if f.strikes(method, path, headers)), None)

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for m, p in self.seen if m == method and re.search(path, p))

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: in two, each answer waits 40 ms for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def log_message(self, format: str, *args: Any) -> None:
        return

    def handle_expect_100(self) -> bool:
        # At once: the client waits a second for it before it sends the body.
        passed = super().handle_expect_100()
        self.wfile.flush()
        return passed

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault_for(self.command, self.path, self.headers)
        kind = fault.kind if fault else ""
        if kind == "reset":
            return self._reset()
        if fault and kind == "status":
            return self._refuse(fault)
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        status, headers, answer = self._ask(body)
        if kind == "lost":
            return self._reset()
        if kind == "corrupt" and answer:
            middle = len(answer) // 2
            answer = answer[:middle] + bytes([answer[middle] ^ 1]) + answer[middle + 1 :]
        self._answer(status, headers, answer, fault)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.target, timeout=60)
        dropped = {"connection", "expect", "transfer-encoding", *self.proxy.dropped}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        try:
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        stated = {k.lower(): v for k, v in headers}.get("content-length", str(len(body)))
        if self.command == "HEAD" or status not in (204, 304):
            self.send_header("Content-Length", stated if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.kind in ("short", "stalled"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(fault.seconds)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _refuse(self, fault: Fault) -> None:
        body = fault.body or f"<Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        # Linger of zero seconds: the peer gets a reset and no proper end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _pass
