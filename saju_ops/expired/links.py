"""References that no foreign key declares: by PURGE_LINKS, or by the name of the column that refers.

Promises: every table that a list such as PURGE_TABLES names is reached, or is refused by name before anything is
deleted; a name or column that isn't there is refused too. A `job_id` in a listed table refers to `jobs`, whether a key
says so or not. Tables that aren't listed and have such a column are a doubt: their rows stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from saju_ops.errors import Refused
from saju_ops.expired.catalogue import Catalogue, Known, Ref, named, shown
from saju_ops.expired.foreign_keys import Closure, Link, catalogue_of, child_of, closure_of, parent_of
from saju_ops.expired.link_values import are_comparable
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.table import ForeignKey

# Names of a key that say nothing of the table: a column of that name refers to nothing.
PLAIN_KEYS = {"id", "uuid", "pk", "key", "no", "seq", "idx", "name", "code", "number"}


@dataclass(frozen=True)
class NamedLink:
    """`table.columns` refers to `parent.parent_columns`; an empty parent is the root, no columns its key."""

    table: str
    columns: tuple[str, ...]
    parent: str = ""
    parent_columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        to = ".".join(filter(None, (self.parent, "+".join(self.parent_columns))))
        return f"{self.table}.{'+'.join(self.columns)}" + (f"->{to}" if to else "")


def linked_closure(
    store: RowStore, listed: Collection[str], setting: str, *, links: Sequence[NamedLink] = (),
    may_be_missing: Collection[str] = (), also: Sequence[ForeignKey] = (),
    require: Callable[[Closure], None] = lambda closure: None,
) -> Closure:  # fmt: skip
    """Everything that references the store's table: by the listed tables' keys, whatever their rule, and by the
    references `also`. Reads the catalogue only.

    Raises Refused for an impossible link, for what `require` refuses of the result, and then for a listed table that
    isn't there (except `may_be_missing`) or that has no reference to the root."""
    search = _Search(store, catalogue_of(store), tuple(listed), setting)
    for link in links:
        search.add_named(link)
    search.add_by_name()
    closure = closure_of(store, implied=[*search.found, *also], taken=listed)
    require(closure)
    search.require_there(may_be_missing)
    search.require_reached()
    return closure


def left_out(store: RowStore, closure: Closure, setting: str) -> list[str]:
    """A sentence for each table that has a column named after the root and isn't part of the closure."""
    catalogue = catalogue_of(store)
    name = f"{singular(closure.root[1])}_id"
    tables = {*catalogue.all_tables()}
    own = [catalogue.table(ref) for ref in catalogue.having(name) if ref in tables]
    store.end_read()
    # Columns of this name in other tables refer to the table whose key it is.
    if any(known.identity == (name,) for known in own if known.ref != closure.root):
        return []
    elsewhere = {child_of(k) for k in catalogue.foreign_keys() if name in k.columns and parent_of(k) != closure.root}
    store.end_read()
    return [
        f"The table {shown(known.ref)} has a column {name}, but no foreign key leads from it to {shown(closure.root)},"
        f" and {setting} doesn't name it: its rows stay."
        for known in sorted(own, key=lambda known: shown(known.ref))
        if known.ref not in closure.tables and known.ref not in elsewhere
    ]


def singular(table: str) -> str:
    """`job` of `jobs`; as English forms it, as far as names of tables need it."""
    for plural, one in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ss", "ss")):
        if table.endswith(plural):
            return table.removesuffix(plural) + one
    return table.removesuffix("s") or table


@dataclass
class _Search:
    store: RowStore
    catalogue: Catalogue
    listed: tuple[str, ...]
    setting: str
    found: list[ForeignKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tables = self.catalogue.all_tables()
        self._declared = self.catalogue.foreign_keys()
        self._known: dict[Ref, Known] = {}
        self.store.end_read()

    @property
    def root(self) -> Ref:
        return self.catalogue.root

    def known(self, ref: Ref) -> Known:
        if ref not in self._known:
            self._known[ref] = self.catalogue.table(ref)
            self.store.end_read()
        return self._known[ref]

    def refs(self) -> Iterator[tuple[str, Ref]]:
        """The listed tables that are there, without the root."""
        for name in self.listed:
            ref = named(name, self._tables)
            if ref is not None and ref != self.root:
                yield name, ref

    def require_there(self, may_be_missing: Collection[str]) -> None:
        missing = [n for n in self.listed if n not in may_be_missing and named(n, self._tables) is None]
        if missing:
            raise Refused(
                f"{self.setting} names {', '.join(missing)}, but the database has no such table (or the account may not"
                " see it), and rows of a mistyped one would be left for ever. Nothing was deleted; correct the name."
            )

    def reached(self) -> set[Ref]:
        """What declared keys and the links so far lead to."""
        seen, waiting = {self.root}, [self.root]
        while waiting:
            parent = waiting.pop()
            for key in (*self._declared, *self.found):
                if parent_of(key) == parent and child_of(key) not in seen:
                    seen.add(child_of(key))
                    waiting.append(child_of(key))
        return seen

    # --- links that an operator named ------------------------------------------------------------------------

    def add_named(self, link: NamedLink) -> None:
        child = named(link.table, self._tables)
        parent = named(link.parent, self._tables) if link.parent else self.root
        for ref, name, columns in ((child, link.table, link.columns), (parent, link.parent, link.parent_columns)):
            missing = [c for c in columns if ref is not None and c not in self.known(ref).columns]
            if ref is None or missing:
                what = f"column {name or shown(self.root)}.{missing[0]}" if missing else f"table {name}"
                raise _refused(link, f"there is no {what}")
        assert child is not None
        assert parent is not None
        columns = link.parent_columns or self.known(parent).identity
        if child == self.root:
            raise _refused(link, f"{shown(child)} is the table that expires itself")
        if len(columns) != len(link.columns):
            raise _refused(link, f"the key of {shown(parent)} is {', '.join(columns) or 'none'}")
        if not any(set(key) <= set(columns) for key in self.known(parent).keys):
            raise _refused(link, f"{', '.join(columns)} may be the same in several rows of {shown(parent)}")
        if (why := self._unlike(child, link.columns, parent, columns)) is not None:
            raise _refused(link, why)
        self._add(child, link.columns, parent, columns)

    def _unlike(self, child: Ref, columns: Sequence[str], parent: Ref, parent_columns: Sequence[str]) -> str | None:
        """Why these columns can't be compared."""
        engine = self.store.table.engine
        for mine, theirs in zip(columns, parent_columns, strict=True):
            one, other = self.known(child).types[mine], self.known(parent).types[theirs]
            if not are_comparable(engine, one, other):
                return f"{shown(child)}.{mine} is of the type {one} and {shown(parent)}.{theirs} of the type {other}"
        return None

    def _add(self, child: Ref, columns: Sequence[str], parent: Ref, parent_columns: Sequence[str]) -> None:
        if any(child_of(k) == child and {*k.columns} == {*columns} and parent_of(k) == parent for k in self._declared):
            return
        name = f"by {', '.join(columns)}"
        self.found.append(
            Link(
                name,
                child[1],
                tuple(columns),
                parent[1],
                tuple(parent_columns),
                "NO ACTION",
                schema=child[0],
                parent_schema=parent[0],
            )
        )

    # --- links by the names of columns -----------------------------------------------------------------------

    def add_by_name(self) -> None:
        given = {child_of(k) for k in self.found}
        for _, ref in self.refs():
            if ref not in given:
                self._add_if_named_after(ref, self.root)
        listed = [ref for _, ref in self.refs()]
        more = True
        while more:
            reached = self.reached()
            pairs = [(ref, parent) for ref in listed for parent in listed if ref not in reached and parent in reached]
            more = any([self._add_if_named_after(ref, parent) for ref, parent in pairs])  # noqa: C419

    def _add_if_named_after(self, child: Ref, parent: Ref) -> bool:
        """Whether the child has columns that are named after the parent's key."""
        key = self.known(parent).identity
        columns = [self._column_for(child, parent, column, len(key)) for column in key]
        names = [c for c in columns if c is not None]
        if not key or len(names) < len(key) or {*names} & self._in_other_keys(child, parent):
            return False
        if self._unlike(child, names, parent, key) is not None:
            return False
        self._add(child, names, parent, key)
        return True

    def _column_for(self, child: Ref, parent: Ref, column: str, of: int) -> str | None:
        one = singular(parent[1])
        names = [f"{one}_id"] if column.casefold() in PLAIN_KEYS or of == 1 else []
        names += [f"{one}_{column}", *([column] if column.casefold() not in PLAIN_KEYS else [])]
        if "_" in one:
            names.append(f"{one.rpartition('_')[2]}_id")
        there = {c.casefold(): c for c in self.known(child).columns}
        return next((there[n.casefold()] for n in names if n.casefold() in there), None)

    def _in_other_keys(self, child: Ref, parent: Ref) -> set[str]:
        """Columns of which a foreign key says that they refer to another table."""
        return {c for k in self._declared if child_of(k) == child and parent_of(k) != parent for c in k.columns}

    # --- remaining columns ----------------------------------------------------------------------------------------

    def require_reached(self) -> None:
        reached = self.reached()
        for name, ref in self.refs():
            if ref not in reached:
                link = f" name the column (PURGE_LINKS={name}.<column>)," if self.setting == "PURGE_TABLES" else ""
                raise Refused(
                    f"{self.setting} names {name}, but no foreign key leads from it to"
                    f" {shown(self.root)}{self._why(ref)}. Its rows would be left for ever. Nothing was deleted;"
                    f" declare the key,{link} or take {name} out of {self.setting}."
                )

    def _why(self, ref: Ref) -> str:
        key = self.known(self.root).identity
        columns = [self._column_for(ref, self.root, column, len(key)) for column in key]
        names = [c for c in columns if c is not None]
        if key and len(names) == len(key) and (why := self._unlike(ref, names, self.root, key)):
            return f", and {why}"
        expected = f"{singular(self.root[1])}_id"
        return f", and it has no column {expected} that could" if expected not in names else ""


def _refused(link: NamedLink, why: str) -> Refused:
    return Refused(f"PURGE_LINKS names {link}, but {why}. Nothing was deleted; correct it.")


def parse_link(text: str) -> NamedLink:
    """Reads `table.column`, `table.column->parent.column`, `table.a+b->parent.a+b`; each table may be `schema.table`.
    Raises ValueError."""
    left, arrow, right = (part.strip() for part in text.partition("->"))
    table, columns = _split(left)
    parent, parent_columns = _split(right) if arrow else ("", ())
    if not table or (arrow and not parent) or (arrow and len(parent_columns) != len(columns)):
        raise ValueError(f"{text!r} is no reference")
    return NamedLink(table, columns, parent, parent_columns)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    table, _, columns = text.rpartition(".")
    parts = tuple(part.strip() for part in columns.split("+"))
    if not all(re.fullmatch(r"[^\x00/\\\s,.+>-][^\x00/\\\s,.+>]{0,63}", part) for part in parts):
        raise ValueError(f"{text!r} names no column")
    return table.strip(), parts


def parse_links(texts: Iterable[str]) -> tuple[NamedLink, ...]:
    return tuple(map(parse_link, texts))
