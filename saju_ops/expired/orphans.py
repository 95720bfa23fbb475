"""Rows and files that nothing would ever delete: their job or session is gone.

Reads only. A row counts if its reference names a row that isn't there, and also if its reference is empty in a table
whose foreign key says ON DELETE SET NULL or SET DEFAULT (or in a table that names files): a deleted job leaves it so.
No row says which job that was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import sqlalchemy as sa

from saju_ops.expired.catalogue import Ref, shown
from saju_ops.expired.conditions import bindable
from saju_ops.expired.foreign_keys import Closure, Link, child_of, parent_of
from saju_ops.expired.link_values import Meanings
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import ForeignKey


def orphan_rows(store: RowStore, closure: Closure, *, files: Collection[Ref] = ()) -> Counter[str]:
    """Rows whose root is gone, by table and column; `files` are tables that name files. There are none if the database
    enforces its foreign keys and none of them empties references."""
    found: Counter[str] = Counter()
    for key in (*closure.hard, *closure.soft):
        count = _strayed(store, key) if isinstance(key, Link) else _without_parent(store, closure, key)
        found[f"{shown(child_of(key))}.{','.join(key.columns)}"] += count
    for ref, keys in _may_be_empty(closure, files):
        columns = [c for key in keys for c in key.columns]
        found[f"{shown(ref)}.{','.join(columns)} (NULL)"] += _count(
            store, _table(ref, columns), [sa.column(c).is_(None) for c in columns]
        )
    store.end_read()
    return +found


def _may_be_empty(closure: Closure, files: Collection[Ref]) -> Iterator[tuple[Ref, list[ForeignKey]]]:
    """Tables of which a row may have lost every reference, with those."""
    for ref in sorted(closure.going - {closure.root}, key=shown):
        keys = closure.parents(ref)
        nullable = closure.tables[ref].nullable
        emptied = ref in files or any(map(closure.is_loose, keys))
        if emptied and all(set(key.columns) & nullable for key in keys):
            yield ref, keys


def _without_parent(store: RowStore, closure: Closure, key: ForeignKey) -> int:
    child, parent = _table(child_of(key), key.columns).alias("c"), _table(parent_of(key), key.parent_columns).alias("p")
    mine = closure.compared(key, store.table.engine, [child.c[c] for c in key.columns])
    same = (parent.c[b] == a for a, b in zip(mine, key.parent_columns, strict=True))
    there = sa.exists(sa.select(sa.literal(1)).select_from(parent).where(*same))
    return _count(store, child, [*(child.c[c].is_not(None) for c in key.columns), ~there])


def _strayed(store: RowStore, link: Link) -> int:
    """The same for a reference that no key declares, whose columns the server may be unable to compare."""
    parent, child = _table(parent_of(link), link.parent_columns), _table(child_of(link), link.columns)
    rows = store.connection.execute(sa.select(*(parent.c[c] for c in link.parent_columns)))
    meant = Meanings({tuple(map(bindable, row)): True for row in rows})
    columns = [child.c[c] for c in link.columns]
    query = sa.select(*columns, sa.func.count()).select_from(child).group_by(*columns)
    strays = 0
    for row in store.connection.execute(query.where(*(c.is_not(None) for c in columns))):
        if meant.of(tuple(map(bindable, row[:-1]))) is None:
            strays += int(row[-1])
    return strays


def _table(ref: Ref, columns: Collection[str]) -> sa.TableClause:
    return sa.table(ref[1], *map(sa.column, dict.fromkeys(columns)), schema=ref[0])


def _count(store: RowStore, table: sa.FromClause, where: Collection[sa.ColumnElement[bool]]) -> int:
    return int(store.connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())
