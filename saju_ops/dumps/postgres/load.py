"""Executes a PostgreSQL dump: one transaction, each statement by itself, its rows by the server's own COPY protocol.

No program reads the dump, so it can hold no program's commands. Each statement is sent by the protocol that takes a
single one: if the server would cut it differently, that is an error, never a second statement.

Objects that a server holds but doesn't accept from its own dump are loaded as an administrator would, and named: see
`Lenient`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.copy import LibpqWriter

from saju_ops.database.connect import connect_unpinned
from saju_ops.dumps.contents import Contents
from saju_ops.dumps.engine import ForeignToDumps
from saju_ops.dumps.postgres.lenient import Lenient
from saju_ops.dumps.postgres.reader import Statement
from saju_ops.dumps.postgres.statements import statements
from saju_ops.dumps.programs import ProgramFailed, words_of

# As pg_dump's own connection has it. Its other settings are the database's: money is written as that says.
SESSION = (
    "SET standard_conforming_strings = on", "SET timezone = 'UTC'", "SET datestyle = 'ISO, MDY'",
    "SET intervalstyle = 'postgres'", "SET extra_float_digits = 1",
)  # fmt: skip
# Bytes that may wait for the server.
FLUSH = 1 << 20


class Load:
    """Use it once. Afterwards `left_out` says, as sentences, what was not executed."""

    # Languages other than the trusted ones in which functions may be.
    untrusted: frozenset[str] = frozenset()

    def __init__(self, url: sa.URL, *, with_rights: bool) -> None:
        self._url, self._with_rights = url, with_rights
        self._rights = 0
        self._escapes = b"on"
        self._driver: Any = None
        self._lenient = Lenient(self._send, self._answer)

    @property
    def left_out(self) -> list[str]:
        note = f"{self._rights} owners and grants were left out: everything belongs to {self._url.username}"
        return [*([note] if self._rights else []), *self._lenient.sentences]

    def as_compared(self, connection: sa.Connection, found: Contents, like: Contents) -> Contents:
        """Objects that were left out or differ from the dump are named, and don't fail the comparison: they are
        compared as if they were as in the dump."""
        names = self._adopted(connection) & like.definitions.keys()
        return replace(found, definitions={**found.definitions, **{n: like.definitions[n] for n in names}})

    def _adopted(self, connection: sa.Connection) -> set[str]:
        """The names in `Contents.definitions` of objects that were left out or changed."""
        return self._lenient.adopted

    def execute(self, chunks: Iterator[bytes]) -> None:
        """Raises ProgramFailed with the server's message, ForeignToDumps, or the chunks' own error: then nothing of the
        dump is in the database."""
        # Not `connect` of database.py: its session for comparisons would change how money is read.
        with connect_unpinned(self._url).connect() as connection:
            self._driver = connection.connection.driver_connection
            try:
                self._driver.rollback()
                for setting in SESSION:
                    self._send(setting.encode())
                for sort, statement, rows in statements(chunks, self.untrusted):
                    self._one(sort, statement, rows)
                self._lenient.rows_end()
                self._require_pinned()
                self._driver.commit()
            except psycopg.Error as error:
                raise _failed(error) from None

    def _one(self, sort: str, statement: Statement, rows: Iterator[bytes]) -> None:
        if sort == "copy":
            self._copy(statement, rows)
        elif sort == "rights" and not self._with_rights:
            self._rights += statement.words[0] not in ("SET", "RESET")
        elif sort != "nothing":
            self.run(sort, statement)
        if sort == "setting" and statement.words[1] == "STANDARD_CONFORMING_STRINGS":
            self._escapes = statement.words[3].lower().encode()
        self._require_pinned()

    def run(self, sort: str, statement: Statement) -> None:
        self._lenient.run(statement)

    def _answer(self, query: str) -> list[tuple[Any, ...]]:
        return list(self._driver.execute(query.encode(), prepare=False, binary=True).fetchall())

    def _send(self, text: bytes) -> None:
        # binary: by the protocol that takes one statement at a time.
        self._driver.execute(text, prepare=False, binary=True)

    def _copy(self, statement: Statement, rows: Iterator[bytes]) -> None:
        self._lenient.rows_begin(statement)
        with self._driver.cursor() as cursor:
            writer = LibpqWriter(cursor, flush_threshold=FLUSH)
            with cursor.copy(statement.text, writer=writer) as copy:
                for piece in rows:
                    copy.write(piece)

    def _require_pinned(self) -> None:
        """A function of the dump's may have been executed, and changed how the rest would be read."""
        status = self._driver.pgconn.parameter_status
        if status(b"standard_conforming_strings") != self._escapes or status(b"client_encoding") not in ENCODINGS:
            raise ForeignToDumps("something that changes how text is read")


ENCODINGS = (b"UTF8", b"SQL_ASCII")


def _failed(error: psycopg.Error) -> ProgramFailed:
    first = (error.diag.message_primary or str(error) or type(error).__name__).splitlines()[0]
    said = words_of(f"ERROR: {first}")
    return ProgramFailed(f"The server refused it ({said}).", said)
