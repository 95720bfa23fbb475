"""Makes the small set of backups that later versions must read, by the version that is installed.

    python -m saju_ops_tests.make_old_backups saju_ops_tests/old_backups/<version>

For each engine: two archived days, one with a part, and a dump; for Chroma one snapshot. `plain` is as with the
defaults, `sealed` with ARCHIVE_PASSWORD and gzip.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from saju_ops.schema.tables import chatbot
from saju_ops_tests.engines import MariaDB, MySQL, PostgreSQL

PASSWORD = "old backups, old password"
FIRST = datetime(2026, 9, 30, 20, 0)  # noqa: DTZ001 - naive UTC, 2026-10-01 in Seoul
DAYS = ("2026-10-01", "2026-10-02")
# Where the files say that they were made, on whatever machine.
FOLDER = Path("/srv/saju_ops_old")
TEXTS = ["안녕하세요", '줄\n바꿈, "따옴표"', "", "😀 ' \\ \t", "NULL", "끝"]
DIMENSIONS = 8


def rows() -> list[dict[str, object]]:
    return [
        {
            "log_id": number, "session_id": "session-1", "message_order": number,
            "role": ("user", "assistant", "tool")[number % 3], "content": TEXTS[number % len(TEXTS)],
            "model_name": None if number % 2 else "model", "tool_calls": {"n": [number, None, "값"]},
            "tool_call_id": None, "tokens_used": number, "response_time_ms": None,
            "created_at": FIRST + timedelta(hours=2 * number),
        }
        for number in range(1, 20)
    ]  # fmt: skip


def fill(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    chatbot.create_all(engine)
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        connection.execute(chatbot.tables["users"].insert(), {"user_id": "user-1", "created_at": FIRST})
        session = {"session_id": "session-1", "user_id": "user-1", "expires_at": datetime(2036, 1, 1)}  # noqa: DTZ001
        connection.execute(chatbot.tables["user_sessions"].insert(), session)
        connection.execute(chatbot.tables["conversation_logs"].insert(), rows()[:-1])


def late(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        row = rows()[-1] | {"created_at": FIRST + timedelta(hours=1)}
        connection.execute(chatbot.tables["conversation_logs"].insert(), row)


def vectors(folder: Path) -> None:
    import chromadb

    client = chromadb.PersistentClient(str(folder))
    found = client.create_collection("saju_knowledge", embedding_function=None)
    numbers = range(12)
    found.add(
        ids=[f"id-{n}" for n in numbers], documents=[TEXTS[n % len(TEXTS)] or "빈" for n in numbers],
        embeddings=[[float(n), *[0.25] * (DIMENSIONS - 1)] for n in numbers],
        metadatas=[{"category": "오행", "importance": n} for n in numbers],
    )  # fmt: skip


def command(store: Path, *words: str, folder: Path = FOLDER, **settings: str) -> str:
    """What `saju-ops` prints. Ends the program where it fails."""
    kept = ("PATH", "HOME", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "BACKUP_URI": str(store), "ARCHIVE_START_DATE": "2026-10-01", "XDG_STATE_HOME": str(folder / "state"),
        "CHROMA_DB_PATH": str(folder / "chroma_db"), **settings,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "saju_ops.cli", *words],
        env=environment, cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


def make(target: Path) -> None:
    FOLDER.mkdir()
    vectors(FOLDER / "chroma_db")
    archive = ("archive", "--from", DAYS[0], "--to", DAYS[1])
    with MySQL() as mysql, MariaDB() as mariadb, PostgreSQL() as postgres:
        servers = {"mysql": mysql, "mariadb": mariadb, "postgres": postgres}
        for kind, own in {"plain": {}, "sealed": {"ARCHIVE_PASSWORD": PASSWORD, "ARCHIVE_COMPRESSION": "gzip"}}.items():
            for name in ("mysql", "mariadb", "postgres", "sqlite"):
                database = "chatbot"
                if name in servers:
                    servers[name].create_database(database)
                url = servers[name].database_url(database) if name in servers else f"sqlite:///{FOLDER}/chatbot.db"
                store = target / kind / name
                store.mkdir(parents=True)
                fill(url)
                command(store, *archive, DATABASE_URL=url, **own)
                late(url)
                command(store, *archive, DATABASE_URL=url, **own)
                command(store, "dump", DATABASE_URL=url, **own)
                if name == "sqlite":
                    command(store, "snapshot", DATABASE_URL=url, **own)
                    (FOLDER / "chatbot.db").unlink()
                else:
                    servers[name].drop_database(database)


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
