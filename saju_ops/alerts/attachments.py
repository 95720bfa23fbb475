"""From the settings to the channels, the outbox and the files that may follow a message."""

from __future__ import annotations

import base64
import io
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from saju_ops.alerts.deliver import FileContent
from saju_ops.alerts.outbox import FILE, Outbox, WaitingFile
from saju_ops.reports.message import Message

if TYPE_CHECKING:
    from saju_ops.settings.settings import Settings
    from saju_ops.storage.open import Storage

# Files that follow one message at most.
FILES = 10
PICTURE = -1
# How the names of files end that may be encrypted; whether they are is read in the file.
ENCRYPTED = (".zip", ".age")
AGE_HEADER = b"age-encryption.org/v1"


def open_outbox(folder: Path, now: datetime) -> Outbox:
    """The outbox in the folder. A file that is no longer a database is renamed, not deleted, and a new one begins: then
    only Dagster's own cursor knows which messages were sent."""
    path = folder / FILE
    try:
        return Outbox(path)
    except sqlite3.OperationalError:
        raise  # locked, full, not permitted: the file is sound
    except sqlite3.DatabaseError:
        # Its journal with it: SQLite would play that back into the new one.
        for each in (path, path.with_name(f"{FILE}-journal")):
            with suppress(FileNotFoundError):
                each.rename(each.with_name(f"{each.name}.broken-{now:%Y%m%dT%H%M%S}"))
        return Outbox(path)


@dataclass(frozen=True)
class Files:
    """Which files follow a message on a channel, and their content."""

    settings: Settings
    storage: Callable[[], Storage]

    def follow(self, channel: str, message: Message) -> Sequence[int]:
        if channel != "slack":
            return []
        pictures = [PICTURE] if message.picture else []
        if self.settings.slack_attach == "off":
            return pictures
        # One picture beyond the limit announces that there are more.
        return [*pictures, *range(min(len(message.files), FILES + 1))]

    def open(self, file: WaitingFile) -> FileContent:
        """The file itself, a line in its place, or nothing where it may not be sent."""
        message = file.message
        if file.number == PICTURE:
            name = f"{message.id.replace(':', '_')}.png"
            return FileContent(message.picture_title or name, name, base64.b64decode(message.picture))
        if file.number >= FILES:
            return FileContent(instead=f"📎 첨부하지 않은 파일 {len(message.files) - FILES}개가 더 있습니다.")
        return self._archive(message.files[file.number])

    def _archive(self, name: str) -> FileContent:
        if self.settings.slack_attach == "encrypted" and not name.endswith(ENCRYPTED):
            return FileContent()
        storage, limit = self.storage(), self.settings.slack_attach_max_mb
        try:
            size = storage.size(name)
            if size > limit * 1_000_000:
                large = f"{size / 1e6:,.1f} MB > {limit} MB"
                return FileContent(instead=f"📎 첨부 한도를 넘는 파일 ({large}): `{storage.location(name)}`")
            with storage.open(name) as stream:
                content = stream.read()
        except FileNotFoundError:
            return FileContent(instead=f"📎 파일이 더 이상 없습니다: `{storage.location(name)}`")
        if self.settings.slack_attach == "encrypted" and not is_encrypted(content):
            return FileContent()
        short = PurePosixPath(name).name
        return FileContent(short, short, content)


def is_encrypted(content: bytes) -> bool:
    """Whether nobody reads it without the password: an age file, or a zip of which every member is encrypted."""
    if content.startswith(AGE_HEADER):
        return True
    try:
        members = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, ValueError):
        return False
    return bool(members) and all(m.flag_bits & 1 for m in members)
