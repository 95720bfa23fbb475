"""Dumps of whole databases: one consistent snapshot, streamed into the storage, proven by a restore, then named.

A dump has a final name only after it was read back from the storage, restored into a scratch database and found equal,
table by table, to what the server said about the dump's own snapshot; its manifest is written last. A dump that differs
leaves nothing. If no restore can be tried, the dump is kept with `proven: false` and names the missing right or
setting. If a DDL ran meanwhile, the dump is taken again. Memory is constant.

Nothing is changed in the dumped database. The only databases that are written to are its own scratch ones.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, BinaryIO, Literal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.address import place
from saju_ops.database.connect import error_text, redacted
from saju_ops.database.families import family_of
from saju_ops.dumps.contents import Contents
from saju_ops.dumps.drill import Drill, drill
from saju_ops.dumps.engine import DumpEngine, DumpSpoilt, Taking, what_it_said
from saju_ops.dumps.grants import to_dump, where_denied
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.pack import Packed, Packer
from saju_ops.dumps.programs import ProgramFailed
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.local_state import one_at_a_time
from saju_ops.storage.encryption import ENDING, METHOD
from saju_ops.storage.ledger import enter
from saju_ops.storage.manifest import FOLDERS, FORMAT, BackupManifest, Kind, manifest_name, stamp, write_manifest
from saju_ops.storage.open import Storage, StorageError, Writer
from saju_ops.words import are, counted, its

# Times a dump is taken again when a DDL or a lost connection spoilt it.
TRIES = 3
LONGEST_LABEL = 48


@dataclass(frozen=True)
class DumpOptions:
    """Everything a dump needs besides its database and its storage."""

    zone: ZoneInfo
    kind: Kind = "database_dump"
    # Servers on which restores may be tried, at most one of each engine; the database's own if there is none.
    drill_servers: tuple[sa.URL, ...] = ()
    run_id: str = ""
    tries: int = TRIES

    def drill_server(self, url: sa.URL) -> sa.URL | None:
        family = family_of(url)
        return next((s for s in self.drill_servers if family_of(s) == family), None)


@dataclass(frozen=True)
class DumpResult:
    manifest: BackupManifest
    location: str
    contents: Contents
    drill: Drill
    # Seconds from the first try's start until the last byte is written; those of the comparison; those of the restore.
    seconds: float
    proof_seconds: float
    tries: int

    @property
    def proven(self) -> bool:
        return self.drill.proven

    @property
    def message(self) -> str:
        m, c = self.manifest, self.contents
        text = (
            f"{m.source} is dumped to {m.file}: {counted(len(c.tables), 'table')}, {counted(c.rows, 'row')},"
            f" {m.content_bytes:,} bytes, {m.stored_bytes:,} stored, in {self.seconds:.1f} s."
        )
        if c.notes:
            text += f" Note: {'; '.join(c.notes)}."
        if broken := len(c.broken_views):
            text += (
                f" {counted(broken, 'broken view')} {are(broken)} not in it, but for {its(broken)} definitions, as"
                f" comments at its end: {c.broken}. Mend or drop them."
            )
        if self.drill.otherwise:
            text += f" A restore makes some of it otherwise: {'; '.join(self.drill.otherwise)}."
        if self.proven:
            return f"{text} Restored and compared in {self.drill.seconds:.1f} s: nothing differs."
        return f"{text} It is NOT PROVEN: {self.drill.why_not}"


def label_of(url: sa.URL, others: Sequence[sa.URL] = ()) -> str:
    """The database's part of a dump's name: letters, digits, - and _. Where that isn't the database's own name, or
    another configured database has the same, a hash of the address (without password) makes it unambiguous."""
    name = _own_name(url)
    label = re.sub(r"[^\w-]", "_", name)[:LONGEST_LABEL]
    alike = sum(re.sub(r"[^\w-]", "_", _own_name(o)).lower() == label.lower() for o in others if o != url)
    if label == name and not alike:
        return label
    spelled = _without_options(url)
    if any(_without_options(o) == spelled for o in others if o != url):
        spelled = redacted(url)  # with its socket or its hosts, which are among the options
    return f"{label}-{sha256(spelled.encode()).hexdigest()[:8]}"


def _without_options(url: sa.URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)


def _own_name(url: sa.URL) -> str:
    return open_engine(url).database


def distinct(urls: Sequence[sa.URL]) -> list[sa.URL]:
    """The databases, each once: two addresses of one database are one."""
    found: dict[tuple[Any, ...], sa.URL] = {}
    for url in urls:
        found.setdefault(place(url), url)
    return list(found.values())


@dataclass
class DumpRun:
    """The result of a run over several databases. A problem with one leaves the others."""

    results: list[DumpResult] = field(default_factory=list)
    # By database: the problem.
    problems: dict[str, str] = field(default_factory=dict)
    # Those of them whose dump was restored and differed.
    differing: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    # What of older dumps one of two stores lacks, and can't be copied there.
    incomplete: str = ""

    @property
    def unproven(self) -> list[DumpResult]:
        return [r for r in self.results if not r.proven]


def dump_databases(
    urls: Sequence[sa.URL],
    storage: Storage,
    options: DumpOptions,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
) -> DumpRun:
    """Dumps every database, each once. Raises Busy while another run on this machine does the same. A problem with one
    database is in the result, and the others are dumped all the same."""
    return over_databases(urls, storage, options, take_dump, now=now, say=say)


def over_databases(
    urls: Sequence[sa.URL],
    storage: Storage,
    options: DumpOptions,
    take: Callable[..., DumpResult],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
) -> DumpRun:
    found, run = distinct(urls), DumpRun()
    folder = FOLDERS[options.kind]
    with one_at_a_time(f"dumps in {storage.uri}{folder}"):
        try:
            run.completed = storage.complete(folder)
        except StorageError as error:
            # This doesn't stop tonight's dump: else one lost old dump would block all new ones.
            run.incomplete = str(error)
            say(run.incomplete)
        for url in found:
            label = label_of(url, found)
            storage.clear_unfinished(f"{folder}{label}_")
            try:
                run.results.append(take(url, storage, options, label=label, now=now, say=say))
                say(run.results[-1].message)
            except OperatorError as error:
                run.problems[redacted(url)] = str(error)
                if isinstance(error, ProofFailed):
                    run.differing.append(redacted(url))
                say(str(error))
    return run


def take_dump(
    url: sa.URL,
    storage: Storage,
    options: DumpOptions,
    *,
    label: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    say: Callable[[str], None] = lambda _: None,
    shown_as: DumpEngine | None = None,
    masked: dict[str, Any] | None = None,
) -> DumpResult:
    """Takes, proves and names one dump. `shown_as`: the database of which a copy is dumped; `masked`: how it was
    masked. Raises ProofFailed for a dump that differs from what the server said (nothing is kept), DumpSpoilt when
    every try was spoilt, and OperatorError for any other problem."""
    source = open_engine(url)
    shown = shown_as or source
    label = label or label_of(shown.url)
    more: dict[str, Any] = {"database": shown.database, "dumped_as": source.database}
    if masked is not None:
        more["masking"] = masked
    try:
        more["defaults"] = shown.defaults()
        for number in range(1, options.tries + 1):
            try:
                return _Dump(
                    source,
                    storage,
                    options,
                    label,
                    now=now,
                    say=say,
                    number=number,
                    shown=redacted(shown.url),
                    more=more,
                ).take()
            except DumpSpoilt as error:
                if number == options.tries:
                    raise
                say(f"{error} Taking it again ({number + 1} of {options.tries}).")
    except ProgramFailed as error:
        raise ProgramFailed(f"{error}{where_denied(url, error.said)}", error.said) from None
    except (DBAPIError, sqlite3.Error) as error:
        raise OperatorError(
            f"The dump of {redacted(url)} ended with what the database said {what_it_said(error)} Nothing was kept."
            f"{where_denied(url, error_text(error))}"
        ) from None
    raise AssertionError


class _Dump:
    """One try."""

    def __init__(
        self, source: DumpEngine, storage: Storage, options: DumpOptions, label: str, now: Callable[[], datetime],
        say: Callable[[str], None], number: int, shown: str, more: dict[str, Any],
    ) -> None:  # fmt: skip
        self._source, self._storage, self._options = source, storage, options
        self._label, self._now, self._say, self._number = label, now, say, number
        self._shown, self._more = shown, more

    def take(self) -> DumpResult:
        before = self._source.schema_state()
        try:
            return self._take(before)
        except DBAPIError as error:
            # A table that is gone, or another one now, can't be read in the old snapshot.
            if self._source.schema_state() != before:
                raise self._spoilt(error_text(error)) from None
            raise

    def _spoilt(self, said: str = "") -> DumpSpoilt:
        text = f"The definition of something in {self._source.database} was changed while it was dumped"
        return DumpSpoilt(f"{text} ({said})." if said else f"{text}.")

    def _take(self, before: str) -> DumpResult:
        taken_at = self._free(self._now())
        file = self._file(taken_at)
        began = time.monotonic()
        with self._storage.create(file) as writer:
            with self._source.taking() as taking:
                packed = self._stream(taking, writer, file)
                written = time.monotonic()
                contents = taking.contents()
                tool = taking.tool
            if self._source.schema_state() != before:
                raise self._spoilt()
            proof_seconds = time.monotonic() - written
            self._say(f"{self._source.database}: {packed.content_bytes:,} bytes read; restoring them for the proof.")
            result = self._prove(writer.read_back(), packed, contents, file)
            writer.commit()
        manifest = self._manifest(file, taken_at, packed, contents, result, tool)
        write_manifest(self._storage, manifest)
        if manifest.proven:
            enter(manifest, self._now(), self._say)
        seconds = written - began
        return DumpResult(
            manifest,
            self._storage.location(file),
            contents,
            result,
            seconds=seconds,
            proof_seconds=proof_seconds,
            tries=self._number,
        )

    def _free(self, instant: datetime) -> datetime:
        """The first second from now on that names no dump yet."""
        while any(self._storage.exists(n) for n in (self._file(instant), manifest_name(self._file(instant)))):
            instant += timedelta(seconds=1)
        return instant

    def _file(self, instant: datetime) -> str:
        ending = self._source.ending + (ENDING if self._storage.password else "")
        return f"{FOLDERS[self._options.kind]}{self._label}_{stamp(instant, self._options.zone)}{ending}"

    def _stream(self, taking: Taking, writer: Writer, file: str) -> Packed:
        with Packer(writer, self._storage.password, file) as packer:
            for chunk in taking.chunks():
                packer.write(chunk)
        return packer.result

    def _prove(self, stream: BinaryIO, packed: Packed, contents: Contents, file: str) -> Drill:
        server = self._options.drill_server(self._source.url)
        result = drill(
            self._source, stream, packed, contents, file, encryption=self._encryption,
            password=self._storage.password, server=server, now=self._now(),
        )  # fmt: skip
        if result.foreign:
            raise ProofFailed(
                f"The dump of {self._source.database} was read back and it can't be restored: {result.why_not} It was"
                " not kept."
            )
        if result.differences:
            raise ProofFailed(
                f"The dump of {self._source.database} was restored and is not what the server said:"
                f" {'; '.join(result.differences[:5])}{' …' if len(result.differences) > 5 else ''}. It was not kept."
            )
        if result.proven and (hidden := self._source.hidden()):
            # The dump holds what the user sees, which needn't be everything.
            return replace(result, why_not=(
                f"It was restored and compared, but {self._shown} may hold more than its user sees: {hidden}. Grant it"
                f" the rights in brackets, on the whole database. {to_dump(self._source.url)}".rstrip()
            ))  # fmt: skip
        return result

    @property
    def _encryption(self) -> Literal["none", "zip-aes256"]:
        return METHOD if self._storage.password else "none"

    def _manifest(
        self, file: str, taken_at: datetime, packed: Packed, contents: Contents, result: Drill, tool: str
    ) -> BackupManifest:
        source = self._source
        return BackupManifest(
            kind=self._options.kind, format=FORMAT, file=file, source=self._shown, engine=source.engine,
            server_version=source.server_version(), taken_at=taken_at.astimezone(UTC).isoformat(), compression="gzip",
            encryption=self._encryption, content_sha256=packed.content_sha256, content_bytes=packed.content_bytes,
            stored_sha256=packed.stored_sha256, stored_bytes=packed.stored_bytes, contents=contents.to_json(),
            proven=result.proven, proof=result.to_json(contents.proof), tool=tool, run_id=self._options.run_id,
            created_at=self._now().astimezone(UTC).isoformat(), extra=self._more,
        )  # fmt: skip
