"""What every test of the archive shares."""

from __future__ import annotations

import pytest

from saju_ops.archive.engines import mysql


@pytest.fixture(autouse=True)
def fast_path_from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' days are small; a day of a service isn't, and goes the fast way."""
    monkeypatch.setattr(mysql, "SMALL_DAY_ROWS", 0)
