"""What whole numbers may be of a birth, many at once; the same forms as of digits in a text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import cache
from typing import Any

from saju_ops.masking.forms import (
    DAYS,
    FIRST,
    FIRST_YEAR,
    KOREA,
    MINUTES_AT,
    MONTH_DAYS_AT,
    MONTHS_AT,
    YEARS,
    day_number,
)

# Kind, places in the array, number of each form, and of its minute; and whether it is compared with everybody's.
Found = tuple[str, Any, Any, Any, bool]
# Below, seconds since 1970 are taken for a time of the own person only: rows are numbered so.
LEAST_SECONDS = 10**8


@cache
def _calendar() -> Any:
    """The number of a day by year, month and day; -1 where there is none."""
    import numpy as np

    found = np.full((YEARS, 100, 100), -1, np.int32)
    for year in range(YEARS):
        for month in range(1, 13):
            for day in range(1, 32):
                found[year, month, day] = -1 if (n := day_number(FIRST_YEAR + year, month, day)) is None else n
    return found


def number_forms(values: Any) -> Iterator[Found]:
    import numpy as np

    if not len(values) or (int(values.max()) < 101 and int(values.min()) > -LEAST_SECONDS):
        return
    for kind, least, most, unit, everybodys in (
        ("day", 10**7, 10**8, 1, True), ("day6", 10_000, 10**6, 1, True), ("day6", 10**9, 10**10, 10_000, False),
        ("day6", 10**12, 10**13, 10**7, True),
    ):  # fmt: skip
        at = np.flatnonzero((values >= least) & (values < most))
        if len(at):
            yield from _days(kind, at, values[at] // unit, everybodys)
    yield from _with_times(values)
    yield from _parts(values)
    yield from _epochs(values)


def _days(kind: str, at: Any, numbers: Any, everybodys: bool) -> Iterator[Found]:
    years, months, days = numbers // 10_000, numbers // 100 % 100, numbers % 100
    for century in (0,) if kind == "day" else (1900, 2000):
        year = years + century - FIRST_YEAR
        fits = (year >= 0) & (year < YEARS)
        found = _calendar()[year[fits], months[fits], days[fits]]
        is_day = found >= 0
        if is_day.any():
            yield kind, at[fits][is_day], found[is_day], None, everybodys


def _with_times(values: Any) -> Iterator[Found]:
    import numpy as np

    for least, unit in ((10**11, 1), (10**13, 100)):
        at = np.flatnonzero((values >= least) & (values < least * 10))
        numbers = values[at] // unit
        hours, minutes = numbers // 100 % 100, numbers % 100
        fits = (hours < 24) & (minutes < 60)
        at, numbers, clock = at[fits], numbers[fits], (hours * 60 + minutes)[fits]
        for _, which, days, _, _ in _days("day", np.arange(len(at)), numbers // 10_000, True):
            yield "moment", at[which], days, MINUTES_AT + clock[which], True
            yield "day", at[which], days, None, True


def _parts(values: Any) -> Iterator[Found]:
    """Years, months, days of the year and times: of the own person only."""
    import numpy as np

    small = np.flatnonzero((values >= 101) & (values < 10_000))
    numbers = values[small]
    one, two = numbers // 100, numbers % 100
    dates = MONTH_DAYS_AT + (one - 1) * 31 + two - 1
    last = FIRST_YEAR + YEARS
    months, month = values // 100 - FIRST_YEAR, values % 100
    of_year = np.flatnonzero((months >= 0) & (months < YEARS) & (month >= 1) & (month <= 12) & (values >= 10**5))
    for kind, at, found in (
        ("year", small, np.where((numbers >= FIRST_YEAR) & (numbers < last), DAYS + numbers - FIRST_YEAR, -1)),
        ("month_day", small, np.where((one <= 12) & (two >= 1) & (two <= 31), dates, -1)),
        ("time", small, np.where((one < 24) & (two < 60), MINUTES_AT + one * 60 + two, -1)),
        ("month", of_year, MONTHS_AT + months[of_year] * 12 + month[of_year] - 1),
    ):  # fmt: skip
        is_one = found >= 0
        if is_one.any():
            yield kind, at[is_one], found[is_one], None, False


def _epochs(values: Any) -> Iterator[Found]:
    import numpy as np

    size = np.abs(values)
    first = date(1970, 1, 1).toordinal() - FIRST
    for least, most, unit in ((10**6, 10**10, 1), (10**10, 10**13, 1_000), (10**13, 10**16, 1_000_000)):
        at = np.flatnonzero((size >= least) & (size < most))
        if not len(at):
            continue
        for zone in (0, KOREA):
            seconds = values[at] // unit + zone
            days, clock = seconds // 86_400 + first, seconds % 86_400
            fits = (days >= 0) & (days < DAYS)
            for everybodys in (True, False):
                some = fits & ((size[at] >= LEAST_SECONDS * unit) == everybodys)
                for kind, which in (("moment", some & (clock > 0)), ("day", some & (clock == 0))):
                    if which.any():
                        minutes = MINUTES_AT + clock[which] // 60 if kind == "moment" else None
                        yield kind, at[which], days[which], minutes, everybodys
