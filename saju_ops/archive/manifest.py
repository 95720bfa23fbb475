"""The manifest: what an archive file holds and how to prove it. It is written last; without it there is no archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from saju_ops.archive.csvfile import ENCRYPTED_SUFFIX, LARGEST_BLOCK, SUFFIX, Compression, Packing
from saju_ops.archive.digest import ALGORITHM, Digest
from saju_ops.archive.pieces import ALGORITHM as PIECES
from saju_ops.archive.pieces import Pieces
from saju_ops.archive.table import Column
from saju_ops.archive.window import Day
from saju_ops.errors import ProofFailed
from saju_ops.sealed import sealed
from saju_ops.storage import Storage
from saju_ops.storage.encryption import METHOD

FORMAT = 1
# Types of a manifest's fields, by how they are declared.
KINDS: dict[str, type] = {
    "str": str, "int": int, "list[str]": list, "list[str | None]": list, "list[dict[str, Any]]": list,
    "dict[str, Any]": dict,
}  # fmt: skip
FOLDER = "conversation_logs"
PREFIX = "conversation_log_backup_"
MANIFEST = ".manifest.json"


def base_name(day: Day, part: int) -> str:
    """The name of a part without its ending: the first has no part number."""
    suffix = "" if part == 1 else f".part{part}"
    return f"{FOLDER}/{day.date:%Y/%m}/{PREFIX}{day.stamp}{suffix}"


def manifest_name(day: Day, part: int) -> str:
    return f"{base_name(day, part)}.manifest.json"


@dataclass(frozen=True)
class Manifest:
    kind: str
    format: int
    file: str
    part: int
    compression: Compression
    engine: str
    server_version: str
    database: str
    table: str
    day: str
    timezone: str
    window_start_utc: str
    window_end_utc: str
    columns: list[dict[str, Any]]
    key: list[str]
    rows: int
    first_key: list[str | None]
    last_key: list[str | None]
    digest_algorithm: str
    digest: str
    # What the database held for the whole day when this part was made. The same again means: nothing new.
    day_rows: int
    day_digest: str
    content_sha256: str
    content_bytes: int
    stored_sha256: str
    stored_bytes: int
    largest_block: int
    tool: str
    run_id: str
    created_at: str
    # How the file is encrypted; archives of the first version say nothing of it.
    encryption: str = "none"
    # Where the digest is one of pieces (saju_ops.archive.pieces): of each its rows, keys and SHA-256.
    pieces: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def content_digest(self) -> Digest | Pieces:
        if self.digest_algorithm == PIECES:
            return Pieces.of(self.pieces)
        return Digest(self.rows, int(self.digest, 16))

    @property
    def cuts(self) -> list[int] | None:
        """The rows of each piece; None where the digest isn't one of pieces."""
        return [piece["rows"] for piece in self.pieces] if self.digest_algorithm == PIECES else None

    @property
    def day_state(self) -> Digest | Pieces:
        """What the database held for the whole day. Pieces are written for a day's first part alone, which is all."""
        if self.digest_algorithm == PIECES:
            return self.content_digest
        return Digest(self.day_rows, int(self.day_digest, 16))

    @property
    def table_columns(self) -> list[Column]:
        return [Column(**c) for c in self.columns]

    @property
    def key_columns(self) -> list[Column]:
        by_name = {c.name: c for c in self.table_columns}
        return [by_name[name] for name in self.key]

    def hashed_by(self, key: Sequence[str]) -> list[Column]:
        """The file's columns that make up another key; its own key's where it lacks one of them."""
        by_name = {c.name: c for c in self.table_columns}
        return [by_name[name] for name in key] if self.has_columns(key) else self.key_columns

    def has_columns(self, names: Sequence[str]) -> bool:
        return {*names} <= {c["name"] for c in self.columns}

    def packing(self, password: str | None) -> Packing:
        """How to read the file with the storage's password."""
        return Packing(self.compression, self.encryption != "none", password)

    def to_json(self) -> bytes:
        return sealed(asdict(self))


def parse_manifest(data: bytes, name: str, kind: str = "conversation_log_archive") -> Manifest:
    """Raises ProofFailed for anything that isn't a whole manifest of a format that this version knows."""
    try:
        raw = json.loads(data)
        known = {f.name for f in fields(Manifest)}
        manifest = Manifest(**{k: v for k, v in raw.items() if k in known})
        _require_types(manifest)
        valid = manifest.kind == kind and manifest.format == FORMAT
        valid = valid and manifest.digest_algorithm in (ALGORITHM, PIECES) and manifest.encryption in ("none", METHOD)
        content = manifest.content_digest
        valid = valid and (content.rows, content.hex) == (manifest.rows, manifest.digest)
        int(manifest.digest, 16), int(manifest.day_digest, 16), manifest.table_columns, manifest.key_columns
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ProofFailed(f"{name} is not a whole manifest; what it describes counts as not archived.") from None
    if not valid:
        raise ProofFailed(f"{name} is of a kind or format that this version doesn't know.")
    return manifest


def _require_types(manifest: Manifest) -> None:
    """Raises ValueError where a field isn't what it must be."""
    for each in fields(Manifest):
        value, kind = getattr(manifest, each.name), KINDS.get(str(each.type))
        if kind is not None and type(value) is not kind:
            raise ValueError(each.name)
    least = {"part": 1, "largest_block": 1}
    numbers = (each.name for each in fields(Manifest) if each.type == "int")
    if any(getattr(manifest, name) < least.get(name, 0) for name in numbers) or manifest.largest_block > LARGEST_BLOCK:
        raise ValueError("out of range")
    if manifest.compression not in SUFFIX or not manifest.key or not all(type(k) is str for k in manifest.key):
        raise ValueError("compression or key")


def common_key(parts: Sequence[Manifest]) -> list[str]:
    """What tells the rows of all these parts apart: the narrowest of their keys, since the table may have got another
    meanwhile (partitioning makes log_id to log_id, created_at)."""
    key = parts[-1].key
    for part in parts:
        key = part.key if {*part.key} < {*key} else key
    return key


@dataclass(frozen=True)
class DayFiles:
    """What the storage has of one day: proven parts, and data files that have no manifest."""

    parts: tuple[Manifest, ...]
    strays: tuple[str, ...]
    next_part: int


def day_files(storage: Storage, day: Day) -> DayFiles:
    prefix = base_name(day, 1)
    names = [n for n in storage.names(prefix) if n[len(prefix) :].startswith(".")]
    parts: list[Manifest] = []
    for name in (n for n in names if n.endswith(".manifest.json")):
        with storage.open(name) as stream:
            manifest = parse_manifest(stream.read(), name)
        beside = manifest.file.startswith(f"{base_name(day, manifest.part)}.")
        if (manifest.day, manifest_name(day, manifest.part), beside) != (str(day), name, True):
            raise ProofFailed(
                f"{name} describes part {manifest.part} of {manifest.day}, which its name doesn't say; what it"
                " describes counts as not archived. Nothing was changed; put the file back to its own name."
            )
        parts.append(manifest)
    parts.sort(key=lambda m: m.part)
    described = {m.file for m in parts}
    strays = tuple(n for n in names if not n.endswith(".manifest.json") and n not in described)
    taken = {m.part for m in parts} | {_part_number(n, prefix) for n in strays}
    return DayFiles(tuple(parts), strays, max(taken, default=0) + 1)


def _part_number(name: str, prefix: str) -> int:
    rest = name[len(prefix) + 1 :]
    if rest.startswith("part"):
        digits = rest[4:].split(".")[0]
        return int(digits) if digits.isdigit() else 1
    return 1


def archived_days(storage: Storage) -> Iterator[str]:
    """YYYYMMDD of every day that has a manifest, without reading any."""
    seen: set[str] = set()
    for stamp, name in _stamped(storage):
        if name.endswith(MANIFEST) and stamp not in seen:
            seen.add(stamp)
            yield stamp


def data_files(storage: Storage) -> Iterator[tuple[str, str]]:
    """YYYYMMDD and name of every file that holds rows, whether a manifest describes it or not."""
    return ((stamp, name) for stamp, name in _stamped(storage) if not name.endswith(MANIFEST))


def _stamped(storage: Storage) -> Iterator[tuple[str, str]]:
    for name in storage.names(f"{FOLDER}/"):
        file = name.rsplit("/", 1)[-1]
        stamp = file.removeprefix(PREFIX)[:8]
        if file.startswith(PREFIX) and stamp.isdigit():
            yield stamp, name


def data_name(day: Day, part: int, packing: Packing) -> str:
    return base_name(day, part) + packing.suffix


def packing_of(name: str, password: str | None) -> Packing:
    """How a file without a manifest is packed, as far as its name says."""
    return Packing("gzip" if name.endswith(".gz") else "none", name.endswith(ENCRYPTED_SUFFIX), password)


def timestamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")
