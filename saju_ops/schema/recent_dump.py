"""The dump that must be there before anything in the database is dropped or rewritten.

Promises: a dump that passes is of this very database, was taken within the last day, was restored and compared, has a
manifest whose word counts (sealed by a key of ours, or entered in this installation's ledger), is whole in every store,
and was just read back. Refuses anything less, and names the command that makes such a dump.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256

import sqlalchemy as sa

from saju_ops.database.address import same_place
from saju_ops.database.connect import redacted
from saju_ops.errors import OperatorError, Refused
from saju_ops.storage.ledger import knows
from saju_ops.storage.manifest import CLOCKS_DIFFER, BackupManifest, held, read_manifest
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import look, read_bounded

YOUNGER_THAN = timedelta(hours=24)
PIECE = 1 << 20


def require_recent_dump(url: sa.URL, storage: Storage, now: datetime, before: str = "This") -> BackupManifest:
    """The newest dump of the database that may be relied on. Reads the store, and the dump's file as a whole; touches
    no row. `now` has its zone. `before` is the subject of the first sentence, such as "The migration 0003".

    Raises Refused where there is none; OperatorError where the store or the ledger can't be read.
    """
    there = held(storage, "database_dump")
    mine = sorted((m for m in there.backups if same_place(m.source, url)), key=lambda m: m.taken, reverse=True)
    why_not = ""
    for manifest in mine:
        why = _why_not(manifest, storage, now)
        if not why:
            return manifest
        why_not = why_not or f" The newest one, {manifest.file}, does not count: {why}."
    raise Refused(
        f"{before} drops or rewrites data in {redacted(url)}, and no proven dump of that database that is younger than"
        f" {YOUNGER_THAN.total_seconds() / 3600:.0f} hours is in {storage.uri}.{why_not}{there.about_refused()} Nothing"
        " was touched. Run `saju-ops dump` with the same settings, and launch this again when it says that nothing"
        " differs."
    )


def _why_not(manifest: BackupManifest, storage: Storage, now: datetime) -> str:
    """Why a dump can't be relied on, as half a sentence; empty where it can."""
    if manifest.taken > now + CLOCKS_DIFFER:
        return "its time is in the future, so a wrong clock took it"
    if now - manifest.taken >= YOUNGER_THAN:
        return f"it was taken at {manifest.taken:%Y-%m-%d %H:%M} UTC"
    if not manifest.proven:
        return "it was never restored and compared"
    if not _is_our_word(manifest, storage):
        return (
            "no key of this installation sealed its manifest, and the ledger of dumps that were proven on this machine"
            " does not have it"
        )
    return next(filter(None, (_damage(manifest, store) for store in storage.copies())), "")


def _is_our_word(manifest: BackupManifest, storage: Storage) -> bool:
    """As retention has it: whoever can write into the store can write `proven: true`."""
    stores = [store for store in storage.copies() if store.exists(manifest.name)]
    sealed = (look(read_bounded(store, manifest.name), manifest.name, store).state == "keyed" for store in stores)
    return any(sealed) or knows(manifest)


def _damage(manifest: BackupManifest, store: Storage) -> str:
    try:
        if read_manifest(store, manifest.name, untouched=True) != manifest:
            return f"its manifest in {store.uri} is another one than in the other store"
        digest = sha256()
        with store.open(manifest.file) as stream:
            while piece := stream.read(PIECE):
                digest.update(piece)
    except (OperatorError, OSError) as error:
        return f"it can't be read back from {store.uri} ({str(error).rstrip('.')})"
    if digest.hexdigest() != manifest.stored_sha256:
        return f"its file in {store.uri} is not the one that was stored"
    return ""
