"""A file on its way to Google Drive, in chunks."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from saju_ops.storage.base import StorageError, require_name
from saju_ops.storage.drive.client import ALL_DRIVES, FIELDS, TRIES, _Missing, _not_drive, _object, _wait
from saju_ops.storage.remote import Broken, Written

if TYPE_CHECKING:
    from saju_ops.storage.drive.store import DriveStorage


UNFINISHED = ".unfinished"


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
        """Drops the bytes from the buffer that Drive says it has."""
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
