"""Snapshot of a Chroma directory against `tar czf` of it, in one run, taking turns; the best of the rounds counts.

    python -m benchmarks.chroma [--vectors 20000] [--rounds 3] [--server]

With many (--vectors 100000, 6 minutes to make) the proof searches the index in its files, and memory stays the same.
With --server a snapshot of a Chroma server that holds the same follows, for the memory that it takes; its peer is
Chroma's own client that reads everything once, where a snapshot reads it twice, makes the indexes and proves them.

The snapshot is measured as what `tar` does (copy under SQLite's lock, compress, store; with the proof at work beside
it), and with its proof; memory is that of our own process and of the process in which Chroma opens what is stored, each
at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Line, show
from saju_ops_tests.chroma.scene import serving

MB = 1 << 20
DIMENSIONS = 768
TEXT = "오행의 균형과 십성의 작용을 살펴 용신을 정한다. " * 6
SHARES = {"saju_knowledge": 0.6, "interpretation_rules": 0.2, "fortune_patterns": 0.2}
SNAPSHOT = """
import json, resource, sys
from pathlib import Path
from zoneinfo import ZoneInfo
from saju_ops.chroma.snapshot import Source, take_snapshot
from saju_ops.storage.open import open_storage
where = sys.argv[1]
source = Source(host="127.0.0.1", port=int(where)) if where.isdigit() else Source(folder=Path(where))
taken = take_snapshot(open_storage(sys.argv[2]), source, zone=ZoneInfo("Asia/Seoul"))
print(json.dumps({
    "seconds": taken.copy_seconds + taken.store_seconds, "proof": taken.proof_seconds, "attempts": taken.attempts,
    "bytes": taken.manifest.stored_bytes, "locked": taken.copied.get("locked_seconds", 0), "records": taken.records,
    "not_indexed": len(taken.manifest.proof["not_indexed"]),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    "worker_peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10,
}))
"""


def make(folder: Path, count: int) -> None:
    import chromadb
    import numpy as np
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    generator = np.random.default_rng(3)
    for name, share in SHARES.items():
        collection = client.create_collection(name, embedding_function=None, metadata={"hnsw:space": "cosine"})
        for start in range(0, int(count * share), 1000):
            numbers = range(start, min(start + 1000, int(count * share)))
            collection.add(
                ids=[f"{name}_{n:06d}" for n in numbers],
                embeddings=generator.standard_normal((len(numbers), DIMENSIONS)).astype("float32"),
                documents=[f"{name} {n} {TEXT}" for n in numbers],
                metadatas=[{"category": "오행", "element": "목", "importance": n % 5} for n in numbers],
            )  # fmt: skip
    client.close()


def tar(folder: Path, to: Path) -> dict[str, float]:
    began = time.monotonic()
    subprocess.run(["tar", "czf", str(to), "-C", str(folder.parent), folder.name], check=True)
    return {"seconds": time.monotonic() - began, "bytes": to.stat().st_size}


def snapshot(source: str, storage: Path) -> dict[str, Any]:
    """A snapshot of a folder, or of the server at a port of this machine."""
    command = [sys.executable, "-c", SNAPSHOT, source, str(storage)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    shutil.rmtree(storage)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def of_a_server(root: Path, count: int) -> list[Line]:
    with serving(root / "chroma_db") as port:
        peer = read_by_client(port)
        own = snapshot(str(port), root / "backups")
    whole = own["seconds"] + own["proof"]
    return [
        Line(
            f"snapshot of a server with {count:,} vectors, proven", f"{whole:.1f} s",
            f"its client reads all once {peer:.1f} s", peer / whole,
        ),
        Line("collections whose index is left to the restore", str(own["not_indexed"])),
        memory("memory of the run", own["peak"]),
        memory("the most of the processes that fetch, index and prove", own["worker_peak"]),
    ]  # fmt: skip


READ = """
import sys, time, chromadb
client, began = chromadb.HttpClient(host="127.0.0.1", port=int(sys.argv[1])), time.monotonic()
for collection in client.list_collections():
    for offset in range(0, collection.count(), 300):
        collection.get(limit=300, offset=offset, include=["documents", "metadatas", "embeddings"])
print(time.monotonic() - began)
"""


def read_by_client(port: int) -> float:
    """Seconds. Once before, so that the server has its indexes in memory."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", READ, str(port)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--vectors", type=int, default=20_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--server", action="store_true")
    chosen = options.parse_args()
    root = Path(tempfile.mkdtemp(prefix="saju_bench_"))
    try:
        print(f"Making {chosen.vectors:,} vectors of {DIMENSIONS} dimensions …", flush=True)
        # In a process of its own: Chroma keeps a folder open that a process ever opened.
        code = "import sys, pathlib, benchmarks.chroma as b; b.make(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", code, str(root / "chroma_db"), str(chosen.vectors)], check=True)
        theirs, ours = [], []
        for _ in range(chosen.rounds):
            theirs.append(tar(root / "chroma_db", root / "peer.tar.gz"))
            ours.append(snapshot(str(root / "chroma_db"), root / "backups"))
        show(lines(min(theirs, key=lambda t: t["seconds"]), min(ours, key=lambda t: t["seconds"]), chosen.vectors))
        if chosen.server:
            show(of_a_server(root, chosen.vectors))
    finally:
        shutil.rmtree(root)


def memory(what: str, peak: int) -> Line:
    return Line(what, f"{peak / MB:.0f} MB", "256 MB", peak / (256 * MB), 1.0, more=False)


def lines(peer: dict[str, float], own: dict[str, Any], count: int) -> list[Line]:
    whole = own["seconds"] + own["proof"]
    return [
        Line(
            f"snapshot of {count:,} vectors, until it is stored", f"{own['seconds']:.2f} s",
            f"tar czf {peer['seconds']:.2f} s", peer["seconds"] / own["seconds"], 1.0,
        ),
        Line("the same with its proof", f"{whole:.2f} s", f"tar czf {peer['seconds']:.2f} s", peer["seconds"] / whole),
        Line(
            "its size", f"{own['bytes'] / MB:.0f} MB", f"tar czf {peer['bytes'] / MB:.0f} MB",
            own["bytes"] / peer["bytes"],
        ),
        Line("writers wait at most", f"{own['locked']:.3f} s"),
        memory("memory of the run", own["peak"]),
        memory("memory of the process that opens it by Chroma", own["worker_peak"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
