"""The drills of `verify`: one backup of each kind is restored into a scratch place, compared, and thrown away.

After a change of ARCHIVE_PASSWORD they choose among the files that it opens, and say so; if it opens none, none is
tried.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.manifest import Manifest, archived_days, day_files
from saju_ops.chroma.limits import PROOF_MEMORY_MB
from saju_ops.database.address import same_place
from saju_ops.database.connect import redacted
from saju_ops.errors import OperatorError
from saju_ops.rows.days import Day, parse_day
from saju_ops.rows.table import Column
from saju_ops.scratch import scratch_folder
from saju_ops.storage.manifest import CLOCKS_DIFFER, BackupManifest, Held, held
from saju_ops.storage.open import Storage
from saju_ops.storage.seal import Unsealed
from saju_ops.upkeep.password import needs_another
from saju_ops.upkeep.verify import Drill
from saju_ops.words import counted

if TYPE_CHECKING:
    from pathlib import Path

ANOTHER = "they are encrypted with another password than ARCHIVE_PASSWORD holds now"


def standard_drills(
    storage: Storage, *, now: datetime, zone: ZoneInfo, databases: Sequence[sa.URL], drill_servers: Sequence[sa.URL],
    memory_mb: int = PROOF_MEMORY_MB,
) -> list[Callable[[], Sequence[Drill]]]:  # fmt: skip
    """One random archive day, the newest dump of each database, the newest snapshot."""
    return [
        lambda: [archive_drill(storage, now=now, zone=zone)],
        lambda: dump_drills(storage, databases, drill_servers, now=now),
        lambda: [snapshot_drill(storage, memory_mb, now)],
    ]


def _timed(name: str, restore: Callable[[], tuple[str, int]]) -> Drill:
    began = time.monotonic()
    try:
        text, records = restore()
    except OperatorError as error:
        return Drill(name, False, True, str(error), seconds=round(time.monotonic() - began, 3))
    return Drill(name, True, True, text, records, round(time.monotonic() - began, 3))


# --- an archive day ----------------------------------------------------------------------------------------------


def archive_drill(storage: Storage, *, now: datetime, zone: ZoneInfo) -> Drill:
    """A random day, another each day and the same for all runs of a day, restored into a scratch SQLite table."""
    stamps = sorted(archived_days(storage))
    if not stamps:
        return Drill("archive day", False, False, "No day of the conversation log is archived yet.", absent=True)
    # In the day's own random order: with all of one password the first is taken.
    shuffled = Random(now.astimezone(zone).toordinal()).sample(stamps, len(stamps))
    stamp = next((s for s in shuffled if not _day_needs_another(storage, s, zone)), None)
    if stamp is None:
        why = f"{ANOTHER}, or no key of this installation sealed them"
        days = counted(len(stamps), "archived day")
        return Drill("archive day", False, False, f"None of {days} can be tried: {why}.")
    return _timed(f"archive day {stamp}", lambda: _restore_day(storage, stamp, zone))


def _day_needs_another(storage: Storage, stamp: str, zone: ZoneInfo) -> bool:
    """Or another key, which comes with another password; `verify` names those."""
    try:
        return any(needs_another(storage, part) for part in day_files(storage, _day(stamp, zone)).parts)
    except Unsealed:
        return True
    except (OperatorError, OSError):  # such as a damaged manifest: the drill says that
        return False


def _day(stamp: str, zone: ZoneInfo) -> Day:
    return parse_day(f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}", zone)


def _restore_day(storage: Storage, stamp: str, zone: ZoneInfo) -> tuple[str, int]:
    from saju_ops.archive.drilled import archived_rows, restored_rows
    from saju_ops.archive.restore import restore

    day = _day(stamp, zone)
    parts = day_files(storage, day).parts
    with scratch_folder() as scratch:
        path = scratch / "drill.db"
        for table in sorted({p.table for p in parts}):
            _make_table(path, next(p for p in reversed(parts) if p.table == table))
        plan = restore(
            storage, sa.URL.create("sqlite", database=str(path)), day, day, zone_of_database=ZoneInfo("UTC"),
            source_table=parts[-1].table, dry_run=False,
        )  # fmt: skip
        # The engine's own rows are compared by the restore itself.
        found = restored_rows(path, parts)
        expected = found if plan.compared_by == "row digests" else archived_rows(storage, parts)
    if found.rows != plan.rows_archived - plan.superseded:
        wanted = counted(plan.rows_archived - plan.superseded, "row")
        raise OperatorError(f"Of {wanted} of {day} {found.rows} came back.")
    if found != expected:
        raise OperatorError(f"{counted(found.rows, 'row')} of {day} came back, and some with other values.")
    back = f"{counted(found.rows, 'row')} of {counted(len(parts), 'file')} came back"
    return f"{back}, compared by their values.", found.rows


def _make_table(path: Path, part: Manifest) -> None:
    """Its columns as the manifest has them. SQLite must not interpret another engine's types: a text stays as it is in
    the file."""
    own = part.engine == "sqlite"
    columns = []
    for column in part.table_columns:
        kind = column.type.split("|")[0] if own else _kind(column, column.name in part.key)
        columns.append(f"{_quoted(column.name)} {kind}")
    key = ", ".join(_quoted(name) for name in part.key)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {_quoted(part.table)} ({', '.join(columns)}, PRIMARY KEY ({key}))")
        connection.commit()


def _kind(column: Column, in_key: bool) -> str:
    """A key is compared with the file's own, so a number must be one here too."""
    if in_key and column.encoding == "number":
        return "INTEGER"
    return "BLOB" if column.encoding == "hex" else "TEXT"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- dumps -------------------------------------------------------------------------------------------------------


def dump_drills(
    storage: Storage, databases: Sequence[sa.URL], servers: Sequence[sa.URL], *, now: datetime
) -> list[Drill]:
    """The newest dump of each database that can be opened. A dump of a database that is no longer configured is not
    tried."""
    there = held(storage, "database_dump")
    of_each: dict[str, list[BackupManifest]] = {}
    for manifest in (m for m in there.backups if m.taken <= now + CLOCKS_DIFFER):
        of_each.setdefault(manifest.source, []).append(manifest)
    if not of_each:
        return [_nothing("dump", "dump", there)]
    return [
        _of_newest(storage, "dump", of_one, lambda m: _dump_drill(storage, m, databases, servers, now))
        for of_one in of_each.values()
    ]


def _nothing(name: str, what: str, there: Held) -> Drill:
    if there.backups:
        return Drill(name, False, False, f"Every {what} is dated in the future.")
    if there.refused:
        return Drill(name, False, False, f"There is a {what}, and none that counts.{there.about_refused()}")
    return Drill(name, False, False, f"There is no {what} yet.", absent=True)


def _of_newest(
    storage: Storage, kind: str, oldest_first: Sequence[BackupManifest], drill: Callable[[BackupManifest], Drill]
) -> Drill:
    """The drill of the newest that ARCHIVE_PASSWORD opens, with a word on those passed over."""
    chosen = next((m for m in reversed(oldest_first) if not needs_another(storage, m)), None)
    newest = oldest_first[-1].file.rpartition("/")[2]
    if chosen is None:
        return Drill(f"{kind} {newest}", False, False, f"None of {len(oldest_first)} opens: {ANOTHER}.")
    done = drill(chosen)
    newer = len(oldest_first) - 1 - oldest_first.index(chosen)
    return replace(done, text=f"{done.text} {newer} newer were passed over: {ANOTHER}.") if newer else done


def _dump_drill(
    storage: Storage, manifest: BackupManifest, databases: Sequence[sa.URL], servers: Sequence[sa.URL], now: datetime
) -> Drill:
    from saju_ops.dumps.contents import Contents
    from saju_ops.dumps.drill import drill
    from saju_ops.dumps.open import open_engine
    from saju_ops.dumps.pack import Packed
    from saju_ops.dumps.take import DumpOptions

    name = f"dump {manifest.file.rpartition('/')[2]}"
    url = next((u for u in databases if redacted(u) == manifest.source), None)
    url = url or next((u for u in databases if same_place(manifest.source, u)), None)
    if url is None:
        return Drill(name, False, False, f"{manifest.source} is none of the configured databases.")
    m = manifest
    packed = Packed(m.content_sha256, m.content_bytes, m.stored_sha256, m.stored_bytes)
    server = DumpOptions(ZoneInfo("UTC"), drill_servers=tuple(servers)).drill_server(url)
    began = time.monotonic()
    try:
        found: Any = drill(
            open_engine(url), storage.open(m.file), packed, Contents.from_json(m.contents), m.file,
            encryption=m.encryption, password=storage.password, server=server, now=now,
        )  # fmt: skip
    except (OperatorError, FileNotFoundError) as error:
        return Drill(name, False, True, str(error), seconds=round(time.monotonic() - began, 3))
    seconds = round(time.monotonic() - began, 3)
    if found.differences:
        return Drill(name, False, True, "; ".join(found.differences[:5]), seconds=seconds)
    if not found.proven:
        return Drill(name, False, found.foreign or found.refused, found.why_not, seconds=seconds)
    back = f"{counted(found.tables, 'table')} and {counted(found.rows, 'row')} came back."
    if found.otherwise:
        back += f" Some of it otherwise: {'; '.join(found.otherwise)}."
    return Drill(name, True, True, back, found.rows, seconds)


# --- snapshots ---------------------------------------------------------------------------------------------------


def snapshot_drill(storage: Storage, memory_mb: int = PROOF_MEMORY_MB, now: datetime | None = None) -> Drill:
    """The newest that isn't dated in the future, and opens. `now`: None means this machine's clock."""
    from saju_ops.chroma.snapshot import drill_snapshot

    there = held(storage, "chroma_snapshot")
    until = (now or datetime.now(UTC)) + CLOCKS_DIFFER
    known = [m for m in there.backups if m.taken <= until]
    if not known:
        return _nothing("snapshot", "snapshot of Chroma", there)

    def restore(manifest: BackupManifest) -> tuple[str, int]:
        compared = drill_snapshot(storage, manifest, memory_mb=memory_mb)
        count = int(compared["records_compared"])
        return f"{counted(count, 'record')} came back, with their vectors and neighbours.", count

    def one(manifest: BackupManifest) -> Drill:
        return _timed(f"snapshot {manifest.file.rpartition('/')[2]}", lambda: restore(manifest))

    return _of_newest(storage, "snapshot", known, one)
