"""Puts a dump back: finds it, says what it would do, proves the stored file, and only then touches the target.

The stored bytes are read to their end and compared with the manifest before the first statement is executed, and once
more while they are executed; afterwards the target is compared with the manifest, table by table. Nothing is dropped
before the dump was loaded into a scratch database on the same server, and compared. That includes proven dumps: they
were proven with another user, and maybe another version, and a missing right is found only here. Refused are: a target
that is not empty unless the request names it, a dump that was never proven unless the request allows it, and a target
of another engine. An existing SQLite file is kept beside the new one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from saju_ops.database.address import place, same_place
from saju_ops.database.connect import SUPPORTED, error_text, parse_database_url, redacted
from saju_ops.dumps.contents import Contents, differences
from saju_ops.dumps.engine import UTC_ZONE, DrillNotPossible, DumpEngine, ForeignToDumps
from saju_ops.dumps.grants import about_definers, to_restore
from saju_ops.dumps.open import open_engine
from saju_ops.dumps.pack import Packed, unpacked
from saju_ops.dumps.programs import ProgramFailed
from saju_ops.dumps.without_rows import is_without_rows
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.errors import shown as printable
from saju_ops.storage.manifest import BackupManifest, Kind, held, latest_time, passed_over, stamp
from saju_ops.storage.open import Storage
from saju_ops.storage.outside import require_outside_stores
from saju_ops.times import shown
from saju_ops.words import are, counted

NAMED = 8


@dataclass(frozen=True)
class RestoreRequest:
    # Another target than the database that the dump is of.
    into: sa.URL | None = None
    # Newest dump whose snapshot is not later. None: the newest.
    at: datetime | None = None
    # Which database's dumps, by the database's name or the name in the file. None: the default's.
    database: str | None = None
    # The target's name, typed, where the target is not empty: everything in it is dropped.
    replace: str | None = None
    dry_run: bool = True
    masked: bool = False
    # Also a dump that was kept without a proof.
    unproven: bool = False
    # Empties a target that is not empty without trying first whether the dump loads there.
    without_trial: bool = False
    # The zone of times in messages, and in the name of a file that is put aside.
    zone: ZoneInfo = UTC_ZONE
    # The requester's clock: a dump that is dated later was taken by a wrong clock.
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class RestoreResult:
    manifest: BackupManifest
    target: str
    target_database: str
    # Objects in the target before: 0 empty, -1 no such database.
    target_objects: int
    dry_run: bool
    seconds: float = 0.0
    tables: int = 0
    rows: int = 0
    left_out: list[str] = field(default_factory=list)
    # Newer files of the same database that are no backups, with the reason.
    passed_over: list[str] = field(default_factory=list)
    zone: ZoneInfo = UTC_ZONE

    def sentences(self) -> list[str]:
        m = self.manifest
        contents = Contents.from_json(m.contents)
        state = {0: "It is empty.", -1: "It is not there and will be made."}.get(
            self.target_objects,
            f"It is NOT EMPTY: with --replace {self.target_database} its {_objects(self.target_objects)}"
            f" {are(self.target_objects)} dropped first.",
        )
        lines = [
            f"The dump {m.file} of {m.source}, taken at {shown(m.taken, self.zone)}, holds"
            f" {counted(len(contents.tables), 'table')} with {counted(contents.rows, 'row')} ({m.content_bytes:,}"
            f" bytes, {m.stored_bytes:,} stored).",
            "It was restored and compared when it was taken."
            if m.proven
            else f"It was NEVER PROVEN: {m.proof.get('why_not') or 'no restore of it was tried'}",
            f"The target is {self.target}. {state}",
        ]
        if m.engine == "sqlite" and self.target_objects > 0:
            lines[-1] = (
                f"The target is {self.target}. It is NOT EMPTY: with --replace {self.target_database} the file is kept"
                " beside it, renamed, and a new one takes its place."
            )
        if contents.broken_views:
            lines.insert(1, f"NOT IN IT: {_broken(contents)}.")
        if self.passed_over:
            lines.insert(1, f"NEWER, and can't be restored: {', '.join(self.passed_over[-NAMED:])}.")
        return [printable(line) for line in lines]


def restore_dump(
    storage: Storage,
    request: RestoreRequest,
    *,
    default: sa.URL,
    configured: tuple[sa.URL, ...] = (),
    announce: Callable[[RestoreResult], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> RestoreResult:
    """Restores one dump, or with `dry_run` only says what it would do. `default` is the database whose dump is
    restored, and the target, if the request names neither; the dump of another database of `configured` is restored to
    that database."""
    manifest = find_dump(storage, request, default)
    target = open_engine(request.into or _home(manifest, (default, *configured)), request.zone)
    _require_same_engine(manifest, target)
    require_outside_stores(storage, target.url, "--into")
    try:
        result = RestoreResult(
            manifest, redacted(target.url), target.database, target.objects(), request.dry_run, zone=request.zone,
            passed_over=passed_over(
                storage, manifest, stamp(request.at, request.zone) if request.at else None, request.now
            ),
        )  # fmt: skip
        announce(result)
        _require_permission(request, result)
        definitions = Contents.from_json(manifest.contents).definitions
        if needed := to_restore(target.url, definitions):
            raise Refused(
                f"The restore into {redacted(target.url)} broke off: its user lacks a right that a restore needs."
                f" Nothing was touched; an administrator may say: {needed} Then start again with --replace"
                f" {target.database} where that isn't empty."
            )
        if note := about_definers(target.url, definitions):
            say(note)
        began = time.monotonic()
        say(f"Reading {manifest.file} and comparing it with its manifest; nothing is touched yet.")
        try:
            _read_through(_content(storage, manifest), target, manifest)
        except ProofFailed as error:
            raise ProofFailed(f"{error}{_the_one_before(storage, request, default, manifest)}") from None
        if not request.dry_run:
            if result.target_objects > 0 and not request.without_trial and manifest.engine != "sqlite":
                _try_beside(storage, manifest, target, say)
            _restore(storage, manifest, target, result, say)
        result.seconds = time.monotonic() - began
        return result
    except (DBAPIError, sqlite3.Error) as error:
        raise OperatorError(
            f"The restore into {redacted(target.url)} ended with what the database said ({error_text(error)}). The dump"
            " is as it was; look at the target and start again."
        ) from None


def _read_through(content: Iterator[bytes], target: DumpEngine, manifest: BackupManifest) -> None:
    try:
        for _ in target.examined(content, _dumped_as(manifest)):
            pass
    except ForeignToDumps as error:
        for _ in content:  # are these the bytes that were stored? Damage is another matter
            pass
        raise ForeignToDumps(error.what, f"{manifest.file} holds") from None


def _dumped_as(manifest: BackupManifest) -> str:
    return str(manifest.extra.get("dumped_as", manifest.extra.get("database")))


def _the_one_before(storage: Storage, request: RestoreRequest, default: sa.URL, manifest: BackupManifest) -> str:
    try:
        older = find_dump(storage, replace(request, at=manifest.taken - timedelta(seconds=1)), default)
    except Refused:
        return " There is no older one that is proven. Nothing was touched."
    at = shown(older.taken, request.zone).rpartition(" ")[0]
    return f' The one before is {older.file}: --at "{at}". Nothing was touched.'


def find_dump(storage: Storage, request: RestoreRequest, default: sa.URL) -> BackupManifest:
    """The newest dump that the request allows. Raises Refused with what there is."""
    kind: Kind = "masked_database_dump" if request.masked else "database_dump"
    there_is = held(storage, kind)
    everything = there_is.backups
    wanted = [m for m in everything if _is_of(m, request.database, default)]
    if request.database is None:
        # First the dumps of this very address: the service may have moved, and dumps of its old address are still
        # there.
        wanted = [m for m in wanted if same_place(m.source, default)] or wanted
    if not wanted:
        there = ", ".join(sorted({str(m.extra.get("database")) for m in everything})[:NAMED]) or "none"
        named = request.database or open_engine(default).database
        raise Refused(
            f"There is no dump of {named} in {storage.uri}; there are dumps of: {there}. Name one with --database."
            f" Nothing was touched.{there_is.about_refused()}"
        )
    sources = {place(default if same_place(m.source, default) else m.source): m.source for m in wanted}
    if len(sources) > 1:
        raise Refused(
            f"Several databases have that name: {', '.join(sorted(sources.values()))}. Name one with --database by what"
            f" its files are called, such as {label_in(wanted[-1])}; where they are called alike, leave --database out,"
            " set DATABASE_URL to the address of the one, and name the target with --into. Nothing was touched."
        )
    in_time = [m for m in wanted if m.taken <= latest_time(request.at, request.now)]
    proven = [m for m in in_time if m.proven or request.unproven]
    if proven:
        return proven[-1]
    if in_time:
        raise Refused(
            f"Of {counted(len(in_time), 'dump')} none was ever proven; the newest is {in_time[-1].file}. Say"
            f" --unproven to restore it all the same. Nothing was touched.{there_is.about_refused()}"
        )
    if request.at is None:
        raise Refused(
            f"Every dump of {wanted[0].extra.get('database')} is dated in the future, the first"
            f" {shown(wanted[0].taken, request.zone)}: this machine's clock is wrong, or that one's was. Nothing was"
            f" touched; name a time with --at to take the newest up to then.{there_is.about_refused()}"
        )
    raise Refused(
        f"The oldest dump of {wanted[0].extra.get('database')} was taken at"
        f" {shown(wanted[0].taken, request.zone)}, after {shown(request.at or wanted[0].taken, request.zone)}."
        f" Nothing was touched.{there_is.about_refused()}"
    )


def label_in(manifest: BackupManifest) -> str:
    """`app` of `database/app_20261001_030000.sql.gz`."""
    return manifest.file.rpartition("/")[2].split(".", 1)[0].rsplit("_", 2)[0]


def _is_of(manifest: BackupManifest, name: str | None, default: sa.URL) -> bool:
    if name is None:
        return same_place(manifest.source, default) or (
            manifest.extra.get("database") == open_engine(default).database
            and _family(manifest.engine) == _family(default.get_backend_name())
        )
    return name in (manifest.extra.get("database"), label_in(manifest))


def _family(engine: str) -> str:
    return "mysql" if engine == "mariadb" else engine


def _home(manifest: BackupManifest, urls: tuple[sa.URL, ...]) -> sa.URL:
    """The configured database that the dump is of."""
    for url in urls:
        if same_place(manifest.source, url):
            return url
    for url in urls:
        if open_engine(url).database == manifest.extra.get("database"):
            return url
    raise Refused(
        f"{manifest.source}, of which the dump is, is none of the configured databases; name a target with --into."
        " Nothing was touched."
    )


def _require_same_engine(manifest: BackupManifest, target: DumpEngine) -> None:
    if _family(manifest.engine) != _family(target.url.get_backend_name()):
        raise Refused(
            f"{manifest.file} is a dump of {manifest.engine} and can't go into {redacted(target.url)}. Nothing was"
            " touched."
        )


def _objects(number: int) -> str:
    return f"{counted(number, 'table')}, views and so on" if number != 1 else "1 table, view or the like"


def _require_permission(request: RestoreRequest, result: RestoreResult) -> None:
    if request.dry_run or result.target_objects <= 0 or request.replace == result.target_database:
        return
    named = f", not {request.replace!r}" if request.replace else ""
    raise Refused(
        f"{result.target} is not empty ({_objects(result.target_objects)}). To drop all of that and"
        f" restore, say --replace {result.target_database}{named}; to restore beside it, name an empty database with"
        " --into. Nothing was touched."
    )


def _try_beside(storage: Storage, manifest: BackupManifest, target: DumpEngine, say: Callable[[str], None]) -> None:
    """Loads the dump into a scratch database on the target's server, as the target's user, and compares. SQLite needs
    none of it: its file is made beside and looked at before it takes the old one's place."""
    say(f"Trying it in a scratch database beside {redacted(target.url)}; nothing is touched yet.")
    expected = Contents.from_json(manifest.contents)
    instead = (
        "Nothing was touched. Mend that, or restore into an empty database with --into; or say --without-trial, and"
        " what is there is dropped although it is not known whether the dump loads."
    )
    try:
        with target.scratch(None, datetime.now(UTC), own=True) as beside:
            beside.load(_content(storage, manifest), _dumped_as(manifest), drill=True)
            wrong = differences(expected, beside.contents(expected))
    except (DrillNotPossible, ProgramFailed) as error:
        raise Refused(f"{manifest.file} could not be tried beside {redacted(target.url)}: {error} {instead}") from None
    except (DBAPIError, sqlite3.Error) as error:
        raise Refused(
            f"{manifest.file} could not be tried beside {redacted(target.url)} ({error_text(error)}). {instead}"
        ) from None
    if wrong:
        raise ProofFailed(
            f"{manifest.file} was tried beside {redacted(target.url)}, and what came back differs from what it should"
            f" hold: {'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}. {instead}"
        )


def _restore(
    storage: Storage, manifest: BackupManifest, target: DumpEngine, result: RestoreResult,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    if result.target_objects < 0:
        try:
            target.create(manifest.extra.get("defaults", {}))
        except DBAPIError as error:
            raise OperatorError(
                f"{result.target} can't be made ({error_text(error)}). Let somebody who may make the empty database, or"
                " name with --into an address whose user may. Nothing was touched."
            ) from None
    elif result.target_objects:
        say(
            f"Dropping what is in {result.target}. From here on, until this says that it is done, the target holds a"
            f" part; what it is to hold is in {manifest.file}, and the same command starts again."
        )
        target.empty()
    say(f"Restoring into {result.target}.")
    source = _dumped_as(manifest)
    try:
        left_out = target.load(_content(storage, manifest), source, drill=False)
    except ProgramFailed as error:
        raise OperatorError(
            f"The restore into {result.target} broke off: {error} The target holds a part or nothing"
            f"{', and what was in it before is gone' if result.target_objects > 0 else ''}; the dump is as it was. When"
            f" the cause is gone, start again with --replace {result.target_database}."
        ) from None
    # Names in a dump may be anything that its author made up.
    result.left_out = [*map(printable, left_out), *_other_defaults(manifest, target)]
    if (contents := Contents.from_json(manifest.contents)).broken_views:
        result.left_out.append(_broken(contents))
    if any(is_without_rows(name) for name in contents.tables):
        result.left_out.append(
            "the salt of the masked view, which is in no dump: the view shows nothing until `saju-ops masked-view` has"
            " made another"
        )
    say("Comparing the target with the manifest.")
    expected = Contents.from_json(manifest.contents)
    found = target.contents(expected)
    wrong = differences(expected, found)
    result.tables, result.rows = len(found.tables), found.rows
    if wrong:
        raise ProofFailed(
            f"{result.target} was restored, and differs from what the dump holds: {'; '.join(wrong[:5])}"
            f"{' …' if len(wrong) > 5 else ''}. If a service writes to it already, that may be why; else don't rely on"
            " it."
        )


def _broken(contents: Contents) -> str:
    return (
        f"views that were broken when it was taken ({contents.broken}); their definitions stand as comments at the"
        " dump's end"
    )


def _other_defaults(manifest: BackupManifest, target: DumpEngine) -> list[str]:
    wanted, found = manifest.extra.get("defaults", {}), target.defaults()
    if not wanted or wanted == found:
        return []
    mine, theirs = (", ".join(map(str, d.values())) for d in (found, wanted))
    return [
        f"the database's own character set, sort order and settings are {mine}; the dumped one's were {theirs}. Its"
        " tables have theirs; tables that are made later take the database's"
    ]


def _content(storage: Storage, manifest: BackupManifest) -> Iterator[bytes]:
    m = manifest
    packed = Packed(m.content_sha256, m.content_bytes, m.stored_sha256, m.stored_bytes)
    return unpacked(storage.open(m.file), packed, m.encryption, storage.password, m.file)


def target_url(address: str, name: str) -> sa.URL:
    """Raises Refused, without the address, which may hold a password."""
    try:
        return parse_database_url(address)
    except ValueError as error:
        raise Refused(f"{name} can't be used ({error}); it may hold {SUPPORTED}. Nothing was touched.") from None
