"""Seals older backups: those made before there was a key, and those sealed by a key that is to be given up.

A backup is sealed only after its file was read whole, in every store that has it, and matches its manifest (an archive
row by row), as `verify` reads them; an encrypted file is decrypted to its end. No stored file is changed: the sealed
backups are named in a new list, `seals/seals_<time>.json`, with the SHA-256 of each manifest. Backups that were
altered, that another installation's key sealed or that don't open are left alone, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib.metadata import version
from zoneinfo import ZoneInfo

from saju_ops.errors import OperatorError, ProofFailed, Refused, shown
from saju_ops.storage.manifest import stamp
from saju_ops.storage.open import AlreadyThere, Storage
from saju_ops.storage.seal import LISTS, Checked, Unsealed, look, read_bounded, require_seal, write_sealed
from saju_ops.upkeep.verify import any_manifest_of, manifests_in, read_back
from saju_ops.words import counted, were

# Manifests in one list: some 15 MB.
MOST_IN_A_LIST = 100_000


@dataclass
class SealResult:
    dry_run: bool
    # The id of the key that seals.
    key: str
    # Manifests that it sealed already, and those that are sealed now, or would be: each with a remark.
    before: int = 0
    sealed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    bytes_read: int = 0

    def sentences(self) -> list[str]:
        verb = "would be read and sealed" if self.dry_run else "read whole and sealed"
        lines = [f"{verb}: {name}{remark}" for name, remark in self.sealed.items()]
        lines += [f"NOT SEALED: {problem}" for problem in self.problems]
        lines.append(
            f"{counted(len(self.sealed), 'manifest')} {verb} by the key {self.key}; {self.before} had its seal already;"
            f" {len(self.problems)} {were(len(self.problems))} left."
        )
        lines += [f"The list is {name}." for name in self.lists]
        return [shown(line) for line in lines]


def seal(
    storage: Storage, *, now: datetime, zone: ZoneInfo, dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> SealResult:  # fmt: skip
    """Raises Refused where no key is set, StorageError for a store that can't be listed or written."""
    if not storage.seals:
        raise Refused(
            "Neither BACKUP_SEAL_KEY nor ARCHIVE_PASSWORD is set, so there is no key to seal with. Nothing was read;"
            " set one of them (`openssl rand -hex 32` makes a key)."
        )
    result = SealResult(dry_run, storage.seals.keys[0].id)
    stores = list(storage.copies())
    names = [set(manifests_in(store.names(""))) for store in stores]
    digests: dict[str, str] = {}
    for name in sorted(set().union(*names)):
        having = [store for store, there in zip(stores, names, strict=True) if name in there]
        try:
            digest = _sealable(having, name, result)
        except OperatorError as error:
            result.problems.append(str(error))
        except OSError as error:
            result.problems.append(f"{storage.location(name)} can't be read ({error.strerror or type(error).__name__})")
        else:
            if digest is not None:
                digests[name] = digest
                say(f"Read: {name}")
    if not dry_run:
        result.lists = [storage.location(name) for name in _write(storage, digests, now, zone)]
    return result


def _sealable(stores: Sequence[Storage], name: str, result: SealResult) -> str | None:
    """The SHA-256 of a manifest that is to be sealed and was proven; None where the first key sealed it already, in
    every store. Raises OperatorError, OSError."""
    found = [(store, data, look(data, name, store)) for store in stores for data in [read_bounded(store, name)]]
    if all(checked.key == result.key for _, _, checked in found):
        result.before += 1
        return None
    (digest, *others) = {sha256(data).hexdigest() for _, data, _ in found}
    if others:
        raise ProofFailed(f"{name} differs between the two stores.")
    remark = ""
    for store, data, checked in found:
        remark = _prove(store, data, name, checked, result)
    result.sealed[name] = remark
    return digest


def _prove(store: Storage, data: bytes, name: str, checked: Checked, result: SealResult) -> str:
    """Remarks about a backup that matches its manifest. Raises OperatorError, OSError."""
    if checked.state == "foreign" and not store.seals.accepts(name):
        require_seal(data, name, store)  # which says what to do
    # Its own SHA-256 too: without a key it is all that a manifest says of itself.
    manifest = any_manifest_of(require_seal(data, name), name)
    if not result.dry_run:
        if not read_back(store, manifest, decrypt=True):
            raise Unsealed(
                f"{store.location(manifest.file)} is intact, but encrypted with another password than ARCHIVE_PASSWORD"
                " holds now, so what is in it can't be proven. Run this once more with the password that opens it, and"
                " BACKUP_SEAL_KEY set."
            )
        result.bytes_read += manifest.stored_bytes
    return " (NOT ENCRYPTED)" if manifest.encryption == "none" and store.password else ""


def _write(storage: Storage, digests: dict[str, str], now: datetime, zone: ZoneInfo) -> Iterator[str]:
    names = list(digests)
    for start in range(0, len(names), MOST_IN_A_LIST):
        part = {name: digests[name] for name in names[start : start + MOST_IN_A_LIST]}
        content = {
            "kind": "seals", "format": 1, "created_at": now.astimezone(UTC).isoformat(timespec="seconds"),
            "tool": f"saju_ops {version('saju-ops')}", "sealed": part,
        }  # fmt: skip
        yield _written(storage, content, now, zone)
    storage.seals.forget_lists()


def _written(storage: Storage, content: dict[str, object], now: datetime, zone: ZoneInfo) -> str:
    """Under the first second from now on that names no list yet."""
    while True:
        name = f"{LISTS}seals_{stamp(now, zone)}.json"
        try:
            write_sealed(storage, name, content, indent=None)
        except AlreadyThere:
            now += timedelta(seconds=1)
        else:
            return name
