"""The process in which Chroma's own code runs, and in which a live directory is copied.

    python -m saju_ops.chroma.worker [warm]

One request as JSON on standard input, one answer as JSON on standard output. Chroma's Rust code may crash on a torn
index or a damaged file: then this process dies, and not the run. It ends at once when its parent does, by the end of
standard input. Nothing secret is ever handed to it but a Chroma server's token, for a task that opens no stored file by
Chroma.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saju_ops.errors import OperatorError

Task = Callable[[dict[str, Any]], dict[str, Any]]


def copy(request: dict[str, Any]) -> dict[str, Any]:
    """A live directory into a new folder."""
    from dataclasses import asdict

    from saju_ops.chroma.live_copy import copy_live

    return asdict(copy_live(Path(request["source"]), Path(request["target"])))


def read(request: dict[str, Any]) -> dict[str, Any]:
    """The content of a folder, read without Chroma. Nothing in it changes."""
    from saju_ops.chroma.contents import contents
    from saju_ops.chroma.files import ChromaFiles

    with ChromaFiles(Path(request["folder"])) as files:
        return {"contents": contents(files)}


def damage(request: dict[str, Any]) -> dict[str, Any]:
    """What SQLite finds wrong with a folder's database file."""
    from saju_ops.chroma import files as chroma_files

    return {"found": chroma_files.damage(Path(request["folder"]))}


def check(request: dict[str, Any]) -> dict[str, Any]:
    from saju_ops.chroma.check import check_folder

    twin = Path(request["twin"]) if "twin" in request else None
    return check_folder(
        Path(request["folder"]), request.get("expected"), request.get("share", 0.0), twin,
        memory_mb=request["memory_mb"],
    )  # fmt: skip


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """Reads a folder's twin by Chroma, and compares each vector with the folder's files. `read` says what it should
    hold and takes the digest of vectors."""
    from saju_ops.chroma.check import judged

    return judged(Path(request["folder"]), Path(request["twin"]), memory_mb=request["memory_mb"], digest_vectors=False)


def complete(request: dict[str, Any]) -> dict[str, Any]:
    """Has Chroma make the indexes that a folder lacks in its twin, whatever memory that takes, and compares as usual.
    The twin stays."""
    from saju_ops.chroma.check import judged

    return judged(Path(request["folder"]), Path(request["twin"]), memory_mb=None, digest_vectors=False, keep=True)


def index(request: dict[str, Any]) -> dict[str, Any]:
    """Has Chroma make the indexes that a folder lacks and that have room."""
    from saju_ops.chroma.fetch import make_indexes

    make_indexes(Path(request["folder"]), request["memory_mb"])
    return {}


def _server(request: dict[str, Any]) -> dict[str, Any]:
    """The token stays in this process, and Chroma opens no folder in it but our own."""
    return {name: request[name] for name in ("host", "port", "tls", "token") if request.get(name)}


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    from saju_ops.chroma.fetch import fetch_server

    return fetch_server(target=Path(request["target"]), **_server(request))


def push(request: dict[str, Any]) -> dict[str, Any]:
    from saju_ops.chroma.push import push_server

    return push_server(
        folder=Path(request["folder"]), replace=request["replace"], stamp=request["stamp"],
        dry_run=request["dry_run"], **_server(request),
    )  # fmt: skip


def usage(request: dict[str, Any]) -> dict[str, Any]:
    from saju_ops.chroma.server import server_usage

    return server_usage(**_server(request))


def usage_folder(request: dict[str, Any]) -> dict[str, Any]:
    from saju_ops.chroma.usage import folder_usage

    return folder_usage(Path(request["folder"]))


TASKS: dict[str, Task] = {
    t.__name__: t for t in (copy, read, damage, check, judge, complete, index, fetch, push, usage, usage_folder)
}

# They go through records in pages, which hold no cycles; looking for some took 0.15 s of 1.7 s for 20,000 vectors.
WITHOUT_CYCLES = ("read", "check", "judge", "complete")


def main() -> None:
    # Whatever a library prints must not become part of the answer.
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.umask(0o077)
    if sys.argv[1:] == ["warm"]:
        import numpy  # noqa: F401

        from saju_ops.chroma import engine as chroma_engine

        chroma_engine.warm()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    # Seconds. One thread asks Chroma for the next page while the other looks at the last.
    sys.setswitchinterval(0.0005)
    if request["task"] in WITHOUT_CYCLES:
        gc.disable()
    try:
        answer = TASKS[request["task"]](request)
    except OperatorError as error:
        answer = {"refused": type(error).__name__, "text": str(error)}
    except Exception as error:
        answer = {"failed": type(error).__name__, "text": _safe(error)}
    json.dump(answer, answer_to, ensure_ascii=False)
    answer_to.flush()
    # Without the interpreter's teardown: Chroma's threads may still be at work on a folder that is thrown away.
    os._exit(0)


def _die_with_the_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(3)


def _safe(error: Exception) -> str:
    """Chroma's message about a folder or a server, without its words about values, which may quote a document."""
    from saju_ops.chroma.server import http_status

    if status := http_status(error):
        return f"the server answered {status[1]} with HTTP {status[0]}"
    module = type(error).__module__
    if module.startswith(("chromadb", "httpx", "sqlite3")) or isinstance(error, OSError):
        text = str(error).splitlines()[0] if str(error) else ""
        return text[: min((text.find(q) for q in "'\"[{" if q in text), default=200)][:200].strip()
    return ""


if __name__ == "__main__":
    main()
