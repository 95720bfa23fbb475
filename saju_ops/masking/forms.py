"""The ways in which people write a birth, a telephone number or a name, and the one form that all of them come down to.

`19900505`, `1990. 5. 5.`, `90년 5월 5일` and `900505-1` are one day; `+82 (0)10 1234 5678` and `010_1234_5678` are one
number. A form that means one thing only is certain; `900505` may be an order's number, so it is doubtful, and how
often it is alike by chance is known (see `people.py`).
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple
from urllib.parse import unquote

# --- numbers of forms: each day, month, year and minute has one ---------------------------------------------------

FIRST = date(1900, 1, 1).toordinal()
DAYS = 50_000
FIRST_YEAR, YEARS = 1900, 140
MONTHS_AT = DAYS + YEARS
MONTH_DAYS_AT = MONTHS_AT + YEARS * 12
MINUTES_AT = MONTH_DAYS_AT + 12 * 31
FORMS = MINUTES_AT + 24 * 60

# Kinds of doubtful forms, and of how many such forms by chance one is somebody's own.
OWN: dict[str, float] = {
    "day": 1 / 25_000, "day6": 1 / 25_000, "month": 1 / 300, "month_day": 1 / 300, "year": 1 / 30, "time": 1 / 200,
    "moment": 1e-7, "local": 1e-7,
}  # fmt: skip


class Form(NamedTuple):
    kind: str
    # The form's number; of a moment its day's and its minute's; of a telephone number its digits.
    number: int = 0
    minute: int = 0
    digits: str = ""
    # Whether it is compared with everybody's, or with the person's own only.
    everybodys: bool = True


def day_number(year: int, month: int, day: int) -> int | None:
    try:
        number = date(year, month, day).toordinal() - FIRST
    except ValueError:
        return None
    return number if 0 <= number < DAYS else None


def year_number(year: int) -> int:
    return DAYS + year - FIRST_YEAR


def month_number(year: int, month: int) -> int:
    return MONTHS_AT + (year - FIRST_YEAR) * 12 + month - 1


def month_day_number(month: int, day: int) -> int:
    return MONTH_DAYS_AT + (month - 1) * 31 + day - 1


def minute_number(hour: int, minute: int) -> int:
    return MINUTES_AT + hour * 60 + minute


def birth_forms(day: date, minute: tuple[int, int] | None) -> list[int]:
    """The numbers of everything that somebody's birth is written as. Midnight is a time that nobody entered."""
    number = day_number(day.year, day.month, day.day)
    if number is None:
        return []
    found = [number, year_number(day.year), month_number(day.year, day.month), month_day_number(day.month, day.day)]
    return [*found, minute_number(*minute)] if minute not in (None, (0, 0)) else found


# --- text -----------------------------------------------------------------------------------------------------------

_JSON_ESCAPE = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)
_BASE64 = re.compile(r"(?<![\w+/=-])[\w+/-]{8,}={0,2}(?![\w+/=-])", re.ASCII)
_HEX = re.compile(r"(?:(?<![0-9a-f])|(?<=\\x)|(?<=0x))(?:[0-9a-f]{2}){5,}(?![0-9a-f])", re.IGNORECASE)
# hong+news@example.com is hong@example.com.
_TAG = re.compile(r"\+[^@\s]*@")
_SPOKEN = re.compile(r"[공영일이삼사오육륙칠팔구](?:[\s.-]?[공영일이삼사오육륙칠팔구]){5,}")
_SPOKEN_DIGITS = str.maketrans("공영일이삼사오육륙칠팔구", "001234566789")
# Longer texts are not looked through for encoded ones: each of their words would be tried.
LONGEST_ENCODED = 4_096


def plain(text: str) -> str:
    """One spelling of each character, whatever its width, case or composition, and none without a width."""
    if text.isascii():
        return text.casefold()
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    if any(c.isdecimal() and not c.isascii() for c in text):
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    return unicodedata.normalize("NFKC", text).casefold()


def decoded(data: bytes) -> str:
    """As UTF-8, else as Korean Windows writes, else each byte as a character."""
    if b"\x00" in data and len(data) % 2 == 0:
        for encoding in ("utf-16-le", "utf-16-be"):
            text = data.decode(encoding, errors="replace")
            if _is_readable(text):
                return text
    for encoding in ("utf-8", "cp949"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def readings(text: str) -> list[str]:
    """The text, and its decoded forms (percent signs, entities, \\u escapes, base64, hexadecimal)."""
    found = [text]
    if "%" in text:
        found.append(unquote(text))
    if "&" in text:
        found.append(html.unescape(text))
    if "\\u" in text:
        found.append(_JSON_ESCAPE.sub(lambda m: chr(int(m[1], 16)), text))
    if "@" in text:
        found.append(_TAG.sub("@", text))
    if len(text) <= LONGEST_ENCODED:
        found += _hidden(text)
    return [*dict.fromkeys(plain(t) for t in found)]


def _hidden(text: str) -> Iterator[str]:
    for match in _HEX.finditer(text):
        yield from _if_readable(bytes.fromhex(match[0]))
    for match in _BASE64.finditer(text):
        word = match[0].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            yield from _if_readable(base64.b64decode(word + "=" * (-len(word) % 4), validate=True))
        except binascii.Error:
            continue


def _if_readable(data: bytes) -> Iterator[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if len(text) >= 4 and _is_readable(text):
        yield text


def _is_readable(text: str) -> bool:
    return all(c.isprintable() or c in "\r\n\t" for c in text)


def squeezed(text: str) -> str:
    """Letters and digits alone, of a plain text: what glues them together makes no difference."""
    return "".join(filter(str.isalnum, text))


# --- days and times in a text ---------------------------------------------------------------------------------------

_GAP = r"(?:[^\w]|_){1,3}"
_YEAR = r"(?<![0-9])((?:19|20)[0-9]{2})"
_FULL = re.compile(rf"{_YEAR}(?:{_GAP}|\s*년\s*)([0-9]{{1,2}})(?:{_GAP}|\s*월\s*)([0-9]{{1,2}})(?![0-9])")
_LAST = re.compile(rf"(?<![0-9])([0-9]{{1,2}}){_GAP}([0-9]{{1,2}}){_GAP}((?:19|20)[0-9]{{2}})(?![0-9])")
_SHORT = re.compile(rf"(?<![0-9])([0-9]{{2}}){_GAP}([0-9]{{1,2}}){_GAP}([0-9]{{1,2}})(?![0-9])")
_KOREAN = re.compile(r"(?<![0-9])([0-9]{2})\s*년\s*([0-9]{1,2})\s*월\s*([0-9]{1,2})\s*일?")
_RESIDENT = re.compile(r"(?<![0-9])([0-9]{2})([0-9]{2})([0-9]{2})\s?[-_–]\s?([0-9])")
_NAMED = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_ENGLISH_FIRST = re.compile(
    rf"\b({'|'.join(_NAMED)})[a-z]*\.?\s*([0-9]{{1,2}})(?:st|nd|rd|th)?,?\s*((?:19|20)[0-9]{{2}})(?![0-9])"
)
_ENGLISH_LAST = re.compile(
    rf"(?<![0-9])([0-9]{{1,2}})(?:st|nd|rd|th)?[\s-]*({'|'.join(_NAMED)})[a-z]*\.?,?[\s-]*((?:19|20)[0-9]{{2}})(?![0-9])"
)
_YEAR_BORN = re.compile(r"(?<![0-9])((?:19|20)?[0-9]{2})\s*년")
_YEAR_MONTH = re.compile(r"(?<![0-9])((?:19|20)?[0-9]{2})\s*년\s*([0-9]{1,2})\s*월")
_YEAR_MONTH_PLAIN = re.compile(rf"{_YEAR}(?:[^\w]|_)([0-9]{{1,2}})(?![0-9])")
_MONTH_DAY = re.compile(r"(?<![0-9])([0-9]{1,2})\s*월\s*([0-9]{1,2})\s*일")
_MONTH_DAY_PLAIN = re.compile(r"^\s*([0-9]{1,2})[-./]([0-9]{1,2})\s*$")
_HOUR = re.compile(
    r"(오전|오후|새벽|아침|낮|저녁|밤|am|pm)?\s*(?<![0-9])([0-9]{1,2})\s*시(?!간)\s*(?:([0-9]{1,2})\s*분|(반))?"
)
_CLOCK = re.compile(
    r"(오전|오후|am|pm)?\s*(?<![0-9:])([0-9]{1,2}):([0-9]{2})(?::[0-9]{2}(?:\.[0-9]+)?)?(?![0-9:])\s*(am|pm)?"
)
_RUN = re.compile(r"[0-9]{4,}")
_CENTURIES = (1900, 2000)


def text_forms(text: str) -> set[Form]:
    """Everything in a plain text that may be a birth or a telephone number."""
    if not any(c.isdigit() for c in text) and not _SPOKEN.search(text):
        return set()
    found = set(_days(text)) | set(_parts_of_days(text)) | set(phones(text))
    minutes = set(_minutes(text))
    found |= {Form("time", m) for m in minutes}
    found |= {Form("moment", f.number, m) for f in found if f.kind == "day" for m in minutes}
    for run in _RUN.findall(text):
        found |= set(digit_forms(run))
    return found


def _day(year: int, month: int, day: int, kind: str = "day") -> Iterator[Form]:
    number = day_number(year, month, day)
    if number is not None:
        yield Form(kind, number)


def _days(text: str) -> Iterator[Form]:
    for year, month, day in _FULL.findall(text):
        yield from _day(int(year), int(month), int(day))
    for one, two, year in _LAST.findall(text):
        yield from _day(int(year), int(one), int(two))
        yield from _day(int(year), int(two), int(one))
    for name, day, year in _ENGLISH_FIRST.findall(text):
        yield from _day(int(year), _NAMED.index(name) + 1, int(day))
    for day, name, year in _ENGLISH_LAST.findall(text):
        yield from _day(int(year), _NAMED.index(name) + 1, int(day))
    for century in _CENTURIES:
        for year, month, day in _KOREAN.findall(text):
            yield from _day(century + int(year), int(month), int(day))
        for year, month, day in _SHORT.findall(text):
            yield from _day(century + int(year), int(month), int(day), "day6")
    for year, month, day, sex in _RESIDENT.findall(text):
        century = 2000 if sex in "3478" else 1800 if sex in "90" else 1900
        yield from _day(century + int(year), int(month), int(day))


def _parts_of_days(text: str) -> Iterator[Form]:
    for year in _YEAR_BORN.findall(text):
        for full in _whole_years(year):
            yield Form("year", year_number(full))
    for pattern, everybodys in ((_YEAR_MONTH, True), (_YEAR_MONTH_PLAIN, False)):
        for year, month in pattern.findall(text):
            if 1 <= int(month) <= 12:
                for full in _whole_years(year):
                    yield Form("month", month_number(full, int(month)), everybodys=everybodys)
    for pattern, everybodys in ((_MONTH_DAY, True), (_MONTH_DAY_PLAIN, False)):
        for month, day in pattern.findall(text):
            if 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
                yield Form("month_day", month_day_number(int(month), int(day)), everybodys=everybodys)


def _whole_years(year: str) -> list[int]:
    full = [int(year)] if len(year) == 4 else [century + int(year) for century in _CENTURIES]
    return [y for y in full if FIRST_YEAR <= y < FIRST_YEAR + YEARS]


def _minutes(text: str) -> Iterator[int]:
    found = [(half, h, "30" if half_past else m or "0") for half, h, m, half_past in _HOUR.findall(text)]
    found += [(before or after, h, m) for before, h, m, after in _CLOCK.findall(text)]
    for half, hour, minute in found:
        hours = int(hour)
        if half in ("오후", "pm", "저녁", "밤", "낮") and hours < 12:
            hours += 12
        elif half in ("오전", "am", "새벽") and hours == 12:
            hours = 0
        if hours < 24 and int(minute) < 60 and (hours, int(minute)) != (0, 0):
            yield minute_number(hours, int(minute))


# --- digits ---------------------------------------------------------------------------------------------------------


def digit_forms(run: str) -> Iterator[Form]:
    """What digits without anything between them may be, as they are found in a text."""
    size = len(run)
    if size in (8, 12, 14):
        days = list(_day(int(run[:4]), int(run[4:6]), int(run[6:8])))
        yield from days
        if size > 8 and days and int(run[8:10]) < 24 and int(run[10:12]) < 60:
            yield Form("moment", days[0].number, minute_number(int(run[8:10]), int(run[10:12])))
    if size == 8:
        yield Form("local", digits=run, everybodys=False)
        for month, day in ((run[:2], run[2:4]), (run[2:4], run[:2])):
            yield from _day(int(run[4:]), int(month), int(day), "day6")
    if size in (6, 7, 10, 12, 13):
        for century in _CENTURIES:
            yield from _day(century + int(run[:2]), int(run[2:4]), int(run[4:6]), "day6")
    if size == 6 and 1 <= int(run[4:]) <= 12 and FIRST_YEAR <= int(run[:4]) < FIRST_YEAR + YEARS:
        yield Form("month", month_number(int(run[:4]), int(run[4:])), everybodys=False)
    if size == 4:
        yield from _four(run)
    if 9 <= size <= 32:
        for at in range(size - 7):
            inside = _day(int(run[at : at + 4]), int(run[at + 4 : at + 6]), int(run[at + 6 : at + 8]), "day6")
            yield from (form._replace(everybodys=False) for form in inside)
    if 9 <= size <= 16:
        yield from epoch_forms(int(run))


def _four(run: str) -> Iterator[Form]:
    one, two = int(run[:2]), int(run[2:])
    if FIRST_YEAR <= int(run) < FIRST_YEAR + YEARS:
        yield Form("year", year_number(int(run)), everybodys=False)
    if 1 <= one <= 12 and 1 <= two <= 31:
        yield Form("month_day", month_day_number(one, two), everybodys=False)
    if one < 24 and two < 60 and (one, two) != (0, 0):
        yield Form("time", minute_number(one, two), everybodys=False)


KOREA = 9 * 3600


def epoch_forms(number: int) -> Iterator[Form]:
    """Seconds, milliseconds or microseconds since 1970, as a time in UTC or in Korea; midnight is the day alone."""
    unit = 1 if abs(number) < 10**10 else 1_000 if abs(number) < 10**13 else 1_000_000
    for zone in (0, KOREA):
        days, seconds = divmod(number // unit + zone, 86_400)
        day = days + date(1970, 1, 1).toordinal() - FIRST
        if 0 <= day < DAYS:
            if seconds:
                yield Form("moment", day, MINUTES_AT + seconds // 60)
            else:
                yield Form("day", day)


# --- telephone numbers ----------------------------------------------------------------------------------------------

_CHAIN = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9])*")
# As it is dialled from abroad or at home, after which the number itself follows.
_PREFIX = re.compile(r"(?:(?:00)?82)?0?(?=[1-7])")
_NATIONAL = re.compile(r"1[016789][0-9]{7,8}|2[0-9]{7,8}|[3-6][0-9][0-9]{7,8}|70[0-9]{8}|50[0-9]{8,9}")


def national(digits: str) -> str | None:
    """A telephone number without its prefix: `1012345678`."""
    match = _PREFIX.match(digits)
    rest = digits[match.end() :] if match else digits
    return rest if _NATIONAL.fullmatch(rest) else None


def phones(text: str) -> Iterator[Form]:
    """Telephone numbers, however their digits are put together: with anything of three characters between."""
    spoken = [m[0].translate(_SPOKEN_DIGITS) for m in _SPOKEN.finditer(text)]
    for part in (text, *spoken):
        for match in _CHAIN.finditer(part):
            if sum(map(str.isdigit, match[0])) >= 8:
                yield from _in_chain(match[0])


def _in_chain(chain: str) -> Iterator[Form]:
    groups = re.findall(r"[0-9]+", chain)
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > 15:
                break
            if len(digits) >= 9 and (number := national(digits)):
                yield Form("phone", digits=number)
            elif len(digits) == 8 and len(group) < 8:
                yield Form("local", digits=digits, everybodys=False)
