"""The rows that reference a batch of roots (jobs, sessions): found and locked level by level, then deleted.

The rows found under lock are all there are, and stay all: a foreign key can't get a new row while the row that it
references is locked. (For a reference that no key declares only the first half holds: a row that comes meanwhile is
counted as an orphan.) Children are deleted before the rows that they reference, rows of a cycle in the order of their
own references, and every DELETE removes exactly the rows that were found. Roots that share a row are deleted together
or not at all, and a root stays if another root references it that has not expired. A row found by a key that would
merely be emptied (SET NULL) stays, emptied, if another of its references leads to a row that stays.

Nothing here commits: the caller's transaction decides. Tables at the end of the tree whose rows needn't be looked at
are deleted by their foreign key in one statement a batch and not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import OperatorError
from saju_ops.expired.catalogue import Ref, shown
from saju_ops.expired.conditions import Identity, chunks, one_of
from saju_ops.expired.finding import FoundRows, Node
from saju_ops.expired.foreign_keys import Link, child_of, parent_of
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import ForeignKey
from saju_ops.words import counted, were


class Hanging(FoundRows):
    """`wanted` names columns to read in addition to those that the deletes need: their tables are always read. `only`
    limits the search to these tables and those between them and the roots."""

    # --- columns to read of a table ---------------------------------------------------------------------------

    # --- search --------------------------------------------------------------------------------------------

    # --- roots that stay -----------------------------------------------------------------------------------------

    # --- counting and deleting ----------------------------------------------------------------------------

    def counts(self) -> Counter[str]:
        """Rows that `delete` would delete, by table."""
        counted: Counter[str] = Counter()
        for ref in self.closure.going:
            if self.is_swept(ref):
                (key,) = self.closure.parents(ref)
                counted[shown(ref)] += sum(map(self._count, self._matching(key)))
            else:
                counted[shown(ref)] += len(self.going(ref))
        return counted

    def detachable(self) -> Counter[str]:
        """Rows that stay and lose their reference, by table."""
        counted: Counter[str] = Counter()
        for key in self._loose():
            child = child_of(key)
            if child not in self.closure.going:
                counted[shown(child)] += sum(map(self._count, self._matching(key)))
            elif self._identity(child):
                going = self.going(child)
                found = self._referencing(key, list(self.going(parent_of(key))))
                counted[shown(child)] += sum(identity not in going for _, identity, _ in found)
        return +counted

    def _count(self, condition: tuple[sa.TableClause, Any]) -> int:
        table, where = condition
        query = sa.select(sa.func.count()).select_from(table).where(where)
        return int(self.store.connection.execute(query).scalar_one())

    def _matching(self, key: ForeignKey) -> Iterator[tuple[sa.TableClause, Any]]:
        """The rows that reference, by `key`, rows that go: some hundred values a condition."""
        table = self._table(child_of(key), key.columns)
        places = [self._columns[parent_of(key)].index(c) for c in key.parent_columns]
        values = (tuple(f.cells[p] for p in places) for f in self.going(parent_of(key)).values())
        if isinstance(key, Link):
            yield from ((table, where) for where in self._spelled(key, table, values))
            return
        for chunk in chunks([v for v in values if None not in v]):
            yield table, self._naming(key, table, chunk)

    def delete(self) -> Counter[str]:
        """Deletes the rows that needn't stay, children first. Inside a transaction only. Raises DBAPIError,
        OperatorError."""
        if not (self.lock and self.store.connection.in_transaction()):
            raise RuntimeError("rows are deleted only inside the transaction that locked and judged them")
        deleted: Counter[str] = Counter()
        for group in self.closure.groups:
            if self.closure.is_cyclic(group):
                deleted += self._delete_cycle(group)
            elif self.is_swept(group[0]):
                (key,) = self.closure.parents(group[0])
                for table, where in self._matching(key):
                    deleted[shown(group[0])] += self.store.connection.execute(sa.delete(table).where(where)).rowcount
                    self._require_none(group[0], (table, where))
            else:
                deleted[shown(group[0])] += self._delete_rows(group[0], list(self.going(group[0])))
        if not self.store.enforces_keys:
            self._empty_references()
        return deleted

    def _loose(self) -> list[ForeignKey]:
        """The keys whose rows may stay and lose their reference."""
        hard = (k for k in self.closure.hard if self.closure.is_loose(k) and self._is_held_by_several(child_of(k)))
        return [*self.closure.soft, *hard]

    def _empty_references(self) -> None:
        """ON DELETE SET NULL of a SQLite that can't enforce its keys, for the rows that are still there."""
        for key in self._loose():
            if key.on_delete != "SET NULL":
                raise OperatorError(
                    f"rows of {shown(child_of(key))} would have to get their default (ON DELETE {key.on_delete}), and"
                    " this SQLite database has foreign keys that are wrong, so that it can't enforce any"
                )
            for table, where in self._matching(key):
                emptied = dict.fromkeys(key.columns, sa.null())
                self.store.connection.execute(sa.update(table).where(where).values(emptied))

    def _require_none(self, ref: Ref, condition: tuple[sa.TableClause, Any]) -> None:
        """A trigger or rule may keep a row of a DELETE and say nothing; PostgreSQL's own cascade then leaves it without
        its job. MySQL knows no such trigger."""
        if self.store.table.engine in ("postgresql", "sqlite") and (left := self._count(condition)):
            kept = counted(left, "row")
            raise OperatorError(f"the server kept {kept} of {shown(ref)} in a DELETE; a trigger or rule may do so")

    def _delete_rows(self, ref: Ref, identities: Sequence[Identity], *, exactly: bool = True) -> int:
        table, count = self._table(ref, self._identity(ref)), 0
        for chunk in chunks(identities):
            where = one_of([table.c[c] for c in self._identity(ref)], chunk)
            count += self.store.connection.execute(sa.delete(table).where(where)).rowcount
        if exactly and count != len(identities):
            raise OperatorError(
                f"the server deleted {counted(count, 'row')} of {shown(ref)} where {len(identities)}"
                f" {were(len(identities))} found and locked"
            )
        return count

    def _delete_cycle(self, group: Sequence[Ref]) -> Counter[str]:
        """Rows that no other references first, then those that this leaves, and so on; where rows reference each
        other in a ring, a reference that may be NULL is emptied before."""
        left: set[Node] = {(ref, identity) for ref in group for identity in self.going(ref)}
        # InnoDB refuses to delete a row that references itself.
        own = {n: [(p, k) for p, k in self._links.get(n, ()) if p == n] for n in left}
        self._cut({n for n in left if own[n]}, own, Counter())
        links = {n: [(p, k) for p, k in self._links.get(n, ()) if p in left and p != n] for n in left}
        referrers = Counter(parent for targets in links.values() for parent, _ in targets)
        free = [node for node in left if not referrers[node]]
        deleted: Counter[str] = Counter()
        while left:
            if not free and not self._cut(left, links, referrers):
                return deleted + self._delete_ring(left)
            free = free or [node for node in left if not referrers[node]]
            for ref, identities in _by_table(free).items():
                deleted[shown(ref)] += self._delete_rows(ref, identities)
            left -= set(free)
            released = Counter(parent for node in free for parent, _ in links[node])
            referrers -= released
            free = [node for node in released if not referrers[node] and node in left]
        return deleted

    def _cut(self, left: set[Node], links: dict[Node, list[tuple[Node, ForeignKey]]], referrers: Counter[Node]) -> bool:
        """Empties the references between rows of `left` that may be NULL. False where there is none."""
        emptied: dict[tuple[Ref, str], set[Identity]] = defaultdict(set)
        for node in left:
            for link in list(links[node]):
                column = self._may_be_null(link[1])
                if column is not None:
                    emptied[node[0], column].add(node[1])
                    links[node].remove(link)
                    referrers[link[0]] -= 1
        for (ref, column), identities in emptied.items():
            table = self._table(ref, [*self._identity(ref), column])
            for chunk in chunks(list(identities)):
                where = one_of([table.c[c] for c in self._identity(ref)], chunk)
                self.store.connection.execute(sa.update(table).where(where).values({column: sa.null()}))
        return bool(emptied)

    def _may_be_null(self, key: ForeignKey) -> str | None:
        known = self.closure.tables[child_of(key)]
        return next((c for c in key.columns if c in known.nullable and c not in known.identity), None)

    def _delete_ring(self, left: set[Node]) -> Counter[str]:
        """Rows in a ring of references none of which may be NULL: only a database that checks at the end can delete
        it."""
        defer_constraints(self.store)
        deleted: Counter[str] = Counter()
        for ref, identities in _by_table(left).items():
            # The database's own cascade may have taken some of them with the others.
            self._delete_rows(ref, identities, exactly=False)
            deleted[shown(ref)] += len(identities)
        return deleted


def defer_constraints(store: RowStore) -> None:
    name = store.connection.dialect.name
    if name == "sqlite":
        store.connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    elif name == "postgresql":
        store.connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")


def _by_table(nodes: Iterable[Node]) -> dict[Ref, list[Identity]]:
    found: dict[Ref, list[Identity]] = defaultdict(list)
    for ref, identity in nodes:
        found[ref].append(identity)
    return found
