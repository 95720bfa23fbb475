"""One connection to the database of one table: its session, transactions and locks."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, Self
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.database.connect import connect, error_text, redacted
from saju_ops.errors import OperatorError
from saju_ops.rows.table import Column, Table
from saju_ops.rows.traits import Traits


class TableSession(abc.ABC):
    """One connection and one table. Used by one thread at a time."""

    def __init__(self, url: sa.URL, table: str, zone: ZoneInfo, bulk_load: bool = False) -> None:
        self.url = url
        self.zone = zone
        self.bulk_load = bulk_load
        # Whether the caller compares the rows that `load` writes with a digest. Only then may a server accept values
        # that its rules refuse in a new row: rows older than a CHECK, or an ENUM's error value.
        self.takes_old_rows = False
        # Remarks for the operator about what `load` could not do.
        self.remarks: list[str] = []
        self._engine = connect(url, bulk_load=bulk_load)
        try:
            self.connection = self._engine.connect()
        except sa.exc.DBAPIError as error:
            raise OperatorError(
                f"The database {redacted(url)} can't be reached ({error_text(error)}). Nothing was done."
            ) from None
        try:
            # Before it is described: whatever is changed in between counts as a change.
            self.traits = Traits(self, [(None, table)])
            self.table = self.describe(table)
            self.from_ = sa.table(table, *map(sa.column, self.table.names), schema=self.table.schema)
        except BaseException as error:
            self.connection.close()
            if isinstance(error, sa.exc.DBAPIError):
                raise OperatorError(
                    f"The database {redacted(url)} didn't describe {table} ({error_text(error)}). Nothing was done."
                ) from None
            raise

    def sibling(self, table: str) -> Self:
        """Another table on this store's own connection, and so inside its transactions. Not to be called in one."""
        other = copy(self)
        other.traits = Traits(other, [(None, table)])
        other.table = other.describe(table)
        other.from_ = sa.table(table, *map(sa.column, other.table.names), schema=other.table.schema)
        return other

    def use(self, columns: Sequence[Column], key: Sequence[str] | None = None) -> None:
        self.table = replace(self.table, columns=tuple(columns), key=tuple(key or self.table.key))
        self.from_ = sa.table(self.table.name, *map(sa.column, self.table.names), schema=self.table.schema)

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def describe(self, table: str) -> Table:
        """Reads the catalogue. Raises Refused."""

    @abc.abstractmethod
    def lock(self, name: str, wait: float) -> AbstractContextManager[Callable[[], bool]]:
        """A lock for this table that dies with the connection. Raises Busy after `wait` seconds.

        Gives a function that says whether it is still held."""

    def has_table(self, name: str) -> bool:
        found = sa.inspect(self.connection).has_table(name)
        self.end_read()
        return found

    def check_now(self) -> None:
        """Makes the database check at once what it would otherwise check only at the commit. Raises DBAPIError."""
        return

    @property
    def in_server_transaction(self) -> bool:
        """Whether the transaction is still there: in SQLite a trigger may end it."""
        return True

    def pass_over_wrong_keys(self, tables: Sequence[str]) -> None:
        """SQLite: stops enforcing foreign keys on this connection where it can't delete from or write to one of these
        tables for a key that is wrong in itself. From then on only the caller guards the others. Outside of a
        transaction only."""
        return

    @property
    def enforces_keys(self) -> bool:
        """Whether the database itself keeps foreign keys, and empties references where a key says so."""
        return True

    def require_transactions(self) -> None:
        """Raises Refused where a change of the table can't be rolled back."""
        return

    def replica_lag(self, replicas: Sequence[sa.URL]) -> float | None:
        """Seconds that the slowest replica is behind; None where none can be asked."""
        return None

    def wait_briefly(self) -> None:
        """From now on a row that somebody else holds is waited for LOCK_WAIT_SECONDS only."""
        return

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A short transaction for changes: committed at the end, rolled back on any error."""
        self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Every read inside sees the same committed state."""
        self.end_read()
        with self.connection.begin():
            yield

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """The driver's own connection. Its errors are raised as SQLAlchemy's, so that there is one kind to handle, and
        a lost connection is noted, so that no more is asked of it."""
        raw: Any = self.connection.connection.driver_connection
        dialect = self.connection.dialect
        try:
            yield raw
        except dialect.loaded_dbapi.Error as error:
            lost = dialect.is_disconnect(error, raw, None)
            if lost:
                self.connection.invalidate(error)
            raise sa.exc.DBAPIError("(driver)", None, error, True, lost) from None

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """A transaction that adds rows and sees only those that were there, and its own."""
        self.require_transactions()
        with self.snapshot():
            yield

    def end_read(self) -> None:
        if self.connection.in_transaction():
            self.connection.rollback()


@contextmanager
def broken_off(sentence: Callable[[str], str]) -> Iterator[None]:
    """Turns a database error into a sentence for an operator, made from the server's message."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise OperatorError(sentence(error_text(error))) from None
