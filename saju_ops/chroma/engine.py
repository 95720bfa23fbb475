"""Opens a Chroma folder by Chroma's own engine, without the Python client around it where that is known to be one.

Chroma's client for a folder hands every call to `chromadb_rust_bindings`, unchanged. To import the client takes 0.55 s
and 60 MB, for HTTP, telemetry and embedding functions; to import the engine alone, 0.03 s. The calls here are those of
the client of the TRIED versions, in the same order with the same values; of any other version the client itself is
used, for the engine's calls are nothing that Chroma promises to keep.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote

from saju_ops.errors import OperatorError

TRIED = ("1.5.9",)
# The newest migration of each part of Chroma's database that a version of TRIED knows.
MIGRATIONS = {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}


def warm() -> None:
    """Imports what `opened` will need."""
    if version("chromadb") in TRIED:
        import chromadb_rust_bindings  # noqa: F401
    else:
        # A client imports the second when it opens its first folder: 0.05 s.
        import chromadb
        import chromadb.api.rust  # noqa: F401


def open_folder(folder: Path) -> Any:
    """Chroma's interface to a folder, below the client: it never loads an embedding function."""
    return Api(_client(folder))


@contextmanager
def writable(folder: Path) -> Iterator[Any]:
    """The same, closed again: then nothing of this process has a file of it open."""
    client = _client(folder)
    try:
        yield Api(client)
    finally:
        getattr(client, "close", lambda: None)()


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """The same for reading, by the engine, and closed again: memory that Chroma took for the folder's indexes is given
    back."""
    if version("chromadb") in TRIED:
        engine = Engine(folder)
        try:
            yield engine
        finally:
            engine.close()
        return
    client = _client(folder)
    try:
        yield Api(client)
    finally:
        # Older versions have no such method, and keep what they loaded.
        getattr(client, "close", lambda: None)()


class Api:
    """What is below Chroma's client: an interface to a folder or a server that never loads an embedding function.

    Chroma's private names are used here only. Raises OperatorError at the first use of one that this version of Chroma
    doesn't have.
    """

    PRIVATE: ClassVar[dict[str, str]] = {
        "get": "_get", "count": "_count", "query": "_query", "add": "_add", "update": "_update", "modify": "_modify",
        "request": "_make_request",
    }  # fmt: skip

    def __init__(self, client: Any) -> None:
        self._below = _named(client, "_server")

    def __getattr__(self, name: str) -> Any:
        return _named(self._below, self.PRIVATE[name]) if name in self.PRIVATE else getattr(self._below, name)


def newer_migrations(database: Path) -> list[str]:
    """Migrations in Chroma's SQLite file that no version of TRIED has: by them its tables may mean something else."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro&immutable=1", uri=True)) as connection:
        try:
            newest = connection.execute("SELECT dir, MAX(version) FROM migrations GROUP BY dir").fetchall()
        except sqlite3.DatabaseError:
            return []
    return [f"{part} {number}" for part, number in newest if number > MIGRATIONS.get(part, 0)]


def _named(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        raise OperatorError(
            f"chromadb {version('chromadb')} has no {type(owner).__name__}.{name}, which snapshots and restores need."
            f" Install chromadb {TRIED[-1]}, which was tried. Nothing was touched."
        ) from None


def _client(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))


class Engine:
    """The engine itself, with the calls of `Api` that read. Its bindings take their arguments by position."""

    def __init__(self, folder: Path) -> None:
        import chromadb_rust_bindings as rust

        database = rust.SqliteDBConfig(
            hash_type=rust.MigrationHash.MD5, migration_mode=rust.MigrationMode.Apply, url=f"{folder}/chroma.sqlite3"
        )
        # As many indexes as the client keeps open: five files each.
        indexes = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5
        self.bindings: Any = rust.Bindings(
            allow_reset=False, sqlite_db_config=database, persist_path=str(folder), hnsw_cache_size=indexes
        )
        # No client opens a folder that lacks these.
        self.bindings.get_tenant("default_tenant")
        self.bindings.get_database("default_database", "default_tenant")

    def close(self) -> None:
        del self.bindings

    def list_databases(self, limit: int, offset: int, tenant: str) -> list[dict[str, Any]]:
        return [{"name": found.name} for found in self.bindings.list_databases(limit, offset, tenant)]

    def list_collections(self, limit: int, offset: int, tenant: str, database: str) -> list[Any]:
        return [_model(found) for found in self.bindings.list_collections(limit, offset, tenant, database)]

    def get_collection(self, name: str, tenant: str, database: str) -> Any:
        return _model(self.bindings.get_collection(name, tenant, database))

    def count(self, id: Any, tenant: str, database: str) -> int:
        return int(self.bindings.count(str(id), tenant, database))

    def get(
        self, id: Any, limit: int, offset: int, include: list[str], tenant: str, database: str,
        ids: list[str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        got = self.bindings.get(str(id), ids, None, limit, offset, None, include, tenant, database)
        return {name: getattr(got, name) for name in ("ids", *include)}

    def query(
        self, id: Any, query_embeddings: list[list[float]], n_results: int, include: list[str], tenant: str,
        database: str,
    ) -> dict[str, Any]:  # fmt: skip
        got = self.bindings.query(
            str(id), None, query_embeddings, n_results, None, None, include, tenant, database
        )  # fmt: skip
        return {name: getattr(got, name) for name in ("ids", *include)}


def _model(found: Any) -> Any:
    return SimpleNamespace(
        id=found.id, name=found.name, configuration_json=found.configuration, metadata=found.metadata,
        dimension=found.dimension,
    )  # fmt: skip
