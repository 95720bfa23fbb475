"""What looks personal, and whether anything true is left: names, types, values and definitions.

It errs on the safe side: what it takes for somebody's and isn't costs the operator a line in `masking_rules.py`.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from saju_ops.backup.masking import MaskedColumn, as_text
from saju_ops.backup.masking_rules import ANYTHING, HARMLESS_TEXTS, PERSONAL_NAME, PERSONAL_VALUES, Mask

# Texts shorter than this are too common to say that one of them is somebody's.
SHORTEST_TEXT = 5
# A text column without a rule that may be longer than this may hold whatever somebody wrote.
LONGEST_CODE = 255

# --- names and types ---------------------------------------------------------------------------------------------

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CHARACTERS = re.compile(r"n?(?:var)?char(?:acter)?(?: varying)?(?:\((\d+)\))?(\[\])?.*", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:tiny|small|medium|big)?(?:int|serial)\d*|integer|numeric|dec(?:imal)?|fixed|number|real|float\d*"
    r"|double(?: precision)?|money|bool(?:ean)?|year|oid",
    re.IGNORECASE,
)
_MOMENT = re.compile(r"date|time", re.IGNORECASE)


def suspicious_columns(columns: Iterable[MaskedColumn]) -> list[str]:
    """Columns without a rule whose name or type says that they may be personal."""
    found = []
    for c in (c for c in columns if c.mask is None):
        if any(PERSONAL_NAME.search(name) for name in _spellings(c.column)):
            found.append(f"{c.table}.{c.column} is called like something personal")
        elif _holds_anything(c.type):
            found.append(f"{c.table}.{c.column} may hold any text ({c.type or 'no type'})")
    return found


def _spellings(name: str) -> tuple[str, str]:
    """The name, and `phone_number` for `phoneNumber2`."""
    return name, re.sub(r"\d+(?=_|$)", "", _HUMP.sub("_", name))


def _holds_anything(kind: str) -> bool:
    characters = _CHARACTERS.fullmatch(kind)
    if characters:
        length, is_array = characters[1], bool(characters[2])
        without_end = length is None and "var" in kind.lower()
        return is_array or without_end or int(length or 1) > LONGEST_CODE
    return bool(ANYTHING.search(kind.split("(")[0]))


def is_number(column: MaskedColumn) -> bool:
    return bool(_NUMBER.fullmatch(re.split(r"[( ]", column.type.strip(), maxsplit=1)[0]))


def is_moment(column: MaskedColumn) -> bool:
    return bool(_MOMENT.match(column.type.strip()))


# --- values ------------------------------------------------------------------------------------------------------


def personal_value(value: Any) -> str | None:
    """What a value looks like, where it looks like somebody's; never the value."""
    text = bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else value
    if not isinstance(text, str) or len(text) < SHORTEST_TEXT:
        return None
    if not text.isascii():
        # ０１０－１２３４ is a phone number too.
        text = unicodedata.normalize("NFKC", text)
    return next((what for what, pattern in PERSONAL_VALUES.items() if pattern.search(text)), None)


# --- is anything left? -------------------------------------------------------------------------------------------

# Masks whose true values tell by themselves who somebody is, wherever they stand; and from how many characters on.
TELLING: dict[Mask, int] = {"identifier": SHORTEST_TEXT, "phone": SHORTEST_TEXT, "hash": 8, "text": 8, "birth": 10}
# Of those, the ones that are told inside a longer text: /sessions/<session_id>.
NAMING: tuple[Mask, ...] = ("identifier", "phone", "hash")
# A single word, which somebody may have written and which stands in many columns: completed.
_WORD = re.compile(r"[A-Za-z_]+")
_SEPARATORS = re.compile(r"[\s\"'`/\\,;:|&=?()\[\]{}<>#$]+")
_NUMERIC = re.compile(r"-?\d+(?:\.\d+)?")
# Hashes after which those that are there twice are thrown out.
COMPACT = 1 << 20


class Originals:
    """What was true, as keyed 64-bit hashes: 8 bytes for each different value, whatever it was."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._anywhere, self._naming, self._moments = _Hashes(), _Hashes(), _Hashes()
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
                telling = [t for t in texts if len(t) >= least and not (column.mask == "text" and _WORD.fullmatch(t))]
                self._anywhere.add(map(self._hash, telling))
                if column.mask in NAMING:
                    self._naming.add(map(self._hash, telling))
            if column.mask == "birth":
                self._moments.add(map(self._hash, {_moment(t) for t in texts} | {_moment(t[:10]) for t in texts}))

    def _hash(self, text: str) -> int:
        told = text.casefold().encode(errors="surrogatepass")
        return int.from_bytes(blake2b(told, key=self._key, digest_size=8).digest(), "big")

    def hits(self, column: MaskedColumn, values: Iterable[Any]) -> int:
        """How many of a column's values are true ones: of its own column if that is masked, or, whatever column it is
        but one that a rule keeps, telling ones of any. Of numbers and times in columns of their own nothing can be
        told one by one: see `moments`."""
        told = [v for v in values if v is not None and v != "" and v != b""]
        found = 0
        if column.masked and (own := self._own.get(f"{column.table}.{column.column}")):
            found += own.members(self._hash(t) for v in told for t in parts(v, column.mask == "json"))
        if column.mask != "keep" and not (column.mask is None and is_moment(column)):
            found += self._telling(column, told)
        return found

    def _telling(self, column: MaskedColumn, told: Iterable[Any]) -> int:
        looks_like_json = column.mask == "json" or "json" in column.type.lower()
        texts = [as_text(v) for v in told if isinstance(v, str | bytes | memoryview | dict | list)]
        if is_number(column):
            # An employee's number and the number of a row are alike by chance.
            texts = [t for t in texts if not _NUMERIC.fullmatch(t)]
        found = self._anywhere.members(self._hash(p) for t in texts for p in parts(t, looks_like_json))
        if looks_like_json:
            found += self._anywhere.members(self._hash(name) for t in texts for name in _names_in(t))
        if column.mask is None:
            found += sum(self.named_in(t) for t in texts)
        return found

    def named_in(self, text: str) -> bool:
        """Whether somebody is named in a text by an identifier, a phone number or a hash."""
        words = {w for w in _words(text) if w != text and _is_telling(w)}
        return bool(words) and self._naming.members(map(self._hash, words)) > 0

    def moments(self, values: Iterable[Any]) -> int:
        """How many times are somebody's birth. Some are by chance; of a column that holds births, nearly all."""
        return self._moments.members(self._hash(_moment(as_text(v))) for v in values if v is not None)


def _words(text: str) -> Iterator[str]:
    for word in _SEPARATORS.split(text):
        yield word
        if "." in word:
            yield from word.split(".")


def _is_telling(word: str) -> bool:
    if word.isdecimal():
        return len(word) >= 10
    return len(word) >= 8 or (len(word) >= SHORTEST_TEXT and any(c.isdecimal() for c in word))


def _moment(text: str) -> str:
    """A date, or a date and a time to the second; midnight is the date alone."""
    told = text[:19].replace("T", " ")
    return told.removesuffix(" 00:00:00")


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


def _names_in(document: str) -> Iterator[str]:
    """The names of a JSON document's entries: {"<user_id>": 3}."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from names(each)

    try:
        yield from names(json.loads(document))
    except ValueError:
        return


# --- definitions -------------------------------------------------------------------------------------------------

_OBJECT = re.compile(
    r"\b(?:CREATE|COMMENT ON|ALTER)\b.*?\b(TABLE|VIEW|TRIGGER|PROCEDURE|FUNCTION|EVENT|INDEX|TYPE|DOMAIN|COLUMN"
    r"|SCHEMA)\b(?: IF NOT EXISTS)?\s+([^\s(]+)",
    re.IGNORECASE,
)


def personal_definitions(definitions: str, originals: Originals) -> list[str]:
    """Defaults, comments, and the bodies of views, triggers and routines that hold something personal or true; by the
    object's name, never the text."""
    found: dict[str, None] = {}
    where = "the database"
    for text in HARMLESS_TEXTS:
        definitions = definitions.replace(text, "")
    for line in definitions.splitlines():
        if named := _OBJECT.search(line):
            where = f"{named[1].upper()} {named[2]}"
        if what := personal_value(line):
            found[f"the definition of {where} holds what looks like {what}"] = None
        elif originals.named_in(line):
            found[f"the definition of {where} holds a true value"] = None
    return list(found)
