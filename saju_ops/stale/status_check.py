"""Whether analysis_jobs.status can hold a status, asked before anything is changed.

`foreseen` only reads: an ENUM's values, a text's length, and on SQLite the table's own CHECKs, tried on a copy of
one row in memory. `tried` is the certain answer: the update itself on one job, rolled back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.connect import error_text
from saju_ops.errors import Refused
from saju_ops.stale.audit import StaleJob, key_from_json
from saju_ops.stale.connections import is_locked
from saju_ops.stale.shape import JOBS
from saju_ops.stale.tables import Tables
from saju_ops.words import counted

# Storage engines that can take a change back.
TRANSACTIONAL = {"innodb", "rocksdb", "ndbcluster", "tokudb"}
TRIES = 5
# Data truncated, wrong value, too long, a CHECK (MySQL, MariaDB), a foreign key, a trigger.
MYSQL_VALUE_ERRORS = {1265, 1366, 1406, 3819, 4025, 1452, 1644}


def foreseen(tables: Tables, sample: StaleJob) -> str | None:
    """Why the column can't hold the job's new status, as far as reading can show; None if no reason is known."""
    kind, value = tables.status_type(), sample.becomes
    if tables.sqlite:
        why = _in_memory(tables, sample)
    elif isinstance(kind, sa.Enum) and not _in_enum(kind.enums, value, tables.mysql):
        why = f"it is an ENUM of {', '.join(kind.enums)}"
    elif isinstance(kind, sa.String) and kind.length is not None and len(value) > kind.length:
        why = f"it holds {counted(kind.length, 'character')}"
    else:
        why = None
    return None if why is None else sentence(value, why)


def _in_enum(values: Iterable[str], value: str, any_case: bool) -> bool:
    return value in values or (any_case and value.casefold() in {v.casefold() for v in values})


def sentence(value: str, why: str) -> str:
    return (
        f"{JOBS}.status can't hold {value!r} ({why}). Set STALE_JOB_EMPTY_STATUS to a status that it can hold, or let"
        " the column hold it. Nothing was changed."
    )


def _in_memory(tables: Tables, sample: StaleJob) -> str | None:
    """The CHECKs of a SQLite table, on an empty copy of it in memory that gets one row of the real one."""
    raw: Any = tables.connection.connection.driver_connection
    name = tables.jobs.name
    made = raw.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
    columns = [c[0] for c in raw.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (name,))]
    quote = tables.connection.dialect.identifier_preparer.quote
    key, status = quote(tables._job("job_id").name), quote(tables._job("status").name)
    table, listed = quote(name), ", ".join(map(quote, columns))
    query = f"SELECT {listed} FROM {table} WHERE {key} = ?"  # noqa: S608 (names quoted by the dialect)
    row = raw.execute(query, (key_from_json(sample.key),)).fetchone()
    if made is None or row is None:
        return None
    with_row = f"INSERT INTO {table} ({listed}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608 (the same)
    copy = sqlite3.connect(":memory:")
    try:
        copy.execute(made[0])
        copy.execute(with_row, row)
    except sqlite3.Error:
        # A function or collation that only the application knows: the later trial will show it.
        return None
    else:
        return _refused(copy, f"UPDATE {table} SET {status} = ?", sample.becomes)  # noqa: S608 (the same)
    finally:
        copy.close()


def _refused(copy: sqlite3.Connection, update: str, value: str) -> str | None:
    try:
        copy.execute(update, (value,))
    except sqlite3.IntegrityError as error:
        return error_text(error)
    except sqlite3.Error:
        return None
    return None


def tried(tables: Tables, samples: list[StaleJob]) -> None:
    """Updates one of the jobs and rolls back. Raises Refused where the database doesn't take the status, or
    could not take it back."""
    engine = tables.storage_engine()
    tables.end()
    if engine is not None and engine.casefold() not in TRANSACTIONAL:
        raise Refused(
            f"{JOBS} in {tables.database} is kept by {engine}, which can't roll a change back; ALTER TABLE … ENGINE ="
            " InnoDB. Nothing was changed."
        )
    for sample in samples[:TRIES]:
        key = key_from_json(sample.key)
        tables.begin()
        try:
            changed = tables.set_status([key], sample.status, sample.becomes)
            stored = tables.statuses_of([key], lock=False).get(key)
        except DBAPIError as error:
            if is_locked(error) or not _about_the_value(error):
                raise
            raise Refused(sentence(sample.becomes, error_text(error))) from error
        finally:
            tables.end()
        if not changed:
            continue
        if stored is not None and stored.strip().casefold() != sample.becomes.strip().casefold():
            raise Refused(sentence(sample.becomes, f"the database made {stored[:40]!r} of it"))
        return


def _about_the_value(error: DBAPIError) -> bool:
    """Not so: a connection lost, a right that is missing, a read-only server."""
    origin: Any = error.orig
    code = origin.args[0] if getattr(origin, "args", ()) else None
    if isinstance(code, int):
        return code in MYSQL_VALUE_ERRORS
    if state := str(getattr(origin, "sqlstate", None) or ""):
        return state[:2] in ("22", "23", "P0")
    return str(getattr(origin, "sqlite_errorname", "")).startswith("SQLITE_CONSTRAINT")
