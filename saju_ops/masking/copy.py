"""Copies a database into a scratch one and masks its values on the way: the copy never holds a true value.

Read in one snapshot of the source, table after table, in constant memory. The scratch database is ours (see
`drill.py`); the source is only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from saju_ops.dumps.engine import DumpEngine
from saju_ops.dumps.mysql.engine import MySQLDumps
from saju_ops.dumps.postgres.engine import PostgresDumps
from saju_ops.dumps.sqlite import SQLiteDumps
from saju_ops.masking.copy_base import Copier
from saju_ops.masking.copy_mysql import _MySQL
from saju_ops.masking.copy_postgres import _Postgres
from saju_ops.masking.copy_sqlite import _SQLite


@contextmanager
def copier(source: DumpEngine, scratch: DumpEngine) -> Iterator[Copier]:
    if isinstance(source, SQLiteDumps) and isinstance(scratch, SQLiteDumps):
        with closing(_SQLite(source, scratch)) as sqlite:
            yield sqlite
    elif isinstance(source, PostgresDumps) and isinstance(scratch, PostgresDumps):
        with source._engine.connect() as reader, scratch._engine.connect() as writer:
            yield _Postgres(source, scratch, reader, writer)
    else:
        assert isinstance(source, MySQLDumps)
        assert isinstance(scratch, MySQLDumps)
        with source._engine.connect() as reader, scratch._engine.connect() as writer:
            yield _MySQL(source, scratch, reader, writer)


# --- MySQL and MariaDB -------------------------------------------------------------------------------------------


# --- PostgreSQL --------------------------------------------------------------------------------------------------


# --- SQLite ------------------------------------------------------------------------------------------------------
