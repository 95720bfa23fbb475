"""A Google Drive folder as storage: nested folders for names with slashes, resumable uploads, create-only.

Promises: a file is uploaded under a name that says it is unfinished, read back or compared by Drive's own SHA-256
of the whole, and renamed at the commit. Drive lets two files have one name: so it is looked for before and after
the renaming, and a writer that finds another takes its own away; of two all the same, the oldest has it. An upload
goes on where it broke; 429 and 5xx are waited out. Shared drives work; a service account has no room of its own, so
it needs one.

The address of an upload session lets anybody write: it is in no message and no log.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from saju_ops.errors import shown
from saju_ops.storage.base import AlreadyThere, StorageError, require_name
from saju_ops.storage.remote import Broken, ResumingReader, Written, buffered
from saju_ops.storage.seal import NO_SEALS, Seals

API_URL = "https://www.googleapis.com"
SCOPES = ("https://www.googleapis.com/auth/drive",)
FOLDER = "application/vnd.google-apps.folder"
UNFINISHED = ".unfinished"
# Bytes of one request of an upload: a multiple of 256 KiB, as Drive asks.
CHUNK = 16 << 20
TRIES = 7
LONGEST_WAIT = 32.0
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
FIELDS = "id,name,mimeType,size,createdTime,sha256Checksum"
ALL_DRIVES = {"supportsAllDrives": "true"}

_URI = re.compile(r"gdrive://(?P<folder>[A-Za-z0-9_-]{5,})/?")
# 403s that pass when waited out, as Drive's error guide lists them.
_RATE_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "sharingRateLimitExceeded"}
# 403s that have nothing to do with who may use the folder.
_IN_WORDS = {
    "accessNotConfigured": "the Google Drive API is not enabled in the project that the service account belongs to;"
    " enable it in the Google Cloud console.",
    "dailyLimitExceeded": "the project has used up its requests of today; launch again tomorrow, or have the quota"
    " raised.",
    "numChildrenInNonRootLimitExceeded": "the folder holds as many files as Drive allows; use another one.",
    "cannotDownloadAbusiveFile": "Drive takes the file for malware. Its owner can still download it in the browser;"
    " put it with its manifest into a local folder, and name that in BACKUP_URI.",
}


@dataclass(frozen=True)
class DriveOptions:
    # Path of a service account's key; empty means what the machine offers (Application Default Credentials).
    credentials_file: str | None = None
    api_url: str = API_URL
    chunk_bytes: int = CHUNK
    read_seconds: float = READ_SECONDS


def parse_drive_uri(uri: str) -> str:
    """The folder's id. Raises StorageError."""
    found = _URI.fullmatch(uri)
    if not found:
        raise StorageError(f"{uri!r} is not an address like gdrive://<folder id>.")
    return found["folder"]


class DriveStorage:
    def __init__(
        self,
        uri: str,
        options: DriveOptions | None = None,
        password: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seals: Seals = NO_SEALS,
    ) -> None:
        self.root = parse_drive_uri(uri)
        self.options = options or DriveOptions()
        self.password = password
        self.seals = seals
        self.sleep = sleep
        self._folders: dict[tuple[str, ...], str] = {}
        self._credentials: Any = None

    @property
    def uri(self) -> str:
        return f"gdrive://{self.root}"

    def location(self, name: str) -> str:
        return shown(f"{self.uri}/{'/'.join(require_name(name))}")

    # --- requests ------------------------------------------------------------------------------------------

    @cached_property
    def session(self) -> Any:
        try:
            import google.auth
            import requests
            from google.auth.exceptions import GoogleAuthError
            from google.oauth2.service_account import Credentials
        except ImportError:
            raise StorageError(
                "Google Drive needs packages that are not installed: `pip install 'saju-ops[gdrive]'` installs them."
            ) from None
        path = self.options.credentials_file
        try:
            if path:
                self._credentials = Credentials.from_service_account_file(path, scopes=SCOPES)
            else:
                self._credentials, _ = google.auth.default(scopes=SCOPES)
        except (GoogleAuthError, OSError, ValueError) as error:
            raise StorageError(
                "There are no usable credentials for Google Drive; GOOGLE_APPLICATION_CREDENTIALS must name the key"
                f" file of a service account ({type(error).__name__})."
            ) from None
        return requests.Session()

    def _authorized(self, headers: dict[str, str]) -> dict[str, str]:
        """With a token that is valid for some minutes more.

        Not by google-auth's AuthorizedSession: that asks another of Google's hosts, in a thread of its own, for
        regions that Drive doesn't have.
        """
        import google.auth.transport.requests

        if not self._credentials.valid:
            self._credentials.refresh(google.auth.transport.requests.Request())
        return {**headers, "Authorization": f"Bearer {self._credentials.token}"}

    def request(self, method: str, url: str, what: str, *, again: bool = True, **options: Any) -> Any:
        """A request, repeated while it makes sense. Raises StorageError; _Missing for a 404.

        `again` false for a request that must not be repeated blindly: it raises Broken instead.
        """
        why = ""
        for attempt in range(TRIES):
            try:
                response = self._send(method, url, **options)
            except Broken as error:
                if not again:
                    raise
                response, why = None, str(error)
            if response is not None:
                if response.status_code < 400:
                    return response
                why = self._refused(response, what)
                if not again and response.status_code >= 500:
                    raise Broken(why)
            self.sleep(_wait(attempt, response))
        raise StorageError(f"Google Drive could not {what}: {why}, {TRIES} times. Launch again.")

    def ask(self, method: str, url: str, what: str, **options: Any) -> dict[str, Any]:
        """A request whose answer is a JSON object. Raises StorageError."""
        return _object(self.request(method, url, what, **options), what)

    def _send(self, method: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
        import requests
        from google.auth.exceptions import RefreshError, TransportError

        if url.startswith("/"):
            url = self.options.api_url.rstrip("/") + url
        options |= {"timeout": (CONNECT_SECONDS, self.options.read_seconds), "allow_redirects": False}
        session = self.session
        try:
            answer = session.request(method, url, headers=self._authorized(headers or {}), **options)
            if answer.status_code == 401:
                # The token was taken back before its time.
                self._credentials.token = None
                answer = session.request(method, url, headers=self._authorized(headers or {}), **options)
            return answer
        except RefreshError as error:
            if error.retryable:
                raise Broken("the token server could not be reached") from None
            raise StorageError(
                "Google refuses the credentials that GOOGLE_APPLICATION_CREDENTIALS names; is the key still valid?"
            ) from None
        except (requests.RequestException, TransportError, OSError) as error:
            # Its text may hold the address of an upload session.
            raise Broken(type(error).__name__) from None

    def _refused(self, response: Any, what: str) -> str:
        """Why, where waiting may help. Raises StorageError where it doesn't."""
        status = response.status_code
        reasons = _reasons(response)
        shown = f"{status} {reasons[0]}" if reasons else str(status)
        if status in (408, 429) or status >= 500 or (status == 403 and _RATE_REASONS & set(reasons)):
            return shown
        told = f"Google Drive could not {what} ({shown})"
        if status in (404, 410):
            raise _Missing(f"{told}: is {self.uri} right, and shared with the service account as a content manager?")
        if "storageQuotaExceeded" in reasons or "teamDriveFileLimitExceeded" in reasons:
            raise StorageError(
                f"{told}: there is no room. A service account has none of its own: use a folder of a shared drive."
            )
        for reason in filter(_IN_WORDS.get, reasons):
            raise StorageError(f"{told}: {_IN_WORDS[reason]}")
        if status in (401, 403):
            raise StorageError(
                f"{told}: access denied. Share the folder with the service account as a content manager."
            )
        raise StorageError(f"{told}. What was there before is still there.")

    # --- files and folders ---------------------------------------------------------------------------------

    def _list(self, query: str) -> Iterator[dict[str, Any]]:
        """Oldest first; of two of one age the one with the lower id, for every writer alike."""
        token, found = None, []
        while True:
            parameters = {
                "q": f"{query} and trashed = false", "fields": f"nextPageToken,incompleteSearch,files({FIELDS})",
                "pageSize": "1000", "includeItemsFromAllDrives": "true", **ALL_DRIVES, **self._corpus,
            }  # fmt: skip
            if token:
                parameters["pageToken"] = token
            page = self.ask("GET", "/drive/v3/files", f"list {self.uri}", params=parameters)
            if page.get("incompleteSearch"):
                raise StorageError(f"Google Drive lists {self.uri} incompletely. Nothing relies on it; launch again.")
            found += page.get("files", [])
            token = page.get("nextPageToken")
            if not token:
                break
        yield from sorted(found, key=lambda f: (f["createdTime"], f["id"]))

    @cached_property
    def _corpus(self) -> dict[str, str]:
        """Where to search: in the shared drive that the folder belongs to, if it belongs to one."""
        parameters = {"fields": "id,driveId,mimeType,trashed", **ALL_DRIVES}
        folder = self.ask("GET", f"/drive/v3/files/{self.root}", f"find {self.uri}", params=parameters)
        if folder.get("mimeType") != FOLDER or folder.get("trashed"):
            raise StorageError(f"{self.uri} is no folder, or lies in the trash; correct BACKUP_URI.")
        drive = folder.get("driveId")
        return {"corpora": "drive", "driveId": drive} if drive else {"corpora": "user"}

    def _named(self, parent: str, name: str, *, folders: bool) -> list[dict[str, Any]]:
        sign = "=" if folders else "!="
        query = f"'{parent}' in parents and name = '{_quoted(name)}' and mimeType {sign} '{FOLDER}'"
        # Drive compares without regard to case.
        return [f for f in self._list(query) if f["name"] == name]

    def _folder_ids(self, parts: tuple[str, ...]) -> list[str]:
        """Every folder of this path: there may be several of one name."""
        found = [self.root]
        for part in parts:
            found = [f["id"] for parent in found for f in self._named(parent, part, folders=True)]
        return found

    def _folder(self, parts: tuple[str, ...]) -> str:
        """The oldest folder of this path, made if there is none."""
        if not parts:
            return self.root
        if parts not in self._folders:
            parent = self._folder(parts[:-1])
            found = self._named(parent, parts[-1], folders=True)
            self._folders[parts] = found[0]["id"] if found else self._make_folder(parent, parts[-1])
        return self._folders[parts]

    def _make_folder(self, parent: str, name: str) -> str:
        body = {"name": name, "parents": [parent], "mimeType": FOLDER}
        made = self.ask(
            "POST", "/drive/v3/files", f"make a folder in {self.uri}", json=body, params={"fields": "id", **ALL_DRIVES}
        )["id"]
        # Another writer may have made one at the same moment: all use the oldest, and an empty one more does no harm.
        found = self._named(parent, name, folders=True)
        return str(found[0]["id"] if found else made)

    def _find(self, name: str) -> dict[str, Any] | None:
        """The file that has the name: the oldest."""
        return min(self.all_of(name), key=lambda f: (f["createdTime"], f["id"]), default=None)

    def all_of(self, name: str) -> list[dict[str, Any]]:
        *folder, file = require_name(name)
        return [f for parent in self._folder_ids(tuple(folder)) for f in self._named(parent, file, folders=False)]

    def _found(self, name: str) -> dict[str, Any]:
        found = self._find(name)
        if found is None:
            raise FileNotFoundError(2, "No such file", self.location(name))
        return found

    # --- the interface -------------------------------------------------------------------------------------

    @contextmanager
    def create(self, name: str) -> Iterator[_DriveWriter]:
        if self._find(name):
            raise self.already_there(name)
        writer = _DriveWriter(self, name)
        try:
            yield writer
        finally:
            writer.close()

    def already_there(self, name: str) -> AlreadyThere:
        return AlreadyThere(f"{self.location(name)} exists and was not overwritten.")

    def open(self, name: str) -> BinaryIO:
        found = self._found(name)
        return self.open_id(found["id"], _size(found), self.location(name))

    def open_id(self, file_id: str, size: int, where: str) -> BinaryIO:
        def fetch(position: int) -> _Body:
            headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={position}-"} if position else {})}
            try:
                response = self.request(
                    "GET", f"/drive/v3/files/{file_id}", f"read {where}", again=False, headers=headers, stream=True,
                    params={"alt": "media", **ALL_DRIVES},
                )  # fmt: skip
            except _Missing:
                raise StorageError(f"{where} was taken away while it was read.") from None
            begins = response.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ").split("-")[0]
            if begins != str(position):
                response.close()
                raise StorageError(f"{where} can't be read on: Google Drive answered another part than was asked for.")
            return _Body(response)

        return buffered(ResumingReader(fetch, size, where, self.sleep))

    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    def size(self, name: str) -> int:
        return _size(self._found(name))

    def names(self, prefix: str) -> Iterator[str]:
        yield from sorted({n for n, _ in self._walk(prefix) if n.startswith(prefix) and not n.endswith(UNFINISHED)})

    def _walk(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and entry of every file in the folders that the prefix leads to."""
        *start, _ = prefix.split("/")
        waiting = [("/".join(start), each) for each in self._folder_ids(tuple(start))]
        while waiting:
            path, folder = waiting.pop()
            for entry in self._list(f"'{folder}' in parents"):
                name = f"{path}/{entry['name']}" if path else entry["name"]
                if entry["mimeType"] != FOLDER:
                    yield name, entry
                elif f"{name}/".startswith(prefix) or prefix.startswith(f"{name}/"):
                    waiting.append((name, entry["id"]))

    def clear_unfinished(self, prefix: str) -> int:
        folder, _, start = prefix.rpartition("/")
        removed = 0
        for name, entry in list(self._walk(f"{folder}/" if folder else "")):
            file = name.rpartition("/")[2]
            if name.rpartition("/")[0] == folder and file.startswith(f".{start}") and file.endswith(UNFINISHED):
                self.remove(entry["id"])
                removed += 1
        return removed

    def delete(self, name: str) -> None:
        for found in self.all_of(name):
            self.remove(found["id"])

    def remove(self, file_id: str) -> None:
        """For good where the account may, else to the trash. Missing is fine."""
        what = f"delete a file in {self.uri}"
        try:
            self.request("DELETE", f"/drive/v3/files/{file_id}", what, params=ALL_DRIVES)
        except _Missing:
            return
        except StorageError:
            # In a shared drive only managers delete for good.
            with suppress(_Missing):
                self.request(
                    "PATCH", f"/drive/v3/files/{file_id}", what, params=ALL_DRIVES, json={"trashed": True}
                )

    def complete(self, prefix: str) -> list[str]:
        return []

    def require_all(self) -> None:
        return

    def copies(self) -> tuple[DriveStorage]:
        return (self,)

    def remains(self) -> str:
        return "in a shared drive whose manager the account is not, deleted files lie in the trash for 30 days"

    def free_space(self) -> str:
        return ""


class _Missing(StorageError): ...


class _Body:
    def __init__(self, response: Any) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            # As it comes over the wire: urllib3 raises where the body is shorter than was announced.
            return bytes(self._response.raw.read(size))
        except (HTTPError, OSError) as error:
            raise Broken(type(error).__name__) from None

    def close(self) -> None:
        with suppress(Exception):
            self._response.close()


class _DriveWriter:
    def __init__(self, storage: DriveStorage, name: str) -> None:
        self._storage, self._name = storage, name
        *folder, self._file = require_name(name)
        self._folder = tuple(folder)
        self._where = storage.location(name)
        self._written = Written(self._where)
        self._buffer = bytearray()
        # Bytes that Drive has confirmed.
        self._sent = 0
        self._session: str | None = None
        self._entry: dict[str, Any] | None = None
        self._committed = False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._written.add(view)
        self._buffer += view
        # One byte stays, so that the last request, which says the size, always has one unless the file is empty.
        while len(self._buffer) > self._storage.options.chunk_bytes:
            self._send(self._storage.options.chunk_bytes, last=False)
        return len(view)

    def read_back(self) -> BinaryIO:
        entry = self._finish()
        return self._written.proving(self._storage.open_id(entry["id"], int(entry["size"]), self._where))

    def commit(self) -> None:
        """Raises AlreadyThere where an older file has the name."""
        entry = self._finish()
        if not self._written.proven:
            self._prove(entry)
        if self._storage._find(self._name):
            raise self._storage.already_there(self._name)
        named = self._storage.ask(
            "PATCH", f"/drive/v3/files/{entry['id']}", f"give {self._where} its name",
            params={"fields": "id,name", **ALL_DRIVES}, json={"name": self._file},
        )  # fmt: skip
        if named.get("name") != self._file:
            raise StorageError(f"Google Drive gave {self._where} another name. It counts for nothing; launch again.")
        if any(each["id"] != entry["id"] for each in self._storage.all_of(self._name)):
            # Two at one moment may both step back; both staying would be two files of one name.
            raise self._storage.already_there(self._name)
        self._committed = True

    def _prove(self, entry: dict[str, Any]) -> None:
        """By Drive's SHA-256 of all that it stored; where it gives none, by reading back."""
        checksum = entry.get("sha256Checksum")
        if checksum:
            self._written.require(checksum, int(entry["size"]))
        else:
            self._written.prove(self._storage.open_id(entry["id"], int(entry["size"]), self._where))

    def close(self) -> None:
        if self._committed:
            return
        with suppress(StorageError, Broken):
            if self._entry is not None:
                self._storage.remove(self._entry["id"])
            elif self._session is not None:
                self._storage._send("DELETE", self._session)

    # --- the resumable upload ------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        while self._entry is None:
            self._send(len(self._buffer), last=True)
        return self._entry

    def _begin(self) -> str:
        body = {
            "name": f".{self._file}.{uuid.uuid4().hex}{UNFINISHED}", "parents": [self._storage._folder(self._folder)],
            "mimeType": "application/octet-stream",
        }  # fmt: skip
        answer = self._storage.request(
            "POST", "/upload/drive/v3/files", f"begin the upload of {self._where}",
            params={"uploadType": "resumable", "fields": FIELDS, **ALL_DRIVES}, json=body,
        )  # fmt: skip
        if "Location" not in answer.headers:
            raise _not_drive(answer, f"begin the upload of {self._where}")
        return str(answer.headers["Location"])

    def _send(self, size: int, *, last: bool) -> None:
        """Sends the first `size` bytes of the buffer, or what of them Drive doesn't have yet, until it has them."""
        self._session = self._session or self._begin()
        goal = self._sent + size
        total = str(goal) if last else "*"
        attempt, why, ask = 0, "", False
        while attempt < TRIES:
            before = self._sent
            try:
                # After a break it is asked first what of it arrived.
                data = b"" if ask else bytes(memoryview(self._buffer)[: goal - self._sent])
                self._take(self._put(data, total), goal)
                ask = False
            except Broken as error:
                why, ask = str(error), True
            if self._entry is not None or (self._sent == goal and not last):
                return
            if ask:
                self._storage.sleep(_wait(attempt, None))
            attempt = 0 if self._sent > before else attempt + 1
        raise StorageError(
            f"The upload of {self._where} broke off {TRIES} times at byte {self._sent} ({why}). It has no name and"
            " counts for nothing; launch again."
        )

    def _put(self, data: bytes, total: str) -> Any:
        """A piece of the file, or, without data, the question how much is there."""
        first, after = self._sent, self._sent + len(data)
        content = f"bytes {first}-{after - 1}/{total}" if data else f"bytes */{total}"
        # An empty file is sent without a range: there is none of no bytes.
        headers = {} if total == "0" else {"Content-Range": content}
        try:
            return self._storage.request(
                "PUT", self._session or "", f"upload {self._where}", again=False, data=data, headers=headers
            )
        except _Missing:
            raise StorageError(
                f"Google Drive has forgotten the upload of {self._where}. It has no name and counts for nothing; launch"
                " again."
            ) from None

    def _take(self, answer: Any, goal: int) -> None:
        """What Drive says that it has: goes out of the buffer."""
        if answer.status_code == 308:
            has = answer.headers.get("Range")
            arrived = int(has.rpartition("-")[2]) + 1 if has else 0
            if not self._sent <= arrived <= goal:
                raise StorageError(
                    f"Google Drive says that it has {arrived} bytes of {self._where}, and {self._sent} to {goal} were"
                    " possible. It has no name and counts for nothing; launch again."
                )
        else:
            entry = _object(answer, f"upload {self._where}")
            if int(entry.get("size", -1)) != goal:
                raise StorageError(f"{self._where} is {entry.get('size')} bytes in Google Drive, written were {goal}.")
            self._entry, arrived = entry, goal
        del self._buffer[: arrived - self._sent]
        self._sent = arrived


def _object(response: Any, what: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _not_drive(response, what)
    return found


def _not_drive(response: Any, what: str) -> StorageError:
    return StorageError(
        f"What was asked to {what} answers {response.status_code}, but not as Google Drive does; does a proxy or a"
        " login page stand in between?"
    )


def _size(entry: dict[str, Any]) -> int:
    """Google's own documents have none, and no bytes that could be read."""
    return int(entry.get("size", 0))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _reasons(response: Any) -> list[str]:
    try:
        error = json.loads(response.content)["error"]
        return [str(e["reason"]) for e in error["errors"]]
    except (ValueError, KeyError, TypeError):
        return []


def _wait(attempt: int, response: Any) -> float:
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), 120.0)
    return min(2.0**attempt + random.random(), LONGEST_WAIT)
