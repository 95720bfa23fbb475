"""The demo's ChromaDB collections."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from saju_ops.demo import texts
from saju_ops.demo.folder import Progress, Row, _chunks

EMBEDDING_MODEL = "jhgan/ko-sroberta-multitask"
DIMENSIONS = 768
COLLECTIONS = {"saju_knowledge": 1_200, "interpretation_rules": 400, "fortune_patterns": 300}
_VECTOR_CHUNK = 500


def _write_collections(path: Path, seed: int, report: Progress) -> None:
    """The three collections with made-up vectors; no embedding function, so nothing is ever downloaded."""
    report("vectors", 0, sum(COLLECTIONS.values()))  # the import alone takes some two seconds
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(path=str(path), settings=Settings(anonymized_telemetry=False))
    try:
        chunk_size = min(_VECTOR_CHUNK, client.get_max_batch_size())
        total, done = sum(COLLECTIONS.values()), 0
        for name, count in COLLECTIONS.items():
            collection = client.create_collection(
                name,
                embedding_function=None,
                metadata={"hnsw:space": "cosine", "embedding_model": EMBEDDING_MODEL},
            )
            groups, documents, metadatas = _records(name, count, Random(f"{seed}:{name}"))
            vectors = _unit_vectors(groups, seed, name)
            for numbers in _chunks(range(count), chunk_size):
                part = slice(numbers[0], numbers[-1] + 1)
                collection.add(
                    ids=[f"{name}_{number:04d}" for number in numbers],
                    embeddings=vectors[part],
                    documents=documents[part],
                    metadatas=metadatas[part],
                )
                done += len(numbers)
                report("vectors", done, total)
    finally:
        # Without this the files stay open under the temporary name.
        client.close()


def _unit_vectors(groups: Sequence[int], seed: int, name: str) -> Any:
    """One unit vector per record; records of a group are near each other, as texts on one subject would be."""
    import numpy

    digest = sha256(f"{seed}:{name}".encode()).digest()
    generator = numpy.random.default_rng(int.from_bytes(digest[:8], "big"))
    centres = generator.standard_normal((max(groups) + 1, DIMENSIONS))
    vectors = centres[list(groups)] + 0.6 * generator.standard_normal((len(groups), DIMENSIONS))
    return (vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def _records(name: str, count: int, rng: Random) -> tuple[list[int], list[str], list[Any]]:
    """Group number, document and metadata of each record; the metadata fields are those of the SPEC."""
    make = {"saju_knowledge": _knowledge, "interpretation_rules": _rule, "fortune_patterns": _pattern}[name]
    made = [make(rng) for _ in range(count)]
    return [m[0] for m in made], [m[1] for m in made], [m[2] for m in made]


def _knowledge(rng: Random) -> tuple[int, str, Row]:
    element, god, topic = rng.choice(texts.ELEMENTS), rng.choice(texts.TEN_GODS), rng.choice(texts.TOPICS)
    metadata = {
        "category": rng.choice(("오행", "십성", "신살", "대운", "용신")),
        "subcategory": f"{topic}운",
        "element": element,
        "keywords": f"{element},{god},{topic}",
        "source": rng.choice(("적천수", "자평진전", "궁통보감", "연해자평", "내부 자료")),
        "importance": rng.randrange(1, 6),
    }
    return texts.ELEMENTS.index(element), texts.knowledge(rng, element, god, topic), metadata


def _rule(rng: Random) -> tuple[int, str, Row]:
    (god, god2), topic = rng.sample(texts.TEN_GODS, 2), rng.choice(texts.TOPICS)
    metadata = {
        "rule_type": rng.choice(("십성 조합", "합충", "신강신약", "조후")),
        "conditions": json.dumps({"shipsung": [god, god2], "topic": topic}, ensure_ascii=False),
        "confidence": round(rng.uniform(0.5, 0.99), 2),
        "source": rng.choice(("적천수", "자평진전", "상담 사례")),
    }
    return texts.TEN_GODS.index(god), texts.rule(rng, god, god2, topic), metadata


def _pattern(rng: Random) -> tuple[int, str, Row]:
    timing, god, topic = (
        rng.choice(("대운", "세운", "월운")),
        rng.choice(texts.TEN_GODS),
        rng.choice(texts.TOPICS),
    )
    metadata = {
        "pattern_type": f"{topic}운",
        "shipsung_involved": god,
        "timing": timing,
        "strength_condition": rng.choice(("very_weak", "weak", "neutral", "strong", "very_strong")),
        "reliability": round(rng.uniform(0.4, 0.95), 2),
    }
    return texts.TOPICS.index(topic), texts.pattern(rng, timing, god, topic), metadata
