"""What every test of the archive shares."""

from __future__ import annotations

import pytest

from saju_ops.rows.engines.mysql import pieces as mysql_pieces


@pytest.fixture(autouse=True)
def several_pieces_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' days are small; a service's are made of many pieces."""
    monkeypatch.setattr(mysql_pieces, "FIRST_ROWS", 5)
