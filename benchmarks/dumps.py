"""Dumps against their peers: the plain dump program to a file, and the same through gzip, as most people do it.

The dump's own time ends when its last byte is written. The disk gets the rest within 3 to 9 ms, before the proof reads
the dump back; the proof's time is given beside it. The peers' time ends with a `sync`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.report import Line

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

MB = 1 << 20


def take(job: dict[str, Any]) -> Any:
    """The task of benchmarks.child: one dump, with the seconds of each part."""
    from zoneinfo import ZoneInfo

    from saju_ops.dumps.take import DumpOptions, take_dump
    from saju_ops.storage.open import open_storage

    def run() -> int:
        result = take_dump(sa.make_url(job["url"]), open_storage(job["storage"]), DumpOptions(ZoneInfo("Asia/Seoul")))
        assert result.proven, result.message
        parts = {
            "dump_seconds": result.seconds,
            "proof_seconds": result.proof_seconds,
            "drill_seconds": result.drill.seconds,
            "content_bytes": result.manifest.content_bytes,
            "stored_bytes": result.manifest.stored_bytes,
            "tool": result.manifest.tool,
        }
        Path(job["parts"]).write_text(json.dumps(parts))
        return result.contents.rows

    return run


def measure(bench: Bench) -> None:
    with bench.server.database() as url:
        database = str(sa.make_url(url).database)
        bench.cursor.execute(f"CREATE TABLE {database}.conversation_logs LIKE conversation_logs")
        bench.cursor.execute(f"INSERT INTO {database}.conversation_logs SELECT * FROM conversation_logs")  # noqa: S608
        _peer(bench, url, "mysqldump, warming up", "cat > {file}")
        for _ in range(bench.options.rounds + 1):
            _ours(bench, url)
            _peer(bench, url, "mysqldump to a file", "cat > {file}")
        _peer(bench, url, "mysqldump | gzip", "gzip > {file}")
    ours, plain = bench.best("dump"), bench.best("mysqldump to a file")
    zipped = bench.best("mysqldump | gzip")
    seconds = ours["seconds"]
    taken = f"{seconds:.2f} s"
    peer = f"mysqldump to a file: {plain['seconds']:.2f} s"
    bench.say(Line("dump", taken, peer, seconds / plain["seconds"], 1.3, more=False))
    bench.say(Line("dump", taken, f"mysqldump | gzip: {zipped['seconds']:.1f} s", zipped["seconds"] / seconds, 4.0))
    size = f"{ours['stored_bytes'] / MB:,.0f} MB"
    peer = f"mysqldump's file: {plain['bytes'] / MB:,.0f} MB"
    bench.say(Line("  its size", size, peer, ours["stored_bytes"] / plain["bytes"], 0.25, more=False))
    bench.say(Line("  its proof: server's checksums", f"{ours['proof_seconds']:.1f} s"))
    bench.say(Line("  its proof: restored and compared", f"{ours['drill_seconds']:.1f} s"))
    peak = ours["peak_bytes"] / MB
    bench.say(Line("memory: dump", f"{peak:,.0f} MB", "256 MB", peak / 256, 1.0, more=False))


def _ours(bench: Bench, url: str) -> None:
    written = bench.folder / "parts.json"
    with bench.storage() as storage:
        bench._settle()
        job = json.dumps({"url": url, "storage": storage, "parts": str(written)})
        command = [sys.executable, "-m", "benchmarks.child", "dump", job]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"dump failed:\n{done.stderr[-3000:]}")
    whole, parts = json.loads(done.stdout), json.loads(written.read_text())
    bench._keep("dump", {**whole, **parts, "seconds": parts["dump_seconds"]})


def _peer(bench: Bench, url: str, name: str, sink: str) -> None:
    """The program as our dump runs it, its output where `sink` says, on the disk at the end."""
    from saju_ops.dumps.mysql.clients import dump_client

    parsed = sa.make_url(url)
    client = dump_client(bench.options.engine)
    file = bench.folder / "peer.sql"
    bench._settle()
    with client.program(parsed, [str(parsed.database)]) as program:
        script = f'"$@" | {sink.format(file=file)} && sync {file}'
        if sink.startswith("cat"):
            script = f'"$@" > {file} && sync {file}'
        began = time.monotonic()
        subprocess.run(["sh", "-c", script, "sh", *program.command], check=True, pass_fds=program.secrets)
        seconds = time.monotonic() - began
    bench._keep(name, {"rows": bench.options.rows, "seconds": seconds, "bytes": file.stat().st_size})
    file.unlink()
