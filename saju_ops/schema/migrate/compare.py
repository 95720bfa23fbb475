"""Whether a database's tables are those that the migrations make: the catalogues of both are compared.

The other side is a scratch database on the same server, migrated to the same revisions by the same code: a server
writes a default or a type in its own way, and only its own words can be compared. It is a database of its own on MySQL
and MariaDB, dropped at the end; a schema that is rolled back on PostgreSQL; and memory on SQLite. The live database is
read and never changed. A column or index of the service's own is no difference, nor is what an index is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text, redacted
from saju_ops.dumps.engine import DrillNotPossible
from saju_ops.errors import Refused
from saju_ops.schema.migrate import catalogue, scripts
from saju_ops.schema.migrate.catalogue import ColumnShape, IndexShape, TableShape
from saju_ops.schema.migrate.commands import with_collation
from saju_ops.schema.migrate.run import Options, Run
from saju_ops.schema.migrate.session import session
from saju_ops.schema.migrate.steps import Installation
from saju_ops.schema.tables import chatbot_tables

SCRATCH_SCHEMA = "saju_ops_scratch"
# For these the service's own description names no default; ours have one so that an old INSERT works.
NO_DEFAULT_NAMED = {("saju_calculations", "is_lunar"), ("saju_calculations", "lunar_leap_month")}


@dataclass(frozen=True)
class Difference:
    """`what` is a sentence without its end, and names table and column or index."""

    table: str
    what: str
    # What a migration that isn't applied yet would make of itself.
    missing_index: IndexShape | None = None
    missing_table: bool = False


@dataclass
class Comparison:
    database: str
    # Heads that it was compared with.
    target: tuple[str, ...]
    differences: list[Difference] = field(default_factory=list)
    # What is otherwise and does no harm: listed, and no difference.
    notes: list[str] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        return not self.differences


def compare(url: sa.URL, installation: Installation, target: Sequence[str]) -> Comparison:
    """Compares the live tables with those of the revisions in `target`. Raises Refused where no scratch database can
    be made: then nothing was compared."""
    with session(url) as connection:
        installation = with_collation(connection, installation)
        names = [str(table.name) for table in chatbot_tables(installation.log_table)]
        there = catalogue.read(connection, names)
        connection.rollback()
    try:
        with _scratch(url, installation, tuple(target)) as connection:
            wanted = catalogue.read(connection, names)
            connection.rollback()
    except DBAPIError as error:
        raise Refused(
            f"Nothing was compared and nothing was touched: the scratch copy of the tables could not be made beside"
            f" {redacted(url)} ({error_text(error)}). Give this account every right on databases that are called"
            " saju_ops_drill_… there, as docs/schema.md says."
        ) from None
    found = Comparison(redacted(url), tuple(target))
    for name in names:
        if name in wanted:
            _compare_table(found, name, wanted[name], there.get(name))
    return found


# --- the other side ----------------------------------------------------------------------------------------------


@contextmanager
def _scratch(url: sa.URL, installation: Installation, target: tuple[str, ...]) -> Iterator[sa.Connection]:
    family = url.get_backend_name()
    if family == "sqlite":
        engine = sa.create_engine("sqlite://")
        with engine.connect() as connection:
            _migrate(connection, url, installation, target)
            yield connection
        engine.dispose()
    elif family == "postgresql":
        with _scratch_schema(url) as connection:
            _migrate(connection, url, installation, target)
            yield connection
    else:
        from saju_ops.dumps.mysql.engine import MySQLDumps

        try:
            with MySQLDumps(url).scratch(None, datetime.now(UTC), own=True) as scratch:
                with session(scratch.url) as connection:
                    connection.exec_driver_sql(_as_live(url))
                    connection.commit()
                    _migrate(connection, scratch.url, installation, target)
                    yield connection
        except DrillNotPossible as error:
            raise Refused(f"Nothing was compared and nothing was touched. {error}") from None


def _as_live(url: sa.URL) -> str:
    """The scratch database with the character set and sort order of the live one."""
    with session(url) as connection:
        charset, collation = connection.exec_driver_sql("SELECT @@character_set_database, @@collation_database").one()
    return f"ALTER DATABASE CHARACTER SET {charset} COLLATE {collation}"


@contextmanager
def _scratch_schema(url: sa.URL) -> Iterator[sa.Connection]:
    """In a transaction that is rolled back, so nothing is left of it whatever happens."""
    with session(url) as connection:
        user = connection.exec_driver_sql("SELECT quote_ident(current_user)").scalar()
        try:
            connection.exec_driver_sql(f"CREATE SCHEMA {SCRATCH_SCHEMA}")
        except DBAPIError as error:
            raise Refused(
                f"Nothing was compared and nothing was touched: no scratch schema could be made in {redacted(url)}"
                f" ({error_text(error)}). GRANT CREATE ON DATABASE to {user}; it is rolled back afterwards."
            ) from None
        connection.exec_driver_sql(f"SET LOCAL search_path = {SCRATCH_SCHEMA}")
        yield connection
        connection.rollback()


def _migrate(connection: sa.Connection, url: sa.URL, installation: Installation, target: tuple[str, ...]) -> None:
    run = Run(url, installation, Options(), connection.dialect, lambda _: None, connection, scratch=True)
    for name in scripts.applied(target):
        scripts.revisions()[name].module.upgrade(run)


# --- the differences ---------------------------------------------------------------------------------------------


def _compare_table(found: Comparison, name: str, wanted: TableShape, there: TableShape | None) -> None:
    def differs(what: str) -> None:
        found.differences.append(Difference(name, what))

    if there is None:
        found.differences.append(Difference(name, f"the table {name} is missing", missing_table=True))
        return
    if there.engine.lower() != wanted.engine.lower():
        differs(f"{name} is of the storage engine {there.engine}, and {wanted.engine} is right")
    if there.partitioned_by != wanted.partitioned_by:
        differs(
            f"{name} is partitioned by {there.partitioned_by or 'nothing'}, and {wanted.partitioned_by or 'nothing'} is"
            " right"
        )
    columns = {column.casefold(): shape for column, shape in there.columns.items()}
    for column, shape in wanted.columns.items():
        _compare_column(found, name, column, shape, columns.get(column.casefold()))
    if _folded(there.primary) != _folded(wanted.primary):
        differs(f"{name} has {_key(there.primary)}, and {_key(wanted.primary)} is right")
    for index in wanted.indexes.values():
        if not any(each.serves(index) for each in there.indexes.values()):
            found.differences.append(Difference(name, _missing(name, index, there), missing_index=index))
    for key in sorted(wanted.keys - there.keys):
        near = [each for each in there.keys if each.split(")")[0] == key.split(")")[0]]
        differs(f"{name} has no foreign key {key}" + (f"; it has {near[0]}" if near else ""))
    for check in sorted({_plain(c) for c in wanted.checks} - {_plain(c) for c in there.checks}):
        found.notes.append(f"{name} has no constraint {check}")


def _compare_column(found: Comparison, table: str, name: str, wanted: ColumnShape, there: ColumnShape | None) -> None:
    where = f"{table}.{name}"

    def differs(what: str) -> None:
        found.differences.append(Difference(table, what))

    if there is None:
        differs(f"the column {where} is missing")
        return
    if there.type != wanted.type:
        differs(f"{where} is {there.type}, and {wanted.type} is right")
    elif there.collation != wanted.collation:
        differs(f"{where} is sorted by {there.collation or 'the default'}, and {wanted.collation or 'that'} is right")
    if there.extra != wanted.extra:
        differs(f"{where} has {there.extra or 'nothing'} where {wanted.extra or 'nothing'} is right")
    if there.default != wanted.default and (wanted.default is None or (table, name) in NO_DEFAULT_NAMED):
        found.notes.append(f"{where} has {_default(there)}")
    elif there.default != wanted.default:
        differs(f"{where} has {_default(there)}, and {_default(wanted)} is right")
    if there.nullable != wanted.nullable:
        found.notes.append(f"{where} {'may be NULL' if there.nullable else 'is NOT NULL'}")


def _default(column: ColumnShape) -> str:
    return "no default" if column.default is None else f"the default {column.default}"


def _key(columns: tuple[str, ...]) -> str:
    return f"the primary key ({', '.join(columns)})" if columns else "no primary key"


def _missing(table: str, index: IndexShape, there: TableShape) -> str:
    """Names the nearest one: of the same columns in another direction, invisible, or unique."""
    columns = [part.removesuffix(" DESC") for part in index.columns]
    near = [
        (name, each)
        for name, each in there.indexes.items()
        if [part.removesuffix(" DESC") for part in each.columns] == columns
    ]
    kind = "unique index" if index.unique else "index"
    said = f"{table} has no {kind} on ({', '.join(index.columns)})"
    for name, each in near:
        what = [f"on ({', '.join(each.columns)})"] + ["unique"] * each.unique + ["not usable"] * (not each.usable)
        said += f"; {name} is {', '.join([*what, *([each.kind] if each.kind else [])])}"
    return said


def _folded(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.casefold() for name in names)


def _plain(check: str) -> str:
    return re.sub(r"\s+", " ", check)
