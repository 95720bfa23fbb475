"""Finds what looks personal, and whether any true value is left: names, types, values and definitions.

It errs on the safe side: a false alarm costs the operator a line in `rules.py`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from saju_ops.masking.forms import decoded, readings
from saju_ops.masking.hash_set import HashSet, hashed
from saju_ops.masking.masker import MaskedColumn, as_text
from saju_ops.masking.rules import ANYTHING, PERSONAL_NAME, PERSONAL_VALUES, Mask

# Texts shorter than this are too common to belong to a person.
SHORTEST_TEXT = 5
# 90년생.
SHORTEST_WORDS = 4
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
_FLAG = re.compile(r"bool|bit(?:\(\d+\))?$|enum|set\b", re.IGNORECASE)
_MOMENT = re.compile(r"date|time", re.IGNORECASE)


def suspicious_columns(columns: Iterable[MaskedColumn]) -> list[str]:
    """Columns without a rule whose name or type suggests that they are personal."""
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


def is_plain(column: MaskedColumn) -> bool:
    """Numbers, flags, times and enumerations: their type alone shows that they are harmless."""
    return is_number(column) or is_moment(column) or bool(_FLAG.match(column.type))


def is_moment(column: MaskedColumn) -> bool:
    return bool(_MOMENT.match(column.type.strip()))


# --- values ------------------------------------------------------------------------------------------------------


# As databases write times, of which there are as many as rows.
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::\d\d)?|Z)?", re.ASCII)


def personal_value(value: Any) -> str | None:
    """The kind of personal value that a value looks like, if any; never the value."""
    text = decoded(bytes(value)) if isinstance(value, bytes | memoryview) else value
    if not isinstance(text, str) or len(text) < SHORTEST_WORDS or _STAMP.fullmatch(text):
        return None
    some = readings(text)
    found = (what for what, pattern in PERSONAL_VALUES.items() if any(pattern.search(t) for t in some))
    return next(found, None)


# --- is anything left? -------------------------------------------------------------------------------------------

# Masks whose true values identify a person by themselves, in any column; and from how many characters on.
REVEALING: dict[Mask, int] = {"identifier": SHORTEST_TEXT, "phone": SHORTEST_TEXT, "hash": 8, "text": 8, "birth": 10}
# Those of them that are also found inside a longer text: /sessions/<session_id>.
NAMING: tuple[Mask, ...] = ("identifier", "phone", "hash")
# A single word, which a person may have written and which occurs in many columns: completed.
_WORD = re.compile(r"[A-Za-z_]+")
_SEPARATORS = re.compile(r"[\s\"'`/\\,;:|&=?()\[\]{}<>#$]+")
NUMERIC = re.compile(r"-?\d+(?:\.\d+)?")
# Python types in which texts come.
TEXTUAL = (str, bytes, memoryview, dict, list)
# Words looked up at once.
WORDS = 20_000


class Originals:
    """What was true, as keyed 64-bit hashes, whatever it was; in the same memory, however much it is."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._held = HashSet("true values")
        # One set for all questions: of the same text each has another hash.
        self._questions: dict[str, Any] = {}

    def close(self) -> None:
        self._held.close()

    def add(self, column: MaskedColumn, values: Iterable[Any]) -> None:
        texts = list({t for v in _given(values) for t in parts(v, column.mask == "json")})
        hashes = self._hashes(texts)
        self._held.add(hashes ^ self._own(column))
        least = REVEALING.get(column.mask) if column.mask else None
        if least is not None:
            revealing = hashes[[len(t) >= least and not (column.mask == "text" and _WORD.fullmatch(t)) for t in texts]]
            self._held.add(revealing ^ self._question("anywhere"))
            if column.mask in NAMING:
                self._held.add(revealing ^ self._question("naming"))
        if column.mask == "birth":
            moments = {_moment(t) for t in texts} | {_moment(t[:10]) for t in texts}
            self._held.add(self._hashes(moments) ^ self._question("moment"))

    def _own(self, column: MaskedColumn) -> Any:
        return self._question(f"column {column.table}.{column.column}")

    def _question(self, name: str) -> Any:
        if name not in self._questions:
            self._questions[name] = hashed([name], self._key)
        return self._questions[name]

    def _hashes(self, texts: Iterable[str]) -> Any:
        return hashed((text.casefold() for text in texts), self._key)

    def _count(self, question: Any, texts: Mapping[str, int]) -> int:
        """How many of the texts are there, each as often as the column has it."""
        there = self._there(question, texts)
        return sum(times for times, is_there in zip(texts.values(), there, strict=True) if is_there)

    def _there(self, question: Any, texts: Iterable[str]) -> list[bool]:
        return list(self._held.holds(self._hashes(texts) ^ question).tolist())

    def hits(self, column: MaskedColumn, values: Iterable[Any]) -> int:
        """How many of a column's values are true ones: true values of its own column, if that is masked; and revealing
        ones of any column, unless a rule keeps this column. Single numbers and times in columns of their own prove
        nothing: see `moments`."""
        given = _given(values)
        texts = Counter(as_text(v) for v in given if isinstance(v, TEXTUAL))
        found = 0
        if column.masked:
            others = Counter(as_text(v) for v in given if not isinstance(v, TEXTUAL))
            for some in (texts, others):
                found += self._count(self._own(column), _parts_of(some, column.mask == "json"))
        if column.mask not in ("keep", "public") and not (column.mask is None and is_moment(column)):
            found += self._revealing(column, texts)
        return found

    def _revealing(self, column: MaskedColumn, texts: Mapping[str, int]) -> int:
        looks_like_json = column.mask == "json" or "json" in column.type.lower()
        if is_number(column):
            # A person's number may equal a row's number by chance.
            texts = {t: n for t, n in texts.items() if not NUMERIC.fullmatch(t)}
        anywhere = self._question("anywhere")
        found = self._count(anywhere, _parts_of(texts, looks_like_json))
        if looks_like_json:
            found += self._count(anywhere, _each(texts, names_in))
        if column.mask is None:
            times = list(texts.values())
            found += sum(times[number] for number in self._naming(texts))
        return found

    def named_in(self, text: str) -> bool:
        """Whether somebody is named in a text by an identifier, a phone number or a hash."""
        return bool(self._naming([text]))

    def _naming(self, texts: Iterable[str]) -> set[int]:
        """Which of the texts name somebody."""
        words: list[str] = []
        whose: list[int] = []
        found = set[int]()
        for number, text in enumerate(texts):
            some = {w for w in _words(text) if w != text and _is_revealing(w)}
            words += some
            whose += [number] * len(some)
            if len(words) >= WORDS:
                found |= self._named(words, whose)
                words, whose = [], []
        return found | self._named(words, whose)

    def _named(self, words: list[str], whose: list[int]) -> set[int]:
        there = self._there(self._question("naming"), words)
        return {number for number, is_there in zip(whose, there, strict=True) if is_there}

    def moments(self, values: Iterable[Any]) -> int:
        """How many times are somebody's birth. Some are by chance; of a column that holds births, nearly all."""
        return self._count(self._question("moment"), Counter(_moment(as_text(v)) for v in values if v is not None))


def _given(values: Iterable[Any]) -> list[Any]:
    """Without NULL, and without the empty text, which is nobody's."""
    return [v for v in values if v is not None and v != "" and v != b""]


def _parts_of(texts: Mapping[str, int], is_json: bool) -> Mapping[str, int]:
    return _each(texts, lambda text: parts(text, True)) if is_json else texts


def _each(texts: Mapping[str, int], inner: Callable[[str], Iterable[str]]) -> Counter[str]:
    """The parts inside each text, as often as they occur."""
    found = Counter[str]()
    for text, times in texts.items():
        for part in inner(text):
            found[part] += times
    return found


def _words(text: str) -> Iterator[str]:
    for word in _SEPARATORS.split(text):
        yield word
        if "." in word:
            yield from word.split(".")


def _is_revealing(word: str) -> bool:
    if word.isdecimal():
        return len(word) >= 10
    return len(word) >= 8 or (len(word) >= SHORTEST_TEXT and any(c.isdecimal() for c in word))


def _moment(text: str) -> str:
    """A date, or a date and a time to the second; midnight is the date alone."""
    shown = text[:19].replace("T", " ")
    return shown.removesuffix(" 00:00:00")


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


def names_in(document: str) -> Iterator[str]:
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
