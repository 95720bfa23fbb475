"""What several tests of backups need."""

from __future__ import annotations

from pathlib import Path

import pytest

from saju_ops.backup import chroma_process


@pytest.fixture
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's scratch folders are made, so that it can look at what is left of them."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(chroma_process, "scratch_root", lambda: scratch)
    return scratch
