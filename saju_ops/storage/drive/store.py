"""A Google Drive folder as storage: nested folders for names with slashes, resumable uploads, create-only.

A file is uploaded under a name that says it is unfinished, read back or compared by Drive's own SHA-256 of the whole,
and renamed at the commit. Drive lets two files have the same name. So the writer looks for the name before and after
renaming, and deletes its own file if it finds another; if two files have a name all the same, the oldest counts. A
broken upload continues where it broke; after 429 and 5xx it waits and tries again. Shared drives work; a service
account has no room of its own, so it needs one.

The address of an upload session lets anybody write: it is in no message and no log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, BinaryIO

from saju_ops.errors import shown
from saju_ops.storage.base import AlreadyThere, StorageError, require_name
from saju_ops.storage.drive.address import CONNECT_SECONDS, DriveOptions, parse_drive_uri
from saju_ops.storage.drive.client import (
    _IN_WORDS,
    _RATE_REASONS,
    ALL_DRIVES,
    FIELDS,
    SCOPES,
    TRIES,
    _Missing,
    _object,
    _quoted,
    _reasons,
    _size,
    _wait,
)
from saju_ops.storage.drive.writer import UNFINISHED, _DriveWriter
from saju_ops.storage.remote import Broken, ResumingReader, buffered
from saju_ops.storage.seal import NO_SEALS, Seals

FOLDER = "application/vnd.google-apps.folder"


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
                why = _refused(self.uri, response, what)
                if not again and response.status_code >= 500:
                    raise Broken(why)
            self.sleep(_wait(attempt, response))
        raise StorageError(f"Google Drive could not {what}: {why}, {TRIES} times. Launch again.")

    def ask(self, method: str, url: str, what: str, **options: Any) -> dict[str, Any]:
        """Sends a request and returns its answer, a JSON object. Raises StorageError."""
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
            raise StorageError(f"{self.uri} is no folder, or is in the trash; correct BACKUP_URI.")
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
                self.request("PATCH", f"/drive/v3/files/{file_id}", what, params=ALL_DRIVES, json={"trashed": True})

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


def _refused(uri: str, response: Any, what: str) -> str:
    """Why, where waiting may help. Raises StorageError where it doesn't."""
    status = response.status_code
    reasons = _reasons(response)
    shown = f"{status} {reasons[0]}" if reasons else str(status)
    if status in (408, 429) or status >= 500 or (status == 403 and _RATE_REASONS & set(reasons)):
        return shown
    failure = f"Google Drive could not {what} ({shown})"
    if status in (404, 410):
        raise _Missing(f"{failure}: is {uri} right, and shared with the service account as a content manager?")
    if "storageQuotaExceeded" in reasons or "teamDriveFileLimitExceeded" in reasons:
        raise StorageError(
            f"{failure}: there is no room. A service account has none of its own: use a folder of a shared drive."
        )
    for reason in filter(_IN_WORDS.get, reasons):
        raise StorageError(f"{failure}: {_IN_WORDS[reason]}")
    if status in (401, 403):
        raise StorageError(f"{failure}: access denied. Share the folder with the service account as a content manager.")
    raise StorageError(f"{failure}. What was there before is still there.")


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
