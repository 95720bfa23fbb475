"""Names of people in texts."""

from __future__ import annotations

from collections.abc import Iterator

from saju_ops.masking.forms import (
    squeezed,
)
from saju_ops.masking.people_values import (
    _PATH,
)
from saju_ops.masking.windows import Windows


def _parts_of_name(text: str) -> Iterator[str]:
    """A name, an address without the part after +, and the name of a path's file."""
    yield text
    if "@" in text:
        local, _, domain = text.partition("@")
        yield f"{local.partition('+')[0]}@{domain}"
    if _PATH.search(text):
        file = _PATH.split(text)[-1]
        yield file
        stem = file.rpartition(".")[0]
        # `original` is every second file's.
        if not stem.isascii() or any(c.isdecimal() for c in stem):
            yield stem
        yield from (part for part in _PATH.split(text) if _is_korean(squeezed(part)))


def _is_korean(text: str) -> bool:
    return sum("가" <= c <= "힣" for c in text) >= 3


def _is_revealing(name: str) -> bool:
    if len(name) > Windows.LONGEST:
        return False
    if name.isdecimal():
        return len(name) >= 10
    return _is_korean(name) or len(name) >= 8 or (len(name) >= 5 and any(c.isdecimal() for c in name))


def _is_alone(text: str, begin: int, name: str) -> bool:
    """Long names are found inside of words too; of short ones a word begins and ends there, or a Korean one begins."""
    if len(name) >= 8:
        return True
    places = [at for at, c in enumerate(text) if c.isalnum()]
    first, last = places[begin], places[begin + len(name) - 1]
    before, after = text[first - 1 : first], text[last + 1 : last + 2]
    begins = not before.isalnum() or before.isascii() != name[0].isascii()
    ends = not after.isalnum() or after.isascii() != name[-1].isascii()
    return begins and (ends or _is_korean(name))
