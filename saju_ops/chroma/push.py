"""Puts every collection of a folder into a Chroma server. Runs in the worker process.

A collection is filled under another name, read back and compared record by record, and only then gets its own name. One
that is there already is refused, or renamed where the operator named it: nothing is deleted.

The folder is read from its files, some records at a time, and not through Chroma, which would load or make each index
whole to give them: 150 MB at any size. So what a store may hold is opened by no code of Chroma's in a process that has
a server's token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from saju_ops.chroma.comparison import same_vectors
from saju_ops.chroma.contents import batched
from saju_ops.chroma.files import ChromaFiles, Collection, Record, record_digest
from saju_ops.chroma.floats import rounded as floats_rounded
from saju_ops.chroma.floats import write_exactly
from saju_ops.chroma.pages import INCLUDE, Row, databases, models, rows_of
from saju_ops.chroma.server import (
    REMOTE_BYTES,
    REMOTE_PAGE,
    connect,
    create,
    drop_answers,
    make_database,
    settings_of,
    weight,
    write,
)
from saju_ops.chroma.vectors import Vectors
from saju_ops.errors import ProofFailed, Refused

# Ending of a collection's name while it is being filled.
UNFINISHED = ".saju_ops_restoring"
# Records read from the files at once.
READ_AT_ONCE = 50


def push_server(
    host: str, port: int, folder: Path, *, replace: list[str], stamp: str, dry_run: bool, **login: Any
) -> dict[str, Any]:  # fmt: skip
    """Raises Refused, before the first write, where a collection is there that `replace` doesn't name. `login`: what
    `connect` takes besides."""
    server = connect(host, port, **login)
    _refuse_old(f"{host}:{port}", str(server.get_version()))
    with ChromaFiles(folder) as files:
        source = [_Source(files, c) for c in files.collections()]
        _refuse_taken(f"{host}:{port}", _taken(server, source), source, replace)
        planned = {"collections": [s.collection.name for s in source], "records": sum(s.count() for s in source)}
        if dry_run:
            return {**planned, "renamed": {}, "written": 0, "floats_rounded": 0}
        done = [_push(server, each) for each in source]
        # The names change only now that everything is there and proven.
        asides = {s.collection.name: _name_it(server, *s.place, stamp) for s in source}
    return {
        **planned, "renamed": {name: aside for name, aside in asides.items() if aside},
        "written": sum(written for written, _ in done), "floats_rounded": sum(rounded for _, rounded in done),
    }  # fmt: skip


Place = tuple[str, str, str]


class _Source:
    """One collection of the folder."""

    def __init__(self, files: ChromaFiles, collection: Collection) -> None:
        self._files, self.collection = files, collection
        # As Chroma would show it.
        configuration = {"hnsw": collection.index, "embedding_function": collection.embedding_function}
        self.model = SimpleNamespace(
            name=collection.name, metadata=collection.metadata, configuration_json=configuration
        )  # fmt: skip

    @property
    def place(self) -> Place:
        return (self.collection.tenant, self.collection.database, self.collection.name)

    def count(self) -> int:
        return sum(1 for _ in self._files.records(self.collection))

    def portions(self) -> Iterator[list[Row]]:
        """Every record, as many at a time as a request may hold."""
        vectors = self._files.vectors(self.collection)
        portion: list[Row] = []
        size = 0
        for some in batched(self._files.records(self.collection), READ_AT_ONCE):
            for row in _rows(vectors, some):
                if portion and (len(portion) == REMOTE_PAGE or size + weight(row) > REMOTE_BYTES):
                    yield portion
                    portion, size = [], 0
                portion.append(row)
                size += weight(row)
        if portion:
            yield portion


def _rows(vectors: Vectors, some: list[tuple[str, Record]]) -> list[Row]:
    found = vectors.of([id for id, _ in some])
    return [(id, record, vector) for (id, record), vector in zip(some, found, strict=True)]


def _refuse_old(where: str, version: str) -> None:
    if version.partition(".")[0] == "0":
        raise Refused(
            f"The server at {where} runs Chroma {version}, and a snapshot can be put into a server of 1.0 or newer."
            " Nothing was written. Restore it into a folder (--into PATH) instead."
        )


def _refuse_taken(where: str, taken: set[str], source: list[_Source], replace: list[str]) -> None:
    refused = sorted(n for n in taken if n not in replace)
    if refused:
        raise Refused(
            f"{where} has collections of these names already: {', '.join(refused[:20])}. Nothing was written."
            " Name each that is to be replaced; the old one is then renamed, not deleted."
        )
    unknown = sorted(set(replace) - {s.collection.name for s in source})
    if unknown:
        raise Refused(f"The snapshot holds no collection {', '.join(unknown)}, so none can be replaced by it.")


def _existing(server: Any, tenant: str, database: str) -> set[str]:
    try:
        server.get_tenant(tenant)
    except Exception:
        return set()
    if database not in {d for _, d in databases(server, [tenant])}:
        return set()
    return {model.name for model in models(server, tenant, database)}


def _taken(server: Any, source: list[_Source]) -> set[str]:
    places = {s.place[:2] for s in source}
    there = {(t, d, n) for t, d in places for n in _existing(server, t, d)}
    return {s.collection.name for s in source if s.place in there}


def _push(server: Any, source: _Source) -> tuple[int, int]:
    """Fills a collection under its unfinished name and proves it. Returns the number of records, and of floats that the
    server can't keep exactly."""
    tenant, database, _ = source.place
    make_database(server, tenant, database)
    name = source.collection.name + UNFINISHED
    if name in _existing(server, tenant, database):
        # A collection that a killed restore left; the name is ours.
        server.delete_collection(name, tenant=tenant, database=database)
    made = create(server, source.model, name, tenant, database)
    written = 0
    for portion in source.portions():
        write(server, made.id, tenant, database, portion)
        write_exactly(server, made.id, tenant, database, portion)
        written += len(portion)
        drop_answers()
    return written, _prove(server, name, source, written)


def _prove(server: Any, name: str, source: _Source, written: int) -> int:
    """Returns how many floats of metadata are rounded there."""
    tenant, database, _ = source.place
    made, model = server.get_collection(name, tenant=tenant, database=database), source.model
    space = source.collection.space
    wrong = settings_of(made) != settings_of(model) or (made.metadata or {}) != (model.metadata or {})
    count = rounded = 0
    for portion in source.portions():
        ids = [row[0] for row in portion]
        got = server.get(made.id, ids=ids, include=INCLUDE, tenant=tenant, database=database)
        there = {row[0]: row for row in rows_of(got)}
        count += len(there)
        found = [_rounded(row, there.get(row[0]), space) for row in portion]
        wrong = wrong or None in found
        rounded += sum(filter(None, found))
        del got, there
        drop_answers()
    if wrong or count != written or count != server.count(made.id, tenant=tenant, database=database):
        raise ProofFailed(
            f"What the server shows of {model.name} differs from the snapshot. It was written as {made.name}; nothing"
            " that was there before changed. Look at both and launch again: that name is then written anew."
        )
    return rounded


def _rounded(row: Row, other: Row | None, space: str) -> int | None:
    """How many floats of a record the server rounds; None where it shows anything else otherwise."""
    if other is None or not same_vectors(row[2][None, :], other[2][None, :], space):
        return None
    if record_digest(row[0], row[1]) == record_digest(other[0], other[1]):
        return 0
    return floats_rounded(row[1], other[1])


def _name_it(server: Any, tenant: str, database: str, name: str, stamp: str) -> str | None:
    aside = None
    if name in _existing(server, tenant, database):
        aside = f"{name}.before_restore_{stamp}"
        _rename(server, tenant, database, name, aside)
    _rename(server, tenant, database, name + UNFINISHED, name)
    return aside


def _rename(server: Any, tenant: str, database: str, name: str, new: str) -> None:
    model = server.get_collection(name, tenant=tenant, database=database)
    server.modify(model.id, new_name=new, tenant=tenant, database=database)
