"""Finds and locks, level by level, the rows that reference a batch of roots (jobs, sessions)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from saju_ops.expired.catalogue import Ref, shown
from saju_ops.expired.conditions import Identity, bindable, chunks, naming, one_of
from saju_ops.expired.expiry import Expiry
from saju_ops.expired.foreign_keys import Closure, Link, child_of, parent_of
from saju_ops.expired.link_values import Kind, Meanings, kind_of, spelled
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import ForeignKey

Node = tuple[Ref, Identity]


class FoundRows:
    """`wanted` names columns to read in addition to those that the deletes need: their tables are always read. `only`
    limits the search to these tables and those between them and the roots."""

    def __init__(
        self, store: RowStore, closure: Closure, expiry: Expiry, *, lock: bool,
        wanted: Mapping[Ref, Sequence[str]], only: frozenset[Ref] | None = None,
    ) -> None:  # fmt: skip
        self.store, self.closure, self.expiry, self.lock = store, closure, expiry, lock
        self.wanted = wanted
        self.only = only
        self.roots: list[Identity] = []
        self.rows: dict[Ref, dict[Identity, Found]] = defaultdict(dict)
        self.detached: dict[Ref, dict[Identity, Found]] = defaultdict(dict)
        self._groups: list[int] = []
        self._reasons: dict[int, str] = {}
        self._links: dict[Node, list[tuple[Node, ForeignKey]]] = defaultdict(list)
        # Rows that stay although a key that would be emptied leads to them; by which keys the others were found.
        self._spared: set[Node] = set()
        self._found_by: dict[Node, set[ForeignKey]] = defaultdict(set)
        self._columns = {ref: self._columns_of(ref) for ref in closure.tables}
        self._in_cycle = {ref for g in closure.groups if closure.is_cyclic(g) for ref in g}

    def _columns_of(self, ref: Ref) -> list[str]:
        needed = [*self.closure.tables[ref].identity]
        for key in (*self.closure.hard, *self.closure.soft):
            if parent_of(key) == ref:
                needed += key.parent_columns
        return list(dict.fromkeys([*needed, *self.wanted.get(ref, ())]))

    def is_swept(self, ref: Ref) -> bool:
        """Whether its rows are deleted by their foreign key, unread."""
        if ref == self.closure.root or ref in self.wanted or ref in self._in_cycle:
            return False
        # SQLite compares a reference as the key's column says, which only a comparison with that column does.
        if self.store.table.engine == "sqlite" and self._identity(ref):
            return False
        # By its identity it is decided whether a row is deleted or only loses its other reference.
        if self._identity(ref) and any(child_of(k) == ref for k in self.closure.soft):
            return False
        referenced = any(parent_of(k) == ref for k in (*self.closure.hard, *self.closure.soft))
        return not referenced and len(self.closure.parents(ref)) == 1

    def cell(self, ref: Ref, found: Found, column: str) -> Any:
        return found.cells[self._columns[ref].index(column)]

    def collect(self, identities: Sequence[Identity]) -> None:
        """Finds the given roots, as far as they are still there and expired, and all rows that reference them."""
        self._search(identities)
        while spared := self._held_elsewhere():
            self._spared |= spared
            self._forget()
            self._search(identities)

    def _forget(self) -> None:
        every: tuple[Any, ...] = (self.roots, self.rows, self.detached, self._groups, self._reasons, self._links)
        for found in (*every, self._found_by):
            found.clear()

    def _search(self, identities: Sequence[Identity]) -> None:
        fresh = self._new_roots(self._expired(identities))
        frontier: dict[Ref, list[Identity]] = {self.closure.root: fresh}
        while frontier:
            coming: dict[Ref, list[Identity]] = defaultdict(list)
            for ref, parents in frontier.items():
                for key in self.closure.children(ref):
                    if not self.is_swept(child_of(key)) and self._is_asked_for(child_of(key)):
                        coming[child_of(key)] += self._follow(key, parents)
            frontier = {ref: found for ref, found in coming.items() if found}
        for key in self.closure.soft:
            if child_of(key) in self.wanted and parent_of(key) in self.rows:
                self._follow_soft(key)

    def _is_asked_for(self, ref: Ref) -> bool:
        return self.only is None or ref in self.only

    def _expired(self, identities: Sequence[Identity]) -> dict[Identity, tuple[Any, ...]]:
        """Those of the roots' identities that are there and past, locked; with the cells that are read."""
        ref = self.closure.root
        cells = [self.store.col(c).label(f"c{i}") for i, c in enumerate(self._columns[ref])]
        own = [self.store.col(c) for c in self._identity(ref)]
        found = {}
        for chunk in chunks(identities):
            query = sa.select(*cells, *self.expiry.shown()).select_from(self.store.from_)
            query = query.where(one_of(own, chunk), *self.expiry.conditions())
            for row in self._execute(self._locking(query)):
                if self.expiry.is_past(row[len(cells) :]):
                    values = tuple(map(bindable, row[: len(cells)]))
                    found[values[: len(own)]] = values
        return found

    def _new_roots(self, found: Mapping[Identity, tuple[Any, ...]]) -> list[Identity]:
        for identity, cells in found.items():
            self._groups.append(len(self.roots))
            self.rows[self.closure.root][identity] = Found(len(self.roots), cells)
            self.roots.append(identity)
        return list(found)

    def _follow(self, key: ForeignKey, parents: Sequence[Identity]) -> list[Identity]:
        """Adds the rows that reference the given ones by `key`; gives those that were not known before."""
        child, parent = child_of(key), parent_of(key)
        fresh: list[Identity] = []
        strangers: dict[Identity, list[int]] = defaultdict(list)
        for parent_identity, identity, cells in self._referencing(key, parents):
            owner = self.rows[parent][parent_identity].owner
            if (child, identity) in self._spared:
                self.detached[child][identity] = Found(owner, cells)
                continue
            if self._is_held_by_several(child):
                self._found_by[(child, identity)].add(key)
            if child in self._in_cycle and parent in self._in_cycle:
                self._links[(child, identity)].append(((parent, parent_identity), key))
            known = self.rows[child].get(identity)
            if known is not None:
                self._together(owner, known.owner)
            elif child == self.closure.root:
                strangers[identity].append(owner)
            else:
                self.rows[child][identity] = Found(owner, cells)
                fresh.append(identity)
        return fresh + self._judge(strangers)

    def _judge(self, strangers: Mapping[Identity, Sequence[int]]) -> list[Identity]:
        """Roots that reference other roots: expired ones are deleted too, one that isn't keeps the others."""
        if not strangers:
            return []
        expired = self._expired(list(strangers))
        fresh = self._new_roots(expired)
        for identity, owners in strangers.items():
            for owner in owners:
                if identity in expired:
                    self._together(owner, self.rows[self.closure.root][identity].owner)
                else:
                    self.keep(owner, f"a row of {shown(self.closure.root)} that has not expired hangs on it")
        return fresh

    def _is_held_by_several(self, ref: Ref) -> bool:
        """Whether a row of the table may go by one reference and stay by another."""
        keys = self.closure.parents(ref)
        return ref != self.closure.root and len(keys) > 1 and any(map(self.closure.is_loose, keys))

    def _held_elsewhere(self) -> set[Node]:
        """Rows that were found only by keys which would be emptied, and that another reference holds to an existing row
        that was not found. A reference inside a ring of tables, such as a reply's to what it answers, holds none."""
        held: set[Node] = set()
        for ref in filter(self._is_held_by_several, list(self.rows)):
            only_loose = [
                identity for identity in self.rows[ref]
                if all(map(self.closure.is_loose, self._found_by[(ref, identity)]))
            ]  # fmt: skip
            for key in self.closure.parents(ref):
                if isinstance(key, Link) or parent_of(key) in self.closure.group_of(ref):
                    continue
                others = [i for i in only_loose if key not in self._found_by[(ref, i)]]
                held |= {(ref, identity) for identity in self._referring(key, others)}
        return held

    def _referring(self, key: ForeignKey, identities: Sequence[Identity]) -> Iterator[Identity]:
        """Those of these rows whose row named by `key` exists. Locks nothing more."""
        own = self._identity(child_of(key))
        child = self._table(child_of(key), [*own, *key.columns]).alias("c")
        parent = self._table(parent_of(key), key.parent_columns).alias("p")
        for chunk in chunks(identities):
            query = sa.select(*(child.c[c] for c in own)).select_from(child.join(parent, self._on(key, child, parent)))
            for row in self._execute(query.where(one_of([child.c[c] for c in own], chunk))):
                yield tuple(map(bindable, row))

    def _follow_soft(self, key: ForeignKey) -> None:
        child, parent = child_of(key), parent_of(key)
        for parent_identity, identity, cells in self._referencing(key, list(self.rows[parent])):
            if identity not in self.rows[child]:
                self.detached[child][identity] = Found(self.rows[parent][parent_identity].owner, cells)

    def _referencing(
        self, key: ForeignKey, parents: Sequence[Identity]
    ) -> Iterator[tuple[Identity, Identity, tuple[Any, ...]]]:
        """For each row that references one of `parents`: the parent's identity, its own, its cells. The server joins
        them, since it compares texts as the foreign key does."""
        if isinstance(key, Link):
            yield from self._linked(key, parents)
            return
        columns = self._columns[child_of(key)]
        theirs, own = self._identity(parent_of(key)), self._identity(child_of(key))
        child = self._table(child_of(key), [*columns, *key.columns]).alias("c")
        parent = self._table(parent_of(key), [*theirs, *key.parent_columns]).alias("p")
        on = self._on(key, child, parent)
        selected = [parent.c[c].label(f"p{i}") for i, c in enumerate(theirs)]
        selected += [child.c[c].label(f"c{i}") for i, c in enumerate(columns)]
        for chunk in chunks(parents):
            query = sa.select(*selected).select_from(child.join(parent, on))
            query = query.where(one_of([parent.c[c] for c in theirs], chunk))
            for row in self._execute(self._locking(query)):
                cells = tuple(map(bindable, row))
                mine = cells[len(theirs) :]
                yield cells[: len(theirs)], mine[: len(own)], mine

    def _on(self, key: ForeignKey, child: sa.FromClause, parent: sa.FromClause) -> sa.ColumnElement[bool]:
        """SQLite compares by the left column's collation, and a foreign key by the parent's."""
        mine = self.closure.compared(key, self.store.table.engine, [child.c[c] for c in key.columns])
        return sa.and_(*(parent.c[b] == a for a, b in zip(mine, key.parent_columns, strict=True)))

    def _linked(self, key: Link, parents: Sequence[Identity]) -> Iterator[tuple[Identity, Identity, tuple[Any, ...]]]:
        """The same of a reference that no key declares: asked by values, since the server may be unable to compare
        columns of two types, or of two collations."""
        columns, own = self._columns[child_of(key)], self._identity(child_of(key))
        table = self._table(child_of(key), [*columns, *key.columns])
        meant = Meanings({self._values(key, parent): parent for parent in parents})
        width = len(columns)
        for where in self._spelled(key, table, [self._values(key, parent) for parent in parents]):
            cells = [*(table.c[c] for c in columns), *(table.c[c].label(f"k{i}") for i, c in enumerate(key.columns))]
            for row in self._execute(self._locking(sa.select(*cells).where(where))):
                values = tuple(map(bindable, row))
                parent = meant.of(values[width:])
                if parent is not None:
                    yield parent, values[: len(own)], values[:width]

    def _values(self, key: ForeignKey, parent: Identity) -> tuple[Any, ...]:
        """What references a found row by `key`."""
        found = self.rows[parent_of(key)][parent]
        return tuple(self.cell(parent_of(key), found, column) for column in key.parent_columns)

    def _spelled(self, key: Link, table: sa.TableClause, values: Iterable[Identity]) -> Iterator[Any]:
        types = self.closure.tables[child_of(key)].types
        kinds = [kind_of(self.store.table.engine, types[column]) for column in key.columns]
        for chunk in chunks([v for v in values if None not in v]):
            forms = spelled(chunk, kinds)
            others = self._of_others(key, kinds, {*forms} - {*chunk}) - {*chunk}
            for part in chunks([form for form in forms if form not in others]):
                yield self._naming(key, table, part)

    def _of_others(self, key: Link, kinds: Sequence[Kind], forms: set[Identity]) -> set[Identity]:
        """Other spellings of ids that rows of the referenced table have to the letter: a value that is spelled so
        refers to these."""
        types = self.closure.tables[parent_of(key)].types
        if not forms or kinds != [kind_of(self.store.table.engine, types[column]) for column in key.parent_columns]:
            return set()
        table = self._table(parent_of(key), key.parent_columns)
        columns = [table.c[c] for c in key.parent_columns]
        wheres = [one_of(columns, chunk) for chunk in chunks(sorted(forms, key=repr))]
        rows = (row for where in wheres for row in self._execute(sa.select(*columns).where(where)))
        return {tuple(map(bindable, row)) for row in rows}

    def _naming(self, key: ForeignKey, table: sa.TableClause, values: Sequence[Identity]) -> Any:
        own, engine = [table.c[c] for c in key.columns], self.store.table.engine
        return naming(engine, own, self.closure.compared(key, engine, own), values)

    def _locking(self, query: sa.Select[Any]) -> sa.Select[Any]:
        return query.with_for_update() if self.lock else query

    def _execute(self, statement: Any) -> Any:
        return self.store.connection.execute(statement).all()

    def _identity(self, ref: Ref) -> tuple[str, ...]:
        return self.closure.tables[ref].identity

    def _table(self, ref: Ref, columns: Iterable[str]) -> sa.TableClause:
        return sa.table(ref[1], *map(sa.column, dict.fromkeys(columns)), schema=ref[0])

    def _together(self, one: int, other: int) -> None:
        self._groups[self._group(one)] = self._group(other)

    def _group(self, owner: int) -> int:
        while self._groups[owner] != owner:
            self._groups[owner] = self._groups[self._groups[owner]]
            owner = self._groups[owner]
        return owner

    def keep(self, owner: int, reason: str) -> None:
        self._reasons.setdefault(owner, reason)

    def staying(self) -> dict[Identity, str]:
        """Roots that stay, and why, including those that share rows with one that stays."""
        by_group = {self._group(owner): reason for owner, reason in self._reasons.items()}
        return {
            identity: self._reasons.get(owner, by_group[self._group(owner)])
            for owner, identity in enumerate(self.roots)
            if self._group(owner) in by_group
        }

    def going(self, ref: Ref, rows: Mapping[Ref, Mapping[Identity, Found]] | None = None) -> dict[Identity, Found]:
        """The rows of a table whose roots are all deleted."""
        kept = {self._group(owner) for owner in self._reasons}
        found = (self.rows if rows is None else rows).get(ref, {})
        return {i: row for i, row in found.items() if self._group(row.owner) not in kept}


@dataclass(slots=True)
class Found:
    owner: int
    cells: tuple[Any, ...]
