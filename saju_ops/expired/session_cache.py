"""Sessions in Redis, and the durable list of those that still have to be removed there.

A session's key is written to the storage before the session's row is deleted, and forgotten once Redis has answered
that the key is gone: after a kill in between, or while Redis is down, the next run makes it good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.storage import folders
from saju_ops.storage.open import Storage, StorageError
from saju_ops.storage.seal import read_sealed, write_sealed

FOLDER = folders.REDIS_PENDING
PREFIX = "session:"
KEYS_PER_REQUEST = 1_000
TIMEOUT = 5


class CacheDown(OperatorError):
    """Redis can't be used. The text holds no address."""


class SessionCache:
    """Redis at `url`, connected when it is first needed."""

    def __init__(self, url: str, connect: Callable[[str], Any] | None = None) -> None:
        self._url, self._connect = url, connect or connect_redis
        self._client: Any = None

    def remove(self, session_ids: Sequence[str]) -> int:
        """Removes the sessions' keys; gives how many were there. Raises CacheDown."""
        try:
            if self._client is None:
                self._client = self._connect(self._url)
            starts = range(0, len(session_ids), KEYS_PER_REQUEST)
            return sum(self._removed(session_ids[i : i + KEYS_PER_REQUEST]) for i in starts)
        except Exception as error:
            raise CacheDown(f"Redis can't be used ({type(error).__name__})") from None

    def _removed(self, session_ids: Sequence[str]) -> int:
        # One key a command, in one round trip: a cluster refuses keys of several slots in one DEL.
        pipeline = self._client.pipeline(transaction=False)
        for session_id in session_ids:
            pipeline.delete(PREFIX + session_id)
        return sum(int(n) for n in pipeline.execute())

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def connect_redis(url: str) -> Any:
    import redis

    return redis.Redis.from_url(url, socket_connect_timeout=TIMEOUT, socket_timeout=TIMEOUT)


# --- the memory ----------------------------------------------------------------------------------------------


def remember(storage: Storage, session_ids: Sequence[str], now: datetime) -> str:
    """Writes down that these sessions' keys must leave Redis. Raises StorageError, OSError."""
    name = f"{FOLDER}{now.astimezone(UTC):%Y%m%d_%H%M%S}_{uuid4().hex[:12]}.json"
    write_sealed(storage, name, {"sessions": list(session_ids)}, indent=None)
    return name


def remembered(storage: Storage, left: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What earlier runs left to do, oldest first. A file that can't be read, or that no key of this installation sealed
    though one is set, stays, and `left` gets its name."""
    for name in storage.names(FOLDER):
        try:
            found = read_sealed(storage, name).get("sessions")
        except (OSError, ProofFailed, StorageError):
            found = None
        if isinstance(found, list) and all(isinstance(s, str) for s in found):
            yield name, found
        else:
            left.append(name)


def forget(storage: Storage, name: str) -> None:
    storage.delete(name)
