"""What the address of a SQLite database may hold."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import sqlalchemy as sa

from saju_ops.database.address_options import options_of, require_known, single, truth, with_query
from saju_ops.paths import slip_in_path

SQLITE_OPTIONS = {"timeout", "uri", "mode", "cache", "check_same_thread"}
# Seconds; a web application's own writes are short, ours wait for them.
SQLITE_BUSY_TIMEOUT = 30.0


def sqlite_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    query = single(given)
    require_known(query, SQLITE_OPTIONS, "SQLite")
    path = url.database or ""
    if url.host or url.username:
        raise ValueError("its path begins with two slashes instead of three")
    if path.startswith("file:"):
        if not truth("uri", query.get("uri", "0")):
            raise ValueError("its path begins with file:, which needs the option uri=true")
        path = unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", path))
    if not path or path == ":memory:" or query.get("mode") == "memory":
        raise ValueError("it names no file")
    # The file must be there, and is never made: of the modes only the right to write counts.
    if query.get("mode", "rw") not in ("rw", "rwc"):
        raise ValueError(
            f"its option mode is {query['mode']!r}; it may be rw or rwc, since locks and purges write. To keep saju_ops"
            " from writing, take the right to write the file from its user"
        )
    if query.get("cache", "private") != "private":
        raise ValueError(f"its option cache is {query['cache']!r}; it may be private")
    truth("check_same_thread", query.get("check_same_thread", "1"))
    timeout = query.get("timeout")
    if timeout is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", timeout):
        raise ValueError(f"its option timeout is {timeout!r}; it may be a number of seconds")
    slip = slip_in_path(path)
    if slip and not Path(path).is_file():
        raise ValueError(f"its path can't be used: {slip}")
    url = url._replace(database=str(Path(path).expanduser().absolute()))
    return with_query(url, {"timeout": timeout} if timeout is not None else {})


def busy_timeout(url: sa.URL) -> float:
    """Seconds that a SQLite database which others write is waited for."""
    return float(options_of(url).get("timeout", SQLITE_BUSY_TIMEOUT))
