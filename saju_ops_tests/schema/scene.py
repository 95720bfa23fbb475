"""Databases to migrate: from nothing, or made by hand as SPEC section 2 has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from saju_ops.database.address import parse_database_url
from saju_ops.schema.migrate import commands
from saju_ops.schema.migrate.commands import Result
from saju_ops.schema.migrate.run import Options
from saju_ops.schema.migrate.steps import Installation
from saju_ops.schema.tables import chatbot

MAIN = ["0001_tables", "0002_indexes"]
HERE = Installation()
TABLES = {table.name for table in chatbot.tables.values()}
D2 = {
    "user_sessions": ("session_id", "birth_datetime", "is_lunar"),
    "saju_calculations": ("year_ganji", "month_ganji", "day_ganji", "time_ganji"),
    "saju_analyses": ("ohang_dominant", "ohang_weakest", "day_gan_strength"),
    "conversation_logs": ("session_id", "created_at DESC"),
    "system_metrics": ("metric_name", "recorded_at DESC"),
}


def address(url: str) -> sa.URL:
    """For a database that is there: SQLite's file is made."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).touch()
    return parse_database_url(url)


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """As anybody connects, in autocommit."""
    engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def run(url: str, *statements: str) -> list[Any]:
    """Statements of a test, the rows of the last one."""
    rows: list[Any] = []
    with connected(url) as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            rows = list(result) if result.returns_rows else []
    return rows


def tables(url: str) -> set[str]:
    with connected(url) as connection:
        return set(sa.inspect(connection).get_table_names())


def versions(url: str) -> list[str]:
    """Alembic's own table."""
    return [str(row[0]) for row in run(url, "SELECT version_num FROM alembic_version ORDER BY 1")]


def recorded(url: str) -> list[str]:
    """What the service sees."""
    return [str(row[0]) for row in run(url, "SELECT version FROM schema_migrations ORDER BY 1")]


def up(url: str, target: str | None = None, options: Options | None = None, **more: Any) -> Result:
    return commands.up(address(url), HERE, options, target=target, **more)


def down(url: str, target: str = "base", options: Options | None = None, **more: Any) -> Result:
    return commands.down(address(url), HERE, target, options, **more)


def by_hand(url: str, *, composite: bool = True) -> None:
    """As the old installation made it: the models, other names of indexes, and its own history."""
    address(url)
    with connected(url) as connection:
        chatbot.create_all(connection)
    if composite:
        for number, (table, columns) in enumerate(D2.items()):
            run(url, f"CREATE INDEX idx_by_hand_{number} ON {table} ({', '.join(columns)})")
    run(
        url,
        "INSERT INTO schema_migrations (version, description, rollback_sql) VALUES"
        " ('1.0.0', '초기 스키마', 'DROP DATABASE saju;'), ('1.2.0', 'indexes', NULL), ('1.10.0', 'later', NULL)",
    )


def add_metrics(url: str, number: int) -> None:
    rows = ", ".join(f"('m{n % 7}', {n % 100})" for n in range(number))
    run(url, f"INSERT INTO system_metrics (metric_name, metric_value) VALUES {rows}")  # noqa: S608
