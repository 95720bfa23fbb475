"""A small realistic service to try everything on: three databases in one SQLite file, and a Chroma folder.

`make_service` fills a folder of its own with `service.db` and `chroma_db/`. The same seed and the same present time
give the same rows. The last message was written seconds ago; stored times are naive UTC, and messages spread over day
and hour as they would in Seoul. It builds under a temporary name beside the folder and renames at the end, so a killed
run leaves nothing that `open_service` accepts; the next run deletes what it left.

A folder that is not empty and has no marker of an earlier run is refused (`DemoFolderError`). A folder with the marker
belongs to the demo as a whole and is replaced. No other folder or database is opened, no model is loaded, and nothing
is fetched: the vectors are made up.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from saju_ops.database.address import parse_database_url
from saju_ops.demo import texts
from saju_ops.demo.collections import COLLECTIONS, _write_collections
from saju_ops.demo.folder import (
    Progress,
    Rows,
    _building,
    _chunks,
    _put_in_place,
    _read_marker,
    _refuse_foreign,
    _write_marker,
)
from saju_ops.demo.rows import _ELEMENT_OF, _service_rows
from saju_ops.schema import tables
from saju_ops.schema.migrate.commands import up
from saju_ops.schema.migrate.steps import Installation

DATABASE = "service.db"
CHROMA = "chroma_db"


_INSERT_CHUNK = 4_000


@dataclass(frozen=True)
class DemoService:
    """The service's folder, and what it contained when it was made."""

    folder: Path
    seed: int
    made_for: datetime  # the `now` it was made for, with its zone (UTC)
    rows: dict[str, int] = field(default_factory=dict)  # table → rows
    collections: dict[str, int] = field(default_factory=dict)  # collection → records

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def chroma(self) -> Path:
        return self.folder / CHROMA


def make_service(
    folder: Path,
    *,
    now: datetime,
    seed: int = 20,
    days: int = 70,
    rows: int = 24_000,
    progress: Progress | None = None,
) -> DemoService:
    """Makes the service in `folder`: `rows` messages over the last `days` Seoul days, with all that belongs to them.

    `now` without a zone is UTC. Replaces a service that an earlier run made there, with everything in its folder.
    `progress` is called with the name of what is being made, the number of finished items, and their total. Raises
    DemoFolderError for a folder that is not the demo's, ValueError for fewer than one day or row.
    """
    if days < 1 or rows < 1:
        raise ValueError(f"A demo service needs at least one day and one row, not {days} and {rows}.")
    now = (now if now.tzinfo else now.replace(tzinfo=UTC)).astimezone(UTC)
    report = progress or (lambda stage, done, total: None)
    folder = folder.resolve()
    _refuse_foreign(folder)
    with _building(folder) as building:
        made = _service_rows(now.replace(tzinfo=None), seed, days, rows, report)
        _write_database(building / DATABASE, made, report)
        _write_collections(building / CHROMA, seed, report)
        counts = {table.name: len(made[table]) for table in made}
        _write_marker(building, complete=True, seed=seed, now=now.isoformat(), rows=counts)
        _put_in_place(building, folder)
    return DemoService(folder, seed, now, counts, dict(COLLECTIONS))


def open_service(folder: Path) -> DemoService | None:
    """The service that `make_service` completed in `folder`, or None. Reads the marker; opens no database."""
    folder = folder.resolve()
    marker = _read_marker(folder)
    if not marker.get("complete"):
        return None
    service = DemoService(
        folder, marker["seed"], datetime.fromisoformat(marker["now"]), marker["rows"], dict(COLLECTIONS)
    )
    whole = service.database.is_file() and (service.chroma / "chroma.sqlite3").is_file()
    return service if whole else None


# --- the folder ---------------------------------------------------------------------------------------------


# --- writing ------------------------------------------------------------------------------------------------


def _write_database(path: Path, made: Rows, report: Progress) -> None:
    """The chatbot's tables by its migrations, as a service has them; the others and all rows in one transaction."""
    path.touch()
    up(parse_database_url(f"sqlite:///{path}"), Installation())
    engine = create_engine(
        f"sqlite:///{path}", poolclass=NullPool, json_serializer=lambda v: json.dumps(v, ensure_ascii=False)
    )
    total, done = sum(map(len, made.values())), 0
    # AUTOCOMMIT and an explicit BEGIN: the driver would otherwise sync the file after every CREATE.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN")
        for metadata in (tables.paid_reports, tables.speech_analysis):
            metadata.create_all(connection, checkfirst=False)
        for table, rows in made.items():
            for chunk in _chunks(rows, _INSERT_CHUNK):
                connection.execute(table.insert(), list(chunk))
                done += len(chunk)
                report("database rows", done, total)
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


# --- rows of the tables ----------------------------------------------------------------------------------


# 신 is both a stem (metal) and a branch (metal).
_ELEMENT_OF |= dict(zip(texts.BRANCHES, "수토목목토화화토금금토수", strict=True))


# --- paid reports and speech analysis -----------------------------------------------------------------------
