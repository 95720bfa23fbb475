"""The true values of each person, and whether a copy still holds them, in whatever form (see `forms.py`).

A certain form is compared with the true values of all people. A doubtful form, such as 900505, is compared with those
of the row's own person, which match by chance once in 25,000 times; and with those of all people in a column where more
forms match than chance explains. A row's person is known by its keys: those of the user, session or job.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from saju_ops.masking.detection import names_in
from saju_ops.masking.forms import (
    DAYS,
    FORMS,
    MINUTES_AT,
    MONTH_DAYS_AT,
    MONTHS_AT,
    OWN,
    Form,
    birth_forms,
    national,
    plain,
    readings,
    squeezed,
    text_forms,
)
from saju_ops.masking.hash_set import HashSet, hashed
from saju_ops.masking.keys import person_keys
from saju_ops.masking.masker import MaskedColumn, as_text
from saju_ops.masking.numbers import number_forms
from saju_ops.masking.people_names import _is_alone, _is_revealing, _parts_of_name
from saju_ops.masking.people_values import (
    _RECENT,
    _birth,
    _dates_in_parts,
    _forms_of_time,
    _is_early,
    _joined,
    _national,
    _sorted_out,
    _without_harmless,
)
from saju_ops.masking.windows import Windows

# Different doubtful forms of a column that are remembered, and rows in which the commonest ones are tried.
REMEMBERED = 20_000
TRIED = 3_000
# Texts of a column that are looked through once.
CACHED = 2_000
_COMMON = ("year", "month", "month_day", "time")
_NAME_COLUMN = re.compile(r"name|nick|이름|성명|성함|명$", re.IGNORECASE)


@dataclass
class _Tally:
    """One column's doubtful forms of one kind."""

    tried: int = 0
    own: int = 0
    # Each different form, and in how many rows it is, where it is somebody's (else 0).
    everybodys: dict[Any, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """The forms found in a text."""

    true: bool
    doubtful: tuple[Form, ...] = ()


class People:
    """Not for use across threads. `tables`: the columns of each table, with their rules; `keys`: foreign keys."""

    def __init__(self, tables: Sequence[Sequence[MaskedColumn]], keys: Sequence[tuple[str, str, str, str]]) -> None:
        import numpy as np

        self._key = secrets.token_bytes(32)
        self._held = HashSet("births, telephone numbers and names")
        self._random = hashed((f"form {n}" for n in range(FORMS)), self._key)
        self._there = np.zeros(FORMS, bool)
        self._windows = Windows()
        self._counts: Counter[str] = Counter()
        self._keys = person_keys([c for table in tables for c in table], keys)
        self._asked = {q: hashed([q], self._key)[0] for q in ("own", "moment", "phone", "name")}
        self._tallies: dict[str, dict[tuple[str, str], _Tally]] = defaultdict(lambda: defaultdict(_Tally))
        self._sure: dict[str, Counter[str]] = defaultdict(Counter)
        self._cache: dict[tuple[str, str], dict[str, _Seen]] = defaultdict(dict)
        self._early: dict[str, None] = {}

    def close(self) -> None:
        self._held.close()

    # --- the true values ---------------------------------------------------------------------------------------------

    def add(
        self, columns: Sequence[MaskedColumn], true: Sequence[Sequence[Any]], false: Sequence[Sequence[Any]]
    ) -> None:
        """One batch of a table: each column's cells as they were, and as they are in the copy."""
        rows = _KeysOfRows(self, columns, false)
        for column, cells in zip(columns, true, strict=True):
            if column.mask == "birth":
                self._add_births(cells, rows)
            elif column.mask == "phone":
                self._add_phones(cells, rows)
            if column.mask in ("identifier", "hash") or (column.mask == "text" and _NAME_COLUMN.search(column.column)):
                self._add_names(column, cells)
        for year, month, day in _dates_in_parts(columns):
            parts = zip(true[year], true[month], true[day], strict=True)
            self._add_births([_joined(*p) for p in parts], rows)

    def _add_births(self, cells: Sequence[Any], rows: _KeysOfRows) -> None:
        import numpy as np

        births = {cell: birth for cell in set(cells) if (birth := _birth(cell))}
        forms = {cell: numbers for cell, birth in births.items() if (numbers := birth_forms(*birth))}
        if not forms:
            return
        # As many for each: one without a time has its day twice.
        padded = np.array([(*numbers, numbers[0])[:5] for numbers in forms.values()])
        minutes = np.where(padded[:, 4] >= MINUTES_AT, padded[:, 4], MINUTES_AT)
        moments = self._moments(padded[:, 0], minutes)
        self._there[padded.ravel()] = True
        self._held.add(moments ^ self._asked["moment"])
        self._counts["moment"] += len(forms)
        hashes = np.column_stack([self._random[padded], moments])
        place_of = {cell: number for number, cell in enumerate(forms)}
        where = [at for at, cell in enumerate(cells) if cell in place_of]
        each = hashes[[place_of[cells[at]] for at in where]]
        for keys, has in rows.hashes(where):
            self._held.add((each ^ keys[:, None])[has].ravel() ^ self._asked["own"])

    def _add_phones(self, cells: Sequence[Any], rows: _KeysOfRows) -> None:
        numbers = [_national(cell) for cell in cells]
        known = sorted({n for n in numbers if n})
        self._held.add(hashed(known, self._key) ^ self._asked["phone"])
        self._counts["phone"] += len(known)
        where = [at for at, n in enumerate(numbers) if n]
        own = [numbers[at] or "" for at in where]
        for keys, has in rows.hashes(where):
            for forms in (own, [n[-8:] for n in own]):
                self._held.add((hashed(forms, self._key) ^ keys)[has] ^ self._asked["own"])

    def _add_names(self, column: MaskedColumn, cells: Sequence[Any]) -> None:
        names: set[str] = set()
        for text in {as_text(c) for c in cells if c is not None}:
            if len(text) <= Windows.LONGEST * 4 and (column.mask != "text" or len(text) <= 40):
                names |= {name for part in _parts_of_name(plain(text)) if _is_revealing(name := squeezed(part))}
        if names:
            self._windows.add(sorted(names))
            self._held.add(hashed(sorted(names), self._key) ^ self._asked["name"])
            self._counts["name"] += len(names)

    def _moments(self, days: Any, minutes: Any) -> Any:
        import numpy as np

        return self._random[days] * np.uint64(3) + self._random[minutes]

    # --- the values of the copy ---------------------------------------------------------------------------------------

    def look(self, columns: Sequence[MaskedColumn], cells: Sequence[Sequence[Any]]) -> None:
        """One batch of the copy. Columns that are masked, or public, say nothing true in another form."""
        rows = _KeysOfRows(self, columns, cells)
        for column, values in zip(columns, cells, strict=True):
            if column.mask == "json":
                named = ["\n".join(names_in(as_text(v))) if v is not None else "" for v in values]
                some = [at for at, names in enumerate(named) if names]
                self._look_at_texts(f"{column.table}.{column.column}", column, some, [named[at] for at in some], rows)
            elif column.mask in (None, "keep"):
                numbers, texts, times = _sorted_out(column, values)
                where = f"{column.table}.{column.column}"
                if numbers[0]:
                    self._look_at_numbers(where, numbers[0], numbers[1], rows)
                if times[0]:
                    self._look_at_times(where, column, times[0], times[1], rows)
                if texts[0]:
                    self._look_at_texts(where, column, texts[0], texts[1], rows)

    def _look_at_numbers(self, where: str, at: list[int], values: list[int], rows: _KeysOfRows) -> None:
        import numpy as np

        places = np.array(at)
        for kind, index, numbers, minutes, everybodys in number_forms(np.array(values, np.int64)):
            hashes = self._random[numbers] if minutes is None else self._moments(numbers, minutes)
            self._try_own(where, kind, hashes, places[index], rows)
            if everybodys:
                there = self._there[numbers] if minutes is None else self._held.holds(hashes ^ self._asked["moment"])
                self._try_all(where, kind, hashes.tolist(), there.tolist(), (numbers >= _RECENT).tolist())
        long = [(a, str(v)) for a, v in zip(at, values, strict=True) if v >= 10**7]
        self._look_at_digits(where, long, rows)

    def _look_at_digits(self, where: str, long: list[tuple[int, str]], rows: _KeysOfRows) -> None:
        if self._counts["phone"]:
            local = [(a, v) for a, v in long if len(v) == 8]
            phone = [(a, n) for a, v in long if len(v) > 8 and (n := national(v))]
            for kind, some in (("local", local), ("phone", phone)):
                self._try_own(where, kind, hashed([v for _, v in some], self._key), [a for a, _ in some], rows)
            self._try_strings(where, "phone", [v for _, v in phone])
        if self._counts["name"]:
            self._try_strings(where, "name", [v for _, v in long if len(v) >= 10])

    def _try_strings(self, where: str, kind: str, strings: list[str]) -> None:
        if strings:
            hashes = hashed(strings, self._key)
            there = self._held.holds(hashes ^ self._asked[kind])
            self._try_all(where, kind, hashes.tolist(), there.tolist(), [False] * len(strings))

    def _look_at_times(
        self, where: str, column: MaskedColumn, at: list[int], values: list[Any], rows: _KeysOfRows
    ) -> None:
        """Times before the service's own; of the later ones `Originals.moments` counts the share."""
        for place, value in zip(at, values, strict=True):
            for form in _forms_of_time(value) if _is_early(value) else ():
                if column.mask is None and form.kind == "day" and form.number < _RECENT:
                    self._early[where] = None
                self._doubt(where, form, [place], rows)

    def _look_at_texts(
        self, where: str, column: MaskedColumn, at: list[int], values: list[str], rows: _KeysOfRows
    ) -> None:
        cache = self._cache[column.table, column.column]
        places = defaultdict(list)
        for place, value in zip(at, values, strict=True):
            places[value].append(place)
        new = [text for text in places if text not in cache]
        seen = dict(zip(new, self._seen(new), strict=True))
        for text, some in places.items():
            says = cache[text] if text in cache else seen[text]
            if says.true:
                self._sure[column.table][column.column] += len(some)
                continue
            for form in says.doubtful:
                self._doubt(where, form, some, rows)
        if len(cache) + len(seen) <= CACHED:
            cache.update(seen)

    def _doubt(self, where: str, form: Form, places: list[int], rows: _KeysOfRows) -> None:
        import numpy as np

        number = np.array([form.number])
        if form.digits:
            hashes = hashed([form.digits], self._key)
        else:
            hashes = self._moments(number, np.array([form.minute])) if form.minute else self._random[number]
        self._try_own(where, form.kind, np.repeat(hashes, len(places)), places, rows)
        if form.everybodys:
            there = self._is_somebodys(form)
            self._try_all(where, form.kind, hashes.tolist(), [there], [form.number >= _RECENT], len(places))

    def _is_somebodys(self, form: Form) -> bool:
        import numpy as np

        if form.digits:
            return hashed([form.digits], self._key)[0] ^ self._asked[form.kind] in self._held
        if form.minute:
            moment = self._moments(np.array([form.number]), np.array([form.minute]))[0]
            return moment ^ self._asked["moment"] in self._held
        return bool(self._there[form.number])

    def _try_own(self, where: str, kind: str, hashes: Any, places: Any, rows: _KeysOfRows) -> None:
        tally = self._tallies[where][kind, "own"]
        room = TRIED - tally.tried if kind in _COMMON else len(hashes)
        places, hashes = list(places[:room]), hashes[:room]
        if not places:
            return
        tally.tried += len(places)
        # Once for each row, however many of its keys say so.
        found = [self._held.holds(hashes ^ keys ^ self._asked["own"]) & has for keys, has in rows.hashes(places)]
        tally.own += sum(map(any, zip(*found, strict=True)))

    def _try_all(
        self, where: str, kind: str, forms: list[int], there: list[bool], recent: list[bool], times: int = 1
    ) -> None:
        for form, is_there, is_recent in zip(forms, there, recent, strict=True):
            which = f"recent {kind}" if is_recent and kind in ("day", "day6", "moment") else kind
            tally = self._tallies[where][which, "all"]
            tally.tried += 1
            if form in tally.everybodys or len(tally.everybodys) < REMEMBERED or is_there:
                tally.everybodys[form] = tally.everybodys.get(form, 0) + (times if is_there else 0)

    # --- texts ------------------------------------------------------------------------------------------------------

    def _seen(self, texts: list[str]) -> list[_Seen]:
        """The forms found in each text."""
        spelled = [readings(_without_harmless(text)) for text in texts]
        flat = [(number, reading) for number, some in enumerate(spelled) for reading in some]
        named = {flat[place][0] for place in self._named([reading for _, reading in flat])}
        found = []
        for number, some in enumerate(spelled):
            forms = set[Form]().union(*map(text_forms, some))
            sure = number in named or any(self._is_sure(f) for f in forms)
            found.append(_Seen(sure, () if sure else tuple(sorted(forms))))
        return found

    def _is_sure(self, form: Form) -> bool:
        certain = form.kind == "phone" or (form.kind in ("day", "moment") and form.number < _RECENT)
        return certain and form.everybodys and self._is_somebodys(form)

    def _named(self, texts: list[str]) -> set[int]:
        """Which plain texts hold a name, whatever it is glued to."""
        found, some = set[int](), list[tuple[int, str]]()
        for number, begin, name in self._windows.likely([squeezed(t) for t in texts]):
            if number not in found and _is_alone(texts[number], begin, name):
                some.append((number, name))
        if some:
            there = self._held.holds(hashed([n for _, n in some], self._key) ^ self._asked["name"])
            found |= {number for (number, _), is_there in zip(some, there.tolist(), strict=True) if is_there}
        return found

    def true_texts(self, texts: list[str]) -> list[bool]:
        """Which texts say something true for certain, and, of all that say something doubtful, whether by chance."""
        seen = self._seen(texts)
        doubtful = Tallied(self)
        for says in seen:
            doubtful.add(says.doubtful)
        suspected = doubtful.suspected()
        return [says.true or any(f in suspected for f in says.doubtful) for says in seen]

    # --- by chance or not -----------------------------------------------------------------------------------------

    def found(self, table: str) -> Counter[str]:
        """For each column of a table, how many of its values reveal something true."""
        found = Counter(self._sure.get(table, {}))
        for where in [w for w in self._tallies if w.startswith(f"{table}.")]:
            # One value may be a day and a time: the kind that was found most often says how many there are.
            found[where.removeprefix(f"{table}.")] += max(
                self._own_hits(kind, tally) if whose == "own" else self._all_hits(kind, tally)
                for (kind, whose), tally in self._tallies[where].items()
            )
        return +found

    def early(self, table: str) -> list[str]:
        """Columns of times without a rule that hold earlier ones than a service's own."""
        return [w.removeprefix(f"{table}.") for w in self._early if w.startswith(f"{table}.")]

    def _own_hits(self, kind: str, tally: _Tally) -> int:
        return 0 if by_chance(tally.own, tally.tried, OWN.get(kind, 1e-7), kind in _COMMON) else tally.own

    def _all_hits(self, kind: str, tally: _Tally) -> int:
        tried = max(len(tally.everybodys), 1) if len(tally.everybodys) < REMEMBERED else tally.tried
        hits = [times for times in tally.everybodys.values() if times]
        return 0 if by_chance(len(hits), tried, self._share(kind), kind in _COMMON) else sum(hits)

    def _share(self, kind: str) -> float:
        """The share of a kind's forms that belong to a person."""
        ranges = {
            "day": (0, _RECENT), "day6": (0, _RECENT), "recent day": (_RECENT, DAYS), "recent day6": (_RECENT, DAYS),
            "year": (DAYS, MONTHS_AT), "month": (MONTHS_AT, MONTH_DAYS_AT), "month_day": (MONTH_DAYS_AT, MINUTES_AT),
            "time": (MINUTES_AT, FORMS),
        }  # fmt: skip
        spaces = {"moment": 5e7, "recent moment": 5e5, "phone": 1e8, "name": 1e10}
        if kind in spaces:
            return min(1.0, self._counts[kind.removeprefix("recent ")] / spaces[kind])
        first, last = ranges[kind]
        # As if all were within some 70 years, or a recent five.
        some = {"day": 25_000, "day6": 25_000, "recent day": 2_000, "recent day6": 2_000, "year": 60, "month": 700}
        return min(1.0, int(self._there[first:last].sum()) / some.get(kind, last - first))


class Tallied:
    """Doubtful forms of texts that are nobody's in particular, such as definitions."""

    def __init__(self, people: People) -> None:
        self._people = people
        self._forms: dict[str, set[Form]] = defaultdict(set)

    def add(self, forms: Iterable[Form]) -> None:
        for form in forms:
            if form.everybodys:
                recent = form.number >= _RECENT and form.kind in ("day", "day6", "moment")
                self._forms[f"recent {form.kind}" if recent else form.kind].add(form)

    def suspected(self) -> set[Form]:
        found = set[Form]()
        for kind, forms in self._forms.items():
            hits = {f for f in forms if self._people._is_somebodys(f)}
            if not by_chance(len(hits), len(forms), self._people._share(kind)):
                found |= hits
        return found


class _KeysOfRows:
    """The hashes of the keys of a batch's rows, made when they are asked for."""

    def __init__(self, people: People, columns: Sequence[MaskedColumn], cells: Sequence[Sequence[Any]]) -> None:
        groups = [people._keys.get((c.table, c.column)) for c in columns]
        self._cells = [(group, some) for group, some in zip(groups, cells, strict=True) if group is not None]
        self._secret = people._key
        self._made: list[tuple[Any, Any]] | None = None

    def hashes(self, places: Sequence[int]) -> Iterator[tuple[Any, Any]]:
        """For each key its hashes in those rows, and in which of them it is not NULL."""
        if len(places):
            if self._made is None:
                self._made = [self._of(group, cells) for group, cells in self._cells]
            for hashes, has in self._made:
                yield hashes[places], has[places]

    def _of(self, group: int, cells: Sequence[Any]) -> tuple[Any, Any]:
        import numpy as np

        numbers = {value: number for number, value in enumerate(dict.fromkeys(cells))}
        hashes = hashed((f"{group}\x00{as_text(v)}" for v in numbers), self._secret)
        return hashes[[numbers[v] for v in cells]], np.array([v is not None for v in cells], bool)


def by_chance(hits: int, tried: int, share: float, common: bool = False) -> bool:
    """Whether so many hits are likely where each of `tried` is one with the probability `share`."""
    expected = tried * share
    if hits == 0 or share >= 1:
        return True
    if expected > 30:
        return hits <= expected + 5 * math.sqrt(expected)
    fewer = sum(math.exp(-expected) * expected**n / math.factorial(n) for n in range(min(hits, 100)))
    return 1 - fewer >= (0.05 if tried < 20 else 0.001 if common else 0.02)


# --- values ---------------------------------------------------------------------------------------------------------


# --- names ----------------------------------------------------------------------------------------------------------
