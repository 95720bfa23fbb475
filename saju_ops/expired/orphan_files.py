"""Files in the jobs' bucket that no row names any more, which nothing would ever delete. Reads only.

First every name that rows hold is read, of living jobs and expired ones, in every spelling that `s3_names` knows; then
the bucket is listed. In this order a file that is deleted with its row meanwhile is on no list, and so is no orphan. A
file younger than a day is left out: a service may upload first and write the row then.

Memory stays the same for any number of rows and files: names are kept as keyed hashes in a `HashSet`, so no name
reaches a disk, and the bucket is read page by page.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from saju_ops.errors import Refused
from saju_ops.expired.catalogue import Ref, named
from saju_ops.expired.foreign_keys import catalogue_of
from saju_ops.expired.job_files import BadKey, FilePlace, JobFiles, error_name
from saju_ops.expired.job_tables import JobTables
from saju_ops.expired.s3_names import Named, nfc
from saju_ops.masking.hash_set import HashSet, hashed
from saju_ops.rows.engines.open import RowStore
from saju_ops.rows.engines.session import broken_off
from saju_ops.words import counted, were

# A list of 1,000 takes some 0.1 s: five minutes and 2,000 requests.
MOST = 2_000_000
SETTLED = timedelta(days=1)
ROWS = 1_000
FOLDERS = 10
NO_FOLDER = (
    "JOBS_S3_PREFIX holds nothing, and the files that rows name are not in one folder together, so files of jobs can't"
    " be distinguished from others in the bucket. No file was looked at; set the folder that holds the files of jobs"
    " and nothing else, such as jobs/."
)
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


@dataclass
class OrphanFiles:
    """Versions count one by one where JOBS_S3_ALL_VERSIONS is set."""

    # Rows that name a file, and files that were compared with them.
    names: int = 0
    # The folder that was listed: JOBS_S3_PREFIX, or without one the first folder that every row names.
    folder: str = ""
    files: int = 0
    young: int = 0
    orphans: int = 0
    bytes: int = 0
    # Files that are left, since an address of an unknown host may mean them.
    perhaps: int = 0
    # Orphans by folder, for the first FOLDERS: the first eight characters of a UUID, nothing of any other name.
    folders: Counter[str] = field(default_factory=Counter)
    # Why not every file was looked at; empty where all were.
    incomplete: str = ""


def orphan_files(
    store: RowStore, tables: JobTables, files: JobFiles, now: datetime, *, most: int = MOST
) -> OrphanFiles:
    """Looks at `most` files of the bucket's folder at most. Raises Refused where that folder is neither set nor known
    from the rows, or a column of PURGE_FILE_COLUMNS isn't there, and OperatorError where the database or the temporary
    folder fails."""
    place, result = files.place, OrphanFiles()
    key = secrets.token_bytes(32)
    sure, unsure = HashSet("names of files"), HashSet("names of files")
    try:
        with broken_off(_broken_off):
            columns = _columns(store, tables)
            with store.snapshot():
                for meant in _names(store, columns, place, result):
                    sure.add(hashed(meant.sure, key))
                    unsure.add(hashed(meant.unsure, key))
        if not result.folder:
            raise Refused(NO_FOLDER)
        try:
            for listed in _pages(files, result, now, most):
                hashes = hashed([nfc(name) for name, _ in listed], key)
                _compare(listed, sure.holds(hashes), unsure.holds(hashes), place, result)
        except _NotListed as error:
            result.incomplete = _not_listed(str(error), place, result)
    finally:
        sure.close()
        unsure.close()
    return result


def _columns(store: RowStore, tables: JobTables) -> list[tuple[Ref, str]]:
    """Raises Refused where one isn't there: all files that it names would seem to be orphans."""
    catalogue = catalogue_of(store)
    every, found = catalogue.all_tables(), []
    for table, column in tables.as_named_by(store).files:
        ref = named(table, every)
        if ref is None or column not in catalogue.table(ref).columns:
            raise Refused(
                f"PURGE_FILE_COLUMNS names {table}.{column}, but the database has no such column, so it isn't known"
                " which files rows name. No file was looked at; correct the name."
            )
        found.append((ref, column))
    store.end_read()
    return found


def _broken_off(text: str) -> str:
    return f"The database broke off reading the names of files ({text}). Nothing was changed."


def _names(
    store: RowStore, columns: Sequence[tuple[Ref, str]], place: FilePlace, result: OrphanFiles
) -> Iterator[Named]:
    """What some rows together name. The result gets the folder afterwards."""
    names, folders = place.names, set[str]()
    options = {"stream_results": True, "max_row_buffer": ROWS, "yield_per": ROWS}
    for ref, column in columns:
        table = sa.table(ref[1], sa.column(column), schema=ref[0])
        query = sa.select(table.c[column]).where(table.c[column].is_not(None))
        for rows in store.connection.execute(query, execution_options=options).partitions(ROWS):
            together = Named()
            for (value,) in rows:
                meant = names.read(value)
                together.sure |= meant.sure
                together.unsure |= meant.unsure
                if value not in ("", b"") and len(folders) < 2:
                    folders.add(_first_folder(place, value))
            result.names += len(rows)
            yield together
    result.folder = place.folder or (folders.pop() if len(folders) == 1 else "")


def _first_folder(place: FilePlace, value: Any) -> str:
    """With its slash; empty where the file is in none, or the row doesn't name it plainly."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    try:
        folder, slash, _ = (place.key_of(value) or "").partition("/")
    except BadKey:
        return ""
    return folder + slash if slash else ""


class _NotListed(Exception):
    """The bucket gave no list, or broke one off. The text is S3's code."""


def _pages(files: JobFiles, result: OrphanFiles, now: datetime, most: int) -> Iterator[list[tuple[str, int]]]:
    """Key and bytes of the files that are old enough, of one page after the other."""
    place, seen = files.place, 0
    for entries in _entries(files, result.folder):
        if seen + len(entries) > most:
            result.incomplete = (
                f"There are more than {most:,} files under {result.folder}; only so many were looked at, the first by"
                " their names."
            )
        listed = [(e["Key"], int(e["Size"]), e["LastModified"]) for e in islice(entries, most - seen)]
        seen += len(listed)
        # A console makes an empty object for a folder.
        own = [e for e in listed if not e[0].startswith(place.backups) and (e[1] or not e[0].endswith("/"))]
        old = [(key, size) for key, size, at in own if at <= now - SETTLED]
        result.files += len(old)
        result.young += len(own) - len(old)
        yield old
        if result.incomplete:
            return


def _entries(files: JobFiles, folder: str) -> Iterator[list[Any]]:
    """Raises _NotListed."""
    place = files.place
    operation, part = ("list_object_versions", "Versions") if place.all_versions else ("list_objects_v2", "Contents")
    pages = _s3(lambda: iter(files.client.get_paginator(operation).paginate(Bucket=place.bucket, Prefix=folder)))
    while (page := _s3(lambda: next(pages, None))) is not None:
        yield page.get(part, [])


def _s3(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:
        raise _NotListed(error_name(error)) from None


def _compare(
    listed: Sequence[tuple[str, int]], sure: Iterable[bool], unsure: Iterable[bool], place: FilePlace,
    result: OrphanFiles,
) -> None:  # fmt: skip
    for (key, size), named_so, perhaps in zip(listed, sure, unsure, strict=True):
        if named_so:
            continue
        if perhaps:
            result.perhaps += 1
            continue
        result.orphans += 1
        result.bytes += size
        if (folder := _shown(key, result.folder)) in result.folders or len(result.folders) < FOLDERS:
            result.folders[folder] += 1


def _shown(key: str, within: str) -> str:
    folder = key.removeprefix(within).partition("/")[0]
    return f"{within}{folder[:8] if _UUID.fullmatch(folder) else ''}…"


def _not_listed(code: str, place: FilePlace, result: OrphanFiles) -> str:
    right = "s3:ListBucketVersions" if place.all_versions else "s3:ListBucket"
    seen = result.files + result.young
    return (
        f"The bucket of JOBS_S3_BUCKET could not be listed ({code}); {counted(seen, 'file')} {were(seen)} looked at"
        f" before. Listing it needs the right {right}."
    )
