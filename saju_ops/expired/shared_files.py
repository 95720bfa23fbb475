"""Files that rows name which stay: those are left, however the rows spell them.

Plain names are asked for in each batch, under its locks. Unusual ones (addresses, blanks, percent signs) need a look at
every row, and are read for some thousand jobs at once: a row that comes in such a spelling meanwhile is not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from saju_ops.expired.catalogue import Ref
from saju_ops.expired.conditions import Identity, bindable, chunks, one_of
from saju_ops.expired.dependents import Hanging
from saju_ops.expired.foreign_keys import Closure
from saju_ops.expired.job_files import FilePlace
from saju_ops.expired.s3_names import Named, nfc
from saju_ops.rows.engines.open import RowStore
from saju_ops.words import counted, them, were

# Spellings of file names in one statement.
SPELLINGS = 3_000


class SharedFiles:
    """`columns` are those of each table that name files."""

    def __init__(
        self, store: RowStore, closure: Closure, place: FilePlace, columns: Mapping[Ref, Sequence[str]]
    ) -> None:
        self.store, self.closure, self.place = store, closure, place
        self.columns = [(ref, column) for ref, names in columns.items() for column in names]
        self.names = place.names
        # The rows that name a file in an unusual way, and what those may mean.
        self._odd: dict[tuple[Ref, str], dict[Identity, set[str]]] = defaultdict(dict)
        self._unsure: set[str] = set()

    def read_odd_names(self) -> None:
        self._odd.clear()
        for ref, column in self.columns:
            for identity, value in self._cells(ref, column, self.names.odd(sa.column(column), self.store.table.engine)):
                meant = self.names.read(value)
                self._odd[ref, column][identity] = meant.sure | meant.unsure
        self.store.end_read()

    def of(self, hanging: Hanging, keys: Collection[str]) -> set[str]:
        """Those of the keys that a staying row names, surely or perhaps."""
        if not keys:
            return set()
        named, wanted = Named(), {nfc(key): key for key in keys}
        spelled = [(s,) for key in sorted(keys) for s in self.place.spellings(key)]
        for ref, column in self.columns:
            going = hanging.going(ref)
            wheres = [
                one_of([sa.column(column)], spelled[start : start + SPELLINGS])
                for start in range(0, len(spelled), SPELLINGS)
            ]
            # Those in the way of these files are read again: some may be gone by now.
            odd = [identity for identity, meant in self._odd[ref, column].items() if not meant.isdisjoint(wanted)]
            own: list[sa.ColumnElement[Any]] = [sa.column(c) for c in self.closure.tables[ref].identity]
            for where in (*wheres, *(one_of(own, chunk) for chunk in chunks(odd))):
                for identity, value in self._cells(ref, column, where):
                    if identity not in going:
                        found = self.names.read(value)
                        named.sure |= found.sure
                        named.unsure |= found.unsure
        self._unsure |= {key for form, key in wanted.items() if form in named.unsure - named.sure}
        return {key for key in keys if nfc(key) in named.sure | named.unsure}

    def doubts(self) -> Iterator[str]:
        if number := len(self._unsure):
            yield (
                f"{counted(number, 'file')} {were(number)} left: rows that stay name {them(number)} perhaps, by an"
                " address that isn't known to be the bucket's."
            )

    def _cells(self, ref: Ref, column: str, where: Any) -> Iterator[tuple[Identity, Any]]:
        identity = self.closure.tables[ref].identity
        table = sa.table(ref[1], *map(sa.column, dict.fromkeys([*identity, column])), schema=ref[0])
        own: list[sa.ColumnElement[Any]] = [table.c[c] for c in identity]
        query = sa.select(*own, table.c[column].label("named")).where(where)
        for row in self.store.connection.execute(query):
            yield tuple(map(bindable, row[:-1])), row[-1]
