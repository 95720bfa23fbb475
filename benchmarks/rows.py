"""A log table of realistic rows, the same for the same size: Korean talk, some 330 bytes a row, 30 days."""

# ruff: noqa: S608 (the names in these statements are this package's own)

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

TABLE = "conversation_logs"
DAYS = 30
# 2026-01-01 00:00 in Seoul, so that the rows fill whole days there.
START = 1767193200
CREATE = f"""
CREATE TABLE {TABLE} (
  log_id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
  session_id varchar(255) NOT NULL,
  message_order int NOT NULL,
  role enum('user','assistant','tool') NOT NULL,
  content text NOT NULL,
  model_name varchar(100) NULL,
  tool_calls json NULL,
  tool_call_id varchar(100) NULL,
  tokens_used int NULL,
  response_time_ms int NULL,
  created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
  KEY session (session_id, message_order), KEY role (role), KEY created_at (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""
LOAD = (
    "LOAD DATA LOCAL INFILE %s INTO TABLE {table} CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\\t'"
    " (log_id, session_id, message_order, role, content, model_name, tool_calls, tool_call_id, tokens_used,"
    " response_time_ms, @at) SET created_at = FROM_UNIXTIME(@at)"
)
TALK = (
    "오늘의 운세는 재물운이 상승하고 대인관계에서 좋은 기운이 들어옵니다 갑자 을축 병인 정묘 일간이 약하므로 "
    "용신은 화(火)입니다 목화토금수 균형이 좋습니다 사주 원국을 보면 편재가 강해 투자에 신중해야 합니다 "
    '"인용" 궁합, 시기는 내년 봄이 유리합니다 🙂 감사합니다\\n'
)
WORDS = TALK.split()


def _texts(chance: random.Random, count: int, least: int, most: int) -> list[str]:
    return [" ".join(chance.choices(WORDS, k=chance.randint(least, most))) for _ in range(count)]


def write_rows(path: Path, rows: int) -> None:
    """A file for LOAD DATA, in key order and in the order of time."""
    chance = random.Random(20260101)
    asked, answered = _texts(chance, 4001, 4, 16), _texts(chance, 4001, 20, 60)
    call = '[{"name": "saju", "arguments": {"birth": "1990-05-05T09:30", "lunar": false}}]'
    with path.open("w", encoding="utf-8") as sink:
        for i in range(rows):
            session, order = divmod(i, 10)
            at = START + i * DAYS * 86_400 // rows
            head = f"{i + 1}\t{session:032x}-{session % 97:02d}\t{order}\t"
            if order % 2 == 0:
                sink.write(f"{head}user\t{asked[i % 4001]}\t\\N\t\\N\t\\N\t\\N\t\\N\t{at}\n")
            elif order == 9:
                sink.write(f"{head}tool\t{call}\t\\N\t{call}\tcall_{i:012x}\t\\N\t{i % 900}\t{at}\n")
            else:
                text, took = answered[i % 4001], 300 + i % 5000
                sink.write(f"{head}assistant\t{text}\tgpt-4o-mini\t\\N\t\\N\t{i % 700}\t{took}\t{at}\n")


def load(cursor: Any, path: Path, table: str = TABLE) -> None:
    cursor.execute(LOAD.format(table=table), (str(path),))


def copy_of(cursor: Any, table: str, source: str = TABLE) -> str:
    cursor.execute(f"DROP TABLE IF EXISTS {table}")
    cursor.execute(f"CREATE TABLE {table} LIKE {source}")
    cursor.execute(f"INSERT INTO {table} SELECT * FROM {source}")
    return table


def derived(cursor: Any, table: str, key: str, at: str, where: str = "1", source: str = TABLE) -> str:
    """A table of the source's rows with another key and time."""
    cursor.execute(f"DROP TABLE IF EXISTS {table}")
    cursor.execute(f"CREATE TABLE {table} LIKE {source}")
    add(cursor, table, key, at, where, source)
    return table


def add(cursor: Any, table: str, key: str, at: str, where: str = "1", source: str = TABLE) -> None:
    cursor.execute(
        f"INSERT INTO {table} SELECT {key}, session_id, message_order, role, content, model_name, tool_calls,"
        f" tool_call_id, tokens_used, response_time_ms, {at} FROM {source} WHERE {where} ORDER BY log_id"
    )
