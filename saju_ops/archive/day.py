"""Writes one day of the log table to storage, proves it, and never overwrites what is there.

The data file gets its name only after it was read back and agreed with the database; its manifest is written last. A
second run of the same day adds new rows as a further part, or does nothing. A kill at any instruction leaves nothing
that counts as an archive and isn't one. Nothing is deleted, in the database or in storage, except unfinished temporary
files of the same day.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from saju_ops.archive.day_writer import DayWriter, _TypesNeeded
from saju_ops.archive.held import HeldRows, held_rows
from saju_ops.archive.manifest import (
    DayFiles,
    Manifest,
    base_name,
    data_name,
    day_files,
    packing_of,
    require_same_table,
)
from saju_ops.archive.part import _all, _NewRows
from saju_ops.archive.shape import RowShape
from saju_ops.archive.verify import ReadBack, each_visit, read_back
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.rows.comeback import TYPED, Doubts, marked_offset
from saju_ops.rows.csvfile import Compression
from saju_ops.rows.days import Day
from saju_ops.rows.digest import Digest
from saju_ops.rows.engines.interface import PiecesFailed, Profile
from saju_ops.rows.engines.open import RowStore, Selection
from saju_ops.rows.engines.session import broken_off
from saju_ops.rows.pieces import Pieces
from saju_ops.storage.encryption import WrongPassword
from saju_ops.storage.open import FolderError, Storage
from saju_ops.words import are, counted

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["archived", "unchanged", "purged", "nothing"]
# Seconds to wait for another run of the same day before stepping back.
LOCK_WAIT = 10.0


@dataclass(frozen=True)
class DayResult:
    day: Day
    outcome: Outcome
    message: str
    # Rows that the day's archive holds, over all its parts; and the rows that this run added.
    rows: int = 0
    rows_written: int = 0
    bytes_written: int = 0
    content_bytes: int = 0
    seconds: float = 0.0
    file: str | None = None
    files: tuple[str, ...] = ()
    proof: dict[str, Any] = field(default_factory=dict)
    hours: Counter[tuple[str, str]] = field(default_factory=Counter)
    strays: tuple[str, ...] = ()


def archive_day(
    store: RowStore,
    storage: Storage,
    day: Day,
    *,
    now: datetime,
    compression: Compression = "none",
    run_id: str = "",
    wait: float = LOCK_WAIT,
) -> DayResult:
    """Archives the rows whose created_at falls into the day. `now` decides whether the day is over.

    Raises Refused, Busy, ProofFailed or OperatorError; then no archive was added and nothing was changed.
    """
    if not day.is_over(now):
        raise Refused(
            f"The day {day} is not over in {day.zone.key}; it can be archived from {day.end:%Y-%m-%d %H:%M} UTC."
        )
    started = time.monotonic()
    task = DayArchiver(store, storage, day, now, compression, run_id)
    with broken_off(task.broken_off), store.lock(f"day {day}", wait) as held:
        task.held = held
        try:
            storage.clear_unfinished(base_name(day, 1))
            storage.complete(base_name(day, 1))
            files = day_files(storage, day)
            result = task.again(files) if files.parts else task.first(files)
            storage.require_all()
        except (FolderError, OSError) as error:
            why = error.why if isinstance(error, FolderError) else error.strerror or error
            raise OperatorError(
                f"The day {day} was not archived: {storage.uri} can't be written or read ({why})."
                " No archive was added and nothing was deleted."
            ) from error
    return replace(result, seconds=time.monotonic() - started)


@dataclass
class DayArchiver(DayWriter):
    def broken_off(self, text: str) -> str:
        return (
            f"The database broke off the archiving of {self.day} ({text}). Nothing was deleted, and what has no"
            " manifest counts as not archived; launch the day again."
        )

    # --- a day without an archive --------------------------------------------------------------------------

    def first(self, files: DayFiles) -> DayResult:
        self.store.read_types(())
        for stray in files.strays:
            adopted = self._adopt(stray)
            if adopted:
                return adopted
        # One snapshot for the number of rows, the rows and their digest: they agree whatever is written meanwhile.
        with self.store.snapshot():
            profile = self.store.profile(self.day)
            if profile.rows == 0:
                return self._nothing(files)
            number = files.next_part
            try:
                part = self._in_pieces(number, profile) or self._in_batches(number, profile)
            except _TypesNeeded as needed:
                self.store.read_types(needed.columns)
                part = self._in_pieces(number, profile) or self._in_batches(number, profile)
        return self._archived([part[0]], part, files)

    def _nothing(self, files: DayFiles) -> DayResult:
        message = f"Nothing to archive: {self.store.table.name} has no row of {self.day}."
        if files.strays:
            message += f" {', '.join(files.strays)} has no manifest and is left as it is."
        return DayResult(self.day, "nothing", message, strays=files.strays)

    def _adopt(self, stray: str) -> DayResult | None:
        """A run was killed after the file got its name and before its manifest was there: finish its work."""
        packing = packing_of(stray, self.storage.password)
        if self.storage.password and not packing.encrypted:
            return None  # written before the password was set; new files are encrypted
        part = next((n for n in range(1, 1000) if data_name(self.day, n, packing) == stray), None)
        if part is None:
            return None
        columns, shape = self.store.table.columns, RowShape(self.day, self.store)
        doubts = Doubts(self.store.doubtful_columns)
        try:
            found = read_back(
                lambda: self.storage.open(stray), packing, columns, self.store.table.key,
                start_visit=lambda: each_visit(shape.begin(), doubts.visit),
            )  # fmt: skip
        except (ProofFailed, WrongPassword):
            return None
        with self.store.snapshot():
            expected = self.store.digest(Selection(self.day))
            if found.digest != expected or not self.held():
                return None
            try:
                comeback = self._require_comeback(doubts)
            except _TypesNeeded:
                return None
        manifest = self._manifest(part, stray, packing, found, expected, comeback)
        self._write_manifest(manifest)
        # The kill may have come after one of two stores had the file.
        self.storage.complete(base_name(self.day, 1))
        files = DayFiles((), (), part + 1)
        return self._archived([manifest], (manifest, found, shape), files)

    def _in_pieces(self, part: int, profile: Profile) -> tuple[Manifest, ReadBack, RowShape] | None:
        """The fast way: the database gives many rows and their SHA-256 by one statement."""
        rows = self.store.piece_rows(self.day, profile)
        if rows is None:
            return None
        try:
            return self._write(part, rows, lambda: _all(rows.digest(), profile), cuts=rows.cuts)
        except PiecesFailed:
            return None

    def _in_batches(self, part: int, profile: Profile) -> tuple[Manifest, ReadBack, RowShape]:
        rows = self.store.fast_csv(self.day) or self._batches(profile)
        return self._write(part, rows, lambda: self.store.digest(Selection(self.day)))

    def _batches(self, profile: Profile) -> Iterator[pa.RecordBatch]:
        return self.store.batches(Selection(self.day), self.store.batch_rows(self.day, profile))

    # --- a day with an archive -----------------------------------------------------------------------------

    def again(self, files: DayFiles) -> DayResult:
        require_same_table(self.storage, self.day, files.parts, self.store)
        own = self.store.table.columns
        others = [part.part for part in files.parts if not self.store.adopt(part.table_columns)]
        held = held_rows(self.storage, self.store, files.parts, self.store.table.key, others)
        latest = files.parts[-1]
        self.store.use(own)
        altered = not self.store.adopt(latest.table_columns, writing=self.day)
        profile = self.store.profile(self.day)
        self.store.end_read()
        if profile.rows == 0:
            return self._kept(files, "purged", len(held), "was purged; its archive is kept as it is.")
        with self.store.snapshot():
            same = self._unchanged(latest) if not (self._take_types(latest) or altered) else None
            if same is not None:
                return self._kept(files, "unchanged", len(held), "is archived and unchanged; nothing was done.", same)
            try:
                return self._add_new(files, held, profile, self.store.digest(Selection(self.day)))
            except _TypesNeeded as needed:
                self.store.read_types(needed.columns)
                return self._add_new(files, held, profile, self.store.digest(Selection(self.day)))

    def _take_types(self, latest: Manifest) -> bool:
        """Whether documents of the day hold more than the latest archive says, so that their rows are new to it: an
        earlier version made it, or they were changed since. From now on they are read with their types."""
        doubtful = self.store.doubtful_columns
        typed = {*self.store.comeback(self.day, documents=True).typed} if doubtful else set()
        marked = {c.name for c in doubtful if c.family == TYPED} if marked_offset(latest) is not None else set()
        if typed - marked:
            self.store.read_types(typed | marked)
        return bool(typed - marked)

    def _unchanged(self, latest: Manifest) -> Digest | Pieces | None:
        """The database's present digest of the day, if it is the same as when the latest part was made."""
        before = latest.day_state
        if isinstance(before, Pieces):
            return before if self.store.has_pieces(Selection(self.day), before) else None
        return before if self.store.digest(Selection(self.day)) == before else None

    def _add_new(self, files: DayFiles, held: HeldRows, profile: Profile, state: Digest) -> DayResult:
        """Rows that came late or changed since, as a further part. Runs inside a snapshot."""
        new = _NewRows(self._batches(profile), self.store, held)
        if new.first is None:
            left = f"{profile.rows} of its rows {are(profile.rows)} still in the table"
            message = f"is archived; {left}, all of them archived."
            return self._kept(files, "unchanged", len(held), message, state)
        # The database's digest of the whole day, without the rows that older parts hold, is its digest of the new part:
        # XOR takes away as it adds.
        written = self._write(
            files.next_part,
            iter(new),
            lambda: Digest(state.rows - new.left_out.rows, state.xor ^ new.left_out.xor),
            day_state=state,
        )
        return self._archived([*files.parts, written[0]], written, files)

    # --- writing -------------------------------------------------------------------------------------------

    # --- results -------------------------------------------------------------------------------------------

    def _archived(
        self, parts: list[Manifest], written: tuple[Manifest, ReadBack, RowShape], files: DayFiles
    ) -> DayResult:
        manifest, found, shape = written
        late = counted(manifest.rows, "late or changed row")
        kind = "archived" if len(parts) == 1 else f"given a further part ({late})"
        return DayResult(
            self.day, "archived", f"The day {self.day} was {kind} and proven.", rows=sum(p.rows for p in parts),
            rows_written=manifest.rows, bytes_written=manifest.stored_bytes, content_bytes=manifest.content_bytes,
            file=self.storage.location(manifest.file), files=tuple(self.storage.location(p.file) for p in parts),
            proof={"rows_in_file": found.digest.rows, "rows_in_database": manifest.rows, "digest": found.digest.hex},
            hours=shape.hours, strays=files.strays,
        )  # fmt: skip

    def _kept(
        self, files: DayFiles, outcome: Outcome, rows: int, message: str, state: Digest | Pieces | None = None
    ) -> DayResult:
        latest = files.parts[-1]
        proof = {"rows_in_file": sum(p.rows for p in files.parts), "digest": latest.digest}
        proof["rows_in_database"] = state.rows if state else 0
        return DayResult(
            self.day, outcome, f"The day {self.day} {message}", rows, file=self.storage.location(latest.file),
            files=tuple(self.storage.location(p.file) for p in files.parts), proof=proof, strays=files.strays,
            content_bytes=sum(p.content_bytes for p in files.parts),
        )  # fmt: skip
