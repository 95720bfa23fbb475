"""S3 and its like as storage: create-only, multipart in constant memory, everything proven by reading it back.

A write is refused if the key exists: by `If-None-Match: *` if the store supports it, and always by looking first. What
was uploaded is read back and its SHA-256 compared before it counts (an ETag is no checksum for multipart or KMS
objects, and S3's own full-object checksum of those is a CRC). A failed upload is aborted. Reading a stored object
continues after a broken connection and never ends early without an error.

An upload can't be read before it is completed, so from `read_back` on the key exists, whole. Leaving without `commit`
deletes it again, by its version if the bucket keeps versions and allows that.

The client is made by boto3; the Dagster layer passes a factory that makes it by dagster-aws' S3Resource.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, BinaryIO

from saju_ops.errors import shown
from saju_ops.storage.base import AlreadyThere, StorageError, require_name
from saju_ops.storage.remote import Broken, ResumingReader, buffered
from saju_ops.storage.s3.address import S3Options, parse_s3_uri
from saju_ops.storage.s3.client import (
    _REDIRECTED,
    _WRONG_CREDENTIALS,
    _Conflict,
    _Damaged,
    _Denied,
    _Exists,
    _Missing,
    _setup,
    _Unknown,
    _Unreachable,
    s3_client,
)
from saju_ops.storage.s3.writer import _S3Writer
from saju_ops.storage.seal import NO_SEALS, Seals


class S3Storage:
    def __init__(
        self,
        uri: str,
        options: S3Options | None = None,
        password: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seals: Seals = NO_SEALS,
        make_client: Callable[[S3Options], Any] = s3_client,
    ) -> None:
        self.bucket, self.prefix = parse_s3_uri(uri)
        self.options = options or S3Options()
        self.password = password
        self.seals = seals
        self.make_client = make_client
        self.sleep = sleep
        # Becomes false where the store answers that it doesn't know If-None-Match.
        self.conditional = True

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def location(self, name: str) -> str:
        return shown(f"s3://{self.bucket}/{self.key(name)}")

    def key(self, name: str) -> str:
        return "/".join(filter(None, (self.prefix, "/".join(require_name(name)))))

    @cached_property
    def client(self) -> Any:
        with self.errors_in_words("set up"):
            return self.make_client(self.options)

    # --- writing -------------------------------------------------------------------------------------------

    @contextmanager
    def create(self, name: str) -> Iterator[_S3Writer]:
        # Looked at first too: some stores take If-None-Match and ignore it.
        self.require_free(name)
        writer = _S3Writer(self, name)
        try:
            yield writer
        finally:
            writer.close()

    def require_free(self, name: str) -> None:
        if self.exists(name):
            raise self.already_there(name)

    def already_there(self, name: str) -> AlreadyThere:
        return AlreadyThere(f"{self.location(name)} exists and was not overwritten.")

    @property
    def protection(self) -> dict[str, str]:
        o = self.options
        found = {"ServerSideEncryption": o.server_side_encryption, "SSEKMSKeyId": o.kms_key_id}
        return {k: v for k, v in found.items() if v}

    # --- reading -------------------------------------------------------------------------------------------

    def open(self, name: str) -> BinaryIO:
        return self.open_version(name)

    def open_version(self, name: str, etag: str | None = None) -> BinaryIO:
        """Raises FileNotFoundError, or StorageError where it isn't (any more) the object with this ETag."""
        where = self.location(name)
        condition = {"IfMatch": etag} if etag else {}
        try:
            with self.errors_in_words(f"read {where}"):
                first = self.client.get_object(Bucket=self.bucket, Key=self.key(name), **condition)
        except _Missing:
            raise FileNotFoundError(2, "No such object", where) from None
        self._require_s3(first)
        size, etag = first["ContentLength"], first["ETag"]
        opened: list[Any] = [first["Body"]]

        def fetch(position: int) -> _Body:
            if opened and not position:
                return _Body(opened.pop())
            return self._fetch_from(name, position, size, etag)

        return buffered(ResumingReader(fetch, size, where, self.sleep))

    def _fetch_from(self, name: str, position: int, size: int, etag: str) -> _Body:
        where = self.location(name)
        with self.errors_in_words(f"read {where} on from byte {position}"):
            asked = {"Range": f"bytes={position}-"} if position else {}
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key(name), IfMatch=etag, **asked)
        body = _Body(answer["Body"])
        begins = answer.get("ContentRange", "bytes 0-").removeprefix("bytes ").split("-")[0]
        if begins != str(position) or answer["ContentLength"] != size - position:
            body.close()
            raise StorageError(f"{where} changed while it was read, or its store does not answer ranges; launch again.")
        return body

    def exists(self, name: str) -> bool:
        return self._head(name) is not None

    def size(self, name: str) -> int:
        head = self._head(name)
        if head is None:
            raise FileNotFoundError(2, "No such object", self.location(name))
        return int(head["ContentLength"])

    def _head(self, name: str) -> Any:
        what = f"look at {self.location(name)}"
        try:
            with self.errors_in_words(what):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        except _Missing:
            return None
        except (_Denied, _Unknown):
            # The answer to a HEAD has no body: for an expired token it says only "400".
            with self.errors_in_words(what):
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key(name), MaxKeys=1)
            raise
        self._require_s3(head)
        return head

    def _require_s3(self, answer: Any) -> None:
        """A web server, such as a store's own console, answers 200 to everything, which is no object."""
        if not answer.get("ETag"):
            raise StorageError(
                f"{self.options.endpoint_url or 'AWS'} answers, but not as S3 does; is S3_ENDPOINT_URL the address of"
                " the store's S3 interface, and not of its web page?"
            )

    def names(self, prefix: str) -> Iterator[str]:
        root = f"{self.prefix}/" if self.prefix else ""
        found = []
        with self.errors_in_words(f"list {self.uri}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            for page in pages:
                found += [entry["Key"][len(root) :] for entry in page.get("Contents", ())]
        # Some consoles make an empty object for a folder.
        yield from sorted(name for name in found if name and not name.endswith("/"))

    # --- tidying -------------------------------------------------------------------------------------------

    def clear_unfinished(self, prefix: str) -> int:
        """Uploads that were begun and never ended: they are in no listing, and cost money.

        Where listing them isn't allowed or not known, a lifecycle rule of the bucket has to do it.
        """
        removed = 0
        try:
            with self.errors_in_words(f"list unfinished uploads to {self.uri}"):
                pages = self.client.get_paginator("list_multipart_uploads").paginate(
                    Bucket=self.bucket, Prefix=self.key(prefix)
                )
                for upload in [u for page in pages for u in page.get("Uploads", ())]:
                    with suppress(_Missing):
                        self.abort(upload["Key"], upload["UploadId"])
                        removed += 1
        except (_Denied, _Unknown, _Missing):
            return removed
        return removed

    def abort(self, key: str, upload_id: str) -> None:
        with self.errors_in_words(f"abort an upload to {self.uri}"):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def delete(self, name: str) -> None:
        with suppress(_Missing), self.errors_in_words(f"delete {self.location(name)}"):
            self.client.delete_object(Bucket=self.bucket, Key=self.key(name))

    def complete(self, prefix: str) -> list[str]:
        return []

    def require_all(self) -> None:
        return

    def copies(self) -> tuple[S3Storage]:
        return (self,)

    def remains(self) -> str:
        try:
            with self.errors_in_words(f"ask whether {self.uri} keeps versions"):
                status = self.client.get_bucket_versioning(Bucket=self.bucket).get("Status")
        except (_Denied, _Unknown):
            return f"whether {self.bucket} keeps old versions could not be asked (s3:GetBucketVersioning)"
        if status not in ("Enabled", "Suspended"):
            return ""
        if status == "Suspended":
            return f"{self.bucket} kept versions once: old versions stay until a lifecycle rule ends them"
        return f"{self.bucket} keeps versions: what is deleted stays as an old version until a lifecycle rule ends it"

    def free_space(self) -> str:
        return ""

    # --- errors in words -----------------------------------------------------------------------------------

    @contextmanager
    def errors_in_words(self, what: str) -> Iterator[None]:
        """Every error of boto3 as a StorageError. The errors' own texts may hold keys and addresses."""
        from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

        try:
            yield
        except ClientError as error:
            raise self._sentence(what, error.response) from None
        except (HTTPClientError, EndpointConnectionError) as error:
            endpoint = self.options.endpoint_url or "AWS"
            raise _Unreachable(f"{endpoint} could not be reached to {what} ({type(error).__name__}).") from None
        except BotoCoreError as error:
            raise StorageError(f"S3 could not {what}: {_setup(error)}.") from None
        except RecursionError:
            # botocore follows a redirect by asking for the bucket's region, which is redirected too.
            raise StorageError(f"S3 could not {what}: it is redirected without end. {_REDIRECTED}") from None

    def _sentence(self, what: str, response: Any) -> StorageError:
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        shown = f"{status} {code}" if code and code != str(status) else str(status)
        failure = f"S3 could not {what} ({shown})"
        if code == "NoSuchBucket":
            return StorageError(f"{failure}: there is no bucket {self.bucket}; make it, or correct BACKUP_URI.")
        if code in ("NoSuchKey", "NoSuchUpload", "NotFound", "404") or status == 404:
            return _Missing(f"{failure}.")
        if code in ("PreconditionFailed", "412") or status == 412:
            return _Exists(f"{failure}.")
        if code in ("ConditionalRequestConflict", "OperationAborted") or status == 409:
            return _Conflict(f"{failure}: another writer is at the same key.")
        if code in ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"):
            return _Damaged(f"{failure}: the bytes arrived damaged.")
        if code in _WRONG_CREDENTIALS:
            return StorageError(f"{failure}: the credentials are wrong or have expired.")
        if code in ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"):
            return StorageError(f"{failure}: this machine's clock and the store's differ; set the clock right.")
        if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
            return StorageError(
                f"{failure}: it is in an archive class such as Glacier. Have it restored there first (aws s3api"
                " restore-object), and launch again."
            )
        if code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException") or 300 <= status < 400:
            return StorageError(f"{failure}: the bucket is elsewhere. {_REDIRECTED}")
        if status in (401, 403) or code in ("AccessDenied", "Forbidden", "AllAccessDisabled"):
            return _Denied(
                f"{failure}: access denied. The credentials need s3:ListBucket, s3:GetObject, s3:PutObject,"
                " s3:DeleteObject and s3:AbortMultipartUpload here, and the use of the KMS key where one is set."
            )
        if code.startswith("KMS."):
            return StorageError(f"{failure}: the key in S3_KMS_KEY_ID can't be used.")
        if status in (400, 405, 501):
            return _Unknown(f"{failure}.")
        return StorageError(f"{failure}. What was there before is still there; launch again.")


class _Body:
    """A response body; if its connection breaks, it raises Broken."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int) -> bytes:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        try:
            return bytes(self._body.read(size))
        except (BotoCoreError, HTTPError, OSError) as error:
            raise Broken(type(error).__name__) from None

    def close(self) -> None:
        with suppress(Exception):
            self._body.close()
