"""Which backups there are, in each of the stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from saju_ops.errors import OperatorError, shown
from saju_ops.storage.base import is_name
from saju_ops.storage.ledger import knows
from saju_ops.storage.manifest import ENDING, FOLDERS, BackupManifest, Kind, manifest_name, manifest_of
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import Unsealed, look, read_bounded, require_seal
from saju_ops.upkeep.policy import OURS, Held

STRAY_AGE = timedelta(days=1)


@dataclass
class Inventory:
    """What all stores together have of one kind."""

    held: list[Held] = field(default_factory=list)
    # Files of ours without a manifest, by the time in their name; and names of all other files.
    strays: list[tuple[str, datetime, int]] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def inventory(storage: Storage, kind: Kind, zone: ZoneInfo) -> Inventory:
    """Looks at every store. A manifest that can't be read protects its file: that is no stray."""
    found = Inventory()
    stores = list(storage.copies())
    names = [set(store.names(FOLDERS[kind])) for store in stores]
    everything = sorted(set().union(*names))
    described: set[str] = set()
    for name in (n for n in everything if n.endswith(ENDING)):
        manifest, ours, why = _manifest_anywhere(stores, names, name)
        if manifest is None or manifest.kind != kind:
            found.strangers.append(f"{shown(name)} ({why or 'a manifest of another kind'})")
            continue
        described.add(manifest.file)
        whole = all(_whole(s, n, manifest) for s, n in zip(stores, names, strict=True))
        m, why = manifest, "" if manifest.proven else str(manifest.proof.get("why_not") or "")
        found.held.append(
            Held(kind, m.file, m.taken, m.stored_bytes, proven=m.proven, everywhere=whole, ours=ours, why_not=why)
        )
    for name in (n for n in everything if not n.endswith(ENDING) and n not in described):
        at = stamp_in(name, zone)
        if at is None:
            found.strangers.append(shown(name))
        elif manifest_name(name) not in everything:
            found.strays.append((name, at, _size(stores, name)))
    return found


def stamp_in(name: str, zone: ZoneInfo) -> datetime | None:
    """The time that a backup's name holds; None for a name that is not one of ours."""
    match = OURS.fullmatch(name.rpartition("/")[2])
    if match is None or match["ending"] is None or not name.isprintable() or not is_name(name):
        return None
    try:
        return datetime.strptime(match["stamp"], "%Y%m%d_%H%M%S").replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _manifest_anywhere(
    stores: Sequence[Storage], names: Sequence[set[str]], name: str
) -> tuple[BackupManifest | None, bool, str]:
    """The first copy that is believed, and whether its word is ours; else why none is."""
    why = ""
    for store, there in zip(stores, names, strict=True):
        if name in there:
            try:
                data = read_bounded(store, name)
                manifest = manifest_of(require_seal(data, name, store), name)
            except Unsealed:
                why = "its manifest is not sealed by a key of this installation; see `saju-ops seal`"
            except (OperatorError, OSError):
                why = why or "a manifest that can't be read"
            else:
                return manifest, look(data, name, store).state == "keyed" or knows(manifest), ""
    return None, False, why


def _whole(store: Storage, names: set[str], manifest: BackupManifest) -> bool:
    there = manifest.name in names and manifest.file in names
    return there and store.size(manifest.file) == manifest.stored_bytes


def _size(stores: Iterable[Storage], name: str) -> int:
    for store in stores:
        try:
            return store.size(name)
        except (OperatorError, OSError):
            continue
    return 0
