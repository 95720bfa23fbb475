"""A Chroma server's API, as far as both reading (`chroma_fetch`) and writing (`chroma_push`) need it.

Runs in the worker process.
"""

from __future__ import annotations

import gc
import json
from importlib.metadata import version
from typing import Any

from saju_ops.chroma.contents import characters_of
from saju_ops.chroma.engine import Api
from saju_ops.chroma.files import in_force
from saju_ops.chroma.pages import Row, databases, models, shown_configuration
from saju_ops.chroma.probe import Server, probe, unreachable_later

# The usual tenant: the API can't list tenants.
TENANT = "default_tenant"
# The usual database, and how a server that can't list databases answers.
DATABASE, NO_SUCH_METHOD = "default_database", 405
Place = tuple[str, str]
# Records per request: some 8 MB of JSON at 768 dimensions.
REMOTE_PAGE = 500
# Bytes of documents, metadata and vectors in a request; as JSON and as Python's objects they take some ten times that.
REMOTE_BYTES = 1 << 20


def connect(host: str, port: int, *, tls: bool = False, token: str | None = None) -> Any:
    """Raises OperatorError where nothing answers, or what answers refuses us."""
    import chromadb
    from chromadb.config import Settings

    server = Server(host, port, tls, token)
    probe(server)
    try:
        client: Any = chromadb.HttpClient(
            host=server.name, port=port, ssl=tls, headers=server.headers, settings=Settings(anonymized_telemetry=False)
        )
        client.heartbeat()
    except Exception as error:
        raise unreachable_later(server, error) from None
    # What is here now stays: looking for garbage need not go through it.
    gc.freeze()
    return Api(client)


def http_status(error: BaseException | None) -> tuple[int, str] | None:
    """The HTTP status behind an error of Chroma's client, and the request's method and path."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code), f"{response.request.method} {response.request.url.path}"
        error = error.__cause__ or error.__context__
    return None


def server_databases(server: Any) -> tuple[list[Place], bool]:
    """Tenant and name of every database of the usual tenant, and whether these are all: before 0.6 a server can't list
    them, and the usual one is all that is known."""
    try:
        return list(databases(server, [TENANT])), True
    except Exception as error:
        if (status := http_status(error)) is None or status[0] != NO_SUCH_METHOD:
            raise
        return [(TENANT, DATABASE)], False


def drop_answers() -> None:
    """After each page: an answer of the HTTP client's refers to itself, so that 5 MB of text would stay with each until
    Python happens to look for such cycles, which it does the less, the fewer objects a page has."""
    gc.collect()


def make_database(server: Any, tenant: str, database: str) -> None:
    try:
        server.get_tenant(tenant)
    except Exception:
        server.create_tenant(tenant)
    if database not in {d for _, d in databases(server, [tenant])}:
        server.create_database(database, tenant=tenant)


def settings_of(model: Any) -> dict[str, Any]:
    """The index parameters that a server uses: the shown ones, or, where they are the default, those in the
    metadata."""
    index = in_force(shown_configuration(model)["hnsw"], model.metadata or {})
    names = ("space", "ef_construction", "ef_search", "max_neighbors")
    return {**{name: index[name] for name in names}, "embedding_function": _embedding_function(model)}


def _embedding_function(model: Any) -> Any:
    return shown_configuration(model)["embedding_function"]


def create(server: Any, model: Any, name: str, tenant: str, database: str) -> Any:
    """A collection like `model`, whichever kind of server either is. Its embedding function is written down as it was,
    and never made: Chroma's own call would import it."""
    index = in_force(shown_configuration(model)["hnsw"], model.metadata or {})
    configuration = {"hnsw": index, "embedding_function": _embedding_function(model)}
    if (model.configuration_json or {}).get("spann"):
        configuration = dict(model.configuration_json)
    body = {
        "name": name,
        "metadata": model.metadata or None,
        "configuration": {k: v for k, v in configuration.items() if v is not None},
    }
    if hasattr(server, "bindings"):
        text = json.dumps(body["configuration"])
        # By position, as the Rust code takes them.
        server.bindings.create_collection(name, text, None, body["metadata"], False, tenant, database)
    else:
        path = f"/tenants/{tenant}/databases/{database}/collections"
        server.request("post", path, json={**body, "schema": None, "get_or_create": False})
    return server.get_collection(name, tenant=tenant, database=database)


def write(server: Any, id: Any, tenant: str, database: str, rows: list[Row]) -> None:
    limit = min(server.get_max_batch_size(), REMOTE_PAGE)
    for start in range(0, len(rows), limit):
        some = rows[start : start + limit]
        server.add(
            collection_id=id,
            ids=[row[0] for row in some],
            embeddings=[row[2].tolist() for row in some],
            metadatas=[row[1].metadata or None for row in some],
            documents=[row[1].document for row in some],
            uris=[row[1].uri for row in some],
            tenant=tenant,
            database=database,
        )


def weight(row: Row) -> int:
    """Bytes that a record takes in a request, roughly."""
    id, record, vector = row
    return len(id) + 20 * len(record.metadata) + characters_of(record) + (0 if vector is None else vector.nbytes)


# --- looking ---------------------------------------------------------------------------------------------------


def server_usage(host: str, port: int, **login: Any) -> dict[str, Any]:
    """Records per collection, by the server's own count. `login`: what `connect` takes besides."""
    server = connect(host, port, **login)
    found = [
        {
            "tenant": tenant, "database": database, "name": model.name, "dimension": model.dimension,
            "count": server.count(model.id, tenant=tenant, database=database),
        }
        for tenant, database in server_databases(server)[0]
        for model in models(server, tenant, database)
    ]  # fmt: skip
    return {"collections": found, "server_version": server.get_version(), "chroma_version": version("chromadb")}
