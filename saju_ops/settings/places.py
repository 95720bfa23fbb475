"""No two places of the settings hold each other: stores of backups, Chroma's folder, SQLite files, Dagster's history.

A restore of Chroma moves the whole folder aside, prune deletes files in a store, and a backup that is a part of what it
backs up grows with itself. So places that are one, or of which one holds the other, are refused before anything is
done. Folders are compared as the file system has them: links, `..`, mounts and letter case don't hide what is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saju_ops.errors import Refused
from saju_ops.paths import _inside, _real

if TYPE_CHECKING:
    import sqlalchemy as sa

    from saju_ops.settings.settings import Settings

Kind = Literal["store", "chroma", "database", "dagster"]
# Kinds of places that may contain each other: a database beside Dagster's history harms nobody.
HARMLESS = {frozenset({"database"}), frozenset({"dagster"}), frozenset({"database", "dagster"}), frozenset({"chroma"})}


@dataclass(frozen=True)
class Place:
    """A folder, a SQLite file, or a prefix of a bucket, and the setting that names it."""

    setting: str
    value: str
    kind: Kind
    path: Path | None = None
    # Elsewhere than in a folder: the service, the bucket or folder, and the parts of the prefix.
    remote: tuple[str, ...] = ()


def collisions(settings: Settings) -> Iterator[str]:
    """Why two settings can't both hold, in sentences without their full stop."""
    found = list(_places(settings))
    for place in found:
        if place.kind in ("store", "chroma") and place.path is not None and place.path.parent == place.path:
            yield f"{place.setting} holds {place.value!r}, the root of the file system; it may be a folder of its own"
            return
    for one, other in combinations(found, 2):
        if frozenset({one.kind, other.kind}) not in HARMLESS and (how := _relation(one, other)):
            yield _sentence(one, how, other)


def require_apart(settings: Settings, option: str, value: str, path: Path) -> None:
    """Raises Refused where a restore of Chroma would go into a store of backups, Dagster's history or the place of a
    SQLite database, or move one."""
    target = Place(option, value, "chroma", _real(path))
    for place in _places(settings):
        if place.kind != "chroma" and (how := _relation(target, place)):
            raise Refused(f"{_sentence(target, how, place)}. Nothing was touched.")


def _sentence(one: Place, how: str, other: Place) -> str:
    return (
        f"{one.setting} holds {one.value!r}, which {how} {other.setting} ({other.value!r}): what is restored or deleted"
        " in the one would move or delete the other. Give each a place of its own"
    )


def _places(settings: Settings) -> Iterator[Place]:
    yield from _stores(settings)
    chroma = Path(settings.chroma_db_path).expanduser()
    # A default that nobody uses is in nobody's way.
    if "chroma_db_path" in settings.model_fields_set or (chroma.is_dir() and not settings.chroma_host):
        yield Place("CHROMA_DB_PATH", settings.chroma_db_path, "chroma", _real(chroma))
    yield from _databases(settings)
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster_home").expanduser()
    if os.environ.get("DAGSTER_HOME") or home.is_dir():
        yield Place("DAGSTER_HOME", str(home), "dagster", _real(home))


def _stores(settings: Settings) -> Iterator[Place]:
    from saju_ops.storage.address import split_uri
    from saju_ops.storage.drive.address import parse_drive_uri
    from saju_ops.storage.s3.address import parse_s3_uri

    for uri in split_uri(settings.backup_uri):
        if uri.startswith("s3://"):
            bucket, prefix = parse_s3_uri(uri)
            yield Place("BACKUP_URI", uri, "store", remote=("s3", bucket, *filter(None, prefix.split("/"))))
        elif uri.startswith("gdrive://"):
            yield Place("BACKUP_URI", uri, "store", remote=("gdrive", parse_drive_uri(uri)))
        else:
            yield Place("BACKUP_URI", uri, "store", _real(Path(uri.removeprefix("file://")).expanduser()))


def _databases(settings: Settings) -> Iterator[Place]:
    urls: dict[str, sa.URL] = {"DATABASE_URL": settings.database_url}
    if settings.jobs_database_url_secret:
        urls["JOBS_DATABASE_URL"] = settings.jobs_database_url
    if settings.analysis_database_url_secret:
        urls["ANALYSIS_DATABASE_URL"] = settings.analysis_database_url
    for name, url in urls.items():
        path = Path(url.database or "")
        given = name != "DATABASE_URL" or "database_url_secret" in settings.model_fields_set
        if url.get_backend_name() == "sqlite" and (given or path.exists()):
            yield Place(name, str(path), "database", _real(path))


def _relation(one: Place, other: Place) -> str:
    """How the first is to the second: `is the same place as`, `is inside`, `holds`; empty where they are apart."""
    if one.path is not None and other.path is not None:
        inside, holds = _inside(one.path, other.path), _inside(other.path, one.path)
    else:
        inside = bool(other.remote) and one.remote[: len(other.remote)] == other.remote
        holds = bool(one.remote) and other.remote[: len(one.remote)] == one.remote
    if inside and holds:
        return "is the same place as"
    return "is inside" if inside else "holds" if holds else ""
