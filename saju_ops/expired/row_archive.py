"""Rows that must outlive their job (payments) as proven CSV files with manifests, like the conversation archives.

    purged_jobs/2026/10/payments_20261001_090000.csv[.gz|.zip]  + .manifest.json

A file gets its name only after it was read back from the storage and agreed with the digest that the database computes
for the same rows in one snapshot; its manifest is written last; nothing is overwritten. If an archive of the last
RECALLED days holds a row unchanged (its job could not be deleted then), the row is recognised and not written again;
the row of a job that stays longer is written once more after that many days.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from saju_ops.archive.held import HeldRows
from saju_ops.archive.manifest import FORMAT, Manifest, manifest_of, timestamp, write_day_manifest
from saju_ops.archive.verify import ReadBack, Visit, read_back, verify_part
from saju_ops.errors import OperatorError, ProofFailed, shown
from saju_ops.expired.conditions import Identity, chunks, one_of
from saju_ops.rows.csvfile import Compression, CsvSink, Packing
from saju_ops.rows.digest import ALGORITHM, EMPTY, Digest, key_hashes, row_hashes
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.engines.selecting import as_bytes
from saju_ops.storage import folders
from saju_ops.storage.encryption import ENDING, METHOD
from saju_ops.storage.open import AlreadyThere, Storage, StorageError
from saju_ops.storage.seal import Unsealed, read_sealed
from saju_ops.words import counted

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = folders.PURGED_JOBS.rstrip("/")
KIND = "purged_rows"
MANIFEST = ".manifest.json"
# A run's clock may be behind another's by as much.
CLOCKS = timedelta(days=1)
# How far back archives are looked at. Without a bound one job that stays makes each hourly run read every manifest
# since it expired: 2,160 a table in 90 days, each a request in S3. To stop at the first that holds the row would be
# shorter still, and wrong for a row that changed and changed back: the last archive to have it must have it as it is.
RECALLED = timedelta(days=7)


class RowArchive:
    """The archives of one table: `store` is on the connection on which the rows are deleted."""

    def __init__(
        self, store: RowStore, storage: Storage, identity: Sequence[str], *, root: str, now: datetime,
        zone: ZoneInfo, compression: Compression, run_id: str,
    ) -> None:  # fmt: skip
        self.store, self.storage, self.identity = store, storage, identity
        self.root, self.now, self.zone, self.run_id = root, now, zone, run_id
        self.packing = Packing(compression, storage.password is not None, storage.password)
        self.rows_written = 0
        self._held = HeldRows()
        self._recalled: set[str] = set()
        self._listed: list[str] | None = None

    @property
    def stem(self) -> str:
        """How the names of this table's archives begin, after the folder of the month."""
        return safe_name(self.store.table.name) + "_"

    def clear_unfinished(self) -> None:
        """Under the run's lock: what killed runs left in this month's folder."""
        self.storage.clear_unfinished(f"{self._folder(self.now)}{self.stem}")

    # --- archived rows --------------------------------------------------------------------------------------

    def recall(self, jobs: Collection[str], since: datetime) -> list[str]:
        """Reads the archives made since then, and in the last RECALLED days, that name one of these jobs: rows in them
        are held. Gives a sentence for each that can't be proven or that the store doesn't give, and so counts for
        nothing, and one for all that no key of this installation sealed; each once in a run."""
        problems, unsealed = list[str](), list[str]()
        for name in self._manifests(max(since, self.now - RECALLED)):
            if name in self._recalled:
                continue
            try:
                manifest = read_row_manifest(self.storage, name)
                if self._is_mine(manifest) and not set(manifest.extra.get("jobs", ())).isdisjoint(jobs):
                    self._recalled.add(name)
                    with self._collecting() as visit:
                        verify_part(self.storage, manifest, visit)
            except Unsealed as problem:
                self._recalled.add(name)
                unsealed.append(str(problem))
            except (ProofFailed, StorageError) as problem:
                self._recalled.add(name)
                problems.append(f"{problem} Its rows are archived again.")
        if unsealed:
            more = f" So it is with {len(unsealed) - 1} more." if len(unsealed) > 1 else ""
            problems.append(f"{unsealed[0]} Its rows are archived again.{more}")
        return problems

    @contextmanager
    def _collecting(self) -> Iterator[Callable[[], Visit]]:
        """For reading a file back: its rows are held from then on, unless reading, proof or commit fails."""
        visit = self._held.collect(self.store.table.key_columns)
        try:
            yield visit
        except BaseException:
            visit()
            raise

    def _manifests(self, since: datetime) -> Iterator[str]:
        first = (since - CLOCKS).astimezone(self.zone)
        if self._listed is None:
            self._listed = list(row_manifests(self.storage))
        for name in self._listed:
            file = name.rpartition("/")[2]
            stamp = re.fullmatch(r"(\d{8}_\d{6})(_\d+)?\.manifest\.json", file.removeprefix(self.stem))
            if stamp and file.startswith(self.stem) and stamp[1] >= first.strftime("%Y%m%d_%H%M%S"):
                yield name

    def _is_mine(self, manifest: Manifest) -> bool:
        """Whether its rows can be compared with this table's: same table, same columns, written the same way."""
        table = self.store.table
        same = [(c.name, c.encoding, c.framed) for c in manifest.table_columns]
        here = manifest.extra.get("schema", table.found_in) == table.found_in
        return (
            here
            and (manifest.database, manifest.table) == (table.database, table.name)
            and same == [(c.name, c.encoding, c.framed) for c in table.columns]
        )

    def holds(self, identities: Sequence[Identity]) -> bool:
        """Whether the archives hold these rows as they are now. The rows stay locked till the transaction ends."""
        return self.holds_where(self.selections(identities), len(identities))

    def holds_where(self, selections: Iterator[Selection], expected: int) -> bool:
        found = 0
        for selection in selections:
            for batch in self.store.batches(selection, lock=True):
                keys = key_hashes(batch, self.store.table.key_columns)
                if not self._held.holds(keys, row_hashes(batch, self.store.table.columns)).all():
                    return False
                found += batch.num_rows
        return found == expected

    def selections(self, identities: Sequence[Identity]) -> Iterator[Selection]:
        columns = [self.store.col(c) for c in self.identity]
        for chunk in chunks(identities):
            yield Selection(where=(one_of(columns, chunk),))

    # --- writing -------------------------------------------------------------------------------------------

    def add(self, identities: Sequence[Identity], jobs: Sequence[str], window: tuple[datetime, datetime]) -> str | None:
        """Archives those of the rows that no archive holds yet; the name of the new file, None where there is
        nothing new. Inside a snapshot. Raises OperatorError, ProofFailed, StorageError or OSError."""
        new = _New(self, identities)
        if new.first is None:
            return None
        number = 1
        while True:
            name = self._name(number)
            if self.storage.exists(name) or self.storage.exists(self._manifest_name(name)):
                number += 1
                continue
            try:
                return self._write(name, new if number == 1 else _New(self, identities), identities, jobs, window)
            except AlreadyThere:
                number += 1

    def _folder(self, at: datetime) -> str:
        return f"{FOLDER}/{at.astimezone(self.zone):%Y/%m}/"

    def _name(self, number: int) -> str:
        stamp = f"{self.now.astimezone(self.zone):%Y%m%d_%H%M%S}"
        tail = "" if number == 1 else f"_{number}"
        return f"{self._folder(self.now)}{self.stem}{stamp}{tail}{self.packing.suffix}"

    def _manifest_name(self, name: str) -> str:
        return name.removesuffix(self.packing.suffix) + MANIFEST

    def _write(
        self, name: str, new: _New, identities: Sequence[Identity], jobs: Sequence[str],
        window: tuple[datetime, datetime],
    ) -> str:  # fmt: skip
        table = self.store.table
        with self.storage.create(name) as writer:
            inside = name.rsplit("/", 1)[-1].removesuffix(ENDING)
            sink = CsvSink(writer, self.packing, [c.name for c in table.columns], inside)
            for batch in new:
                sink.write_batch(batch)
            sink.finish()
            with self._collecting() as visit:
                found = read_back(writer.read_back, self.packing, table.columns, table.key, start_visit=visit)
                self._prove(found, identities, new.left_out)
                writer.commit()
                self._write_manifest(self._manifest(name, found, jobs, window))
        self.rows_written += found.digest.rows
        return name

    def _prove(self, found: ReadBack, identities: Sequence[Identity], left_out: Digest) -> None:
        state = self._computed(identities)
        expected = Digest(state.rows - left_out.rows, state.xor ^ left_out.xor)
        if found.digest != expected:
            raise ProofFailed(
                f"The rows of {self.store.table.name} were not archived: the file read back holds"
                f" {counted(found.digest.rows, 'row')} with digest {found.digest.hex}, the database says"
                f" {expected.rows} with {expected.hex}. Nothing was deleted."
            )

    def _write_manifest(self, manifest: Manifest) -> None:
        name = self._manifest_name(manifest.file)
        write_day_manifest(self.storage, name, manifest)
        self._recalled.add(name)

    def _computed(self, identities: Sequence[Identity]) -> Digest:
        state = EMPTY
        for selection in self.selections(identities):
            state += self.store.digest(selection)
        return state

    def _manifest(self, name: str, found: ReadBack, jobs: Sequence[str], window: tuple[datetime, datetime]) -> Manifest:
        table, local = self.store.table, self.now.astimezone(self.zone)
        return Manifest(
            kind=KIND, format=FORMAT, file=name, part=1, compression=self.packing.compression,
            engine=table.engine, server_version=table.server_version, database=table.database, table=table.name,
            day=f"{local:%Y-%m-%d}", timezone=self.zone.key,
            window_start_utc=timestamp(window[0]), window_end_utc=timestamp(window[1]),
            columns=[asdict(c) for c in table.columns], key=list(table.key), rows=found.digest.rows,
            first_key=_shown(found.first_key), last_key=_shown(found.last_key),
            digest_algorithm=ALGORITHM, digest=found.digest.hex,
            day_rows=found.digest.rows, day_digest=found.digest.hex,
            content_sha256=found.content_sha256, content_bytes=found.content_bytes,
            stored_sha256=found.stored_sha256, stored_bytes=found.stored_bytes, largest_block=found.block,
            tool=f"saju_ops {version('saju-ops')}", run_id=self.run_id, created_at=timestamp(self.now),
            encryption=METHOD if self.packing.encrypted else "none",
            # By these a payment's archive is found again, and recognised by a later run.
            extra={"root": self.root, "jobs": sorted(jobs)} | ({"schema": table.found_in} if table.found_in else {}),
        )  # fmt: skip


class _New:
    """The rows that no archive holds in their present form, and the digest of those that one does."""

    def __init__(self, archive: RowArchive, identities: Sequence[Identity]) -> None:
        self._archive, self._identities = archive, identities
        self.left_out = EMPTY
        self._rows = self._unheld()
        self.first: pa.RecordBatch | None = next(self._rows, None)

    def _unheld(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        table, held = self._archive.store.table, self._archive._held
        for selection in self._archive.selections(self._identities):
            for batch in self._archive.store.batches(selection):
                hashes = row_hashes(batch, table.columns)
                known = held.holds(key_hashes(batch, table.key_columns), hashes)
                self.left_out += Digest.of(hashes[known])
                if not known.all():
                    yield batch.filter(pa.array(~known))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self.first is not None:
            yield self.first
            yield from self._rows


def read_row_manifest(storage: Storage, name: str, *, untouched: bool = False) -> Manifest:
    """Raises ProofFailed for anything but a whole manifest of purged rows under its own name; Unsealed."""
    try:
        raw = read_sealed(storage, name, untouched=untouched)
    except OSError as error:
        raise ProofFailed(f"{shown(name)} can't be read ({error.strerror or type(error).__name__}).") from None
    return row_manifest_of(raw, name)


def row_manifest_of(raw: Mapping[str, Any], name: str) -> Manifest:
    """A manifest whose seal has been checked, under its own name. Raises ProofFailed."""
    manifest = manifest_of(raw, name, KIND)
    if not manifest.file.startswith(name.removesuffix(MANIFEST) + "."):
        raise ProofFailed(f"{shown(name)} describes another file, {manifest.file}.")
    return manifest


def row_manifests(storage: Storage) -> Iterator[str]:
    """The name of every manifest of purged rows, oldest month first; for their verification."""
    return (name for name in storage.names(f"{FOLDER}/") if name.endswith(MANIFEST))


def safe_name(table: str) -> str:
    """A table's name as part of a file's name: anything unusual as %xx."""
    return re.sub(r"[^0-9A-Za-z_-]", lambda c: "".join(f"%{b:02x}" for b in c[0].encode()), table)


def _shown(key: tuple[bytes, ...] | None) -> list[str | None]:
    return [as_bytes(v).decode("utf-8", "replace") for v in key] if key else []


def require_archivable(store: RowStore, table: str, schema: str | None) -> RowStore:
    """The table as a store on the same connection. Raises OperatorError where it can't be archived."""
    if schema is not None:
        raise OperatorError(
            f"The rows of {schema}.{table} must be archived before their job is deleted (PURGE_KEEP_TABLES), and"
            " saju_ops archives tables of the database's own schema only. Nothing was deleted."
        )
    return store.sibling(table)
