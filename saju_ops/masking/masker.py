"""Makes false values, and makes sure that none of them is a true one.

A mask is a keyed hash of the value. The key is random, exists while one dump is made, and is stored nowhere. So the
same value becomes the same false one everywhere in a dump, and another one in the next; and a person who has the dump
can't find out a birth date by trying dates.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from itertools import islice
from typing import Any

from saju_ops.errors import ProofFailed
from saju_ops.masking.hash_set import HashSet, hashed
from saju_ops.masking.rules import RULES, Mask

FIRST_MOMENT, FIRST_DAY = datetime(1950, 1, 1), datetime(1901, 1, 1)  # noqa: DTZ001 (birth times have no zone)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
WHEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:([ T])(\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?(.*))?")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
FILLER = "이 글은 가려졌습니다. "
LONGEST_TEXT = 60
WHOLE = re.compile(r"-?\d+")
# Identifiers with less room than this get characters that say more each.
SHORT = 17
ROUNDS = 6
# A category's values are in memory, each with its code.
MOST_CODES = 100_000
# Texts that are hashed at once.
TEXTS = 10_000


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
    # The largest whole number that fits, where the type holds whole numbers.
    most: int | None = None
    # True where the database takes `Hong` and `hong` for the same.
    folded: bool = False

    @property
    def masked(self) -> bool:
        return self.mask not in (None, "keep", "public")


def rule_of(table: str, column: str, aliases: dict[str, str]) -> Mask | None:
    """The rule for a column; tables and columns are found whatever their case, and under their other names."""
    name = aliases.get(table.lower(), table.lower())
    return {k.lower(): v for k, v in RULES.get(name, {}).items()}.get(column.lower())


def follow_keys(columns: list[MaskedColumn], keys: Iterable[tuple[str, str, str, str]]) -> list[MaskedColumn]:
    """A column that refers to a masked one, or is referred to by one, is masked alike: else they wouldn't join.
    `keys`: table, column, referred table, referred column."""
    # SQLite reports a key as it was typed, in whatever case.
    by_name = {_folded(c.table, c.column): c for c in columns}
    pairs = [(_folded(a, b), _folded(c, d)) for a, b, c, d in keys]
    changed = True
    while changed:
        changed = False
        for one, other in [*pairs, *((b, a) for a, b in pairs)]:
            source, target = by_name.get(one), by_name.get(other)
            if source and target and source.masked and not target.masked:
                by_name[other] = replace(target, mask=source.mask)
                changed = True
    return [by_name[_folded(c.table, c.column)] for c in columns]


def _folded(table: str, column: str) -> tuple[str, str]:
    return table.casefold(), column.casefold()


class Masker:
    """The masks of one dump. Pass all `originals` of small domains first, so that no false value is a true one."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._taken: dict[Mask, HashSet] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._masks: dict[Mask, Callable[[Any, int | None, str], Any]] = {
            "identifier": self._identifier, "birth": self._birth, "text": self._text, "json": self._json,
            "phone": self._phone, "number": self._number, "hash": self._hash, "category": self._category,
            "null": lambda value, limit, where: None,
        }  # fmt: skip

    def close(self) -> None:
        for taken in self._taken.values():
            taken.close()

    def avoid(self, mask: Mask, where: str, values: Iterable[Any]) -> None:
        """Different true values that a false one must not be. Raises MaskingRefused for a category of too many."""
        texts = (as_text(v) for v in values if v is not None)
        if mask == "category":
            some = set(islice(texts, MOST_CODES + 1))
            if len(some) > MOST_CODES:
                raise self._no_category(where)
            self._codes[where] = self._coded(some)
            return
        taken = self._taken.setdefault(mask, HashSet("true values"))
        while some_texts := list(islice(texts, TEXTS)):
            taken.add(hashed(some_texts, self._key))

    def _is_taken(self, mask: Mask, text: str) -> bool:
        return mask in self._taken and hashed([text], self._key)[0] in self._taken[mask]

    def of(self, column: MaskedColumn, value: Any) -> Any:
        """The false value in place of a column's."""
        assert column.mask is not None
        where = f"{column.table}.{column.column}"
        if column.mask == "identifier" and value not in (None, "", b""):
            if column.most is not None and WHOLE.fullmatch(as_text(value)):
                return self._whole(value, column.most, where)
            if column.folded and isinstance(value, str):
                value = value.casefold().rstrip()
        return self.mask(column.mask, value, column.limit, where)

    def mask(self, mask: Mask, value: Any, limit: int | None, where: str) -> Any:
        """The false value. NULL stays NULL, and an empty text is nobody's. `where` is table and column."""
        if value is None or value == "" or value == b"":
            return value
        return self._masks[mask](value, limit, where)

    def _whole(self, value: Any, most: int, where: str) -> Any:
        """Another number for each number, in the upper half of the column's range, where there is no true one."""
        number, half = int(as_text(value)), (most + 1) // 2
        if not 0 <= number < half:
            raise MaskingRefused(
                f"{where} holds numbers below 0 or from {half} on, so it can't be masked as an identifier. Give it"
                " another rule in saju_ops/masking/rules.py. No masked dump was written."
            )
        false = half + self._permuted("whole", number, half)
        return false if isinstance(value, int) else like(value, str(false))

    def _permuted(self, purpose: str, number: int, size: int) -> int:
        """A number below `size` for each number below it, never the same for two: unique values stay unique. A Feistel
        network, repeated until the result is in range."""
        bits = ((size - 1).bit_length() + 1) // 2 or 1
        low = (1 << bits) - 1
        while True:
            left, right = number >> bits, number & low
            for turn in range(ROUNDS):
                drawn = self._digest(purpose, f"{size} {right}", turn)
                left, right = right, left ^ (int.from_bytes(drawn[:8], "big") & low)
            number = left << bits | right
            if number < size:
                return number

    def _digest(self, purpose: str, text: str, more: int = 0) -> bytes:
        content = f"{purpose}\x00{more}\x00{text}".encode(errors="surrogatepass")
        return blake2b(content, key=self._key, digest_size=32).digest()

    def _hex(self, purpose: str, text: str) -> str:
        return self._digest(purpose, text).hex()

    def _identifier(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        digits = self._hex("identifier", text)
        if isinstance(value, int):
            return int(digits[:13], 16)
        if UUID.fullmatch(text):
            return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
        if limit and limit < SHORT:
            # More of the value in each character, so that no two of them meet.
            return like(value, f"m{_base36(int(digits, 16))}"[:limit])
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
        """With a time: 1950 to 2009, at a second that isn't 0, unlike every birth time that a user enters. A day alone:
        1901 to 1909, when no living user was born."""
        same_form = text if len(text) != 16 else f"{text}:00"
        for number in range(1000):
            drawn = int.from_bytes(self._digest("birth", same_form, number)[:8], "big")
            if with_time:
                false = FIRST_MOMENT + timedelta(minutes=drawn % (60 * 365 * 1440), seconds=1 + drawn % 59)
            else:
                false = FIRST_DAY + timedelta(days=drawn % (9 * 365))
            if not self._is_taken("birth", str(false if with_time else false.date())):
                return false.replace(tzinfo=zone)
        raise MaskingRefused("No false birth date is left that isn't somebody's. No masked dump was written.")

    def _text(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        # Never the same for two texts of a column: it may have a unique index.
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
        """The name of an entry says what it is; a name with a number in it may be personal."""
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", key) and not re.search(r"\d{2}", key)
        return key if plain else f"m{self._hex('json', key)[:15]}"

    def _phone(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        given = "".join(str(int(c)) for c in text if c.isdecimal())
        rest = len(given) - 3
        drawn = str(self._permuted("phone", int(given[3:]), 10**rest)).zfill(rest) if rest > 0 else ""
        kept = iter("000" + drawn)
        allowed = [c for c in text if c.isdecimal() or c in "+- ()."]
        return like(value, "".join(next(kept, "0") if c.isdecimal() else c for c in allowed)[:limit])

    def _number(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        # As many digits as it has, at least three, so that it fits in its place.
        size = max(3, len(str(text).lstrip("-").split(".")[0]))
        low, high = 10 ** (size - 1), 10**size - 1
        for number in range(1000):
            drawn = low + int.from_bytes(self._digest("number", text, number)[:8], "big") % (high - low)
            false = as_number(value, drawn)
            if not self._is_taken("number", as_text(false)):
                return false
        raise MaskingRefused(f"No false number is left for {where} that isn't a true one. No masked dump was written.")

    def _hash(self, value: Any, limit: int | None, where: str) -> Any:
        text = as_text(value)
        digits = self._hex("hash", text) + self._hex("hash2", text)
        return like(value, digits[: min(len(text), limit or 128)])

    def _category(self, value: Any, limit: int | None, where: str) -> Any:
        code = self._codes.get(where, {}).get(as_text(value))
        if code is None or (limit and len(code) > limit):
            raise self._no_category(where)
        return like(value, code)

    @staticmethod
    def _no_category(where: str) -> MaskingRefused:
        return MaskingRefused(
            f"{where} has too many values to be a category. Give it another rule in saju_ops/masking/rules.py. No"
            " masked dump was written."
        )

    def _coded(self, originals: set[str]) -> dict[str, str]:
        """A code for each value, as short as the longest value allows, in an order that reveals nothing."""
        width = max((len(t) for t in originals), default=1)
        shuffled = sorted(originals, key=lambda t: self._digest("category", t))
        # Nor a code that differs from another only in its case.
        taken = {t.casefold() for t in originals}
        codes = (c for c in _codes(min(width, 4)) if c not in taken)
        return dict(zip(shuffled, codes, strict=False))


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, len(DIGITS))
        text += DIGITS[digit]
    return text


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
