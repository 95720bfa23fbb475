"""What is in user_sessions.birth_datetime_encrypted: a Fernet token, or base64 around one, and JSON in it.

Written here: `{"birth_datetime": "1990-05-05T09:30:00", "is_lunar": false, "is_leap_month": false}`, the names being
those of the columns. The moment is the wall clock where somebody was born, as the column had it: without a zone, its
fractions included. A text that is no moment (a zero date of MySQL's, `infinity`) is written as the database prints it.

Read too: what the service's own code wrote, with other names, and in either form.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from saju_ops.schema.birth_data.keys import Key

# How a Fernet token begins (its version, and an instant before the year 2106), and how base64 around one does.
PLAIN, DOUBLE = b"gAAAAA", b"Z0FBQUFB"
MOMENT, LUNAR, LEAP = "birth_datetime", "is_lunar", "is_leap_month"
OURS = {MOMENT, LUNAR, LEAP}
CANONICAL = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)")
FRACTION = re.compile(r":\d\d[.,](\d+)")
# Made once: json.dumps makes one for each call that isn't the usual one.
ENCODER = json.JSONEncoder(ensure_ascii=False)
# Names that other programs give, in small letters and without underscores.
MOMENTS = ("birthdatetime", "datetime", "birth", "dateofbirth", "birthday", "birthat", "dob")
DAYS, TIMES = ("birthdate", "date", "birthday", "solardate"), ("birthtime", "time")
PARTS = (("birthyear", "year"), ("birthmonth", "month"), ("birthday", "day"), ("birthhour", "hour"),
         ("birthminute", "minute"))  # fmt: skip
LUNARS, LEAPS = ("islunar", "lunar"), ("isleapmonth", "leapmonth", "isleap", "lunarleapmonth")

# True, False, or what else the column holds; None for NULL.
Flag = bool | int | str | None


class Birth(NamedTuple):
    """What one row says in the clear."""

    moment: str
    is_lunar: Flag = None
    is_leap_month: Flag = None


class Opened(NamedTuple):
    """A token that a key opened."""

    key: Key
    # As the writer wrote it, byte for byte.
    payload: bytes
    is_double: bool


def looks_like_a_token(stored: bytes) -> bool:
    return stored.startswith((PLAIN, DOUBLE))


def opened(stored: bytes, keys: Sequence[Key]) -> Opened | None:
    """What is in a value of the column; None where no key opens it."""
    from cryptography.fernet import InvalidToken

    token = stored.strip()
    is_double = token.startswith(DOUBLE)
    if is_double:
        try:
            token = b64decode(token.translate(bytes.maketrans(b"-_", b"+/")))
        except (NotBase64, ValueError):
            return None
    if not token.startswith(PLAIN):
        return None
    for key in keys:
        try:
            return Opened(key, key.fernet.decrypt(token), is_double)
        except InvalidToken:
            continue
    return None


def encrypted(payload: bytes, key: Key, *, double: bool) -> bytes:
    token = key.fernet.encrypt(payload)
    return b64encode(token) if double else token


def payload_of(birth: Birth, columns: Mapping[str, bool]) -> bytes:
    """The JSON of a row. `columns`: which of the two flags the table has; one that it lacks is left out."""
    found: dict[str, Flag] = {MOMENT: _iso(birth.moment)}
    if columns.get(LUNAR, True):
        found[LUNAR] = birth.is_lunar
    if columns.get(LEAP, True):
        found[LEAP] = birth.is_leap_month
    return ENCODER.encode(found).encode()


def _iso(moment: str) -> str:
    match = CANONICAL.fullmatch(moment)
    return f"{match[1]}T{match[2]}" if match and _moment(moment) else moment


def birth_in(payload: bytes) -> Birth | None:
    """The birth that a token of ours or of the service holds; None where it isn't understood."""
    try:
        text = payload.decode()
        found = json.loads(text) if text.lstrip()[:1] in ("{", '"') else text
    except (UnicodeDecodeError, ValueError):
        return None
    if isinstance(found, str):
        return Birth(found.strip()) if _moment(found) else None
    if not isinstance(found, dict):
        return None
    plain = _plain(found)
    moment = next((str(plain[n]) for n in MOMENTS if n in plain and _moment(plain[n])), None)
    moment = moment or _joined(plain) or _from_parts(plain)
    if moment is None and MOMENT in found:  # our own way to write what is no moment
        moment = str(found[MOMENT])
    if moment is None:
        return None
    return Birth(moment, _flag(plain, LUNARS), _flag(plain, LEAPS))


def holds_no_more_than_the_columns(payload: bytes) -> bool:
    """Whether nothing is lost when a token is replaced by one of the columns' own values."""
    try:
        found = json.loads(payload)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() <= OURS


def says_the_same(clear: Birth, hidden: Birth) -> bool:
    """Whether a token says what the columns say. A flag that the token doesn't name says nothing."""
    if _comparable(clear.moment) != _comparable(hidden.moment):
        return False
    pairs = ((clear.is_lunar, hidden.is_lunar), (clear.is_leap_month, hidden.is_leap_month))
    return all(mine == theirs for mine, theirs in pairs if theirs is not None)


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """By names in small letters without underscores; what is nested one level is found too."""
    nested = [item for value in found.values() if isinstance(value, dict) for item in value.items()]
    pairs = [*nested, *found.items()]
    return {re.sub(r"[_\-\s]", "", str(name)).lower(): value for name, value in pairs if value is not None}


def _moment(value: Any) -> datetime | None:
    """A date with a time; a day alone is none."""
    if not isinstance(value, str) or len(value.strip()) <= len("1990-05-05"):
        return None
    try:
        return datetime.fromisoformat(value.strip())
    except ValueError:
        return None


def _joined(plain: Mapping[str, Any]) -> str | None:
    day = next((plain[name] for name in DAYS if isinstance(plain.get(name), str)), None)
    time = next((plain[name] for name in TIMES if isinstance(plain.get(name), str)), None)
    text = f"{day} {time or '00:00:00'}" if day else ""
    return text if _moment(text) else None


def _from_parts(plain: Mapping[str, Any]) -> str | None:
    numbers = [next((plain[name] for name in names if name in plain), None) for names in PARTS]
    try:
        year, month, day, hour, minute = (int(n) if n is not None else 0 for n in numbers)
        return str(datetime(year, month, day, hour, minute))  # noqa: DTZ001 (a wall clock)
    except (TypeError, ValueError):
        return None


def _flag(plain: Mapping[str, Any], names: Sequence[str]) -> Flag:
    value = next((plain[name] for name in names if name in plain), None)
    return value if isinstance(value, bool | int | str) else None


def _comparable(moment: str) -> Any:
    found = _moment(moment)
    if found is None:
        return moment
    # Digits that Python's own type has no place for count as well.
    fraction = FRACTION.search(moment)
    return found.replace(microsecond=0), fraction[1].rstrip("0") if fraction else ""
