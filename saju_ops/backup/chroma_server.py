"""A Chroma server, read and written through its API. Runs in the worker process.

Reading: a server offers no snapshot, so collections are read page by page into a folder of our own, and then again
until a whole pass finds nothing that changed. Records that were there before it began and did not change are in it
for certain; a server that never rests gives what the last pass saw, and the answer says how many records were moving.

Writing: a collection is filled under another name, read back and compared record by record, and only then gets its
own name. One that is there already is refused, or renamed where the operator named it: nothing is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saju_ops.backup.chroma_check import (
    INCLUDE,
    Row,
    databases,
    models,
    pages,
    rows_of,
    same_vectors,
    shown_configuration,
)
from saju_ops.backup.chroma_engine import open_folder
from saju_ops.backup.chroma_files import record_digest
from saju_ops.errors import OperatorError, ProofFailed, Refused

# The usual tenant: the API can't list tenants.
TENANT = "default_tenant"
# Records per request: some 8 MB of JSON at 768 dimensions.
REMOTE_PAGE = 500
# Reads of everything: the first fetches, the second confirms, the others follow what moves.
PASSES = 5
# What a collection is called while it is being filled.
UNFINISHED = ".saju_ops_restoring"


def connect(host: str, port: int) -> Any:
    """Raises OperatorError where nothing answers."""
    import chromadb
    from chromadb.config import Settings

    try:
        client: Any = chromadb.HttpClient(host=host, port=port, settings=Settings(anonymized_telemetry=False))
        client._server.heartbeat()
    except Exception as error:
        raise OperatorError(
            f"No Chroma server answers at {host}:{port} ({type(error).__name__}); look at CHROMA_HOST and CHROMA_PORT,"
            " and whether it runs. Nothing was read or written."
        ) from None
    return client._server


Key = tuple[str, str]


class _Side:
    """One side of a comparison: a digest per record of one collection."""

    def __init__(self) -> None:
        self.digests: dict[str, tuple[bytes, bytes]] = {}


def _digests(row: Row) -> tuple[bytes, bytes]:
    id, record, vector = row
    return record_digest(id, record), sha256(vector.tobytes()).digest()[:16]


# --- reading ---------------------------------------------------------------------------------------------------


def fetch_server(host: str, port: int, target: Path) -> dict[str, Any]:
    """Everything of the tenant into a new folder, in Chroma's own format."""
    server = connect(host, port)
    target.mkdir(mode=0o700)
    local = open_folder(target)
    held: dict[Key, _Side] = {}
    moving, passes = 0, 0
    for passes in range(1, PASSES + 1):
        moving = _one_pass(server, local, held)
        if passes > 1 and not moving:
            break
    return {
        "passes": passes,
        "records_moving": moving,
        "server_version": server.get_version(),
        "databases": sorted({database for database, _ in held}),
    }


def _one_pass(server: Any, local: Any, held: dict[Key, _Side]) -> int:
    """Brings the local folder to what the server shows now. Returns how many records differed."""
    changed, there = 0, set[Key]()
    for tenant, database in databases(server, [TENANT]):
        _make_database(local, tenant, database)
        for model in models(server, tenant, database):
            key = (database, model.name)
            there.add(key)
            changed += _fetch_collection(server, model, local, key, held)
    for key in held.keys() - there:
        local.delete_collection(key[1], tenant=TENANT, database=key[0])
        changed += 1 + len(held.pop(key).digests)
    return changed


def _make_database(server: Any, tenant: str, database: str) -> None:
    try:
        server.get_tenant(tenant)
    except Exception:
        server.create_tenant(tenant)
    if database not in {d for _, d in databases(server, [tenant])}:
        server.create_database(database, tenant=tenant)


def _fetch_collection(server: Any, model: Any, local: Any, key: Key, held: dict[Key, _Side]) -> int:
    known = held.get(key)
    if known is None or not _same_collection(local.get_collection(key[1], database=key[0]), model):
        if known is not None:
            local.delete_collection(key[1], tenant=TENANT, database=key[0])
        create(local, model, key[1], TENANT, key[0])
        known = held[key] = _Side()
    mine = local.get_collection(key[1], tenant=TENANT, database=key[0])
    changed, seen = 0, set[str]()
    for page in pages(server, model, TENANT, key[0], REMOTE_PAGE):
        # A page may show a record again that another's deletion moved.
        fresh = [row for row in page if row[0] not in seen and known.digests.get(row[0]) != _digests(row)]
        seen.update(row[0] for row in page)
        _replace(local, mine, key, fresh, known)
        changed += len(fresh)
    # Deletions shift the pages behind them, so what a pass did not show may be there nevertheless.
    missed = sorted(known.digests.keys() - seen)
    for start in range(0, len(missed), REMOTE_PAGE):
        asked = missed[start : start + REMOTE_PAGE]
        got = {r[0] for r in rows_of(server._get(model.id, ids=asked, include=INCLUDE, tenant=TENANT, database=key[0]))}
        gone = [id for id in asked if id not in got]
        if gone:
            local._delete(mine.id, ids=gone, tenant=TENANT, database=key[0])
        for id in gone:
            del known.digests[id]
        changed += len(gone)
    return changed


def _same_collection(mine: Any, theirs: Any) -> bool:
    return (mine.metadata or {}) == (theirs.metadata or {}) and _settings(mine) == _settings(theirs)


def _settings(model: Any) -> dict[str, Any]:
    shown = shown_configuration(model)
    hnsw = {k: shown["hnsw"].get(k) for k in ("space", "ef_construction", "ef_search", "max_neighbors")}
    return {**hnsw, "embedding_function": shown["embedding_function"]}


def _replace(local: Any, mine: Any, key: Key, rows: list[Row], known: _Side) -> None:
    """Deletes first: an upsert would leave metadata fields that are gone."""
    again = [row[0] for row in rows if row[0] in known.digests]
    if again:
        local._delete(mine.id, ids=again, tenant=TENANT, database=key[0])
    write(local, mine.id, TENANT, key[0], rows)
    known.digests.update((row[0], _digests(row)) for row in rows)


def create(server: Any, model: Any, name: str, tenant: str, database: str) -> Any:
    """A collection like `model`, whichever kind of server either is. Its embedding function is written down as it was,
    and never made: Chroma's own call would import it."""
    configuration = dict(model.configuration_json or {})
    body = {
        "name": name,
        "metadata": model.metadata or None,
        "configuration": {k: v for k, v in configuration.items() if v is not None} or None,
    }
    if hasattr(server, "bindings"):
        text = json.dumps(body["configuration"]) if body["configuration"] else None
        server.bindings.create_collection(name, text, None, body["metadata"], False, tenant, database)
    else:
        path = f"/tenants/{tenant}/databases/{database}/collections"
        server._make_request("post", path, json={**body, "schema": None, "get_or_create": False})
    return server.get_collection(name, tenant=tenant, database=database)


def write(server: Any, id: Any, tenant: str, database: str, rows: list[Row]) -> None:
    limit = min(server.get_max_batch_size(), REMOTE_PAGE)
    for start in range(0, len(rows), limit):
        some = rows[start : start + limit]
        server._add(
            collection_id=id,
            ids=[row[0] for row in some],
            embeddings=[row[2].tolist() for row in some],
            metadatas=[row[1].metadata or None for row in some],
            documents=[row[1].document for row in some],
            uris=[row[1].uri for row in some],
            tenant=tenant,
            database=database,
        )


# --- writing ---------------------------------------------------------------------------------------------------


def push_server(
    host: str, port: int, folder: Path, *, replace: list[str], stamp: str, dry_run: bool
) -> dict[str, Any]:
    """Puts every collection of a folder into a server. Chroma opens the folder, so give it a copy.

    Raises Refused, before the first write, where a collection is there that `replace` doesn't name.
    """
    server, local = connect(host, port), open_folder(folder)
    source = list(_everything(local, folder))
    taken = _taken(server, source)
    refused = sorted(n for n in taken if n not in replace)
    if refused:
        raise Refused(
            f"{host}:{port} has collections of these names already: {', '.join(refused[:20])}. Nothing was written."
            " Name each that is to be replaced; the old one is then renamed, not deleted."
        )
    unknown = sorted(set(replace) - {m.name for _, _, m in source})
    if unknown:
        raise Refused(f"The snapshot holds no collection {', '.join(unknown)}, so none can be replaced by it.")
    records = sum(local._count(m.id, tenant=t, database=d) for t, d, m in source)
    told = {"collections": [m.name for _, _, m in source], "records": records, "renamed": {}, "written": 0}
    if dry_run:
        return told
    for tenant, database, model in source:
        told["written"] += _push_collection(server, local, tenant, database, model)
    # Only now, with everything there and proven, the names change.
    for tenant, database, model in source:
        aside = _name_it(server, tenant, database, model.name, stamp)
        if aside:
            told["renamed"][model.name] = aside
    return told


def _everything(local: Any, folder: Path) -> Iterator[tuple[str, str, Any]]:
    from saju_ops.backup.chroma_files import ChromaFiles

    with ChromaFiles(folder) as files:
        tenants = sorted({c.tenant for c in files.collections()} | {TENANT})
    for tenant, database in databases(local, tenants):
        yield from ((tenant, database, model) for model in models(local, tenant, database))


def _existing(server: Any, tenant: str, database: str) -> set[str]:
    try:
        server.get_tenant(tenant)
    except Exception:
        return set()
    if database not in {d for _, d in databases(server, [tenant])}:
        return set()
    return {model.name for model in models(server, tenant, database)}


def _taken(server: Any, source: list[tuple[str, str, Any]]) -> set[str]:
    places = {(t, d) for t, d, _ in source}
    there = {(t, d, n) for t, d in places for n in _existing(server, t, d)}
    return {m.name for t, d, m in source if (t, d, m.name) in there}


def _push_collection(server: Any, local: Any, tenant: str, database: str, model: Any) -> int:
    """Fills a collection under its unfinished name and proves it."""
    _make_database(server, tenant, database)
    name = model.name + UNFINISHED
    if name in _existing(server, tenant, database):
        # What a killed restore left; the name is ours.
        server.delete_collection(name, tenant=tenant, database=database)
    made = create(server, model, name, tenant, database)
    written = 0
    for page in pages(local, model, tenant, database):
        write(server, made.id, tenant, database, page)
        written += len(page)
    _prove(server, made, local, model, tenant, database)
    return written


def _prove(server: Any, made: Any, local: Any, model: Any, tenant: str, database: str) -> None:
    made = server.get_collection(made.name, tenant=tenant, database=database)
    wrong = _settings(made) != _settings(model) or (made.metadata or {}) != (model.metadata or {})
    space = str(shown_configuration(model)["space"])
    count = 0
    for page in pages(local, model, tenant, database, REMOTE_PAGE):
        ids = [row[0] for row in page]
        got = server._get(made.id, ids=ids, include=INCLUDE, tenant=tenant, database=database)
        there = {row[0]: row for row in rows_of(got)}
        count += len(there)
        wrong = wrong or any(not _same(row, there.get(row[0]), space) for row in page)
    if wrong or count != server._count(made.id, tenant=tenant, database=database):
        raise ProofFailed(
            f"What the server shows of {model.name} differs from the snapshot. It was written as {made.name}; nothing"
            " that was there before changed. Look at both and launch again: that name is then written anew."
        )


def _same(row: Row, other: Row | None, space: str) -> bool:
    if other is None or record_digest(row[0], row[1]) != record_digest(other[0], other[1]):
        return False
    mine, theirs = row[2], other[2]
    return same_vectors(mine[None, :], theirs[None, :], space)


def _name_it(server: Any, tenant: str, database: str, name: str, stamp: str) -> str | None:
    aside = None
    if name in _existing(server, tenant, database):
        aside = f"{name}.before_restore_{stamp}"
        _rename(server, tenant, database, name, aside)
    _rename(server, tenant, database, name + UNFINISHED, name)
    return aside


def _rename(server: Any, tenant: str, database: str, name: str, new: str) -> None:
    model = server.get_collection(name, tenant=tenant, database=database)
    server._modify(model.id, new_name=new, tenant=tenant, database=database)


# --- looking ---------------------------------------------------------------------------------------------------


def server_usage(host: str, port: int) -> dict[str, Any]:
    """Records per collection, by the server's own count."""
    server = connect(host, port)
    found = [
        {
            "tenant": tenant, "database": database, "name": model.name, "dimension": model.dimension,
            "count": server._count(model.id, tenant=tenant, database=database),
        }
        for tenant, database in databases(server, [TENANT])
        for model in models(server, tenant, database)
    ]  # fmt: skip
    return {"collections": found, "server_version": server.get_version(), "chroma_version": version("chromadb")}
