"""Reports as files under `reports/`: `slow_queries_20261001.csv`, by the day in TIMEZONE on which one was made.

Promises: a file has its name only whole, and is never written again: a second report of a day is
`slow_queries_20261001_2.csv`. With ARCHIVE_PASSWORD it is an encrypted zip file (`.csv.zip`). Where a key seals
manifests, a report has a sealed one too, written last, and a report without one is not believed when it is read back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256

from saju_ops.errors import ProofFailed
from saju_ops.storage import folders
from saju_ops.storage.base import AlreadyThere, Storage, StorageError
from saju_ops.storage.encryption import ENDING as ZIP
from saju_ops.storage.encryption import decrypting, encrypting
from saju_ops.storage.manifest import ENDING, manifest_name
from saju_ops.storage.seal import read_sealed, write_sealed

FOLDER = folders.REPORTS
# Bytes that a report has at most where one is read back.
LARGEST = 16 << 20
MOST_A_DAY = 1000
NAME = re.compile(
    r"reports/(?P<report>[a-z][a-z_]*)_(?P<day>\d{8})(?:_(?P<number>[1-9]\d{0,3}))?"
    rf"(?P<ending>\.csv(?:\{ZIP})?|{re.escape(ENDING)})"
)


@dataclass(frozen=True)
class StoredReport:
    file: str
    report: str
    day: date
    # Which one of its day; the first is 1.
    number: int
    encrypted: bool

    @property
    def manifest(self) -> str:
        return manifest_name(self.file)


def store_report(storage: Storage, report: str, day: date, data: bytes) -> StoredReport:
    """Raises StorageError, OSError."""
    for number in range(1, MOST_A_DAY + 1):
        stem = f"{FOLDER}{report}_{day:%Y%m%d}" + (f"_{number}" if number > 1 else "")
        file = f"{stem}.csv{ZIP if storage.password else ''}"
        if any(storage.exists(name) for name in (f"{stem}.csv", f"{stem}.csv{ZIP}", f"{stem}{ENDING}")):
            continue
        try:
            stored = _write(storage, file, data)
        except AlreadyThere:  # another run's, since we looked
            continue
        if storage.seals:
            described = {"kind": "report", "format": 1, "file": file, "stored_sha256": stored[0],
                         "stored_bytes": stored[1]}  # fmt: skip
            write_sealed(storage, manifest_name(file), described)
        return StoredReport(file, report, day, number, bool(storage.password))
    raise StorageError(f"There are {MOST_A_DAY} reports of {day} already under {storage.location(FOLDER[:-1])}.")


def _write(storage: Storage, file: str, data: bytes) -> tuple[str, int]:
    """SHA-256 and bytes of what is stored."""
    with storage.create(file) as writer:
        digest, size = sha256(), 0

        class Counted:
            def write(self, piece: bytes) -> None:
                nonlocal size
                digest.update(piece)
                size += len(piece)
                writer.write(piece)

        if storage.password:
            with encrypting(Counted(), storage.password, file.rpartition("/")[2].removesuffix(ZIP)) as zipped:
                zipped.write(data)
        else:
            Counted().write(data)
        writer.commit()
    return digest.hexdigest(), size


def stored_reports(storage: Storage, report: str = "") -> Iterator[StoredReport]:
    """Those that are there, by name; of one report, or of every. Raises StorageError."""
    for name in storage.names(FOLDER):
        if (found := report_of(name)) and report in ("", found.report):
            yield found


def report_of(name: str) -> StoredReport | None:
    """What a name in the store says; None for one that is no report's data file."""
    found = NAME.fullmatch(name)
    if found is None or found["ending"] == ENDING:
        return None
    try:
        day = date(int(found["day"][:4]), int(found["day"][4:6]), int(found["day"][6:]))
    except ValueError:
        return None
    return StoredReport(name, found["report"], day, int(found["number"] or 1), found["ending"].endswith(ZIP))


def read_report(storage: Storage, stored: StoredReport) -> bytes:
    """The CSV file's bytes. Raises ProofFailed for one that is too large or isn't what its manifest says; Unsealed
    where a key is set and none of ours sealed it; WrongPassword, FileNotFoundError, StorageError, OSError."""
    data = _bounded(storage, stored)
    if storage.seals or storage.exists(stored.manifest):
        said = read_sealed(storage, stored.manifest, untouched=True)
        if (said.get("file"), said.get("stored_sha256")) != (stored.file, sha256(data).hexdigest()):
            raise ProofFailed(f"{storage.location(stored.file)} is not the file that its manifest describes.")
    if not stored.encrypted:
        return data
    import io

    with decrypting(io.BytesIO(data), storage.password) as stream:
        plain = stream.read(LARGEST + 1)
    if len(plain) > LARGEST:
        raise ProofFailed(f"{storage.location(stored.file)} is larger than a report may be ({LARGEST:,} bytes).")
    return plain


def _bounded(storage: Storage, stored: StoredReport) -> bytes:
    with storage.open(stored.file) as stream:
        data = bytearray()
        while len(data) <= LARGEST and (piece := stream.read(1 << 20)):
            data += piece
    if len(data) > LARGEST:
        raise ProofFailed(f"{storage.location(stored.file)} is larger than a report may be ({LARGEST:,} bytes).")
    return bytes(data)
