"""The seal of a manifest, which must be right before anything in the manifest is believed.

Without a key a manifest carries its own SHA-256 (`manifest_sha256`). That finds a flipped bit, and nothing more: any
person who can write into the store can compute it.

With a key (BACKUP_SEAL_KEY, else ARCHIVE_PASSWORD) it also carries an HMAC-SHA256 (`manifest_seal`) over its content
and the name under which it is stored. Then a manifest is not believed if it has no such seal, if another key sealed it,
or if it was copied to another name. Older backups get their seal from `saju-ops seal`, which reads each whole and
writes a sealed list of their SHA-256s beside them: a stored manifest is never changed.

`read_sealed` is the one way to read a manifest, and everything else that a run reads back and acts on. It reads a
bounded number of bytes, and raises ProofFailed, naming the file, unless they are a JSON object, and Unsealed if it is
not sealed.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import scrypt, sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from saju_ops.errors import OperatorError, ProofFailed, shown
from saju_ops.storage import folders

if TYPE_CHECKING:
    from saju_ops.storage.base import Storage

SEAL = "manifest_sha256"
KEYED = "manifest_seal"
METHOD = "hmac-sha256"
# Where `saju-ops seal` puts its lists, and what their names look like.
LISTS = folders.SEALS
LIST_NAME = re.compile(LISTS + r"seals_\d{8}_\d{6}(_\d+)?\.json")
# Bytes of a manifest that are read at most, and brackets and commas in it: 64 MB of `[],[],…` would take 1.5 GB parsed.
LARGEST = 64 << 20
PIECE = 1 << 20
# What begins half of a character that JSON writes in two halves; both together are a whole one.
HALVES = re.compile(rb"\\u[dD]")
MOST_PARTS = 4_000_000
# The cost of trying one password: 16 MB of memory and some 50 ms, a thousand times the cost of a try at the zip.
COST = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 1 << 26}
# Nothing else is derived with it, so a seal says nothing of how a file is encrypted.
PURPOSE = b"saju_ops seal of backups, version 1"


class Unsealed(ProofFailed):
    """A key is set, and none of this installation's keys sealed the manifest."""


class Key(NamedTuple):
    # Names the key in a manifest; says nothing of it.
    id: str
    secret: bytes

    def mac(self, name: str, content: Mapping[str, Any]) -> str:
        return hmac.new(self.secret, name.encode() + b"\0" + _canonical(content), "sha256").hexdigest()


class Seals:
    """The keys of an installation: the first seals, all verify. Without any, manifests have their plain SHA-256.

    `accept` names backups that are believed although no key of this installation sealed them: by the name of their
    file or manifest, with or without its folder; "all" means every backup. An altered manifest is never accepted.
    """

    def __init__(self, secrets: Sequence[str] = (), accept: Collection[str] = ()) -> None:
        self._secrets = tuple(secrets)
        self._accept = frozenset(accept)
        # What the sealed lists of each store say: SHA-256 of manifests, and the id of the key, by name.
        self._lists: dict[str, dict[str, dict[str, str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def __repr__(self) -> str:
        return f"Seals({len(self._secrets)} keys)"

    @property
    def keys(self) -> list[Key]:
        return [derived(secret) for secret in self._secrets]

    def accepts(self, name: str) -> bool:
        return "all" in self._accept or any(_stem(name) == _stem(each) for each in self._accept)

    def listed(self, storage: Storage, name: str, data: bytes) -> str | None:
        """The id of the key by which a sealed list vouches for these very bytes under this name."""
        if storage.uri not in self._lists:
            self._lists[storage.uri] = {}  # a list is not looked for in a list
            try:
                self._lists[storage.uri] = _lists(storage)
            except BaseException:
                del self._lists[storage.uri]  # that they couldn't be listed doesn't mean that there is none
                raise
        known = self._lists[storage.uri].get(name)
        return known.get(sha256(data).hexdigest()) if known else None

    def forget_lists(self) -> None:
        """After a list was written."""
        self._lists.clear()


NO_SEALS = Seals()
State = Literal["keyed", "listed", "foreign", "unsealed"]


class Checked(NamedTuple):
    """A stored manifest, and the id of the key of ours that sealed it, if any did."""

    whole: dict[str, Any]
    state: State
    key: str | None

    @property
    def content(self) -> dict[str, Any]:
        return {k: v for k, v in self.whole.items() if k not in (SEAL, KEYED)}


@lru_cache(16)
def derived(secret: str) -> Key:
    """Once per process: deriving takes some 50 ms, and a store may hold thousands of manifests."""
    both = scrypt(secret.encode(), salt=PURPOSE, dklen=64, **COST)
    return Key(sha256(both[32:]).hexdigest()[:16], both[:32])


# --- writing -----------------------------------------------------------------------------------------------------


def sealed(content: Mapping[str, Any], name: str = "", seals: Seals = NO_SEALS, *, indent: int | None = 2) -> bytes:
    """The content as JSON, with its seals as the last entries. `name` is where it will be stored; without `indent` long
    content is written ten times as fast."""
    whole = {k: v for k, v in content.items() if k not in (SEAL, KEYED)}
    if seals:
        key = seals.keys[0]
        whole[KEYED] = {"method": METHOD, "key": key.id, "mac": key.mac(name, whole)}
    return (json.dumps({**whole, SEAL: _digest(whole)}, ensure_ascii=False, indent=indent) + "\n").encode()


def write_sealed(storage: Storage, name: str, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Raises AlreadyThere where the name exists; a manifest is never overwritten."""
    with storage.create(name) as writer:
        writer.write(sealed(content, name, storage.seals, indent=indent))
        writer.commit()


# --- reading -----------------------------------------------------------------------------------------------------


def read_sealed(storage: Storage, name: str, *, untouched: bool = False) -> dict[str, Any]:
    """A manifest's content, after its seals have been checked. `untouched`: its own SHA-256 must be right even without
    a key; a run that deletes or verifies asks for that. A restore doesn't need it: it compares everything with the
    data.

    Raises ProofFailed if it is too large, no JSON object, damaged or altered; Unsealed; OSError, StorageError.
    """
    return require_seal(read_bounded(storage, name), name, storage, untouched=untouched)


def has_seal(data: bytes, name: str) -> bool:
    """Whether a manifest says anything about itself; one of the first version doesn't."""
    return not parsed(data, shown(name)).keys().isdisjoint((SEAL, KEYED))


def read_bounded(storage: Storage, name: str) -> bytes:
    """Up to LARGEST bytes. Raises ProofFailed for more, OSError, StorageError."""
    data = bytearray()
    with storage.open(name) as stream:
        while len(data) <= LARGEST and (piece := stream.read(PIECE)):
            data += piece
    if len(data) > LARGEST:
        raise ProofFailed(
            f"{_of(storage, name)} is larger than a manifest may be ({LARGEST:,} bytes); what it describes counts as no"
            " backup."
        )
    return bytes(data)


def require_seal(data: bytes, name: str, storage: Storage | None = None, *, untouched: bool = True) -> dict[str, Any]:
    """The content of these bytes of a manifest, once its seals are right. `storage`, where it is stored under `name`,
    has the keys; without one there are none. Raises ProofFailed, Unsealed."""
    found = look(data, name, storage)
    if storage is not None and storage.seals and found.key is None:
        if not storage.seals.accepts(name):
            _refuse(found, _of(storage, name))
        untouched = True
    if untouched:
        _require_digest(found.whole, _of(storage, name))
    return found.content


def look(data: bytes, name: str, storage: Storage | None = None) -> Checked:
    """A manifest's content and who sealed it, for reports. Raises ProofFailed if it is no JSON object, or if it claims
    a seal by a key of ours that isn't right."""
    where = _of(storage, name)
    whole = parsed(data, where)
    seals = storage.seals if storage is not None else NO_SEALS
    claimed = _claimed(whole, where)
    for key in seals.keys if claimed is not None else ():
        if claimed is not None and claimed[0] == key.id:
            content = {k: v for k, v in whole.items() if k not in (SEAL, KEYED)}
            if not hmac.compare_digest(key.mac(name, content), claimed[1]):
                raise ProofFailed(
                    f"{where} was altered, or belongs to another name: its seal under the key {key.id} is wrong."
                    " Nothing of it is believed; look at who can write there."
                )
            return Checked(whole, "keyed", key.id)
    if storage is not None and seals and (key_id := seals.listed(storage, name, data)):
        return Checked(whole, "listed", key_id)
    return Checked(whole, "unsealed" if claimed is None else "foreign", None)


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object, strictly: no name twice, no NaN. Raises ProofFailed."""
    try:
        if sum(map(data.count, (b",", b"[", b"{"))) > MOST_PARTS:
            raise ValueError("too many parts")
        found = json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
        if type(found) is not dict:
            raise ValueError("no object")
        if HALVES.search(data):
            _canonical(found)  # half of a character can't be written again, so nothing with it can be compared
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise ProofFailed(f"{where} is not a whole manifest; what it describes counts as no backup.") from None
    return found


def _claimed(whole: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """The key's id and the HMAC that a manifest says of itself; None where it says none."""
    seal = whole.get(KEYED)
    if seal is None:
        return None
    key, mac = (seal.get("key"), seal.get("mac")) if isinstance(seal, dict) and seal.get("method") == METHOD else (0, 0)
    if type(key) is not str or type(mac) is not str or not (key.isascii() and mac.isascii()):
        raise ProofFailed(f"{where} has a seal of a kind that this version doesn't know; nothing of it is believed.")
    return key, mac


def _refuse(found: Checked, where: str) -> NoReturn:
    if found.state == "foreign":
        key = found.whole[KEYED]["key"]
        named = f" ({key})" if re.fullmatch("[0-9a-f]{16}", key) else ""
        raise Unsealed(
            f"{where} is sealed by another key{named} than BACKUP_SEAL_KEY and ARCHIVE_PASSWORD give now, so nothing of"
            " it is believed. Add the key that held when it was made to BACKUP_SEAL_KEY (comma separated); after a"
            " change of ARCHIVE_PASSWORD, set BACKUP_SEAL_KEY and run `saju-ops seal` once with the old password. For a"
            " backup that you know, --accept-unsealed restores it all the same."
        )
    raise Unsealed(
        f"{where} is not sealed by a key, though BACKUP_SEAL_KEY or ARCHIVE_PASSWORD is set: whoever can write into the"
        " store may have made it, so nothing of it is believed. `saju-ops seal` reads such backups whole and seals"
        " them; for a backup that you know, --accept-unsealed restores it all the same."
    )


def _require_digest(whole: Mapping[str, Any], where: str) -> None:
    """One of the first version has no SHA-256 of its own, and passes."""
    digest = whole.get(SEAL)
    if digest is not None and digest != _digest({k: v for k, v in whole.items() if k != SEAL}):
        raise ProofFailed(f"{where} is damaged or was edited: its {SEAL} differs from its content.")


# --- sealed lists ------------------------------------------------------------------------------------------------


def _lists(storage: Storage) -> dict[str, dict[str, str]]:
    """The store's sealed lists. A list that no key of ours sealed proves nothing; `verify` names it."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(n for n in storage.names(LISTS) if LIST_NAME.fullmatch(n)):
        try:
            entries, key = read_list(storage, name)
        except (OperatorError, OSError):
            continue
        for manifest, digest in entries:
            found.setdefault(manifest, {})[digest] = key
    return found


def read_list(storage: Storage, name: str) -> tuple[list[tuple[str, str]], str]:
    """The manifests and their SHA-256s that a list names, and the id of the key that sealed it. Raises ProofFailed,
    Unsealed, OSError, StorageError."""
    data = read_bounded(storage, name)
    found = look(data, name, storage)
    if found.state != "keyed" or found.key is None:
        _refuse(found, _of(storage, name))
    entries = found.content.get("sealed")
    if found.content.get("kind") != "seals" or not isinstance(entries, dict):
        raise ProofFailed(f"{_of(storage, name)} is no list of seals that this version knows.")
    return [(name, digest) for name, digest in entries.items() if type(digest) is str], found.key


# --- small things ------------------------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(_canonical(content)).hexdigest()


def _of(storage: Storage | None, name: str) -> str:
    return shown(name) if storage is None else storage.location(name)


def _stem(name: str) -> str:
    """`app_20261001_030000` of its manifest's and its file's name; a day's further parts keep their number."""
    file = name.rpartition("/")[2]
    found = re.match(r"[^.]*(\.part\d+)?", file)
    return found[0] if found else file
