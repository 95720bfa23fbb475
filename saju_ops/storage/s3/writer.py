"""A file on its way to S3, in parts."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from saju_ops.storage.base import StorageError
from saju_ops.storage.remote import Written
from saju_ops.storage.s3.address import FIRST_PART, MIB
from saju_ops.storage.s3.client import (
    AGAIN,
    LARGEST_BESIDE,
    MARK,
    THREADS,
    T,
    _Conflict,
    _Damaged,
    _Denied,
    _Exists,
    _Missing,
    _Unknown,
    _Unreachable,
)

if TYPE_CHECKING:
    from saju_ops.storage.s3.store import S3Storage


LARGEST_PART = 512 * MIB
PARTS_OF_A_SIZE = 1_000
# Bytes of parts that may be on their way at once.
IN_FLIGHT = 48 * MIB


def part_size(number: int, first: int = FIRST_PART) -> int:
    """Bytes of the part with this number, from 1."""
    return max(first, min(first << ((number - 1) // PARTS_OF_A_SIZE), LARGEST_PART))


class _S3Writer:
    def __init__(self, storage: S3Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._key, self._where = storage.key(name), storage.location(name)
        self._mark = uuid.uuid4().hex
        self._written = Written(self._where)
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._pool: ThreadPoolExecutor | None = None
        # What the store says of the finished object: ETag, and VersionId in a bucket with versions.
        self._stored: dict[str, Any] | None = None
        self._committed = False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._written.add(view)
        rest = view
        while rest:
            size = part_size(len(self._parts) + 1, self._storage.options.part_bytes)
            fits = size - len(self._buffer)
            self._buffer += rest[:fits]
            rest = rest[fits:]
            if len(self._buffer) == size:
                self._send_part()
        return len(view)

    def read_back(self) -> BinaryIO:
        stored = self._finish()
        return self._written.proving(self._storage.open_version(self._name, stored["ETag"]))

    def commit(self) -> None:
        stored = self._finish()
        if not self._written.proven:
            self._written.prove(self._storage.open_version(self._name, stored["ETag"]))
        self._committed = True

    def close(self) -> None:
        """Deletes what was not committed. If that fails, an object stays without a manifest, which never counts."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._committed:
            return
        with suppress(StorageError):
            if self._stored is not None:
                try:
                    self._take_away({k: v for k, v in self._stored.items() if k == "VersionId" and v and v != "null"})
                except _Denied:
                    # A version that is locked, or no right to delete versions: a marker hides it.
                    self._take_away({})
            elif self._upload_id is not None:
                self._storage.abort(self._key, self._upload_id)

    def _take_away(self, version: dict[str, str]) -> None:
        with self._storage.errors_in_words(f"take {self._where} away again"):
            self._storage.client.delete_object(Bucket=self._storage.bucket, Key=self._key, **version)

    # --- parts ---------------------------------------------------------------------------------------------

    def _send_part(self) -> None:
        """Sends the buffer, without a copy of it: of parts that are large, one is on its way while another fills, of
        larger ones there is but one."""
        if self._pool is None:
            self._upload_id = self._begin()
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3-part")
        data, self._buffer = self._buffer, bytearray()
        allowed = min(THREADS, IN_FLIGHT // len(data))
        # Waits for the oldest part that is still being sent; a part that failed raises here.
        for part in self._parts[-THREADS - 1 : len(self._parts) - allowed]:
            part.result()
        self._parts.append(self._pool.submit(self._part, len(self._parts) + 1, data))
        if len(data) > LARGEST_BESIDE:
            self._parts[-1].result()

    def _begin(self) -> str:
        with self._storage.errors_in_words(f"begin the upload of {self._where}"):
            answer = self._storage.client.create_multipart_upload(
                Bucket=self._storage.bucket, Key=self._key, Metadata={MARK: self._mark}, **self._storage.protection
            )
        return str(answer["UploadId"])

    def _part(self, number: int, data: bytes | bytearray) -> dict[str, Any]:
        def send() -> Any:
            with self._storage.errors_in_words(f"upload part {number} of {self._where}"):
                return self._storage.client.upload_part(
                    Bucket=self._storage.bucket, Key=self._key, UploadId=self._upload_id, PartNumber=number,
                    Body=data, ContentMD5=_md5(data),
                )  # fmt: skip

        return {"PartNumber": number, "ETag": self._repeated(send)["ETag"]}

    def _repeated(self, call: Callable[[], T]) -> T:
        """boto3 repeats what time-outs, broken connections and 5xx made fail; this repeats the rest that may pass."""
        for attempt in range(AGAIN):
            try:
                return call()
            except (_Damaged, _Conflict):
                if attempt == AGAIN - 1:
                    raise
                self._storage.sleep(0.2 * 4**attempt)
        raise AssertionError

    # --- the end -------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        if self._stored is None:
            last = bytes(self._buffer)
            self._buffer = bytearray()
            if self._pool is None:
                self._stored = self._created(lambda only: self._put(last, only))
            else:
                if last:
                    self._parts.append(self._pool.submit(self._part, len(self._parts) + 1, last))
                parts = [part.result() for part in self._parts]
                self._stored = self._created(lambda only: self._completed(parts, only))
        return self._stored

    def _put(self, data: bytes, only: dict[str, str]) -> Any:
        with self._storage.errors_in_words(f"write {self._where}"):
            return self._storage.client.put_object(
                Bucket=self._storage.bucket, Key=self._key, Body=data, ContentMD5=_md5(data),
                Metadata={MARK: self._mark}, **self._storage.protection, **only,
            )  # fmt: skip

    def _completed(self, parts: list[dict[str, Any]], only: dict[str, str]) -> Any:
        with self._storage.errors_in_words(f"complete the upload of {self._where}"):
            return self._storage.client.complete_multipart_upload(
                Bucket=self._storage.bucket, Key=self._key, UploadId=self._upload_id,
                MultipartUpload={"Parts": parts}, **only,
            )  # fmt: skip

    def _created(self, send: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
        """Sends create-only. Raises AlreadyThere."""
        storage = self._storage
        only = {"IfNoneMatch": "*"} if storage.conditional else {}
        if not only:
            storage.require_free(self._name)
        try:
            return dict(self._repeated(lambda: send(only)))
        except (_Exists, _Missing, _Conflict, _Unreachable) as error:
            # The answer to an attempt that took effect may have been lost, and boto3 asked again.
            if (own := self._own()) is not None:
                return own
            if isinstance(error, (_Exists, _Conflict)) and storage.exists(self._name):
                raise storage.already_there(self._name) from None
            raise
        except _Unknown:
            if not only:
                raise
            storage.require_free(self._name)
            done = dict(self._repeated(lambda: send({})))
            storage.conditional = False
            return done

    def _own(self) -> dict[str, Any] | None:
        with suppress(StorageError):
            head = self._storage._head(self._name)
            if head is not None and head.get("Metadata", {}).get(MARK) == self._mark:
                return dict(head)
        return None


def _md5(data: bytes | bytearray) -> str:
    """Against damage on the way; every store checks it, and buckets with object lock ask for it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
