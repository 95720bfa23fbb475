"""The contents of a Chroma directory, in the form that manifests use, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saju_ops.chroma.files import (
    BATCH,
    BATCH_CHARACTERS,
    ChromaFiles,
    Collection,
    Digest,
    Record,
    record_digest,
    vector_digest,
)
from saju_ops.errors import TornCopy


def contents(files: ChromaFiles) -> dict[str, Any]:
    """Every collection with its counts, configuration and digests. Raises TornCopy."""
    files.refuse_lost_rows()
    return {"collections": [_content(files, c) for c in files.collections()]}


def _content(files: ChromaFiles, collection: Collection) -> dict[str, Any]:
    """Reads a collection whole. Raises TornCopy."""
    vectors = files.vectors(collection)
    records, of_vectors = Digest(), Digest()
    for some in batched(files.records(collection), BATCH):
        ids = [id for id, _ in some]
        try:
            rows = vectors.of(ids)
        except KeyError:
            raise TornCopy(f"a record of the collection {collection.name} has no vector") from None
        for (id, record), vector in zip(some, rows, strict=True):
            records.add(record_digest(id, record))
            of_vectors.add(vector_digest(id, vector))
    if files.has_an_id_twice(collection):
        raise TornCopy(f"an id of the collection {collection.name} is there twice")
    return described(collection, records, of_vectors)


def batched(
    records: Iterator[tuple[str, Record]], size: int, most: int = BATCH_CHARACTERS
) -> Iterator[list[tuple[str, Record]]]:
    """As many at a time as were asked for; less where their texts are long."""
    some: list[tuple[str, Record]] = []
    characters = 0
    for id, record in records:
        some.append((id, record))
        characters += characters_of(record)
        if len(some) == size or characters >= most:
            yield some
            some, characters = [], 0
    if some:
        yield some


def characters_of(record: Record) -> int:
    """Number of characters in all its texts."""
    count = len(record.document or "") + len(record.uri or "")
    return count + sum(len(value) for value in record.metadata.values() if isinstance(value, str | list))


def described(collection: Collection, records: Digest, vectors: Digest | None) -> dict[str, Any]:
    """A collection, in the form that manifests use."""
    of_vectors = {} if vectors is None else {"vectors_digest": vectors.hex}
    return {
        "tenant": collection.tenant,
        "database": collection.database,
        "name": collection.name,
        "dimension": collection.dimension,
        "count": records.count,
        "metadata": collection.metadata,
        "configuration": collection.configuration,
        "records_digest": records.hex,
        **of_vectors,
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The differences between two contents, in words that name collections and never a record."""

    def by_name(held: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
        return {(c["tenant"], c["database"], c["name"]): c for c in held["collections"]}

    want, have, said = by_name(expected), by_name(found), []
    for key in sorted(want.keys() | have.keys()):
        if key not in have:
            said.append(f"the collection {key[2]} is missing")
        elif key not in want:
            said.append(f"the collection {key[2]} is there and should not be")
        else:
            wrong = [k for k in want[key] if not _same(k, want[key][k], have[key].get(k))]
            said += [f"{_words(k)} of {key[2]} differs{_counts(k, want[key], have[key])}" for k in wrong]
    return said


def _same(name: str, wanted: Any, found: Any) -> bool:
    if name == "configuration" and isinstance(found, dict):
        # Manifests of earlier versions leave out what was not written in the folder.
        space, hnsw = wanted["space"] or found["space"], {**found["hnsw"], **wanted["hnsw"]}
        wanted = {**wanted, "space": space, "hnsw": hnsw}
    return bool(wanted == found)


def refuse_other(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises TornCopy where two contents differ."""
    if wrong := differences(expected, found):
        raise TornCopy("; ".join(wrong[:10]))


def _words(name: str) -> str:
    names = {"records_digest": "the digest of ids, documents and metadata", "vectors_digest": "the digest of vectors"}
    return names.get(name, f"the {name}")


def _counts(name: str, want: dict[str, Any], have: dict[str, Any]) -> str:
    return f" ({have[name]} instead of {want[name]})" if name == "count" else ""
