"""S3 and its like as storage: create-only, multipart in constant memory, everything proven by reading it back.

Promises: a write is refused where the key exists, by `If-None-Match: *` where the store knows it and by looking
first everywhere; what was uploaded is read back and its SHA-256 compared before it counts (an ETag is no checksum
for multipart or KMS objects, and S3's own full-object checksum of those is a CRC); a failed upload is aborted; a
stream of a stored object goes on after a broken connection and never ends early without an error.

An upload can't be read before it is completed, so a key exists, whole, from `read_back` on. Leaving without
`commit` deletes it again, by its version where the bucket keeps versions and lets it go.

boto3 is used directly: dagster-aws' S3Resource builds the same client, but takes 1.6 s to import in every run and
lets neither time-outs nor checksum modes be set.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, BinaryIO, Literal, TypeVar

from saju_ops.errors import shown
from saju_ops.storage.base import AlreadyThere, StorageError, require_name
from saju_ops.storage.remote import Broken, ResumingReader, Written, buffered
from saju_ops.storage.seal import NO_SEALS, Seals

T = TypeVar("T")
MIB = 1 << 20
# The first parts; every 1,000 parts they double, so that S3's 10,000 parts make 3 TB while small files need little.
FIRST_PART = 16 * MIB
LARGEST_PART = 512 * MIB
PARTS_OF_A_SIZE = 1_000
# Bytes of parts that may be on their way at once.
IN_FLIGHT = 48 * MIB
# Bytes of a part beside which another may fill.
LARGEST_BESIDE = 64 * MIB
THREADS = 3
CONNECT_SECONDS, READ_SECONDS, MAX_ATTEMPTS = 10, 60, 8
# Times that a part is sent again which arrived damaged, and that a conflict with another writer is waited out.
AGAIN = 4
MARK = "saju-ops-writer"

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")


@dataclass(frozen=True)
class S3Options:
    """Empty values leave the choice to boto3: environment, profile, instance or container role."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    max_attempts: int = MAX_ATTEMPTS
    read_seconds: float = READ_SECONDS
    part_bytes: int = FIRST_PART

    def __repr__(self) -> str:
        return f"S3Options(endpoint_url={self.endpoint_url!r})"


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix. Raises StorageError."""
    found = _URI.fullmatch(uri)
    if not found:
        raise StorageError(f"{uri!r} is not an address like s3://bucket/prefix.")
    prefix = (found["prefix"] or "").strip("/")
    if prefix:
        require_name(prefix)
    return found["bucket"], prefix


def part_size(number: int, first: int = FIRST_PART) -> int:
    """Bytes of the part with this number, from 1."""
    return max(first, min(first << ((number - 1) // PARTS_OF_A_SIZE), LARGEST_PART))


class S3Storage:
    def __init__(
        self,
        uri: str,
        options: S3Options | None = None,
        password: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seals: Seals = NO_SEALS,
    ) -> None:
        self.bucket, self.prefix = parse_s3_uri(uri)
        self.options = options or S3Options()
        self.password = password
        self.seals = seals
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
        with self.told("set up"):
            return _client(self.options)

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
            with self.told(f"read {where}"):
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
        with self.told(f"read {where} on from byte {position}"):
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
            with self.told(what):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        except _Missing:
            return None
        except (_Denied, _Unknown):
            # The answer to a HEAD has no body, so it says of a token that has expired "400" and no more.
            with self.told(what):
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
        with self.told(f"list {self.uri}"):
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
            with self.told(f"list unfinished uploads to {self.uri}"):
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
        with self.told(f"abort an upload to {self.uri}"):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def delete(self, name: str) -> None:
        with suppress(_Missing), self.told(f"delete {self.location(name)}"):
            self.client.delete_object(Bucket=self.bucket, Key=self.key(name))

    def complete(self, prefix: str) -> list[str]:
        return []

    def require_all(self) -> None:
        return

    def copies(self) -> tuple[S3Storage]:
        return (self,)

    def remains(self) -> str:
        try:
            with self.told(f"ask whether {self.uri} keeps versions"):
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
    def told(self, what: str) -> Iterator[None]:
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
        told = f"S3 could not {what} ({shown})"
        if code == "NoSuchBucket":
            return StorageError(f"{told}: there is no bucket {self.bucket}; make it, or correct BACKUP_URI.")
        if code in ("NoSuchKey", "NoSuchUpload", "NotFound", "404") or status == 404:
            return _Missing(f"{told}.")
        if code in ("PreconditionFailed", "412") or status == 412:
            return _Exists(f"{told}.")
        if code in ("ConditionalRequestConflict", "OperationAborted") or status == 409:
            return _Conflict(f"{told}: another writer is at the same key.")
        if code in ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"):
            return _Damaged(f"{told}: the bytes arrived damaged.")
        if code in _WRONG_CREDENTIALS:
            return StorageError(f"{told}: the credentials are wrong or have expired.")
        if code in ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"):
            return StorageError(f"{told}: this machine's clock and the store's differ; set the clock right.")
        if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
            return StorageError(
                f"{told}: it lies in an archive class such as Glacier. Have it restored there first (aws s3api"
                " restore-object), and launch again."
            )
        if code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException") or 300 <= status < 400:
            return StorageError(f"{told}: the bucket is elsewhere. {_REDIRECTED}")
        if status in (401, 403) or code in ("AccessDenied", "Forbidden", "AllAccessDisabled"):
            return _Denied(
                f"{told}: access denied. The credentials need s3:ListBucket, s3:GetObject, s3:PutObject,"
                " s3:DeleteObject and s3:AbortMultipartUpload here, and the use of the KMS key where one is set."
            )
        if code.startswith("KMS."):
            return StorageError(f"{told}: the key in S3_KMS_KEY_ID can't be used.")
        if status in (400, 405, 501):
            return _Unknown(f"{told}.")
        return StorageError(f"{told}. What was there before is still there; launch again.")


@lru_cache(8)
def _client(o: S3Options) -> Any:
    """One client for all that is opened with the same options: making one takes half a second."""
    import boto3
    from botocore.config import Config

    style = o.addressing_style or ("path" if o.endpoint_url else "auto")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": o.max_attempts},
        connect_timeout=CONNECT_SECONDS, read_timeout=o.read_seconds, max_pool_connections=THREADS + 2,
        s3={"addressing_style": style}, tcp_keepalive=True,
        # Stores other than AWS' refuse the checksum trailers that boto3 sends unasked; bodies go with their MD5.
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )  # fmt: skip
    session = boto3.Session(
        aws_access_key_id=o.access_key_id, aws_secret_access_key=o.secret_access_key,
        aws_session_token=o.session_token, profile_name=o.profile,
        region_name=o.region or ("us-east-1" if o.endpoint_url else None),
    )  # fmt: skip
    return session.client("s3", endpoint_url=o.endpoint_url, config=config)


_WRONG_CREDENTIALS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
    "TokenRefreshRequired", "AuthFailure",
)  # fmt: skip
_REDIRECTED = (
    "AWS_REGION must be the bucket's region, and S3_ENDPOINT_URL the store's own address, with https where it has that."
)


def _setup(error: Any) -> str:
    name = type(error).__name__
    known = {
        "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE,"
        " or give the machine a role",
        "PartialCredentialsError": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set",
        "ProfileNotFound": "AWS_PROFILE names no profile of this user",
        "NoRegionError": "AWS_REGION is not set",
    }
    return known.get(name, name)


class _Missing(StorageError): ...


class _Exists(StorageError): ...


class _Conflict(StorageError): ...


class _Damaged(StorageError): ...


class _Denied(StorageError): ...


class _Unknown(StorageError): ...


class _Unreachable(StorageError): ...


class _Body:
    """A response body whose breaks are Broken."""

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
        """What was not committed goes. A failure here leaves an object without a manifest, which never counts."""
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
        with self._storage.told(f"take {self._where} away again"):
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
        # The oldest that is still on its way is waited for; one that failed raises here.
        for part in self._parts[-THREADS - 1 : len(self._parts) - allowed]:
            part.result()
        self._parts.append(self._pool.submit(self._part, len(self._parts) + 1, data))
        if len(data) > LARGEST_BESIDE:
            self._parts[-1].result()

    def _begin(self) -> str:
        with self._storage.told(f"begin the upload of {self._where}"):
            answer = self._storage.client.create_multipart_upload(
                Bucket=self._storage.bucket, Key=self._key, Metadata={MARK: self._mark}, **self._storage.protection
            )
        return str(answer["UploadId"])

    def _part(self, number: int, data: bytes | bytearray) -> dict[str, Any]:
        def send() -> Any:
            with self._storage.told(f"upload part {number} of {self._where}"):
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
        with self._storage.told(f"write {self._where}"):
            return self._storage.client.put_object(
                Bucket=self._storage.bucket, Key=self._key, Body=data, ContentMD5=_md5(data),
                Metadata={MARK: self._mark}, **self._storage.protection, **only,
            )  # fmt: skip

    def _completed(self, parts: list[dict[str, Any]], only: dict[str, str]) -> Any:
        with self._storage.told(f"complete the upload of {self._where}"):
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
