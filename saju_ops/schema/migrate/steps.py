"""What a migration consists of: steps that ask the catalogue whether they are done.

DDL commits by itself on MySQL and MariaDB, so a migration that breaks off half-way leaves its first steps done. Each
step therefore says by the catalogue alone whether it is done, and a second run does what is left. A step knows its SQL
in both directions, what waits while it runs, and what it drops: all of that is looked at before the first step runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from saju_ops.errors import Refused
from saju_ops.schema.migrate import catalogue

if TYPE_CHECKING:
    from saju_ops.schema.migrate.run import Run

MYSQL = ("mysql", "mariadb")
SEOUL, UTC = ZoneInfo("Asia/Seoul"), ZoneInfo("UTC")
ONLINE = " ALGORITHM=INPLACE LOCK=NONE"
ONLINE_ALTER = ", ALGORITHM=INPLACE, LOCK=NONE"


@dataclass(frozen=True)
class Installation:
    """What differs between installations, as the settings say it."""

    log_table: str = "conversation_logs"
    # The zone of months and days.
    zone: ZoneInfo = SEOUL
    months_ahead: int = 3
    # The zone of times without one.
    row_zone: ZoneInfo = UTC
    # MySQL and MariaDB: the sort order of new tables; None for the server's own for utf8mb4.
    collation: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a step would do to others, asked before anything is done."""

    # Why writers or readers wait while it runs, as half a sentence; empty where nobody waits.
    blocks: str = ""
    # Rows of the table that it works on; counted where it blocks or drops.
    rows: int = 0
    # It drops or rewrites rows: a proven dump must be there.
    needs_dump: bool = False
    # Tables that it drops, with their rows: each that has rows must be named by --drop-data.
    drops: Mapping[str, int] = field(default_factory=dict)
    # What makes it impossible, as a sentence.
    refused: str = ""
    notes: Sequence[str] = ()


class Step:
    """One change. A subclass says its SQL, or does its work in `up` and `down`."""

    title: str
    # The table that it makes; empty for what makes none.
    makes: str = ""
    # On the way down it is left to the step that drops its table.
    dropped_with_table = False
    # On PostgreSQL: a statement that can't be in a transaction.
    outside_transaction = False

    def left_out(self, dialect: sa.Dialect) -> str:
        """Why this engine doesn't have it, as a sentence; empty where it has it."""
        return ""

    def is_done(self, connection: sa.Connection) -> bool:
        raise NotImplementedError

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        """For `sql`, for a dry run and for the record; executed by `up` one by one."""
        raise NotImplementedError

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        raise NotImplementedError

    def up_cost(self, connection: sa.Connection) -> Cost:
        return Cost()

    def down_cost(self, connection: sa.Connection) -> Cost:
        return Cost()

    def up(self, run: Run) -> None:
        for statement in self.up_sql(run.dialect):
            run.execute(statement)

    def down(self, run: Run) -> None:
        for statement in self.down_sql(run.dialect):
            run.execute(statement)


def backwards(steps: Sequence[Step]) -> list[Step]:
    """The steps of the way down."""
    return [step for step in reversed(steps) if not step.dropped_with_table]


class MakeTable(Step):
    """A table with its keys, without its indexes."""

    def __init__(self, table: sa.Table, installation: Installation) -> None:
        self.table, self.installation = table, installation
        self.title, self.makes = f"table {table.name}", str(table.name)

    def is_done(self, connection: sa.Connection) -> bool:
        """Raises Refused where a table of that name has not all of the columns."""
        return catalogue.has_table(connection, self.table)

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        statement = compiled(CreateTable(self.table), dialect)
        if dialect.name in MYSQL and self.installation.collation:
            statement += f" COLLATE {self.installation.collation}"
        return [statement]

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        return [f"DROP TABLE {dialect.identifier_preparer.format_table(self.table)}"]

    def up_cost(self, connection: sa.Connection) -> Cost:
        if connection.dialect.name in MYSQL:
            return Cost()
        renewed = [f"{self.table.name}.{column.name}" for column in self.table.columns if column.onupdate is not None]
        note = (
            f"{', '.join(renewed)}: only MySQL and MariaDB renew it at each update; here whoever updates the row does"
        )
        return Cost(notes=(note,) if renewed else ())

    def down_cost(self, connection: sa.Connection) -> Cost:
        rows = catalogue.rows_of(connection, self.table.name)
        return Cost(rows=rows, needs_dump=True, drops={self.table.name: rows})

    def down(self, run: Run) -> None:
        """Looks once more for rows, with the table locked: a service that still writes would lose what came since."""
        with run.locked(self.table):
            if self.table.name not in run.options.drop_data:
                one = sa.select(sa.literal(1)).select_from(self.table).limit(1)
                if run.connection.execute(one).first() is not None:
                    raise Refused(
                        f"rows came into {self.table.name} since this began, so it was not dropped; stop what writes"
                        f" into it, or name it by --drop-data {self.table.name}"
                    )
            super().down(run)


class MakeIndex(Step):
    """An index, built while the table is written wherever the engine can. One of the same columns in the same order
    under another name counts as done. On the way down, only one under our own name is dropped; that of a table that the
    same migration makes is dropped with the table."""

    def __init__(self, index: sa.Index, *, on_new_table: bool = False) -> None:
        self.index, self.dropped_with_table = index, on_new_table
        assert index.table is not None
        self.table = index.table
        self.outside_transaction = not on_new_table
        self.shape = catalogue.shape_of(index)
        self.title = f"index {index.name} on {self.table.name} ({', '.join(self.shape.columns)})"

    def is_done(self, connection: sa.Connection) -> bool:
        there = catalogue.indexes(connection, self.table.name)
        wanted = self._wanted(connection)
        return any(found.serves(wanted) for found in there.values())

    def _wanted(self, connection: sa.Connection) -> catalogue.IndexShape:
        """A server that knows no DESC in indexes builds it without, and says nothing."""
        if catalogue.has_descending(connection):
            return self.shape
        return replace(self.shape, columns=tuple(c.removesuffix(" DESC") for c in self.shape.columns))

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        statement = compiled(CreateIndex(self.index), dialect)
        if dialect.name in MYSQL:
            return [statement + ONLINE]
        if dialect.name == "postgresql" and self.outside_transaction:
            return [statement.replace("INDEX ", "INDEX CONCURRENTLY ", 1)]
        return [statement]

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        name = dialect.identifier_preparer.format_index(self.index)
        if dialect.name in MYSQL:
            table = dialect.identifier_preparer.format_table(self.table)
            return [f"ALTER TABLE {table} DROP INDEX {name}{ONLINE_ALTER}"]
        concurrently = "CONCURRENTLY " if dialect.name == "postgresql" and self.outside_transaction else ""
        return [f"DROP INDEX {concurrently}{name}"]

    def up_cost(self, connection: sa.Connection) -> Cost:
        if not catalogue.exists(connection, self.table.name):
            return Cost()  # a step before this one makes it
        notes = [] if self._wanted(connection) == self.shape else [f"{self.title}: this server has no DESC in indexes"]
        if why := catalogue.why_index_blocks(connection, self.table.name):
            descending = any(column.endswith(" DESC") for column in self._wanted(connection).columns)
            if descending and connection.dialect.name in MYSQL and not getattr(connection.dialect, "is_mariadb", False):
                return Cost(
                    refused=f"{self.title} can't be made: {why}, and MySQL has no DESC in such a table's indexes. ALTER"
                    f" TABLE {self.table.name} ENGINE = InnoDB first."
                )
            return Cost(blocks=why, rows=catalogue.rows_of(connection, self.table.name), notes=notes)
        return Cost(notes=notes)

    def up(self, run: Run) -> None:
        there = catalogue.indexes(run.connection, self.table.name, usable=False)
        mine = there.get(str(self.index.name))
        if mine is not None and not mine.usable and mine.serves(self.shape, usable=False):
            # What a CREATE INDEX CONCURRENTLY left that broke off: it serves no query, and costs every write.
            for statement in self.down_sql(run.dialect):
                run.build_index(statement, self.table.name)
            there.pop(str(self.index.name))
        taken = catalogue.index_names(run.connection, self.table.name)
        for statement in self.up_sql(run.dialect):
            name = _free(str(self.index.name), taken)
            if name != self.index.name:
                quote = run.dialect.identifier_preparer.quote
                statement = statement.replace(quote(str(self.index.name)), quote(name), 1)
            run.build_index(statement, self.table.name)

    def down(self, run: Run) -> None:
        there = catalogue.indexes(run.connection, self.table.name, usable=False)
        mine = there.get(str(self.index.name))
        if mine is None or not mine.serves(self._wanted(run.connection), usable=False):
            run.say(f"The {self.title} is not ours: it has another name, and stays.")
            return
        if catalogue.is_needed_by_key(run.connection, self.table.name, str(self.index.name)):
            # MySQL refuses it (1553): the foreign key would be without any index.
            run.say(f"The {self.title} stays: it is the last index of a foreign key.")
            return
        for statement in self.down_sql(run.dialect):
            run.build_index(statement, self.table.name)


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where something else has it."""
    number, free = 2, name
    while free.casefold() in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def compiled(construct: sa.schema.ExecutableDDLElement, dialect: sa.Dialect) -> str:
    """A DDL construct as one statement without line ends."""
    return re.sub(r"\s*\n\s*", " ", str(construct.compile(dialect=dialect))).strip()
