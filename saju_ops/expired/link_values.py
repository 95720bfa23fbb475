"""Values of columns that refer without a foreign key: the same id in the ways in which another column may spell it.

A UUID is the same one with dashes or without, in capitals or small letters, and as its 16 bytes; a number the same as
its digits. Everything else is compared to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from saju_ops.database.connect import SQLiteText

Kind = Literal["text", "binary", "number", "uuid", "any", "other"]
Values = tuple[Any, ...]
T = TypeVar("T")
_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "bpchar", "citext", "name"}
_BINARIES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "bytea"}
_NUMBERS = {
    "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "int2", "int4", "int8", "numeric",
}  # fmt: skip
_COMPARABLE = ({"text", "uuid"}, {"text", "binary"}, {"uuid", "binary"}, {"text", "number"})


def kind_of(engine: str, type_name: str) -> Kind:
    if engine == "sqlite":
        return "any"  # each cell has a type of its own
    groups: tuple[tuple[Kind, set[str]], ...] = (
        ("text", _TEXTS), ("binary", _BINARIES), ("number", _NUMBERS), ("uuid", {"uuid"})
    )  # fmt: skip
    return next((kind for kind, names in groups if type_name in names), "other")


def are_comparable(engine: str, one: str, other: str) -> bool:
    """Whether columns of these types may hold the same ids."""
    kinds = {kind_of(engine, one), kind_of(engine, other)}
    return one == other or (len(kinds) == 1 and kinds != {"other"}) or kinds in _COMPARABLE


def readings(value: Any) -> list[str]:
    """The possible meanings of a value, the likeliest first: two ids are the same if they have a meaning in common."""
    if isinstance(value, UUID):
        return [value.hex]
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        own = [raw.hex()] if len(raw) == 16 and not isinstance(value, SQLiteText) else []
        try:
            return [*own, *readings(raw.decode().rstrip("\0"))]
        except UnicodeDecodeError:
            return own or [raw.hex()]
    text = str(value).rstrip(" ")
    return [text.replace("-", "").lower()] if _UUID.fullmatch(text) else [text]


def spellings(value: Any, kind: Kind) -> list[Any]:
    """The values that a column of this kind may hold for it, such as its server takes them."""
    found: dict[Any, None] = {value: None} if kind in ("any", "other") else {}
    for text in readings(value):
        forms = _forms(text)
        if kind in ("text", "any"):
            found |= dict.fromkeys(forms)
        if kind == "uuid" and len(forms) > 1:
            found[forms[0]] = None
        if kind in ("binary", "any"):
            if len(forms) > 1:
                found[bytes.fromhex(text)] = None
            found |= {form.encode(): None for form in forms}
        if kind in ("number", "any") and re.fullmatch(r"-?[0-9]{1,30}", text):
            found[int(text)] = None
    return list(found)


def _forms(text: str) -> list[str]:
    """The forms of a text that `readings` gave: four of a UUID, of which the first is the usual one."""
    if not re.fullmatch("[0-9a-f]{32}", text):
        return [text]
    dashed = str(UUID(text))
    return [dashed, text, dashed.upper(), text.upper()]


def spelled(values: Iterable[Values], kinds: Sequence[Kind]) -> list[Values]:
    """Every way in which columns of these kinds may hold one of the values."""
    return [
        each
        for value in values
        for each in product(*(spellings(v, k) for v, k in zip(value, kinds, strict=True)))
    ]  # fmt: skip


class Meanings(Generic[T]):
    """Finds the ids that a value spells. Letter case is ignored only if no id is spelled exactly so, as a server does
    whose collation ignores it."""

    def __init__(self, ids: Mapping[Values, T]) -> None:
        self._exact: dict[tuple[str, ...], T] = {}
        self._folded: dict[tuple[str, ...], T] = {}
        for values, meant in ids.items():
            for reading in product(*map(readings, values)):
                self._exact[reading] = meant
                self._folded[tuple(map(str.casefold, reading))] = meant

    def of(self, values: Values) -> T | None:
        read = list(product(*map(readings, values)))
        found = [self._exact[r] for r in read if r in self._exact]
        folded = (self._folded.get(tuple(map(str.casefold, r))) for r in read)
        return found[0] if found else next((meant for meant in folded if meant is not None), None)
