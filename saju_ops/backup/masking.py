"""How values become false ones, and how it is known that no true one is left.

A mask is a keyed hash of the value: the key is random, lives as long as one dump is made, and is stored nowhere. So
the same value becomes the same false one everywhere in a dump, another one in the next, and nobody who has the dump
can try birth dates until one fits.
"""

from __future__ import annotations

import json
import re
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from saju_ops.backup.masking_rules import ANYTHING, PERSONAL_NAME, PERSONAL_VALUES, RULES, Mask
from saju_ops.errors import ProofFailed

# Texts shorter than this are too common to say that one of them is somebody's.
SHORTEST_TEXT = 5
FIRST_MOMENT, FIRST_DAY = datetime(1950, 1, 1), datetime(1901, 1, 1)  # noqa: DTZ001 (birth times have no zone)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
WHEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:([ T])(\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(.*))?")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
FILLER = "이 글은 가려졌습니다. "
LONGEST_TEXT = 60


class MaskingRefused(ProofFailed):
    """A masked dump can't be made or would give something away. None was written."""


@dataclass(frozen=True)
class MaskedColumn:
    table: str
    column: str
    # The type's name, as the database prints it.
    type: str
    mask: Mask | None
    # Characters that fit, where the type has a limit.
    limit: int | None = None
    nullable: bool = True

    @property
    def masked(self) -> bool:
        return self.mask not in (None, "keep")


def rule_of(table: str, column: str, aliases: dict[str, str]) -> Mask | None:
    """The rule for a column; tables and columns are found whatever their case, and under their other names."""
    name = aliases.get(table.lower(), table.lower())
    return {k.lower(): v for k, v in RULES.get(name, {}).items()}.get(column.lower())


def follow_keys(columns: list[MaskedColumn], keys: Iterable[tuple[str, str, str, str]]) -> list[MaskedColumn]:
    """A column that refers to a masked one, or is referred to by one, is masked alike: else they wouldn't join.
    `keys`: table, column, referred table, referred column."""
    by_name = {(c.table, c.column): c for c in columns}
    pairs = [((a, b), (c, d)) for a, b, c, d in keys]
    changed = True
    while changed:
        changed = False
        for one, other in [*pairs, *((b, a) for a, b in pairs)]:
            source, target = by_name.get(one), by_name.get(other)
            if source and target and source.masked and not target.masked:
                by_name[other] = MaskedColumn(
                    target.table, target.column, target.type, source.mask, target.limit, target.nullable
                )
                changed = True
    return [by_name[(c.table, c.column)] for c in columns]


def suspicious_columns(columns: Iterable[MaskedColumn]) -> list[str]:
    """Columns without a rule whose name or type says that they may be personal."""
    found = []
    for c in (c for c in columns if c.mask is None):
        if PERSONAL_NAME.search(c.column):
            found.append(f"{c.table}.{c.column} is called like something personal")
        elif ANYTHING.search(c.type.split("(")[0]):
            found.append(f"{c.table}.{c.column} may hold any text ({c.type or 'no type'})")
    return found


def personal_value(value: Any) -> str | None:
    """What a value looks like, where it looks like somebody's; never the value."""
    text = bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else value
    if not isinstance(text, str) or len(text) < SHORTEST_TEXT:
        return None
    return next((what for what, pattern in PERSONAL_VALUES.items() if pattern.search(text)), None)


class Masker:
    """The masks of one dump. `originals` of small domains must be told first, so that no false value is a true one."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._taken: dict[Mask, set[str]] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._masks: dict[Mask, Callable[[Any, int | None, str], Any]] = {
            "identifier": self._identifier, "birth": self._birth, "text": self._text, "json": self._json,
            "phone": self._phone, "number": self._number, "hash": self._hash, "category": self._category,
            "null": lambda value, limit, where: None, "keep": lambda value, limit, where: value,
        }  # fmt: skip

    def avoid(self, mask: Mask, where: str, values: Iterable[Any]) -> None:
        """True values that a false one must not be."""
        texts = {as_text(v) for v in values if v is not None}
        self._taken.setdefault(mask, set()).update(texts)
        if mask == "category":
            self._codes[where] = self._coded(texts)

    def mask(self, mask: Mask, value: Any, limit: int | None, where: str) -> Any:
        """The false value. NULL stays NULL, and an empty text is nobody's. `where` is table and column."""
        if value is None or value == "" or value == b"":
            return value
        return self._masks[mask](value, limit, where)

    def _digest(self, purpose: str, text: str, more: int = 0) -> bytes:
        told = f"{purpose}\x00{more}\x00{text}".encode(errors="surrogatepass")
        return blake2b(told, key=self._key, digest_size=32).digest()

    def _hex(self, purpose: str, text: str) -> str:
        return self._digest(purpose, text).hex()

    def _identifier(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        digits = self._hex("identifier", text)
        if isinstance(value, int):
            return int(digits[:13], 16)
        if UUID.fullmatch(text):
            return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
        return like(value, f"m{digits[:31]}"[: limit or 32])

    def _birth(self, value: Any, limit: int | None, where: str) -> Any:
        if isinstance(value, datetime):
            return self._moment(value.isoformat(sep=" ", timespec="seconds"), with_time=True, zone=value.tzinfo)
        if isinstance(value, date):
            return self._moment(value.isoformat(), with_time=False).date()
        text = as_text(value)
        found = WHEN.fullmatch(text)
        if found is None or not isinstance(value, str | bytes):
            return self._identifier(value, limit, where)
        false = self._moment(text[: 10 if found[4] is None else 19], with_time=found[4] is not None)
        if found[4] is None:
            return like(value, f"{false:%Y-%m-%d}")
        return like(value, f"{false:%Y-%m-%d}{found[4]}{false:%H:%M:%S}{found[9]}"[: limit or 64])

    def _moment(self, text: str, *, with_time: bool, zone: Any = None) -> datetime:
        """With a time: 1950 to 2009, at a second that isn't 0, as no entered birth time has. A day alone: 1901 to
        1909, in which nobody's falls who still asks."""
        same_form = text if len(text) != 16 else f"{text}:00"
        for number in range(1000):
            drawn = int.from_bytes(self._digest("birth", same_form, number)[:8], "big")
            if with_time:
                false = FIRST_MOMENT + timedelta(minutes=drawn % (60 * 365 * 1440), seconds=1 + drawn % 59)
            else:
                false = FIRST_DAY + timedelta(days=drawn % (9 * 365))
            if str(false if with_time else false.date()) not in self._taken.get("birth", ()):
                return false.replace(tzinfo=zone)
        raise MaskingRefused("No false birth date is left that isn't somebody's. No masked dump was written.")

    def _text(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        # Of two texts of one column, never the same: a unique index may stand on it.
        false = f"{self._hex('text', text)[:16]} {FILLER * (LONGEST_TEXT // len(FILLER))}"
        return like(value, false[: min(max(17, len(text)), limit or LONGEST_TEXT, LONGEST_TEXT)].rstrip())

    def _json(self, value: Any, limit: int | None, where: str) -> Any:
        if isinstance(value, dict | list):
            return self._leaves(value)
        try:
            found = json.loads(as_text(value))
        except ValueError:
            return self._text(value, limit, where)
        return like(value, json.dumps(self._leaves(found), ensure_ascii=False))

    def _leaves(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._name(k): self._leaves(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._leaves(v) for v in value]
        if isinstance(value, bool) or value is None or value == "":
            return value
        if isinstance(value, int):
            return int.from_bytes(self._digest("json", str(value))[:4], "big")
        if isinstance(value, float):
            return int.from_bytes(self._digest("json", str(value))[:4], "big") + 0.5
        return f"m{self._hex('json', value)[:15]}"

    def _name(self, key: str) -> str:
        return key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", key) else f"m{self._hex('json', key)[:15]}"

    def _phone(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        digits = str(int.from_bytes(self._digest("phone", re.sub(r"\D", "", text))[:12], "big")).zfill(30)
        kept = iter("000" + digits[-27:])
        allowed = [c for c in text if c.isdigit() or c in "+- ()."]
        return like(value, "".join(next(kept, "0") if c.isdigit() else c for c in allowed)[:limit])

    def _number(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        # As many digits as it has, at least three, so that it fits where it stood.
        size = max(3, len(str(text).lstrip("-").split(".")[0]))
        low, high = 10 ** (size - 1), 10**size - 1
        for number in range(1000):
            drawn = low + int.from_bytes(self._digest("number", text, number)[:8], "big") % (high - low)
            false = as_number(value, drawn)
            if as_text(false) not in self._taken.get("number", ()):
                return false
        raise MaskingRefused(f"No false number is left for {where} that isn't a true one. No masked dump was written.")

    def _hash(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        digits = self._hex("hash", text) + self._hex("hash2", text)
        return like(value, digits[: min(len(text), limit or 128)])

    def _category(self, value: Any, limit: int | None, where: str) -> Any:
        code = self._codes.get(where, {}).get(as_text(value))
        if code is None or (limit and len(code) > limit):
            raise MaskingRefused(
                f"{where} has too many values to be a category. Give it another rule in masking_rules.py. No masked"
                " dump was written."
            )
        return like(value, code)

    def _coded(self, originals: set[str]) -> dict[str, str]:
        """A code for each value, as short as the longest value allows, in an order that tells nothing."""
        width = max((len(t) for t in originals), default=1)
        shuffled = sorted(originals, key=lambda t: self._digest("category", t))
        codes = (c for c in _codes(min(width, 4)) if c not in originals)
        return dict(zip(shuffled, codes, strict=False))


def _codes(width: int) -> Iterator[str]:
    for number in range(len(DIGITS) ** width):
        code = ""
        for _ in range(width):
            number, digit = divmod(number, len(DIGITS))
            code = DIGITS[digit] + code
        yield code


def as_text(value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="surrogateescape")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def as_number(value: Any, drawn: int) -> Any:
    if isinstance(value, bool | int):
        return drawn
    if isinstance(value, float):
        return drawn + 0.25
    if isinstance(value, Decimal):
        return Decimal(drawn)
    return like(value, str(drawn))


def like(value: Any, text: str) -> Any:
    """The text in the form that the value had."""
    return text.encode() if isinstance(value, bytes | memoryview) else text


# --- is anything left? -------------------------------------------------------------------------------------------


# Masks whose true values tell by themselves who somebody is, wherever they stand; and from how many characters on.
TELLING: dict[Mask, int] = {"identifier": SHORTEST_TEXT, "phone": SHORTEST_TEXT, "hash": 8, "text": 8, "birth": 10}
# Hashes after which those that are there twice are thrown out.
COMPACT = 1 << 20


class Originals:
    """What was true, as keyed 64-bit hashes: 8 bytes for each different value, whatever it was."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._anywhere = _Hashes()
        self._own: dict[str, _Hashes] = {}

    def add(self, column: MaskedColumn, values: Iterable[Any]) -> None:
        own = self._own.setdefault(f"{column.table}.{column.column}", _Hashes())
        least = TELLING.get(column.mask) if column.mask else None
        for value in values:
            if value is None or value == "" or value == b"":
                continue
            texts = parts(value, column.mask == "json")
            own.add(map(self._hash, texts))
            if least is not None:
                self._anywhere.add(self._hash(t) for t in texts if len(t) >= least)

    def _hash(self, text: str) -> int:
        told = text.encode(errors="surrogatepass")
        return int.from_bytes(blake2b(told, key=self._key, digest_size=8).digest(), "big")

    def hits(self, column: MaskedColumn, values: Iterable[Any]) -> int:
        """How many of a column's values are true ones: of its own column if that is masked, or, whatever column it is
        but one that a rule keeps, telling ones of any."""
        told = [v for v in values if v is not None and v != "" and v != b""]
        found = 0
        if column.masked and (own := self._own.get(f"{column.table}.{column.column}")):
            found += own.members(self._hash(t) for v in told for t in parts(v, column.mask == "json"))
        if column.mask != "keep":
            looks_like_json = column.mask == "json" or "json" in column.type.lower()
            texts = [v for v in told if isinstance(v, str | bytes | memoryview | dict | list)]
            found += self._anywhere.members(self._hash(t) for v in texts for t in parts(v, looks_like_json))
        return found


class _Hashes:
    """A set of 64-bit numbers in 8 bytes each."""

    def __init__(self) -> None:
        self._found: array[int] = array("Q")
        self._compacted = 0
        self._sorted: Any = None

    def add(self, hashes: Iterable[int]) -> None:
        self._found.extend(hashes)
        self._sorted = None
        if len(self._found) > self._compacted * 2 + COMPACT:
            self._found = array("Q", self._unique().tobytes())
            self._compacted = len(self._found)

    def _unique(self) -> Any:
        import numpy as np

        return np.unique(np.frombuffer(self._found.tobytes(), dtype=np.uint64))

    def members(self, hashes: Iterable[int]) -> int:
        import numpy as np

        if not self._found:
            return 0
        if self._sorted is None:
            self._sorted = self._unique()
        asked = np.fromiter(hashes, dtype=np.uint64)
        return int(np.isin(asked, self._sorted).sum())


def parts(value: Any, is_json: bool) -> list[str]:
    """The value as text, or the texts inside a JSON value."""
    text = as_text(value)
    if not is_json:
        return [text]
    try:
        return list(_texts(json.loads(text)))
    except ValueError:
        return [text]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str) and value:
        yield value
