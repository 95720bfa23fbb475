"""Bounds that settings and the snapshot share."""

from __future__ import annotations

# What the process may take in which Chroma opens a snapshot, at any size of the collections.
PROOF_MEMORY_MB = 256
