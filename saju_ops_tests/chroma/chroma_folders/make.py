"""Makes a folder by whatever version of chromadb runs this, and `said.json`: what that version says it holds.

    python make.py FOLDER

The interpreter is that of an environment that holds one old version (`versions.py`), so nothing of saju_ops is here.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings

DIMENSION = 8
VERSION = tuple(int(part) for part in chromadb.__version__.split(".")[:3])
# So few, that there are index files.
SOON = {"hnsw:batch_size": 10, "hnsw:sync_threshold": 20}
POOR = {"hnsw:search_ef": 12, "hnsw:construction_ef": 40, "hnsw:M": 4}
COLLECTIONS: dict[str, tuple[dict[str, Any] | None, int]] = {
    "usual": (None, 9),
    "usual_indexed": ({**SOON}, 27),
    "cosine": ({"hnsw:space": "cosine", **SOON}, 27),
    "cosine_waiting": ({"hnsw:space": "cosine"}, 9),
    "inner": ({"hnsw:space": "ip", "language": "ko", **SOON}, 27),
    "poor_search": ({**POOR, "hnsw:space": "cosine", **SOON}, 27),
    # Its metadata are replaced, so that only the index's own say what its distance is.
    "renamed_metadata": ({"hnsw:space": "cosine", **SOON}, 24),
    "emptied": ({**SOON}, 21),
    "empty": (None, 0),
}  # fmt: skip


def vectors(count: int, seed: int) -> list[list[float]]:
    made = random.Random(seed)
    return [[made.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(count)]


def metadata(number: int) -> dict[str, Any]:
    found = {"category": ("오행", "십성", "신살")[number % 3], "importance": number, "confidence": number / 4}
    return {**found, "active": number % 2 == 0} if VERSION >= (0, 4, 14) else found


def fill(collection: Any, count: int, seed: int) -> None:
    rows = vectors(count, seed)
    for start in range(0, count, 5):
        some = range(start, min(start + 5, count))
        collection.add(
            ids=[f"기록-{n}" for n in some], embeddings=[rows[n] for n in some],
            metadatas=[metadata(n) for n in some], documents=[f"문서 {n}: 갑목" for n in some],
        )  # fmt: skip


def change(collection: Any) -> None:
    collection.update(ids=["기록-1"], metadatas=[{"importance": 99}])
    collection.update(ids=["기록-2"], documents=["바뀐 문서"], embeddings=vectors(1, 91))
    collection.upsert(ids=["기록-3", "새-기록"], embeddings=vectors(2, 92), documents=["가", "나"])
    collection.delete(ids=["기록-4", "기록-5"])


def said(collection: Any) -> dict[str, Any]:
    got = collection.get(include=["documents", "metadatas", "embeddings"])
    return {
        id: {"document": document, "metadata": found or {}, "vector": [float(f"{number:.9g}") for number in vector]}
        for id, document, found, vector in zip(
            got["ids"], got["documents"], got["metadatas"], got["embeddings"], strict=True
        )
    }


def main() -> None:
    folder = Path(sys.argv[1])
    client = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    held = {}
    for seed, (name, (described, count)) in enumerate(COLLECTIONS.items()):
        collection = client.create_collection(name, metadata=described)
        fill(collection, count, seed)
        if name == "emptied":
            collection.delete(ids=collection.get(include=[])["ids"])
        elif count:
            change(collection)
        if name == "renamed_metadata":
            collection.modify(metadata={"topic": "궁합"})
        held[name] = said(collection)
    if VERSION >= (1, 0, 0):
        # The place for it that came with 1.0.
        collection = client.create_collection("configured", configuration={"hnsw": {"space": "cosine"}})
        fill(collection, 9, 77)
        held["configured"] = said(collection)
    (folder / "said.json").write_text(json.dumps(held, ensure_ascii=False, sort_keys=True))


main()
