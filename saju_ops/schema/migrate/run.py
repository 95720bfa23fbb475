"""One run of migrations on one connection: steps in their order, each asked before it is done.

Says what it does, which step it is at, and who holds a table that it can't have. Nothing is waited for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.errors import OperatorError, Refused
from saju_ops.schema.migrate import catalogue
from saju_ops.schema.migrate.session import TABLE_WAIT, holders, waited_for_a_table
from saju_ops.schema.migrate.steps import ONLINE, ONLINE_ALTER, Installation, Step, backwards
from saju_ops.storage.open import Storage
from saju_ops.words import counted

# Times that a statement is tried while others use its table, and seconds between: they are let through.
TRIES, PAUSE = 3, 2.0
# Seconds that an index of PostgreSQL, built CONCURRENTLY, waits for older transactions.
PATIENCE = 60
# MySQL and MariaDB: this table can't be altered that way. PostgreSQL: this can't be done concurrently.
NOT_ONLINE = {1845, 1846}
LOG_TOO_SMALL = 1799


@dataclass(frozen=True)
class Options:
    allow_blocking: bool = False
    # Tables whose rows may be lost.
    drop_data: frozenset[str] = frozenset()
    # Opens the store that must have a dump before rows are dropped or rewritten.
    storage: Callable[[], Storage] | None = None


@dataclass
class Run:
    """What a migration's `upgrade` and `downgrade` get."""

    url: sa.URL
    installation: Installation
    options: Options
    dialect: sa.Dialect
    say: Callable[[str], None]
    # None offline, where SQL is written instead of executed.
    live: sa.Connection | None = None
    # A scratch database, made for its catalogue alone and by this run: nobody else is there.
    scratch: bool = False
    # Alembic's; None in a scratch database.
    context: Any = None
    # Where it is, for a message: the migration, the step's number, how many there are, the step.
    standing: str = ""
    # Steps of this migration that are done; whether some of them were committed by themselves.
    done: int = 0
    committed: bool = False

    @property
    def connection(self) -> sa.Connection:
        if self.live is None:
            raise RuntimeError("a step asked for the database while SQL is only written")
        return self.live

    def up(self, steps: Sequence[Step]) -> None:
        self._all(list(steps), lambda step: step.is_done(self.connection), Step.up_sql, lambda step: step.up(self))

    def down(self, steps: Sequence[Step]) -> None:
        """In the other order."""
        self._all(
            backwards(steps), lambda step: not step.is_done(self.connection), Step.down_sql,
            lambda step: step.down(self),
        )  # fmt: skip

    def _all(self, steps: list[Step], is_done: Callable[[Step], bool], sql: Any, work: Callable[[Step], None]) -> None:
        self.done = 0
        for number, step in enumerate(steps, 1):
            self.standing = f"step {number} of {len(steps)}, {step.title}"
            if why := step.left_out(self.dialect):
                self._note(f"{step.title}: left out. {why}")
                continue
            with self._outside_transaction(step):
                if self.live is None:
                    for statement in getattr(step, sql.__name__)(self.dialect):
                        self.context.impl.static_output(f"{statement};")
                    continue
                if is_done(step):
                    self.say(f"{self.standing}: done already.")
                else:
                    self.say(f"{self.standing} …")
                    work(step)
                    self.say(f"{self.standing}: done.")
            self.done = number
        self.standing = "its entry in the history"

    def _note(self, text: str) -> None:
        self.context.impl.static_output(f"-- {text}") if self.live is None else self.say(text)

    @contextmanager
    def _outside_transaction(self, step: Step) -> Iterator[None]:
        """Each such step stays done whatever comes of the next."""
        if step.outside_transaction and self.dialect.name == "postgresql" and not self.scratch:
            with self.context.autocommit_block():
                self.committed = True
                yield
        else:
            yield

    def execute(self, statement: str) -> None:
        """One statement of our own, without parameters. Raises OperatorError, with who holds the table, where it can't
        be had within seconds; DBAPIError."""
        # PostgreSQL's transaction is lost with the statement that failed in it, and an index that was built
        # CONCURRENTLY in vain is there, unusable: the next run drops it.
        tries = 1 if self.dialect.name == "postgresql" else TRIES
        for left in reversed(range(tries)):
            try:
                self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            except DBAPIError as error:
                if not waited_for_a_table(error):
                    raise
                held = holders(self.url)
                if not left:
                    raise OperatorError(
                        "a table was waited for in vain, and not for long, since everybody else's new queries wait"
                        f" behind a statement that waits. {held} Let it end, or end it, and launch this"
                        " again"
                    ) from None
                self.say(f"{self.standing}: a table is in use, and is tried again in {PAUSE:.0f} s. {held}")
                time.sleep(PAUSE)
            else:
                return

    @contextmanager
    def locked(self, table: sa.Table) -> Iterator[None]:
        """The table for this run alone, for a moment: nobody reads or writes it. Raises OperatorError, DBAPIError."""
        name = self.dialect.identifier_preparer.format_table(table)
        if self.dialect.name == "sqlite":  # the transaction has the whole file
            yield
        elif self.dialect.name == "postgresql":
            self.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
            yield
        else:
            self.execute(f"LOCK TABLES {name} WRITE")
            try:
                yield
            finally:
                if not self.connection.invalidated:
                    self.connection.exec_driver_sql("UNLOCK TABLES")

    def build_index(self, statement: str, table: str) -> None:
        """Builds or drops it while the table is written; otherwise only where that is allowed. Raises Refused."""
        if self.scratch:
            self.execute(_plain(statement))
            return
        try:
            with self._patience(statement):
                self.execute(statement)
        except DBAPIError as error:
            origin: Any = error.orig
            number = getattr(origin, "args", (None,))[0]
            if number == LOG_TOO_SMALL:
                raise OperatorError(
                    f"so much was written into {table} meanwhile that the server's log of it was full; raise"
                    " innodb_online_alter_log_max_size, or launch this again at a quieter hour"
                ) from None
            if number not in NOT_ONLINE and getattr(origin, "sqlstate", "") != "0A000":
                raise
            if not self.options.allow_blocking:
                rows = catalogue.rows_of(self.connection, table)
                raise Refused(
                    f"an index on {table} ({counted(rows, 'row')}) can't be built or dropped here while the table"
                    " is written; launch this again with allow_blocking at an hour when writers may wait"
                ) from None
            self.execute(_plain(statement))

    @contextmanager
    def _patience(self, statement: str) -> Iterator[None]:
        """What is done CONCURRENTLY waits for every older transaction, and nobody waits for it meanwhile."""
        if "CONCURRENTLY" in statement:
            self.connection.exec_driver_sql(f"SET lock_timeout = '{PATIENCE}s'")
        yield
        if "CONCURRENTLY" in statement:
            self.connection.exec_driver_sql(f"SET lock_timeout = '{TABLE_WAIT}s'")


def _plain(statement: str) -> str:
    """An index's statement as one that makes writers wait."""
    return statement.replace(ONLINE, "").replace(ONLINE_ALTER, "").replace("INDEX CONCURRENTLY ", "INDEX ", 1)
