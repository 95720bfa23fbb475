"""Days are Seoul's, from ARCHIVE_START_DATE to the last one that is over."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest

from saju_ops.defs.partitions import log_days
from saju_ops.settings.load import load_settings


@pytest.fixture(autouse=True)
def start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVE_START_DATE", "2026-01-01")


def test_the_first_partition_is_the_archive_start_date() -> None:
    assert log_days(load_settings()).get_first_partition_key() == "2026-01-01"


def last_day_at(instant: datetime) -> str | None:
    with dg.partition_loading_context(effective_dt=instant):
        return log_days(load_settings()).get_last_partition_key()


@pytest.mark.parametrize(
    ("instant", "last"),
    [
        (datetime(2026, 3, 1, 14, 59, 59, tzinfo=UTC), "2026-02-28"),
        (datetime(2026, 3, 1, 15, 0, 0, tzinfo=UTC), "2026-03-01"),
    ],
)
def test_a_day_becomes_a_partition_at_midnight_in_seoul(instant: datetime, last: str) -> None:
    assert last_day_at(instant) == last


def test_a_partition_spans_the_day_in_seoul() -> None:
    window = log_days(load_settings()).time_window_for_partition_key("2026-03-01")
    assert window.start.astimezone(UTC) == datetime(2026, 2, 28, 15, tzinfo=UTC)
    assert window.end.astimezone(UTC) == datetime(2026, 3, 1, 15, tzinfo=UTC)


def test_another_zone_has_other_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMEZONE", "UTC")
    instant = datetime(2026, 3, 1, 15, 0, 0, tzinfo=UTC)
    assert last_day_at(instant) == "2026-02-28"
