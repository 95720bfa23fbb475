"""The manifest: the content of an archive file and its proof. It is written last; without it there is no archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from saju_ops.errors import ProofFailed, Refused, shown
from saju_ops.rows.csvfile import ENCRYPTED_SUFFIX, LARGEST_BLOCK, Compression, Packing
from saju_ops.rows.days import Day
from saju_ops.rows.digest import ALGORITHM, Digest
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.pieces import ALGORITHM as PIECES
from saju_ops.rows.pieces import Pieces
from saju_ops.rows.table import Column, Encoding
from saju_ops.storage import folders
from saju_ops.storage.encryption import METHOD
from saju_ops.storage.manifest_fields import (
    LATEST,
    STRICT,
    Bound,
    DayText,
    Hex,
    Instant,
    Name,
    Sha256,
    Size,
    Text,
    dataclass_of,
    validated,
)
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import parsed, read_sealed, sealed, write_sealed

FORMAT = 1
DAY_ARCHIVE = "conversation_log_archive"
FOLDER = folders.CONVERSATION_LOGS.rstrip("/")
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
    kind: Text
    format: int
    file: Name
    part: Annotated[int, Field(ge=1, le=1_000_000)]
    compression: Compression
    engine: Text
    server_version: Text
    database: Text
    table: Text
    day: DayText
    timezone: Text
    window_start_utc: Bound
    window_end_utc: Bound
    columns: list[dict[str, Any]]
    key: Annotated[list[Text], Field(min_length=1, max_length=64)]
    rows: Size
    first_key: list[str | None]
    last_key: list[str | None]
    digest_algorithm: Text
    digest: Hex
    # What the database held for the whole day when this part was made. The same again means: nothing new.
    day_rows: Size
    day_digest: Hex
    content_sha256: Sha256
    content_bytes: Size
    stored_sha256: Sha256
    stored_bytes: Size
    largest_block: Annotated[int, Field(ge=1, le=LARGEST_BLOCK)]
    tool: Text
    run_id: Text
    created_at: Instant
    # How the file is encrypted; archives of the first version say nothing of it.
    encryption: Text = "none"
    # Where the digest is one of pieces (saju_ops.rows.pieces): of each its rows, keys and SHA-256.
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


def parse_manifest(data: bytes, name: str, kind: str = DAY_ARCHIVE) -> Manifest:
    """Raises ProofFailed unless it is a whole manifest in a format that this version knows. Its seal is not checked:
    manifests in a store are read by `read_day_manifest`."""
    return manifest_of(parsed(data, shown(name)), name, kind)


def manifest_of(raw: Mapping[str, Any], name: str, kind: str = DAY_ARCHIVE) -> Manifest:
    """A manifest whose seal has been checked. Raises ProofFailed."""
    where = shown(name)
    manifest = dataclass_of(Manifest, raw, where)
    validated(_Parts, raw, where)
    valid = manifest.kind == kind and manifest.format == FORMAT
    valid = valid and manifest.digest_algorithm in (ALGORITHM, PIECES) and manifest.encryption in ("none", METHOD)
    if valid:
        names = [c["name"] for c in manifest.columns]
        content = manifest.content_digest
        # Key, digests and pieces agree with each other.
        valid = len({*names}) == len(names) and {*manifest.key} <= {*names}
        valid = valid and (content.rows, content.hex) == (manifest.rows, manifest.digest)
    if not valid:
        raise ProofFailed(f"{where} is of a kind or format that this version doesn't know.")
    return manifest


class _Piece(TypedDict):
    rows: Size
    sha256: Sha256
    first_key: list[str]
    last_key: list[str]


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Column(TypedDict):
    name: Text
    type: Text
    encoding: Encoding
    framed: bool
    nullable: NotRequired[bool]
    generated: NotRequired[bool]
    family: NotRequired[Text]


@with_config(STRICT)
class _Parts(TypedDict, total=False):
    columns: Annotated[list[_Column], Field(min_length=1, max_length=10_000)]
    pieces: list[_Piece]
    extra: dict[str, Any]


def read_day_manifest(storage: Storage, name: str, *, untouched: bool = False) -> Manifest:
    """The manifest of a part of an archived day, under its own name. Raises ProofFailed; Unsealed if a key is set and
    no key of ours sealed it; with `untouched` also if it isn't as written. OSError, StorageError."""
    return day_manifest_of(read_sealed(storage, name, untouched=untouched), name)


def day_manifest_of(raw: Mapping[str, Any], name: str) -> Manifest:
    """A manifest whose seal has been checked, under its own name. Raises ProofFailed."""
    manifest = manifest_of(raw, name)
    base = f"{FOLDER}/{manifest.day[:4]}/{manifest.day[5:7]}/{PREFIX}{manifest.day.replace('-', '')}"
    base += "" if manifest.part == 1 else f".part{manifest.part}"
    if name != base + MANIFEST or not manifest.file.startswith(f"{base}."):
        raise ProofFailed(
            f"{shown(name)} describes part {manifest.part} of {manifest.day}, which its name doesn't say; what it"
            " describes counts as not archived. Nothing was changed; put the file back to its own name."
        )
    return manifest


def write_day_manifest(storage: Storage, name: str, manifest: Manifest) -> None:
    """Also that of purged rows. Raises AlreadyThere where the name exists."""
    write_sealed(storage, name, asdict(manifest))


def common_key(parts: Sequence[Manifest]) -> list[str]:
    """The columns that distinguish the rows of all these parts: the narrowest of their keys, since the table's key may
    have changed meanwhile (partitioning makes log_id to log_id, created_at)."""
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
    for name in (n for n in names if n.endswith(MANIFEST)):
        parts.append(read_day_manifest(storage, name))
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
        if file.startswith(PREFIX) and _is_day(stamp):
            yield stamp, name


def _is_day(stamp: str) -> bool:
    """Whether it is a day that a log can have, which no zone moves out of the calendar."""
    if not (len(stamp) == 8 and stamp.isascii() and stamp.isdigit() and "1970" <= stamp[:4] < f"{LATEST}"):
        return False
    try:
        date(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:]))
    except ValueError:
        return False
    return True


def data_name(day: Day, part: int, packing: Packing) -> str:
    return base_name(day, part) + packing.suffix


def packing_of(name: str, password: str | None) -> Packing:
    """How a file without a manifest is packed, as far as its name says."""
    return Packing("gzip" if name.endswith(".gz") else "none", name.endswith(ENCRYPTED_SUFFIX), password)


def timestamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")


def require_same_table(storage: Storage, day: Day, parts: Sequence[Manifest], store: RowStore) -> None:
    """Raises Refused where a part was made of another table or database: its rows prove nothing about this one."""
    table = store.table
    for part in parts:
        # Archives of earlier versions don't say in which schema their table was.
        schema = part.extra.get("schema") or table.found_in
        if (part.database, part.table, schema) != (table.database, table.name, table.found_in):
            theirs, mine = (f"{name}." if name else "" for name in (schema, table.found_in))
            raise Refused(
                f"{storage.uri} already holds {day} of {part.database}.{theirs}{part.table}, and this is"
                f" {table.database}.{mine}{table.name}."
                " Nothing was written or deleted; give each database a BACKUP_URI of its own."
            )
