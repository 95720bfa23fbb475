"""What a table had before it was partitioned, kept in its comment: by it the way back makes the very same table.

It is in the comment before anything else is changed, so that a run which is broken off loses nothing. What is read is
names and rules, each of which is checked and quoted again; nothing of it is executed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.partitions.catalogue import quoted

MARK = "saju_ops before partitions: "
LONGEST = 2048
RULES = {"CASCADE", "SET NULL", "NO ACTION", "RESTRICT", "SET DEFAULT"}
KEYS = sa.text(
    "SELECT k.CONSTRAINT_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME,"
    " k.REFERENCED_COLUMN_NAME, r.UPDATE_RULE, r.DELETE_RULE FROM information_schema.KEY_COLUMN_USAGE k"
    " JOIN information_schema.REFERENTIAL_CONSTRAINTS r ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA"
    " AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME AND r.TABLE_NAME = k.TABLE_NAME"
    " WHERE k.TABLE_SCHEMA = DATABASE() AND k.TABLE_NAME = :name AND k.REFERENCED_TABLE_NAME IS NOT NULL"
    " ORDER BY k.CONSTRAINT_NAME, k.ORDINAL_POSITION"
)
COMMENT = sa.text(
    "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name"
)


@dataclass(frozen=True)
class Key:
    """A foreign key of the table."""

    name: str
    columns: tuple[str, ...]
    schema: str
    parent: str
    parent_columns: tuple[str, ...]
    on_update: str
    on_delete: str

    def clause(self, store: RowStore) -> str:
        def names(columns: tuple[str, ...]) -> str:
            return ", ".join(quoted(store, column) for column in columns)

        parent = quoted(store, self.parent)
        if self.schema != store.table.database:
            parent = f"{quoted(store, self.schema)}.{parent}"
        # What the server's catalogue has for a key without a rule; written, it would be shown from then on.
        none = "RESTRICT" if store.table.engine == "mariadb" else "NO ACTION"
        rules = (("DELETE", self.on_delete), ("UPDATE", self.on_update))
        written = "".join(f" ON {event} {rule}" for event, rule in rules if rule != none)
        return (
            f"ADD CONSTRAINT {quoted(store, self.name)} FOREIGN KEY ({names(self.columns)}) REFERENCES {parent}"
            f" ({names(self.parent_columns)}){written}"
        )


@dataclass(frozen=True)
class Before:
    """The table's comment, primary key and foreign keys, and whether created_at could be NULL."""

    comment: str = ""
    primary: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    nullable: bool = False

    def text(self) -> str:
        found = MARK + json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))
        if len(found) > LONGEST:
            raise Refused(
                "The table's comment and foreign keys are too long to be kept in its comment, by which the way back"
                " knows them. Nothing was done; shorten the comment."
            )
        return found


def keys_of(store: RowStore) -> tuple[Key, ...]:
    grouped: dict[str, list[Any]] = {}
    for row in store.connection.execute(KEYS, {"name": store.table.name}):
        grouped.setdefault(str(row[0]), []).append(row)
    store.end_read()
    return tuple(
        Key(
            name, tuple(str(r[1]) for r in rows), str(rows[0][2]), str(rows[0][3]), tuple(str(r[4]) for r in rows),
            str(rows[0][5]), str(rows[0][6]),
        )
        for name, rows in grouped.items()
    )  # fmt: skip


def comment_of(store: RowStore) -> str:
    found = store.connection.execute(COMMENT, {"name": store.table.name}).scalar()
    store.end_read()
    return str(found or "")


def remembered(store: RowStore) -> Before | None:
    """What the comment says; None where it says nothing. Raises Refused for what isn't ours."""
    text = comment_of(store)
    if not text.startswith(MARK):
        return None
    try:
        raw = json.loads(text.removeprefix(MARK))
        keys = tuple(_key(key) for key in raw["keys"])
        found: Before | None = Before(str(raw["comment"]), tuple(map(str, raw["primary"])), keys, bool(raw["nullable"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        found = None
    if found is None or not all(_is_sound(key) for key in found.keys):
        raise Refused(
            f"The comment of {store.table.name} begins like what saju_ops keeps there of the table before it was"
            " partitioned, and isn't that. Nothing was done; correct or empty the comment."
        )
    return found


def _key(raw: Any) -> Key:
    values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Key(**values)


def _is_sound(key: Key) -> bool:
    names = (key.name, key.schema, key.parent, *key.columns, *key.parent_columns)
    same = len(key.columns) == len(key.parent_columns) > 0
    return same and all(isinstance(n, str) and n for n in names) and {key.on_update, key.on_delete} <= RULES


def literal(text: str) -> str:
    """A string of the server's SQL, in a session whose backslash escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
