"""Dates, moments and phone numbers in the cells of a table, in whatever form they are written."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from saju_ops.masking.detection import NUMERIC, is_moment, is_number
from saju_ops.masking.forms import (
    FIRST,
    MINUTES_AT,
    Form,
    birth_forms,
    decoded,
    minute_number,
    national,
    plain,
    text_forms,
)
from saju_ops.masking.masker import WHEN, MaskedColumn, as_text
from saju_ops.masking.rules import HARMLESS_TEXTS

# No time of this service is before it: an earlier one is somebody's, or of a calendar.
SYSTEM_SINCE = date(2010, 1, 1)
_RECENT = SYSTEM_SINCE.toordinal() - FIRST
# Times that mean "no time".
_NO_TIME = re.compile(r"0|1[0-8]|190[01]|1970-01-0[12]|9999")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_PATH = re.compile(r"[/\\]")
# Values, and the places of their rows.
_Put = tuple[list[int], list[Any]]
_DATE_PART = re.compile(r"(.*)(year|month|day)", re.IGNORECASE)


def _birth(cell: Any) -> tuple[date, tuple[int, int] | None] | None:
    if isinstance(cell, datetime):
        return cell.date(), (cell.hour, cell.minute)
    if isinstance(cell, date):
        return cell, None
    if isinstance(cell, str | bytes) and (found := WHEN.match(as_text(cell))):
        try:
            day = date(int(found[1]), int(found[2]), int(found[3]))
        except ValueError:
            return None
        return day, (int(found[5]), int(found[6])) if found[5] else None
    if cell is None or isinstance(cell, dict | list | float):
        return None
    days = [f for f in text_forms(plain(as_text(cell))) if f.kind in ("day", "moment")]
    if not days:
        return None
    one = max(days, key=lambda f: f.minute)
    return date.fromordinal(one.number + FIRST), divmod(one.minute - MINUTES_AT, 60) if one.minute else None


def _dates_in_parts(columns: Sequence[MaskedColumn]) -> Iterator[tuple[int, int, int]]:
    """Places of lunar_year, lunar_month and lunar_day, which are a date together."""
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for at, column in enumerate(columns):
        if column.masked and (found := _DATE_PART.fullmatch(column.column)):
            places[found[1].lower()][found[2].lower()] = at
    for parts in places.values():
        if len(parts) == 3:
            yield parts["year"], parts["month"], parts["day"]


def _joined(year: Any, month: Any, day: Any) -> str | None:
    parts = [as_text(part) for part in (year, month, day)]
    return f"{parts[0]:0>4}-{parts[1]:0>2}-{parts[2]:0>2}" if all(p.isdecimal() for p in parts) else None


def _national(cell: Any) -> str | None:
    return national("".join(c for c in plain(as_text(cell)) if c.isdigit())) if cell is not None else None


def _sorted_out(column: MaskedColumn, cells: Sequence[Any]) -> tuple[_Put, _Put, _Put]:
    """Whole numbers, texts and times of a column, each with its rows' places."""
    numbers: _Put = ([], [])
    texts: _Put = ([], [])
    times: _Put = ([], [])
    numeric, temporal = is_number(column), is_moment(column)
    bits = column.type.lower().startswith("bit")
    for at, value in enumerate(cells):
        if value is None or value == "" or isinstance(value, bool):
            continue
        if bits and isinstance(value, str) and set(value) <= {"0", "1"}:
            value = str(int(value, 2))
        if isinstance(value, bytes | memoryview):
            value = str(int.from_bytes(value, "big")) if bits else decoded(bytes(value))
        if isinstance(value, datetime | date | time | timedelta) or (temporal and isinstance(value, str)):
            _put(times, at, value)
        elif not isinstance(value, str) or (numeric and NUMERIC.fullmatch(value)):
            whole = _whole(value)
            if whole is not None:
                _put(numbers, at, whole)
            elif isinstance(value, dict | list):
                _put(texts, at, as_text(value))
        else:
            _put(texts, at, value)
    return numbers, texts, times


def _put(some: _Put, at: int, value: Any) -> None:
    some[0].append(at)
    some[1].append(value)


def _whole(value: Any) -> int | None:
    """The number, where it is whole and eight bytes hold it."""
    if isinstance(value, int):
        number = value
    else:
        try:
            if (number := int(value)) != value and not isinstance(value, str):
                return None
        except (TypeError, ValueError, OverflowError):
            if not isinstance(value, str) or set(value.partition(".")[2]) != {"0"}:
                return None
            number = int(value.partition(".")[0])
    return number if abs(number) < 1 << 62 else None


def _is_early(value: Any) -> bool:
    if isinstance(value, date):
        return value.year < SYSTEM_SINCE.year
    return not (isinstance(value, str) and "2010" <= value[:4] < "2100")


def _forms_of_time(value: Any) -> Iterator[Form]:
    if isinstance(value, timedelta | time) or (isinstance(value, str) and ":" in value[:3]):
        seconds = value.total_seconds() if isinstance(value, timedelta) else None
        hour, minute = divmod(int(seconds) // 60, 60) if seconds is not None else map(int, str(value).split(":")[:2])
        if 0 <= hour < 24 and (hour, minute) != (0, 0):
            yield Form("time", minute_number(hour, minute), everybodys=False)
        return
    if _NO_TIME.match(str(value)):
        return
    if (birth := _birth(value)) and (numbers := birth_forms(*birth)):
        yield Form("day", numbers[0])
        if len(numbers) > 4:
            yield Form("moment", numbers[0], numbers[4])


def _without_harmless(text: str) -> str:
    for harmless in HARMLESS_TEXTS:
        text = text.replace(harmless, "")
    return text
