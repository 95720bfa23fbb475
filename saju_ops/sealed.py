"""A manifest's proof of itself: the SHA-256 of everything else in it, under the key `manifest_sha256`.

The data file is proven by what the manifest says; only this proves the manifest: a flipped bit in a time would change
what retention deletes, and one in a table's checksum would be found on the night of the restore. Who checks and who
deletes requires it; a restore doesn't, since it compares everything that it relies on with the data itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from saju_ops.errors import ProofFailed

SEAL = "manifest_sha256"


def sealed(content: Mapping[str, Any]) -> bytes:
    """The content as JSON, with its seal as the last entry."""
    return (json.dumps({**content, SEAL: _digest(content)}, ensure_ascii=False, indent=2) + "\n").encode()


def require_seal(data: bytes, name: str) -> None:
    """Raises ProofFailed where a manifest isn't what was written. One of an earlier version has no seal, and passes."""
    try:
        raw = json.loads(data)
        seal = raw.pop(SEAL, None)
    except (ValueError, AttributeError, TypeError):
        raise ProofFailed(f"{name} is not a whole manifest; what it describes counts as no backup.") from None
    if seal is not None and seal != _digest(raw):
        raise ProofFailed(f"{name} is damaged or was edited: its {SEAL} differs from its content.")


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
