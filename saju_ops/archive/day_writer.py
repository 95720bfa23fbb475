"""Writes the file of a day, reads it back, and only then gives it its name and its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, BinaryIO

import sqlalchemy as sa

from saju_ops.archive.manifest import (
    FORMAT,
    Manifest,
    data_name,
    manifest_name,
    timestamp,
    write_day_manifest,
)
from saju_ops.archive.part import _in_order
from saju_ops.archive.shape import RowShape
from saju_ops.archive.verify import ReadBack, Visit, each_visit, read_back
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.rows.comeback import MARK, TYPED, Comeback, Doubts
from saju_ops.rows.csvfile import Compression, CsvSink, Packing
from saju_ops.rows.days import Day
from saju_ops.rows.digest import ALGORITHM, Digest
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.engines.selecting import as_bytes
from saju_ops.rows.pieces import ALGORITHM as PIECES
from saju_ops.rows.pieces import Pieces
from saju_ops.storage.encryption import ENDING, METHOD
from saju_ops.storage.open import FollowedWriter, Storage, Writer
from saju_ops.words import counted

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class DayWriter:
    """One file of one day."""

    store: RowStore

    storage: Storage

    day: Day

    now: datetime

    compression: Compression

    run_id: str

    held: Callable[[], bool] = field(default=lambda: False)

    def _write(
        self,
        part: int,
        chunks: Iterable[bytes | memoryview | pa.RecordBatch],
        expect: Callable[[], Digest | Pieces],
        day_state: Digest | None = None,
        cuts: Sequence[int] | None = None,
    ) -> tuple[Manifest, ReadBack, RowShape]:
        try:
            return self._write_part(part, chunks, expect, day_state, cuts)
        except ProofFailed:
            self._refuse_lossy()
            raise

    def _refuse_lossy(self) -> None:
        """Says which values, rather than that a proof failed, as it would again and again."""
        if lossy := self.store.lossy_values(Selection(self.day)):
            raise Refused(
                f"The day {self.day} was not archived: of some values of {self.store.table.name} the server can't give"
                " the text without loss, whether for max_allowed_packet or for characters that UTF-8 hasn't"
                f" ({', '.join(f'{n} in {name}' for name, n in lossy.items())}). Nothing was deleted; raise"
                " max_allowed_packet or change those values, and launch the day again."
            )

    def _write_part(
        self,
        part: int,
        chunks: Iterable[bytes | memoryview | pa.RecordBatch],
        expect: Callable[[], Digest | Pieces],
        day_state: Digest | None,
        cuts: Sequence[int] | None,
    ) -> tuple[Manifest, ReadBack, RowShape]:
        columns = self.store.table.columns
        packing = Packing(self.compression, self.storage.password is not None, self.storage.password)
        name = data_name(self.day, part, packing)
        shape, doubts = RowShape(self.day, self.store), Doubts(self.store.doubtful_columns)
        with self.storage.create(name) as writer:
            inside = name.rsplit("/", 1)[-1].removesuffix(ENDING)
            sink = CsvSink(writer, packing, [c.name for c in columns], inside)

            def begin() -> Visit:
                visit = each_visit(shape.begin(), doubts.visit) if self.store.doubtful_columns else shape.begin()
                # A purge reads the file by ranges of its key.
                return visit if cuts is None else _in_order(visit, self.store.table.key_columns)

            def read(again: Callable[[], BinaryIO]) -> ReadBack:
                return read_back(again, packing, columns, self.store.table.key, start_visit=begin, cuts=cuts)

            with closing(iter(chunks)) as source:  # type: ignore[type-var]
                if isinstance(writer, FollowedWriter):
                    found = self._stream_followed(source, sink, writer, read)
                else:
                    self._stream(source, sink)
                    found = read(writer.read_back)
            expected = expect()
            self._prove(found, expected)
            comeback = self._require_comeback(doubts)
            manifest = self._manifest(part, name, packing, found, day_state or expected, comeback)
            self._commit(writer)
        self._write_manifest(manifest)
        return manifest, found, shape

    def _stream_followed(
        self,
        chunks: Iterator[bytes | memoryview | pa.RecordBatch],
        sink: CsvSink,
        writer: FollowedWriter,
        read: Callable[[Callable[[], BinaryIO]], ReadBack],
    ) -> ReadBack:
        """Writes, and reads back meanwhile what is already on the disk: a quarter faster than one after the other."""
        with ThreadPoolExecutor(1, "saju_ops-read-back") as thread:
            reading = thread.submit(read, writer.follow)
            try:
                self._stream(chunks, sink)
                writer.end()
            except BaseException:
                writer.close()  # which ends the reading too
                raise
            return reading.result()

    def _stream(self, chunks: Iterator[bytes | memoryview | pa.RecordBatch], sink: CsvSink) -> None:
        while True:
            try:
                chunk = next(chunks, None)
            except (OperatorError, sa.exc.DBAPIError):
                raise
            except Exception as error:
                # Its text may quote a row.
                raise OperatorError(
                    f"The day {self.day} was not archived: its rows can't be read ({type(error).__name__}). No archive"
                    " was added and nothing was deleted."
                ) from error
            if chunk is None:
                break
            sink.write(chunk) if isinstance(chunk, (bytes, memoryview)) else sink.write_batch(chunk)
        sink.finish()

    def _prove(self, found: ReadBack, expected: Digest | Pieces) -> None:
        if found.digest != expected:
            raise ProofFailed(
                f"The day {self.day} was not archived: the file read back holds {counted(found.digest.rows, 'row')}"
                " with digest"
                f" {found.digest.hex}, the database says {expected.rows} with {expected.hex}. Nothing was deleted;"
                " launch the day again."
            )

    def _require_comeback(self, doubts: Doubts) -> Comeback:
        """Raises Refused where a restore would not give the day's rows back. In the snapshot that they were read in."""
        if not (doubts.found or self.store.has_doubts):
            return Comeback()
        comeback = self.store.comeback(self.day, documents=doubts.found)
        if comeback.lacking:
            raise Refused(
                f"The day {self.day} was not archived: {comeback.refusal(self.day, self.store.table.name)}"
                " Nothing was deleted."
            )
        read = {c.name for c in self.store.doubtful_columns if c.family == TYPED}
        if not read.issuperset(comeback.typed):
            raise _TypesNeeded(comeback.typed)
        return comeback

    def _commit(self, writer: Writer) -> None:
        if not self.held():
            raise OperatorError(
                f"The connection that kept other runs away from {self.day} was lost. Nothing was written; launch again."
            )
        writer.commit()

    def _manifest(
        self, part: int, name: str, packing: Packing, found: ReadBack, day_state: Digest | Pieces, comeback: Comeback
    ) -> Manifest:
        table = self.store.table
        pieces = found.digest.described() if isinstance(found.digest, Pieces) else []
        return Manifest(
            kind="conversation_log_archive", format=FORMAT, file=name, part=part, compression=packing.compression,
            engine=table.engine, server_version=table.server_version, database=table.database, table=table.name,
            day=str(self.day), timezone=self.day.zone.key,
            window_start_utc=timestamp(self.day.start), window_end_utc=timestamp(self.day.end),
            columns=[asdict(c) for c in table.columns], key=list(table.key), rows=found.digest.rows,
            first_key=_shown(found.first_key), last_key=_shown(found.last_key),
            digest_algorithm=PIECES if pieces else ALGORITHM, digest=found.digest.hex, pieces=pieces,
            day_rows=day_state.rows, day_digest=day_state.hex,
            content_sha256=found.content_sha256, content_bytes=found.content_bytes,
            stored_sha256=found.stored_sha256, stored_bytes=found.stored_bytes, largest_block=found.block,
            tool=f"saju_ops {version('saju-ops')}", run_id=self.run_id, created_at=timestamp(self.now),
            encryption=METHOD if packing.encrypted else "none",
            extra={MARK: comeback.offset} | ({"schema": table.found_in} if table.found_in else {}),
        )  # fmt: skip

    def _write_manifest(self, manifest: Manifest) -> None:
        write_day_manifest(self.storage, manifest_name(self.day, manifest.part), manifest)


class _TypesNeeded(Exception):
    """Documents hold more than the text that was written says; the file is thrown away and written with their types."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.columns = columns


def _shown(key: tuple[bytes, ...] | None) -> list[str | None]:
    return [as_bytes(v).decode("utf-8", "replace") for v in key] if key else []
