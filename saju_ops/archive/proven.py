"""What must be known of a stored part, in this very run, before rows may go for its sake."""

from __future__ import annotations

from saju_ops.archive.manifest import Manifest, day_manifest_of, manifest_name
from saju_ops.archive.verify import verify_part, verify_stored_bytes
from saju_ops.errors import ProofFailed
from saju_ops.rows.days import Day
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import has_seal, read_bounded, require_seal


def require_proven(storage: Storage, day: Day, part: Manifest) -> None:
    """Raises ProofFailed where a copy of a part, or of its manifest, isn't what was written: a restore relies on
    both. A manifest of an earlier version proves nothing of itself, so what it says is computed again."""
    if not _manifests_agree(storage, day, part):
        verify_part(storage, part)
    verify_stored_bytes(storage, part)


def require_rows_proven(storage: Storage, day: Day, part: Manifest) -> None:
    """The same, and the part's rows are read back too: for who compares the table with the manifest's digest instead
    of the file's rows. Raises ProofFailed."""
    _manifests_agree(storage, day, part)
    verify_part(storage, part)
    if len(storage.copies()) > 1:
        verify_stored_bytes(storage, part)


def _manifests_agree(storage: Storage, day: Day, part: Manifest) -> bool:
    """Whether the manifest has a seal. Raises ProofFailed where two copies of it differ."""
    name = manifest_name(day, part.part)
    for copy in storage.copies():
        data = read_bounded(copy, name)
        if day_manifest_of(require_seal(data, name, copy), name) != part:
            raise ProofFailed(f"{copy.location(name)} differs from its counterpart in the other store.")
    return has_seal(data, name)
