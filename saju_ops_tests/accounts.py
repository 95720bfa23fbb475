"""Database accounts with few rights, for tests of what a server hides from them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from saju_ops_tests.engines import Engine


@dataclass
class Account:
    server: Engine
    name: str
    database: str
    url: str

    def grant(self, *statements: str) -> Account:
        """Statements in which {user} and {db} are this account's and its database's names, quoted."""
        self.server.execute(*(s.format(user=self.name, db=f"`{self.database}`") for s in statements))
        return self


@contextmanager
def account(server: Engine, url: str, *statements: str) -> Iterator[Account]:
    """An account of MySQL or MariaDB, dropped afterwards."""
    parsed, user = sa.make_url(url), f"ops_{secrets.token_hex(4)}"
    name = f"{user}@'127.0.0.1'"
    server.execute(f"CREATE USER {name} IDENTIFIED BY 'long enough'")
    mine = parsed.set(username=user, password="long enough").render_as_string(hide_password=False)
    try:
        yield Account(server, name, str(parsed.database), mine).grant(*statements)
    finally:
        server.execute(f"DROP USER {name}")


@contextmanager
def role(server: Engine) -> Iterator[str]:
    name = f"role_{secrets.token_hex(4)}"
    server.execute(f"CREATE ROLE {name}")
    try:
        yield name
    finally:
        server.execute(f"DROP ROLE {name}")
