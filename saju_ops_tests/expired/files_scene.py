"""The bucket with the files of jobs, and an S3 that answers errors for single keys inside a 200."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import unescape

from saju_ops.expired.job_files import FilePlace, JobFiles
from saju_ops.storage.s3.address import S3Options
from saju_ops_tests.expired.job_scene import SIZE, file_key
from saju_ops_tests.fakes.s3 import S3Server


@dataclass
class Faults:
    # Keys that S3 refuses (with this code), and keys of which it says nothing; neither is deleted.
    refused: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    # HTTP status and code for every request; None serves them.
    status: int | None = None
    code: str = "ServiceUnavailable"
    deletes: int = 0
    requests: int = 0
    before_delete: Callable[[], None] = lambda: None


class Files:
    """A bucket of the S3 server, seen by the test past the proxy, and by the purge through it."""

    def __init__(self, name: str, server: S3Server, url: str, faults: Faults) -> None:
        import boto3

        self.name, self.url, self.faults = name, url, faults
        self.client: Any = boto3.client(
            "s3", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
        )
        self.client.create_bucket(Bucket=name)

    def put(self, *keys: str) -> None:
        for key in keys:
            self.client.put_object(Bucket=self.name, Key=key, Body=b"x" * SIZE)

    def put_those_of(self, numbers: Iterable[int]) -> None:
        self.put(*(file_key(n, i) for n in numbers for i in range(4)))

    def keep_versions(self) -> None:
        self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {item["Key"] for page in pages for item in page.get("Contents", ())}

    def versions(self) -> int:
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        return sum(len(p.get("Versions", ())) + len(p.get("DeleteMarkers", ())) for p in pages)

    def purged_through(self, **place: Any) -> JobFiles:
        options = S3Options(endpoint_url=self.url, region="us-east-1", access_key_id="x", secret_access_key="y")
        return JobFiles(FilePlace(self.name, **{"prefix": "jobs", "options": options, **place}))


@contextmanager
def files_behind_faults(server: S3Server) -> Iterator[Files]:
    faults = Faults()
    handler = type("Handler", (_Handler,), {"faults": faults, "port": server.port})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Files(f"jobs-{uuid4().hex[:20]}", server, f"http://127.0.0.1:{proxy.server_port}", faults)
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    port: int

    def log_message(self, format: str, *args: Any) -> None:
        return

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.faults.requests += 1
        if self.faults.status is not None:
            self._answer(self.faults.status, f"<Error><Code>{self.faults.code}</Code></Error>".encode())
            return
        deletes = self.command == "POST" and "delete" in self.path
        if deletes:
            self.faults.deletes += 1
            self.faults.before_delete()
        kept, errors = self._without_faulty(body) if deletes else (body, b"")
        if deletes and b"<Object>" not in kept:
            self._answer(200, b'<?xml version="1.0"?><DeleteResult>' + errors + b"</DeleteResult>")
            return
        connection = HTTPConnection("127.0.0.1", self.port)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("content-length", "host")}
        connection.request(self.command, self.path, kept, headers)
        response = connection.getresponse()
        answer = response.read()
        self._answer(response.status, re.sub(b"</DeleteResult>", errors + b"</DeleteResult>", answer), response.headers)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _answer(self, status: int, body: bytes, headers: Any = ()) -> None:
        self.send_response(status)
        for name, value in dict(headers).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _without_faulty(self, body: bytes) -> tuple[bytes, bytes]:
        errors = b""
        for found in re.findall(rb"<Object>.*?</Object>", body, re.DOTALL):
            text = re.search(rb"<Key>(.*?)</Key>", found, re.DOTALL)
            key = unescape(text[1].decode()) if text else ""
            if key in self.faults.refused:
                code = self.faults.refused[key]
                errors += f"<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>".encode()
            if key in self.faults.refused or key in self.faults.silent:
                body = body.replace(found, b"")
        return body, errors
