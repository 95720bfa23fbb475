"""The columns by which rows belong to one person: the keys of users, sessions and jobs, and of a person's own
things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from saju_ops.masking.masker import MaskedColumn

Place = tuple[str, str]
_KEY_NAME = re.compile(r".+_(?:id|no|key|uuid)", re.IGNORECASE)


def person_keys(columns: Sequence[MaskedColumn], keys: Sequence[tuple[str, str, str, str]]) -> dict[Place, int]:
    """Table and column of each such key, and a number that is the same for those that refer to each other, by a foreign
    key or by name (`job_id` and `jobs.id`, `session_id` and `session_id`).

    A key is a person's where it is masked as an identifier, or where each row that it names has such a one, a birth
    or a telephone number: a plan that a thousand people have is none.
    """
    by_place = {(c.table.casefold(), c.column.casefold()): c for c in columns}
    groups: dict[Place, Place] = {}

    def root(place: Place) -> Place:
        while (above := groups.get(place, place)) != place:
            place = above
        return place

    for table, column, other, other_column in [*keys, *_by_name(columns)]:
        one, two = (table.casefold(), column.casefold()), (other.casefold(), other_column.casefold())
        if one in by_place and two in by_place:
            groups[root(one)] = root(two)
    referred = {(other.casefold(), column.casefold()) for _, _, other, column in keys}
    persons = {c.table.casefold() for c in columns if c.mask in ("identifier", "birth", "phone")}
    with_births = {c.table.casefold() for c in columns if c.mask in ("birth", "phone")}
    sizes = Counter(map(root, by_place))
    known = set()
    for place, c in by_place.items():
        names_rows = place in referred or place[1] == "id"
        is_used = sizes[root(place)] > 1 or place[0] in with_births
        if is_used and (c.mask == "identifier" or (names_rows and place[0] in persons)):
            known.add(root(place))
    numbers = {place: number for number, place in enumerate(sorted(known))}
    return {(c.table, c.column): numbers[root(p)] for p, c in by_place.items() if root(p) in numbers}


def _by_name(columns: Sequence[MaskedColumn]) -> list[tuple[str, str, str, str]]:
    """References that nobody declared, as the names say."""
    first: dict[str, MaskedColumn] = {}
    for c in (c for c in columns if c.column.casefold() == "id"):
        plain = c.table.rpartition(".")[2].strip('"').casefold()
        first[f"{plain.removesuffix('s')}_id"] = c
    found = []
    for c in columns:
        name = c.column.casefold()
        if _KEY_NAME.fullmatch(name) and (other := first.setdefault(name, c)) is not c:
            found.append((c.table, c.column, other.table, other.column))
    return found
