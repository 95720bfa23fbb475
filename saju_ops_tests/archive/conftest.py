"""What every test of the archive shares."""

from __future__ import annotations

import pytest

from saju_ops.rows.engines.mysql import store as mysql


@pytest.fixture(autouse=True)
def several_pieces_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' days are small; a service's are made of many pieces."""
    monkeypatch.setattr(mysql, "FIRST_ROWS", 5)
