"""The tables that reference a table, by the foreign keys that the database itself reports.

All tables that reference the root are found, at any depth, in any schema that the account can see, whether the database
cascades or not, including cycles and self-references. A table that isn't listed for deletion, or that the account may
not see, is refused (or a doubt, if that is unclear): a new table's rows are never deleted by surprise.

A key with ON DELETE SET NULL (or SET DEFAULT) is followed if its table is `taken`, that is, named by the operator: its
rows are deleted all the same. Rows of any other such table stay, and the database empties their reference; they count
as detached, and their table must be known just the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from saju_ops.errors import Refused
from saju_ops.expired.catalogue import _CATALOGUES, Catalogue, Known, Ref, named, shown
from saju_ops.expired.conditions import Cells, compared
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import ForeignKey
from saju_ops.rows.unseen_keys import Unsure, require_seen

DETACHING = ("SET NULL", "SET DEFAULT")


@dataclass(frozen=True)
class Link(ForeignKey):
    """A reference that no foreign key declares: the columns' types may differ, and the database guards nothing."""


@dataclass(frozen=True)
class Closure:
    root: Ref
    # Keys whose rows are deleted with the row they reference, and keys that the database merely empties.
    hard: tuple[ForeignKey, ...]
    soft: tuple[ForeignKey, ...]
    # Tables whose rows are deleted, children first. Several in one group reference each other in a cycle.
    groups: tuple[tuple[Ref, ...], ...]
    tables: dict[Ref, Known] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    # Why nothing may be deleted, since a table that the account may not see could lose rows too; empty where all is
    # seen.
    unsure: str = ""

    @property
    def going(self) -> frozenset[Ref]:
        return frozenset(ref for group in self.groups for ref in group)

    def children(self, ref: Ref) -> list[ForeignKey]:
        return [key for key in self.hard if parent_of(key) == ref]

    def parents(self, ref: Ref) -> list[ForeignKey]:
        return [key for key in self.hard if child_of(key) == ref]

    def is_loose(self, key: ForeignKey) -> bool:
        """Whether the database would only empty the reference of a row that is to be deleted."""
        return key.on_delete in DETACHING

    def compared(self, key: ForeignKey, engine: str, cells: Cells) -> Cells:
        """The columns of a reference, compared as those that they refer to are."""
        child, parent = self.tables[child_of(key)], self.tables[parent_of(key)]
        return compared(engine, cells, child, key.columns, parent, key.parent_columns)

    def group_of(self, ref: Ref) -> tuple[Ref, ...]:
        return next(group for group in self.groups if ref in group)

    def is_cyclic(self, group: Sequence[Ref]) -> bool:
        return len(group) > 1 or any(child_of(k) == parent_of(k) == group[0] for k in self.hard)

    def find(self, name: str) -> Ref | None:
        """The table of this closure, detached ones included, that a setting's name means: without regard to letter
        case only where none is spelled so."""
        return named(name, {*self.going, *(child_of(k) for k in self.soft)})


def child_of(key: ForeignKey) -> Ref:
    return key.schema, key.table


def parent_of(key: ForeignKey) -> Ref:
    return key.parent_schema, key.parent


def closure_of(store: RowStore, *, implied: Sequence[ForeignKey] = (), taken: Collection[str] = ()) -> Closure:
    """Everything that references the store's table. `implied` are references that no foreign key declares; the rows of
    the tables `taken` are deleted whatever their key's rule.

    Reads the catalogue only. Raises Refused if a table that others reference has no columns that distinguish its rows.
    """
    catalogue = catalogue_of(store)
    keys = [*catalogue.foreign_keys(), *implied]
    root = catalogue.root
    hard, soft = _walk(root, keys, _are(taken, keys))
    tables = {ref: catalogue.table(ref) for ref in {root, *(child_of(k) for k in (*hard, *soft))}}
    # Rows without a key of their own can't be distinguished: then only their firm reference is followed.
    nameless = {ref for ref, known in tables.items() if not known.identity and _is_firm(ref, hard)}
    if nameless:
        hard, soft = _walk(root, keys, _are(taken, keys) - nameless)
    going = {root, *(child_of(k) for k in hard)}
    store.end_read()
    doubt, unsure = _unseen(store, going, [*tables])
    for ref in going:
        _require_identity(ref, tables[ref], hard)
    groups = _groups(going, [(child_of(k), parent_of(k)) for k in hard])
    return Closure(
        root, tuple(hard), tuple(soft), groups, tables=tables, doubts=(doubt,) if doubt else (), unsure=unsure
    )


def _unseen(store: RowStore, going: Collection[Ref], tables: Collection[Ref]) -> tuple[str, str]:
    """What is doubtful, and why nothing may be deleted; both may be empty."""
    try:
        return require_seen(store, going, tables), ""
    except Unsure as refusal:
        return str(refusal), str(refusal)


def require_seen_whole(closure: Closure) -> None:
    """To be asked before the first delete: a run that only counts may go on."""
    if closure.unsure:
        raise Refused(closure.unsure)


def _are(names: Collection[str], keys: Iterable[ForeignKey]) -> set[Ref]:
    """The tables with foreign keys that are named."""
    children = {child_of(key) for key in keys}
    return {ref for name in names if (ref := named(name, children)) is not None}


def _is_firm(ref: Ref, hard: Iterable[ForeignKey]) -> bool:
    return any(child_of(k) == ref and k.on_delete not in DETACHING for k in hard)


def require_known(closure: Closure, may_go: Collection[str], setting: str, may_stay: Collection[str] = ()) -> None:
    """Raises Refused, naming the table, for a table that references the root and isn't in the setting's list. Rows of
    the tables `may_stay` may lose their reference."""
    staying = {ref for name in may_stay if (ref := closure.find(name)) is not None}
    listed = {*may_go, shown(closure.root)}
    # A name that a table has to the letter means no other: "Payments" beside "payments" is not known by it.
    in_any_case = {name.casefold() for name in listed - {shown(ref) for ref in closure.tables}}
    for key in (*closure.hard, *closure.soft):
        name = shown(child_of(key))
        if key.on_delete in DETACHING and child_of(key) in staying:
            continue
        if name not in listed and name.casefold() not in in_any_case:
            what = "lose their reference" if key.on_delete in DETACHING else "be deleted"
            raise Refused(
                f"The table {name} references {shown(parent_of(key))} ({key.name}), so its rows would {what}, but"
                f" {setting} doesn't name it. Nothing was deleted; add {name} to {setting} if its rows may go, or"
                " remove the foreign key."
            )


def _walk(
    root: Ref, keys: Iterable[ForeignKey], taken: Collection[Ref] = ()
) -> tuple[list[ForeignKey], list[ForeignKey]]:
    """The keys whose rows are deleted with the row they reference, and those that are merely emptied."""
    by_parent: dict[Ref, list[ForeignKey]] = {}
    for key in keys:
        by_parent.setdefault(parent_of(key), []).append(key)
    hard: list[ForeignKey] = []
    soft: list[ForeignKey] = []
    seen, waiting = {root}, [root]
    while waiting:
        for key in by_parent.get(waiting.pop(0), []):
            if key.on_delete in DETACHING and (child_of(key) == root or child_of(key) not in taken):
                soft.append(key)
                continue
            hard.append(key)
            if child_of(key) not in seen:
                seen.add(child_of(key))
                waiting.append(child_of(key))
    return hard, soft


def _groups(going: set[Ref], edges: Sequence[tuple[Ref, Ref]]) -> tuple[tuple[Ref, ...], ...]:
    """Children before parents; tables that reach each other together."""
    reach = {ref: {ref} for ref in going}
    changed = True
    while changed:
        changed = False
        for child, parent in edges:
            if not reach[parent] <= reach[child]:
                reach[child] |= reach[parent]
                changed = True
    # A table must be emptied before all that it reaches; tables that reach more come first.
    together = {tuple(sorted((o for o in going if o in reach[r] and r in reach[o]), key=shown)) for r in going}
    ordered = sorted(together, key=lambda group: (-len(reach[group[0]]), shown(group[0])))
    return tuple(ordered)


def _require_identity(ref: Ref, known: Known, hard: Sequence[ForeignKey]) -> None:
    referenced = any(parent_of(k) == ref for k in hard)
    if (referenced or sum(child_of(k) == ref for k in hard) > 1) and not known.identity:
        raise Refused(
            f"The table {shown(ref)} has no primary key and no unique key without NULLs, so its rows can't be"
            " distinguished before they are deleted. Nothing was deleted; give the table a key."
        )


def catalogue_of(store: RowStore) -> Catalogue:
    return _CATALOGUES[store.connection.dialect.name](store)


# --- what the engines' catalogues say -------------------------------------------------------------------------
