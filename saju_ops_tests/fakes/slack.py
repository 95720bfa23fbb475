"""Slack on loopback, as its documentation describes it: methods, scopes, membership, limits, rate limits and faults.

What it accepted is in `messages` and `files`. `fault(...)` scripts the next answers of a method; `down()` closes the
port and `up()` opens the same one again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

TOKEN = "xoxb-1234567890-loopback-secret"
SCOPES = {"chat:write", "channels:read", "groups:read", "files:write"}
NEEDED = {
    "chat.postMessage": "chat:write",
    "files.getUploadURLExternal": "files:write",
    "files.completeUploadExternal": "files:write",
}


@dataclass
class Fault:
    """`kind` is an HTTP status, `ok:<error>`, `hang`, `lost` (done, but no answer), `reset` (not done), `garbage`."""

    kind: str
    retry_after: int | None = None
    seconds: float = 0.0
    # Only requests whose body contains this.
    where: str = ""


@dataclass
class Posted:
    channel: str
    text: str
    blocks: list[dict[str, Any]]
    ts: str
    thread_ts: str = ""
    at: float = field(default_factory=time.time)

    @property
    def words(self) -> str:
        """Everything that a reader sees."""
        parts = [b.get("text", {}).get("text", "") for b in self.blocks]
        parts += [e.get("text", "") for b in self.blocks for e in b.get("elements", [])]
        return "\n".join([*parts, self.text])


@dataclass
class Uploaded:
    channel: str
    filename: str
    title: str
    content: bytes
    thread_ts: str


class FakeSlack:
    def __init__(self, page: int = 2) -> None:
        self.tokens = {TOKEN}
        self.scopes = set(SCOPES)
        self.channels = {"general": "C0000000001", "random": "C0000000002", "개발": "C0000000003",
                         "ai-reports": "C0000000004"}  # fmt: skip
        self.private: set[str] = set()
        self.member_of = set(self.channels.values())
        self.archived: set[str] = set()
        self.page = page
        self.messages: list[Posted] = []
        self.files: list[Uploaded] = []
        self.calls: list[str] = []
        self.accepting = True
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._standing: dict[str, Fault] = {}
        self._uploads: dict[str, tuple[str, int, bytes]] = {}
        self._lock = threading.RLock()
        self._number = 0
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    # --- starting, stopping, breaking --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        assert self._server is None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                fake._handle(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """A client that was killed is part of the test."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def down(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    def fault(self, method: str, kind: str, times: int = 1, **more: Any) -> None:
        """The next `times` requests of a method; 0 for all until `mend`."""
        with self._lock:
            if times == 0:
                self._standing[method] = Fault(kind, **more)
            else:
                self._faults[method].extend(Fault(kind, **more) for _ in range(times))

    def mend(self) -> None:
        with self._lock:
            self._faults.clear()
            self._standing.clear()

    def words(self) -> str:
        return "\n\n".join(m.words for m in self.messages)

    # --- requests ----------------------------------------------------------------------------------------------

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        path = http.path.partition("?")[0]
        if path.startswith("/upload/"):
            self._receive(http, path.removeprefix("/upload/"), body)
            return
        method = path.rpartition("/")[2]
        arguments = _arguments(http, body)
        with self._lock:
            self.calls.append(method)
            fault = self._next_fault(method, json.dumps(arguments, ensure_ascii=False))
        if fault is not None and self._break(http, fault, method, arguments):
            return
        with self._lock:
            answer = self._answer(method, arguments, http.headers.get("Authorization", ""))
        _reply(http, 200, answer)

    def _next_fault(self, method: str, body: str) -> Fault | None:
        queue = self._faults[method]
        if queue and queue[0].where in body:
            return queue.popleft()
        standing = self._standing.get(method)
        return standing if standing and standing.where in body else None

    def _break(self, http: BaseHTTPRequestHandler, fault: Fault, method: str, arguments: dict[str, Any]) -> bool:
        """True where the fault was the answer."""
        if fault.kind.startswith("ok:"):
            _reply(http, 200, {"ok": False, "error": fault.kind[3:]})
        elif fault.kind == "429":
            headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
            _reply(http, 429, {"ok": False, "error": "ratelimited"}, headers)
        elif fault.kind.isdigit():
            _reply(http, int(fault.kind), None)
        elif fault.kind == "garbage":
            _reply(http, 200, None, body=b"<html>maintenance</html>")
        elif fault.kind == "hang":
            time.sleep(fault.seconds)
            _close(http)
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
            return False
        elif fault.kind == "lost":
            with self._lock:
                self._answer(method, arguments, http.headers.get("Authorization", ""))
            _close(http)
        else:
            _close(http)
        return True

    def _answer(self, method: str, arguments: dict[str, Any], authorization: str) -> dict[str, Any]:
        token = authorization.removeprefix("Bearer ")
        if not token:
            return {"ok": False, "error": "not_authed"}
        if token not in self.tokens:
            return {"ok": False, "error": "invalid_auth"}
        needed = NEEDED.get(method)
        if needed and needed not in self.scopes:
            return {"ok": False, "error": "missing_scope", "needed": needed, "provided": ",".join(self.scopes)}
        handler = getattr(self, "_" + method.replace(".", "_"), None)
        if handler is None:
            return {"ok": False, "error": "unknown_method"}
        answer: dict[str, Any] = handler(arguments)
        return answer

    def _auth_test(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "url": "https://example.slack.com/", "team": "사주팀", "user": "saju-ops", "bot_id": "B1"}

    def _conversations_list(self, arguments: dict[str, Any]) -> dict[str, Any]:
        types = str(arguments.get("types") or "public_channel").split(",")
        scopes = {"public_channel": "channels:read", "private_channel": "groups:read"}
        for kind in types:
            if scopes[kind] not in self.scopes:
                return {"ok": False, "error": "missing_scope", "needed": scopes[kind]}
        names = [n for n in self.channels if n not in self.private or "private_channel" in types]
        if str(arguments.get("exclude_archived")).lower() in ("1", "true"):
            names = [n for n in names if self.channels[n] not in self.archived]
        start = int(arguments.get("cursor") or 0)
        end = start + min(self.page, int(arguments.get("limit") or 100))
        listed = [{"id": self.channels[n], "name": n, "is_private": n in self.private} for n in names[start:end]]
        cursor = str(end) if end < len(names) else ""
        return {"ok": True, "channels": listed, "response_metadata": {"next_cursor": cursor}}

    def _chat_postMessage(self, arguments: dict[str, Any]) -> dict[str, Any]:
        channel = str(arguments.get("channel") or "")
        channel = self.channels.get(channel.removeprefix("#"), channel)
        problem = self._channel_problem(channel) or _content_problem(arguments)
        if problem:
            return {"ok": False, "error": problem}
        self._number += 1
        ts = f"{int(time.time())}.{self._number:06d}"
        posted = Posted(
            channel, str(arguments.get("text") or ""), arguments.get("blocks") or [], ts,
            str(arguments.get("thread_ts") or ""),
        )  # fmt: skip
        self.messages.append(posted)
        return {"ok": True, "channel": channel, "ts": ts, "message": {"text": posted.text}}

    def _channel_problem(self, channel: str) -> str:
        if channel not in self.channels.values():
            return "channel_not_found"
        if channel in self.archived:
            return "is_archived"
        return "" if channel in self.member_of else "not_in_channel"

    def _files_getUploadURLExternal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if not arguments.get("filename") or int(arguments.get("length") or 0) <= 0:
            return {"ok": False, "error": "invalid_arguments"}
        self._number += 1
        file = f"F{self._number:010d}"
        self._uploads[file] = (str(arguments["filename"]), int(arguments["length"]), b"")
        return {"ok": True, "upload_url": f"http://127.0.0.1:{self.port}/upload/{file}", "file_id": file}

    def _receive(self, http: BaseHTTPRequestHandler, file: str, body: bytes) -> None:
        with self._lock:
            self.calls.append("upload")
            fault = self._next_fault("upload", "")
            name, length, _ = self._uploads[file]
            if fault is not None and fault.kind.isdigit():
                _reply(http, int(fault.kind), None)
                return
            if len(body) != length:
                _reply(http, 400, None)
                return
            self._uploads[file] = (name, length, body)
        _reply(http, 200, None, body=f"OK - {length}".encode())

    def _files_completeUploadExternal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        channel = str(arguments.get("channel_id") or "")
        problem = self._channel_problem(channel)
        if problem:
            return {"ok": False, "error": problem}
        files = arguments["files"]
        for each in json.loads(files) if isinstance(files, str) else files:
            name, length, content = self._uploads.pop(each["id"])
            if len(content) != length:
                return {"ok": False, "error": "file_not_found"}
            thread = str(arguments.get("thread_ts") or "")
            self.files.append(Uploaded(channel, name, each.get("title") or "", content, thread))
        return {"ok": True, "files": [{"id": "F1", "title": "t"}]}


def _content_problem(arguments: dict[str, Any]) -> str:
    """Slack's limits, as chat.postMessage's and the blocks' reference give them."""
    text, blocks = str(arguments.get("text") or ""), arguments.get("blocks") or []
    if not text.strip() and not blocks:
        return "no_text"
    if len(text) > 40_000:
        return "msg_too_long"
    if len(blocks) > 50:
        return "invalid_blocks"
    for block in blocks:
        texts = [block["text"]] if "text" in block else []
        limit = {"section": 3000, "header": 150, "context": 3000}.get(block.get("type"), 0)
        elements = block.get("elements", [])
        if block.get("type") == "context" and not 1 <= len(elements) <= 10:
            return "invalid_blocks"
        texts += elements
        if not texts or not limit:
            return "invalid_blocks"
        if any(t.get("type") not in ("mrkdwn", "plain_text") for t in texts):
            return "invalid_blocks"
        if any(not 1 <= len(t.get("text", "")) <= limit for t in texts):
            return "invalid_blocks"
    if sum(len(json.dumps(b, ensure_ascii=False)) for b in blocks) > 100_000:
        return "msg_blocks_too_long"
    return ""


def _arguments(http: BaseHTTPRequestHandler, body: bytes) -> dict[str, Any]:
    if "json" in (http.headers.get("Content-Type") or ""):
        found: dict[str, Any] = json.loads(body or b"{}")
        return found
    return {name: values[0] for name, values in parse_qs(body.decode()).items()}


def _reply(
    http: BaseHTTPRequestHandler, status: int, answer: dict[str, Any] | None, headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> None:  # fmt: skip
    data = body if answer is None else json.dumps(answer).encode()
    http.send_response(status)
    http.send_header("Content-Type", "application/json; charset=utf-8" if answer is not None else "text/html")
    http.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(data)


def _close(http: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    http.close_connection = True
    http.connection.close()
