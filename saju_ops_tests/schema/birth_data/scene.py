"""Sessions with births, and the run that encrypts them, on a real server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.pool import NullPool

from saju_ops.run_control import TO_THE_END
from saju_ops.schema import tables as schema
from saju_ops.schema.birth_data.encrypt import EncryptResult, EncryptRun, Options
from saju_ops.schema.birth_data.keys import Key, parse_keys
from saju_ops.schema.birth_data.look import BirthData, look_at_birth_data
from saju_ops.schema.birth_data.rows import open_sessions

UTC_ZONE = ZoneInfo("UTC")
OLD_KEY, NEW_KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([n] * 31 + [1])).decode() for n in (1, 2, 3))
BORN = datetime(1990, 5, 5, 9, 30)  # noqa: DTZ001 (a wall clock)
# Long ago, so that whatever renews a time shows.
LAST = datetime(2026, 1, 1, 12, 0)  # noqa: DTZ001 (UTC)


def token(payload: dict[str, Any] | str, key: str, *, double: bool = False) -> str:
    """As the service writes one: with base64 around it."""
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    made = Fernet(key).encrypt(text.encode())
    return (base64.b64encode(made) if double else made).decode()


class BirthScene:
    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        if self.engine.dialect.name in ("mysql", "mariadb"):
            sa.event.listen(self.engine, "connect", _pin, insert=True)
        schema.chatbot.create_all(self.engine)
        if not self.run("SELECT 1 FROM users WHERE user_id = 'u'"):
            self.insert("users", {"user_id": "u"})

    def run(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def insert(self, table: str, *rows: dict[str, Any]) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.insert(schema.chatbot.tables[table]), list(rows))

    def add(self, *names: str, **more: Any) -> None:
        """Sessions with a birth in the clear."""
        times = {"created_at": LAST, "updated_at": LAST, "last_activity": LAST, "expires_at": LAST + timedelta(days=1)}
        fresh = {"user_id": "u", "birth_datetime": BORN, "is_lunar": False, "is_leap_month": False, **times}
        self.insert("user_sessions", *({**fresh, "session_id": name, **more} for name in names))

    def session(self, name: str) -> tuple[Any, str | None]:
        """Its clear birth and its token."""
        (row,) = self.run(
            "SELECT birth_datetime, birth_datetime_encrypted FROM user_sessions WHERE session_id = :name", name=name
        )
        return row

    def hidden(self, name: str, key: str) -> dict[str, Any]:
        """What a token holds, by nothing but Fernet."""
        text = str(self.session(name)[1])
        plain = base64.b64decode(text).decode() if text.startswith("Z0FBQUFB") else text
        found: dict[str, Any] = json.loads(Fernet(key).decrypt(plain.encode()))
        return found

    def encrypt(self, *keys: str, require_dump: Callable[[], None] = lambda: None, **options: Any) -> EncryptResult:
        control = options.pop("control", TO_THE_END)
        with open_sessions(self.url, "user_sessions", UTC_ZONE) as store:
            run = EncryptRun(store, parsed(*keys), Options(**{"dry_run": False, **options}), require_dump, control)
            return run.run()

    def look(self, *keys: str) -> BirthData:
        with open_sessions(self.url, "user_sessions", UTC_ZONE) as store:
            return look_at_birth_data(store, parsed(*keys))


def parsed(*keys: str) -> tuple[Key, ...]:
    return parse_keys(",".join(keys)) if keys else ()


def _pin(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+00:00'")
