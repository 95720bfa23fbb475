"""Kinds of databases: MariaDB's addresses may say mysql, too."""

from __future__ import annotations

import sqlalchemy as sa

DEFAULT_PORTS = {"mysql": 3306, "postgresql": 5432}


def family_of(engine: str | sa.URL) -> str:
    """`mysql`, `postgresql` or `sqlite`, of an address or of a dialect's name."""
    name = engine.get_backend_name() if isinstance(engine, sa.URL) else engine
    return "mysql" if name == "mariadb" else name
