"""Months of a zone as boundaries; nothing here needs a server."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from saju_ops.schema.partitions.months import Month, free_names, month_of, new_months

SEOUL, BERLIN = ZoneInfo("Asia/Seoul"), ZoneInfo("Europe/Berlin")


def test_a_month_of_seoul_begins_at_three_in_the_afternoon_utc_of_the_day_before() -> None:
    august = Month(date(2026, 8, 1), SEOUL)
    assert august.start == datetime(2026, 7, 31, 15, tzinfo=UTC)
    assert int(august.start.timestamp()) == 1785510000
    assert (august.name, str(august), august.end) == ("p202608", "2026-08", datetime(2026, 8, 31, 15, tzinfo=UTC))


def test_december_is_followed_by_january() -> None:
    assert Month(date(2026, 12, 1), SEOUL).next().first == date(2027, 1, 1)
    assert Month(date(2026, 12, 1), SEOUL).next(14).first == date(2028, 2, 1)
    assert Month(date(2026, 1, 1), SEOUL).next(-1).first == date(2025, 12, 1)


def test_the_last_second_of_a_month_in_seoul_is_of_that_month_though_utc_has_the_same_day() -> None:
    assert month_of(datetime(2026, 7, 31, 14, 59, 59, tzinfo=UTC), SEOUL).first == date(2026, 7, 1)
    assert month_of(datetime(2026, 7, 31, 15, 0, 0, tzinfo=UTC), SEOUL).first == date(2026, 8, 1)


def test_where_clocks_are_set_a_month_is_an_hour_shorter() -> None:
    march = Month(date(2026, 3, 1), BERLIN)
    assert (march.end - march.start).total_seconds() == 31 * 86400 - 3600


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (datetime(2026, 8, 31, 15, tzinfo=UTC), ["p202609", "p202610"]),
        # A table whose months were those of UTC: the first new partition holds the rest of September.
        (datetime(2026, 9, 1, tzinfo=UTC), ["p202609", "p202610"]),
        (datetime(2026, 10, 31, 15, tzinfo=UTC), []),
    ],
)
def test_the_months_behind_a_bound(begin: datetime, expected: list[str]) -> None:
    assert [m.name for m in new_months(begin, Month(date(2026, 10, 1), SEOUL))] == expected


def test_a_name_that_is_taken_gets_a_number() -> None:
    september = Month(date(2026, 9, 1), SEOUL)
    assert free_names([september, september.next()], {"p202609", "p202609_2"}) == [
        ("p202609_3", september),
        ("p202610", september.next()),
    ]
