"""The files of jobs in S3: which names are theirs, and deleting them so that every answer is looked at.

Refuses a name that isn't plainly a key inside the configured bucket and prefix. delete_objects reports failures
inside a 200: a key counts as gone only if the answer says so, or says that there is none. After a request that
failed as a whole (no connection, no right, no bucket) no other is made.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from saju_ops.expired.s3_names import S3Names
from saju_ops.storage import folders
from saju_ops.storage.address import split_uri
from saju_ops.storage.s3.address import S3Options, parse_s3_uri

KEYS_PER_REQUEST = 1000
# S3's own limit, in bytes of UTF-8.
LONGEST_KEY = 1024
THREADS = 16
# Rows are locked while files go: an S3 that hangs must not hold them for minutes. Seconds.
CONNECT_TIMEOUT = 5
READ_TIMEOUT = 20
ATTEMPTS = 2
GONE = {"NoSuchKey", "NoSuchVersion", "NotFound", "404"}


class BadKey(ValueError):
    """Not a key of a job's file. The text says why, without the key."""


@dataclass(frozen=True)
class FilePlace:
    """Where the files of jobs are: JOBS_S3_BUCKET, JOBS_S3_PREFIX, JOBS_S3_ALL_VERSIONS; and how to get there."""

    bucket: str
    prefix: str = ""
    all_versions: bool = False
    options: S3Options = field(default_factory=S3Options)
    # Folders in which no file is a job's, whatever a row says: those of the backups, if they are in this bucket.
    backups: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The prefix with its slash: `jobs` must not take `jobs_private/` along."""
        return self.prefix.rstrip("/") + "/" if self.prefix.strip("/") else ""

    def key_of(self, stored: Any) -> str | None:
        """The key that a row names; None where it names none. Raises BadKey for anything unexpected."""
        if stored is None or stored == "":
            return None
        if not isinstance(stored, str):
            raise BadKey("its S3 key is no text")
        key = stored
        if "://" in key:
            own = f"s3://{self.bucket}/"
            if not key.startswith(own):
                raise BadKey("its S3 key names another place than the bucket of JOBS_S3_BUCKET")
            key = key.removeprefix(own)
        if not key or key.startswith("/") or key.endswith("/"):
            raise BadKey("its S3 key is empty or begins or ends with a slash")
        if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in key):
            raise BadKey("its S3 key holds a control character")
        if len(key.encode()) > LONGEST_KEY:
            raise BadKey(f"its S3 key is longer than {LONGEST_KEY} bytes")
        if _climbs(key):
            raise BadKey("its S3 key holds . or .. as a folder")
        if not key.startswith(self.folder):
            raise BadKey("its S3 key is outside JOBS_S3_PREFIX")
        if key.startswith(self.backups):
            raise BadKey("its S3 key is among the backups of BACKUP_URI")
        return key

    @property
    def names(self) -> S3Names:
        return S3Names(self.bucket, self.options.endpoint_url or "", self.folder)

    def spellings(self, key: str) -> tuple[str, ...]:
        """The ways in which rows name the same file as a rule; `names` reads the others."""
        forms = dict.fromkeys([key, *(unicodedata.normalize(form, key) for form in ("NFC", "NFD"))])
        return tuple(spelled for k in forms for spelled in (k, f"/{k}", f"s3://{self.bucket}/{k}"))


def backup_folders(backup_uri: str, bucket: str) -> tuple[str, ...]:
    """The folders of the backups that are in this bucket."""
    places = [parse_s3_uri(each) for each in split_uri(backup_uri) if each.startswith("s3://")]
    return tuple(
        f"{prefix}/{folder}" if prefix else folder
        for own, prefix in places if own == bucket for folder in folders.ALL
    )  # fmt: skip


def _climbs(key: str) -> bool:
    """Whether a folder in it is `.` or `..`, also as a proxy that decodes names might read it."""
    decoded = unquote(unquote(key)).replace("\\", "/")
    return any(part in (".", "..") for part in decoded.split("/"))


@dataclass
class Deletion:
    gone: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


class JobFiles:
    """One bucket's client, made when it is first needed. `connect` makes it."""

    def __init__(self, place: FilePlace, connect: Callable[[FilePlace], Any] | None = None) -> None:
        self.place = place
        self._connect = connect or connect_s3
        self._client: Any = None
        # Why no further request is made.
        self.down: str | None = None

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = self._connect(self.place)
        return self._client

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Bytes of each file that is there; a file of unknown size is left out. Reads only."""
        with ThreadPoolExecutor(THREADS) as pool:
            client = self.client
            found = pool.map(lambda key: (key, self._size(client, key)), keys)
            return {key: size for key, size in found if size is not None}

    def _size(self, client: Any, key: str) -> int | None:
        try:
            return int(client.head_object(Bucket=self.place.bucket, Key=key)["ContentLength"])
        except Exception:
            return None

    def versions(self, keys: Collection[str]) -> dict[str, list[str]]:
        """Every version and delete marker of each key, with all_versions. Reads only; raises on failure."""
        if not self.place.all_versions or self.down:
            return {}
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                client = self.client
                return dict(pool.map(lambda key: (key, self._versions(client, key)), keys))
        except Exception as error:
            self.down = error_name(error)
            return {}

    def _versions(self, client: Any, key: str) -> list[str]:
        found: list[str] = []
        pages = client.get_paginator("list_object_versions").paginate(Bucket=self.place.bucket, Prefix=key)
        for page in pages:
            listed = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            found += [v["VersionId"] for v in listed if v["Key"] == key]
            # Keys come in order, and those that only begin with this one come after it.
            if any(v["Key"] != key for v in listed):
                break
        return found

    def delete(self, keys: Iterable[str], versions: Mapping[str, Sequence[str]]) -> Deletion:
        """Deletes the files; with all_versions those versions of them that were listed before."""
        result = Deletion()
        objects: list[dict[str, str]] = []
        for key in sorted(keys):
            if not self.place.all_versions:
                objects.append({"Key": key})
            elif key in versions:
                objects += [{"Key": key, "VersionId": v} for v in versions[key]]
                result.gone.add(key)
            else:
                result.failed[key] = self.down or "its versions could not be listed"
        for start in range(0, len(objects), KEYS_PER_REQUEST):
            self._request(objects[start : start + KEYS_PER_REQUEST], result)
        result.gone -= result.failed.keys()
        return result

    def _request(self, objects: list[dict[str, str]], result: Deletion) -> None:
        if self.down is None:
            try:
                answer = self.client.delete_objects(
                    Bucket=self.place.bucket, Delete={"Objects": objects, "Quiet": False}
                )
            except Exception as error:
                self.down = error_name(error)
        if self.down is not None:
            result.failed |= dict.fromkeys((o["Key"] for o in objects), f"S3 can't be used ({self.down})")
            return
        answered = {(d.get("Key"), d.get("VersionId")) for d in answer.get("Deleted", ())}
        errors = {(e.get("Key"), e.get("VersionId")): e.get("Code") or "unknown" for e in answer.get("Errors", ())}
        for each in objects:
            name = each["Key"], each.get("VersionId")
            code = errors.get(name) or errors.get((each["Key"], None))
            if code is not None and code not in GONE:
                result.failed[each["Key"]] = f"S3 did not delete a file ({code})"
            elif code is None and name not in answered and (name[1] or (name[0] not in {k for k, _ in answered})):
                result.failed[each["Key"]] = "S3 did not say that a file was deleted"
            else:
                result.gone.add(each["Key"])


def connect_s3(place: FilePlace) -> Any:
    import boto3
    from botocore.config import Config

    o = place.options
    config = Config(
        connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, max_pool_connections=THREADS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        # Many compatible stores don't know the checksums that newer clients add to everything.
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
        s3={"addressing_style": o.addressing_style or ("path" if o.endpoint_url else "auto")},
    )  # fmt: skip
    session = boto3.Session(
        aws_access_key_id=o.access_key_id, aws_secret_access_key=o.secret_access_key,
        aws_session_token=o.session_token, profile_name=o.profile, region_name=o.region,
    )  # fmt: skip
    region = session.region_name or ("us-east-1" if o.endpoint_url else None)
    return session.client("s3", endpoint_url=o.endpoint_url, region_name=region, config=config)


def error_name(error: BaseException) -> str:
    """What went wrong, without addresses or names of files."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code or type(error).__name__)
