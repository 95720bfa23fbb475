"""Google Drive on loopback, to its documented behaviour: v3 files, resumable uploads, 308, pages, duplicates.

Names are not unique, listing is by page, an upload takes multiples of 256 KiB and says with 308 and Range what it
has, a shared drive is seen only by requests that say supportsAllDrives, and requests carry a token.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

FOLDER = "application/vnd.google-apps.folder"
QUANTUM = 256 << 10
PAGE = 3
ROOT = "root-folder-id"
START = datetime(2026, 10, 1, tzinfo=UTC)


@dataclass
class Entry:
    id: str
    name: str
    parent: str
    mime: str
    created: str
    data: bytes = b""
    trashed: bool = False

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id, "name": self.name, "mimeType": self.mime, "createdTime": self.created, "driveId": "drive-1",
            "trashed": self.trashed,
        }  # fmt: skip
        if self.mime != FOLDER:
            found |= {"size": str(len(self.data)), "sha256Checksum": hashlib.sha256(self.data).hexdigest()}
        return found


@dataclass
class Upload:
    entry: Entry
    data: bytearray = field(default_factory=bytearray)
    done: bool = False


class DriveServer:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {ROOT: Entry(ROOT, "backups", "", FOLDER, "2026-01-01T00:00:00Z")}
        self.uploads: dict[str, Upload] = {}
        self.lock = threading.RLock()
        self.checksums = True
        # Bytes that an upload request keeps at most, for partly accepted chunks.
        self.keeps: int | None = None
        self.may_delete = True
        self.seen: list[tuple[str, str]] = []
        self._ids, self._ticks = itertools.count(1), itertools.count(1)
        handler = type("Handler", (_Handler,), {"drive": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> DriveServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def key_file(self, folder: Path) -> Path:
        """A service account's key whose token server is this one."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account", "project_id": "test", "private_key_id": "1", "private_key": key.decode(),
            "client_email": "saju@test.iam.gserviceaccount.com", "client_id": "1", "token_uri": f"{self.url}/token",
        }  # fmt: skip
        path = folder / "service-account.json"
        path.write_text(json.dumps(account))
        return path

    # --- what tests look at and prepare ---------------------------------------------------------------------

    def make(self, name: str, parent: str = ROOT, mime: str = "text/plain", data: bytes = b"") -> Entry:
        with self.lock:
            created = START + timedelta(seconds=next(self._ticks))
            entry = Entry(
                f"id{next(self._ids):06}", name, parent, mime, created.strftime("%Y-%m-%dT%H:%M:%S.000Z"), data
            )
            self.entries[entry.id] = entry
            return entry

    def path(self, entry: Entry) -> str:
        parent = self.entries.get(entry.parent)
        return entry.name if parent is None or parent.id == ROOT else f"{self.path(parent)}/{entry.name}"

    def files(self) -> dict[str, bytes]:
        found = [e for e in self.entries.values() if e.mime != FOLDER and not e.trashed]
        return {self.path(e): e.data for e in found}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one packet: in two, each answer waits 40 ms for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True
    drive: DriveServer

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(address.query).items()}
        self.drive.seen.append((self.command, self.path))
        with self.drive.lock:
            if address.path == "/token":
                return self._json(200, {"access_token": "the-token", "expires_in": 3600, "token_type": "Bearer"})
            if self.headers.get("Authorization") != "Bearer the-token":
                return self._error(401, "authError")
            if address.path == "/upload/session":
                return self._upload(body)
            if self.query.get("supportsAllDrives") != "true":
                return self._error(404, "notFound")
            if address.path == "/upload/drive/v3/files":
                return self._begin(json.loads(body))
            if address.path == "/drive/v3/files":
                return self._list() if self.command == "GET" else self._create(json.loads(body))
            entry = self.drive.entries.get(address.path.rpartition("/")[2])
            if entry is None:
                return self._error(404, "notFound")
            return self._one(entry, body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    # --- files ---------------------------------------------------------------------------------------------

    def _one(self, entry: Entry, body: bytes) -> None:
        if self.command == "DELETE":
            if not self.drive.may_delete:
                return self._error(403, "insufficientFilePermissions")
            del self.drive.entries[entry.id]
            return self._answer(204, b"")
        if self.command == "PATCH":
            change = json.loads(body)
            entry.name, entry.trashed = change.get("name", entry.name), change.get("trashed", entry.trashed)
        if self.query.get("alt") == "media":
            return self._media(entry)
        return self._json(200, entry.shown())

    def _media(self, entry: Entry) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, entry.data)
        first = int(asked[1])
        total = len(entry.data)
        return self._answer(206, entry.data[first:], {"Content-Range": f"bytes {first}-{total - 1}/{total}"})

    def _list(self) -> None:
        if self.query.get("includeItemsFromAllDrives") != "true" or self.query.get("driveId") != "drive-1":
            return self._json(200, {"files": []})
        found = [e for e in self.drive.entries.values() if _matches(self.query["q"], e)]
        start = int(self.query.get("pageToken", "0"))
        # Newest first: an order that nobody asked for is no order to rely on.
        page = found[::-1][start : start + PAGE]
        answer: dict[str, Any] = {"files": [e.shown() for e in page]}
        if start + PAGE < len(found):
            answer["nextPageToken"] = str(start + PAGE)
        return self._json(200, answer)

    def _create(self, body: dict[str, Any]) -> None:
        entry = self.drive.make(body["name"], body["parents"][0], body["mimeType"])
        return self._json(200, entry.shown())

    # --- uploads -------------------------------------------------------------------------------------------

    def _begin(self, body: dict[str, Any]) -> None:
        if body["parents"][0] not in self.drive.entries:
            return self._error(404, "notFound")
        session = uuid.uuid4().hex
        made = self.drive.make(body["name"], body["parents"][0], body["mimeType"])
        del self.drive.entries[made.id]
        self.drive.uploads[session] = Upload(made)
        host = self.headers["Host"]
        return self._answer(200, b"", {"Location": f"http://{host}/upload/session?upload_id={session}"})

    def _upload(self, body: bytes) -> None:
        upload = self.drive.uploads.get(self.query["upload_id"])
        if upload is None:
            return self._error(404, "notFound")
        if self.command == "DELETE":
            del self.drive.uploads[self.query["upload_id"]]
            return self._answer(499, b"")
        stated = self.headers.get("Content-Range")
        if stated is None:
            upload.data = bytearray(body)
            return self._done(upload)
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", stated)
        if not asked:
            return self._error(400, "badRequest")
        first, last, total = asked.groups()
        if first is not None and not upload.done:
            if int(first) != len(upload.data) or int(last) - int(first) + 1 != len(body):
                return self._error(400, "badContentRange")
            if total == "*" and len(body) % QUANTUM:
                return self._error(400, "badChunkSize")
            kept = body if self.drive.keeps is None else body[: self.drive.keeps]
            upload.data += kept
        if total != "*" and len(upload.data) == int(total):
            return self._done(upload)
        headers = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
        return self._answer(308, b"", headers)

    def _done(self, upload: Upload) -> None:
        upload.done = True
        upload.entry.data = bytes(upload.data)
        self.drive.entries[upload.entry.id] = upload.entry
        shown = upload.entry.shown()
        if not self.drive.checksums:
            del shown["sha256Checksum"]
        return self._json(200, shown)

    # --- answers -------------------------------------------------------------------------------------------

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        self._answer(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, reason: str) -> None:
        self._json(status, {"error": {"code": status, "errors": [{"reason": reason}]}})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _matches(query: str, entry: Entry) -> bool:
    """The few forms of `q` that the project uses; any other one is an error of the test."""
    for term in re.split(r" and (?=mimeType|trashed|name|')", query):
        if found := re.fullmatch(r"'([^']+)' in parents", term):
            matches = entry.parent == found[1]
        elif found := re.fullmatch(r"name = '((?:[^'\\]|\\.)*)'", term):
            name = re.sub(r"\\(.)", r"\1", found[1])
            matches = entry.name.lower() == name.lower()
        elif found := re.fullmatch(rf"mimeType (!?=) '{FOLDER}'", term):
            matches = (entry.mime == FOLDER) == (found[1] == "=")
        elif term == "trashed = false":
            matches = not entry.trashed
        else:
            raise AssertionError(f"the fake knows no {term}")
        if not matches:
            return False
    return True
