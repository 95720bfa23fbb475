"""Birth dates: encryption with its proof against Fernet's encrypt and decrypt alone, on one core.

The service's own tokens hold 151 bytes of JSON and ours about half of it, so the peer encrypts and decrypts
what ours does. Memory is compared with that of a tenth of the rows: it must not grow with them.
"""

# ruff: noqa: S608 (the names in these statements are this package's own)

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from benchmarks.report import Line

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
PAYLOAD = b'{"birth_datetime": "1990-05-05T09:30:00", "is_lunar": false, "is_leap_month": false}'
PEER_ROWS = 50_000
MB = 1 << 20


def fill(url: str, count: int) -> None:
    """Sessions with a birth in the clear."""
    from saju_ops.schema import tables as schema

    engine = sa.create_engine(url)
    schema.chatbot.drop_all(engine)
    schema.chatbot.create_all(engine)
    with engine.begin() as connection:
        run = connection.exec_driver_sql
        run("INSERT INTO users (user_id) VALUES ('u')")
        run("CREATE TEMPORARY TABLE numbers (i integer PRIMARY KEY)")
        run("CREATE TEMPORARY TABLE more (i integer PRIMARY KEY)")
        run("INSERT INTO numbers VALUES (1)")
        size = 1
        while size < count:
            run(f"INSERT INTO more SELECT i + {size} FROM numbers WHERE i + {size} <= {count}")
            run("INSERT INTO numbers SELECT i FROM more")
            run("DELETE FROM more")
            size *= 2
        run(
            "INSERT INTO user_sessions (session_id, user_id, birth_datetime) SELECT LEFT(SHA2(i, 256), 40), 'u',"
            " TIMESTAMP'1955-01-01 00:00:00' + INTERVAL (i * 37) MINUTE FROM numbers"
        )
    engine.dispose()


def encrypt(job: dict[str, Any]) -> Callable[[], int]:
    """A task of benchmarks.child."""
    from cryptography.fernet import Fernet  # noqa: F401

    from saju_ops.schema.birth_data.encrypt import EncryptRun, Options
    from saju_ops.schema.birth_data.keys import parse_keys
    from saju_ops.schema.birth_data.rows import open_sessions

    def run() -> int:
        with open_sessions(sa.make_url(job["url"]), "user_sessions", ZoneInfo("UTC")) as store:
            result = EncryptRun(store, parse_keys(KEY), Options(dry_run=False), lambda: None).run()
        assert result.found.per_key == {1: result.encrypted}, result
        return result.encrypted

    return run


def fernet_rate() -> float:
    """Encrypted and decrypted in a second, the best of three."""
    from cryptography.fernet import Fernet

    fernet, best = Fernet(KEY), 0.0
    for _ in range(3):
        began = time.monotonic()
        for _ in range(PEER_ROWS):
            fernet.decrypt(fernet.encrypt(PAYLOAD))
        best = max(best, PEER_ROWS / (time.monotonic() - began))
    return best


def measure(bench: Bench) -> None:
    count = bench.options.rows
    peaks = []
    with bench.server.database() as url:
        plain = f"{url}?ssl_disabled=true"
        for rows in (max(1_000, count // 10), count):
            fill(url, rows)
            peaks.append(bench.child(f"encryption of {rows:,} births", "encrypt_births", url=plain)["peak_bytes"])
    peer = fernet_rate()
    bench.measured["fernet alone"] = peer
    ours = bench.rate(f"encryption of {count:,} births")
    bench.say(
        Line("births encrypted and proven", f"{ours:,.0f} rows/s", f"Fernet alone: {peer:,.0f}", ours / peer, 0.25)
    )
    small, large = (peak / MB for peak in peaks)
    flat = f"a tenth of the rows: {small:,.0f} MB"
    bench.say(Line("  memory", f"{large:,.0f} MB", flat, large / small, 1.1, more=False))
