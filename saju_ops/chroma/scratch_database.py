"""A private SQLite database of this process, for data that grows with the number of records.

It has no name. It is in memory while its cache of 8 MB holds it, then in a file where SQLite puts temporary files
(SQLITE_TMPDIR, TMPDIR, /var/tmp). The file disappears with the process, however the process ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from saju_ops.errors import OperatorError


class ScratchDatabase:
    """Raises OperatorError if the temporary folder is full: the data that is read has no fault then."""

    def __init__(self, schema: str, what: str) -> None:
        """`what` it holds, in the plural, as messages call it."""
        self._what = what
        self._connection = sqlite3.connect("", isolation_level=None)
        self.execute("PRAGMA cache_size = -8192")
        self.execute(schema)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._no_room():
            return self._connection.execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._no_room():
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and much faster than each for itself."""
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            # A full disk may have ended it already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    @contextmanager
    def _no_room(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OperatorError(
                f"{self._what[0].upper()}{self._what[1:]} can't be kept in SQLite's temporary folder ({error}): it"
                " needs some 100 bytes for each id under SQLITE_TMPDIR, TMPDIR or /var/tmp."
            ) from None
