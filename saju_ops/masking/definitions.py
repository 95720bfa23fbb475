"""Whether the definitions of a database say something true: names, comments, defaults, lists of values, bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable

from saju_ops.masking.detection import Originals, personal_value
from saju_ops.masking.people import People
from saju_ops.masking.rules import HARMLESS_TEXTS

_OBJECT = re.compile(
    r"\b(?:CREATE|COMMENT ON|ALTER)\b.*?\b(TABLE|VIEW|TRIGGER|PROCEDURE|FUNCTION|EVENT|INDEX|TYPE|DOMAIN|COLUMN"
    r"|SCHEMA|SEQUENCE)\b(?: IF NOT EXISTS)?\s+([^\s(]+)",
    re.IGNORECASE,
)
# What the programs write of themselves: when they ran, and from which version on a statement is for.
_OF_THE_PROGRAM = re.compile(
    r"^-- (?:Dump completed|MySQL dump|MariaDB dump|Host:|Server version|Dumped |Started on|Completed on).*$"
    r"|/\*M?!\d+|^SET .*$|\bAUTO_INCREMENT=\d+|_[0-9]{4}_(?:ai|as)_\w+",
    re.MULTILINE,
)
_COUNTER = re.compile(r"\bAUTO_INCREMENT=(\d+)")


def personal_definitions(
    definitions: str, counters: Iterable[tuple[str, int]], originals: Originals, people: People
) -> list[str]:
    """By the object's name, unless that is what says it; never the text."""
    places: list[str] = []
    texts: list[str] = []
    found: dict[str, None] = {}
    where = "the database"
    counted = [(f"the counter of {name}", str(value)) for name, value in counters]
    for line in definitions.splitlines():
        counted += [(f"the counter of {where}", value) for value in _COUNTER.findall(line)]
        text = _OF_THE_PROGRAM.sub("", _without_harmless(line))
        if named := _OBJECT.search(text):
            where = f"{named[1].upper()} {shown(named[2], people)}"
        if what := personal_value(text):
            found[f"the definition of {where} holds what looks like {what}"] = None
        elif originals.named_in(text):
            found[f"the definition of {where} holds a true value"] = None
        places.append(f"the definition of {where}")
        texts.append(text)
    places += [place for place, _ in counted]
    texts += [value for _, value in counted]
    for place, is_true in zip(places, people.true_texts(texts), strict=True):
        if is_true and not any(says.startswith(f"{place} holds") for says in found):
            found[f"{place} holds a true value"] = None
    return list(found)


def shown(name: str, people: People) -> str:
    """A name as a message shows it: not where it is somebody's itself."""
    return "(a name that says who somebody is)" if any(people.true_texts([name])) or personal_value(name) else name


def _without_harmless(text: str) -> str:
    for harmless in HARMLESS_TEXTS:
        text = text.replace(harmless, "")
    return text
